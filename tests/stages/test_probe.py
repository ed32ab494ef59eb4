"""Frozen features: computed once, kept by content, read off by a classifier as any other."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

import fgjax
from fgjax.options.resolve import resolve
from fgjax.run import main
from fgjax.stages.frozen.cache import network_key
from fgjax.stages.images import make_source
from fgjax.stages.probe.features import FeatureFile
from fgjax.training.checkpoints import load_classifier


@pytest.fixture(scope="module")
def spots(tmp_path_factory):
    """Class folders: reddish and bluish noise, one file damaged."""
    data, rng = tmp_path_factory.mktemp("spots"), np.random.default_rng(0)
    for place, name in enumerate(("blue", "red")):
        (data / name).mkdir()
        for i in range(12):
            pixels = rng.integers(0, 100, (40, 40, 3), np.uint8)
            pixels[..., 0 if place else 2] += 120
            Image.fromarray(pixels).save(data / name / f"{i}.png")
    (data / "red" / "broken.png").write_text("no image")
    return data


@pytest.fixture(scope="module")
def words(spots, tmp_path_factory):
    base = tmp_path_factory.mktemp("runs")

    def made(run, *more):
        return ["config=probe_folder", f"data.path={spots}", "model.name=toys:MICRO",
                "model.pretrained=null", "data.size=32", "train.validation=0.3", "seed=3",
                "probe.neighbours=3", f"run_dir={base / run}", f"probe.cache={base / 'cache'}",
                *more]  # fmt: skip

    return base, made


@pytest.fixture(scope="module")
def probed(words):
    base, made = words
    code = main(made("run"))
    return base / "run", code


def facts(run):
    return json.loads((run / "run.json").read_text())["stages"]["probe"]


def test_it_tells_colours_apart_and_is_a_classifier(probed, words):
    run, code = probed
    assert code == 1  # the damaged image
    about = json.loads((run / "probe.json").read_text())
    assert [row["penalty"] for row in about["penalties"]] == [1.0, 0.1, 0.01, 1e-3, 1e-4]
    best = max(row["validation_accuracy"] for row in about["penalties"])
    chosen = [row for row in about["penalties"] if row["penalty"] == about["penalty"]]
    assert chosen[0]["validation_accuracy"] == best == facts(run)["validation_accuracy"] == 1
    assert about["neighbours"]["test_accuracy"] > 0.9 and about["features"] == 8
    test = json.loads((run / "test.json").read_text())
    assert test["metrics"]["accuracy"]["mean"] > 0.9
    model = load_classifier(run)
    assert (model.classes, model.size) == (("blue", "red"), 32)
    # The trunk is the frozen one, and only the last layer another.
    fresh = fgjax.create_model(
        "toys:MICRO", 2, key=jax.random.fold_in(jax.random.key(3), 1), size=32
    )
    assert network_key(model) == network_key(fresh)
    for name, kept in (("stem", True), ("classifier", False)):
        a, b = (m.variables["params"][name]["kernel"] for m in (model, fresh))
        assert bool((np.asarray(a) == np.asarray(b)).all()) == kept


def test_features_are_kept_by_content(probed, words, spots, capsys):
    base, made = words
    assert facts(probed[0])["computed"] == 24
    assert main(made("second", "stages=probe", "probe.penalties=[0.5]")) == 1
    assert facts(base / "second")["computed"] == 0
    source = make_source(resolve(made("second"))[1])
    changed = next(r for r in source.records if r.split == "train" and "broken" not in r.name)
    file = spots / changed.name
    before = file.read_bytes()
    Image.fromarray(np.full((40, 40, 3), 90, np.uint8)).save(file)
    try:
        assert main(made("third", "stages=probe")) == 1
    finally:
        file.write_bytes(before)
    assert facts(base / "third")["computed"] == 1
    # A damaged file of features counts as empty.
    held = next((base / "cache").glob("*.npz"))
    whole = held.read_bytes()
    assert len(FeatureFile(held).rows) == 25  # the 24, and the one that was changed
    held.write_bytes(whole[:100])
    assert FeatureFile(held).rows == {}
    held.write_bytes(whole)
    capsys.readouterr()
    assert main(made("run")) == 1  # done before: nothing is computed
    assert "features of" not in capsys.readouterr().out


@pytest.mark.slow
def test_it_is_explained(words, probed):
    base, made = words
    stages = "stages=[probe,explain,evaluate,report]"
    assert main(made("explained", stages, "explain.method=gradient", "data.limit=2")) == 1
    assert facts(base / "explained")["computed"] == 0
    assert (base / "explained" / "report.html").is_file()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["stages=[train,probe]"], "leave one"),
        (["model.checkpoint=nowhere"], "as model.pretrained"),
        (["model.name=prototypes", "focus.backbone=resnet_tiny"], "more to learn"),
        (["probe.penalties=[0]"], "probe.penalties"),
        (["probe.penalties=[]"], "probe.penalties"),
    ],
)
def test_what_does_not_go_together_is_told(words, capsys, more, said):
    assert main(words[1]("wrong", *more)) == 2
    err = capsys.readouterr().err
    assert said in err and "Traceback" not in err
