"""What a test says of every class, on made-up logits of drawn birds; nothing is trained."""

import csv
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import softmax

from fgjax.data.levels import read_levels
from fgjax.data.sets.folder import FolderSource
from fgjax.data.types import DataError
from fgjax.options.resolve import resolve
from fgjax.stages.classes import Looked, write_classes
from fgjax.stages.images import make_source, untrained_classes
from fgjax.stages.job import Job
from fgjax.stages.test import judge

WORDS = ["config=train_species", "data.size=32", "data.train_images=30", "data.test_images=40"]


class Told(Job):
    """A job that is told what it would otherwise read or make."""

    def __init__(self, **known):
        self.__dict__.update(known)


@pytest.fixture(scope="module")
def source():
    return make_source(resolve(WORDS)[1])


@pytest.fixture
def job(source, tmp_path):
    """A run on drawn birds whose classifier was trained, as far as the page asks."""
    (tmp_path / "metrics.jsonl").write_text(
        "".join(
            json.dumps(
                {"train_loss": 2.0 - e, "validation_loss": None, "validation_accuracy": e / 2}
            )
            + "\n"
            for e in range(2)
        )
    )
    model = SimpleNamespace(temperature=2.0)
    explained = SimpleNamespace(
        model=model,
        index=tuple(range(len(source.classes))),
        output_name=lambda o: source.classes[o],
    )
    config = resolve([*WORDS, "evaluate.mistakes=3"])[1]
    return Told(
        name="train_species", config=config, source=source, explained=explained,
        run=SimpleNamespace(path=tmp_path),
    )  # fmt: skip


@pytest.fixture(scope="module")
def looked(source):
    """Right but for five images: three of them surely wrong, each within its family."""
    records = tuple(r for r in source.records if r.split == "test")
    targets = np.array([r.label for r in records])
    logits = np.random.default_rng(0).normal(size=(len(records), len(source.classes)))
    logits[np.arange(len(records)), targets] += 6
    families = np.array(source.families)
    for i, sure in enumerate((9, 8, 7, 1, 1)):
        siblings = np.flatnonzero(families == families[targets[i]])
        other = siblings[siblings != targets[i]][0]
        logits[i, targets[i]], logits[i, other] = 0, 6 + sure
    return Looked(records, logits.astype(np.float32), targets)


def test_what_is_written(job, looked, source):
    metrics = judge(looked.logits, looked.targets, looked.targets)
    about = write_classes(job, looked, metrics)
    text = (job.run.path / "classes.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    assert {row["name"] for row in rows} == set(source.classes)
    predicted = looked.logits.argmax(1)
    for row in rows:
        c = source.classes.index(row["name"])
        own = looked.targets == c
        assert int(row["images"]) == own.sum()
        assert float(row["recall"]) == pytest.approx((predicted[own] == c).mean(), abs=1e-5)
        assert int(row["trained_on"]) == sum(
            r.label == c for r in source.records if r.split == "train"
        )
    # All mistakes are within a family: one level up there is none.
    (species, family) = about["levels"]
    assert species["accuracy"] == pytest.approx(35 / 40) and family["accuracy"] == 1
    assert species["answered"] + family["answered"] == pytest.approx(1)
    p = softmax(looked.logits / 2, axis=1)
    assert species["answered"] == pytest.approx((p.max(1) >= 0.9).mean())
    assert about["calibration"]["temperature"] == 2 and about["untrained_classes"] == []

    page = (job.run.path / "test.html").read_text(encoding="utf-8")
    shown = re.findall(r'class="wrong">→ ([^<]+)</span>, p ([\d.]+)', page)
    surest = np.argsort(-p.max(1) * (predicted != looked.targets))[:3]
    assert [float(x) for _, x in shown] == pytest.approx(p.max(1)[surest], abs=0.005)
    assert [name for name, _ in shown] == [source.classes[c] for c in predicted[surest]]
    assert page.count('<img src="data:image/jpeg') == 9 and "http:" not in page.lower()
    assert "train loss" in page and "validation accuracy" in page and "validation loss" not in page


def test_levels_from_a_file(job, looked, tmp_path, source):
    file = tmp_path / "levels.csv"
    lines = [f"{name},{i % 2},all" for i, name in enumerate(source.classes)]
    file.write_text("class_name,parity,everything\n" + "\n".join(lines) + "\n")
    levels = read_levels(file, source.classes)
    assert list(levels) == ["parity", "everything"] and levels["parity"][:3] == ("0", "1", "0")
    job.config = resolve([*WORDS, f"data.levels={file}"])[1]
    about = write_classes(job, looked, {})
    assert [(row["name"], row["groups"]) for row in about["levels"]] == [
        ("class", len(source.classes)), ("parity", 2), ("everything", 1),
    ]  # fmt: skip
    for text, said in {
        "class_name\n": "line 1: a file of levels starts with class_name",
        "class_name,genus\na,b\na,c\n": "line 3: class 'a' has a line already",
        "class_name,genus\na,\n": "line 2: expected a value for each of class_name,genus",
        "class_name,genus\na,b\n": f"no line for {len(source.classes)} of",
    }.items():
        file.write_text(text)
        with pytest.raises(DataError, match=said):
            read_levels(file, source.classes)


def test_classes_without_a_training_image_are_named(tmp_path, picture):
    for name in ("train/cat", "train/dog", "test/dog", "test/emu"):
        (tmp_path / name).mkdir(parents=True)
        picture(1).save(tmp_path / name / "0.png")
    assert untrained_classes(FolderSource(tmp_path)) == ["emu"]
