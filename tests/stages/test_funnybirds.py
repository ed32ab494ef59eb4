"""The FunnyBirds protocol through the command, on a toy network."""

import json

import numpy as np
import pytest

from fgjax.core.tables import read_csv
from fgjax.data.species.funny import KINDS, TELLING, draw_swaps
from fgjax.data.species.funny_source import FunnySource
from fgjax.data.types import DataError, Record
from fgjax.evaluation.funnybirds import (
    part_importance,
    rival_classes,
    rivals_behave,
    sufficient_sets,
)
from fgjax.run import main
from fgjax.stages.classifier import Explained
from fgjax.stages.funnybirds.look_up import LookUp, look_up
from fgjax.stages.funnybirds.table import COLUMNS, numbers, silhouette, summary, to_markdown
from fgjax.sweeps.rows import read_numbers


@pytest.fixture(scope="module")
def source():
    return FunnySource(size=32, train=24, test=12)


def test_images_depend_on_their_own_number_and_some_that_train_lack_parts(source):
    test = [r for r in source.records if r.split == "test"]
    more = FunnySource(size=32, train=240, test=120)
    for record in (source.records[3], test[5]):
        np.testing.assert_array_equal(source.load(record).image, more.load(record).image)
    for record in test[:4]:
        birds = source.subsets(record)
        np.testing.assert_array_equal(birds.images[0], source.load(record).image)
        assert len(birds.things) and birds.images.shape[0] == 2 ** len(TELLING)
    whole = FunnySource(size=32, train=24, test=0, lacking=0.0)
    train = [r for r in source.records if r.split == "train"]
    alike = [np.array_equal(source.load(r).image, whole.load(r).image) for r in train]
    assert 4 < sum(alike) < 20  # half of them
    with pytest.raises(DataError, match="24 train images"):
        source.load(Record("train/000024", 0, "train"))
    with pytest.raises(ValueError, match="lacking"):
        FunnySource(lacking=1.5)


WEIGHTS = np.arange(1, 6) / 15


def seen_by_a_model_that_counts_parts(labels):
    """Logits: how many of a class's looks the bird still has, each part by its weight; a thing in
    the background that matters not."""
    labels = np.array(labels)
    away = np.arange(32)[:, None] >> np.arange(5) & 1
    same = KINDS[labels][:, None] == KINDS[None]  # n k p
    logits = np.einsum("sp,nkp->nsk", (1 - away) * WEIGHTS, same)
    rivals = np.array([rival_classes(KINDS, label) for label in labels.tolist()])
    shared = KINDS[rivals] == KINDS[labels][:, None]
    n, sufficient = len(labels), [sufficient_sets(KINDS, label) for label in labels.tolist()]
    irrelevant = np.zeros((n, 6), bool)
    irrelevant[:, 5] = True
    return LookUp(
        np.zeros((n, 8, 8, 3)), logits, np.ones((n, 6, 8, 8), bool), irrelevant, labels, rivals,
        shared, sufficient, np.ones(n, bool), np.ones(n),
        rivals_behave(logits, rivals, shared),
    )  # fmt: skip


def test_an_oracle_has_everything_and_a_map_of_the_background_nothing():
    seen = seen_by_a_model_that_counts_parts([4, 7, 9])
    assert seen.behaves.all()
    own = np.append(WEIGHTS, 0.0)[None].repeat(3, 0)
    rivals = [np.append(seen.shared[:, i] / 2, np.zeros((3, 1)), axis=1) for i in (0, 1)]
    found, threshold = numbers(seen, np.stack([own, *rivals], axis=1))
    assert threshold < WEIGHTS.min()
    for name in COLUMNS:
        np.testing.assert_allclose(found[name], 1.0, err_msg=name)
    thing = np.zeros((3, 3, 6))
    thing[..., 5] = 1.0
    found, _ = numbers(seen, thing)
    for name in COLUMNS:
        np.testing.assert_allclose(found[name], 0.5 if name == "correctness" else 0, err_msg=name)


def test_a_column_that_a_control_wins_ranks_nothing(tmp_path):
    seen = seen_by_a_model_that_counts_parts([0, 4])
    good = {name: np.array([0.9, 0.7]) for name in COLUMNS}
    bad = {name: np.array([0.1, 0.3]) for name in COLUMNS} | {"d": np.array([1.0, 1.0])}
    about = summary({"zero": (bad, 0.1), "glas": (good, 0.2)}, seen, {"lrp": "it cannot"})
    (tmp_path / "funnybirds.json").write_text(json.dumps(about))
    told = read_numbers(tmp_path)  # of a sweep over seeds
    assert told["glas.completeness"] == pytest.approx(0.8) and told["accuracy"] == 1
    assert about["gamed"] == {"d": ["zero"]}
    assert [row["method"] for row in about["rows"]] == ["glas", "zero"]
    text = to_markdown(about)
    assert "| glas | **0.800" in text and "D (↑)" in text and "lrp is left out: it cannot" in text
    assert "D ranks nothing: zero" in text


@pytest.fixture(scope="module")
def crest_reader(source):
    """A bird, and a model that sees nothing but its crest: the class whose crest it looks like
    most, of those alike the bird's own first."""
    record = next(r for r in source.records if r.split == "test")
    scene = source._scene(record)[0]
    drawn = draw_swaps(scene, record.label, source.size)
    whole = source.load(record).image
    crests = {KINDS[record.label, 0]: whole}
    for i in np.flatnonzero(drawn.parts == 0):
        crests[KINDS[drawn.donors[i].argmax(), 0]] = drawn.images[i]
    seen = np.any([image != whole for image in crests.values()], axis=(0, 3))
    wanted = np.stack([crests[look][seen] for look in KINDS[:, 0]]).astype(np.float64) / 255

    class Reader(Explained):
        def __init__(self):
            object.__setattr__(self, "index", tuple(range(len(KINDS))))

        def predict(self, images, boxes=None):
            far = np.abs(images[:, None, seen] - wanted).mean((2, 3))
            return -far + 1e-6 * (np.arange(len(KINDS)) == record.label)

    return record, Reader()


def test_of_a_model_that_reads_the_crest_its_swap_alone_counts(source, crest_reader):
    record, reader = crest_reader
    seen = look_up(source, reader, (record,))
    assert seen.correct.all() and seen.flips.tolist() == [[True, False, False, False, False]]
    crest = [row for row in seen.swaps if row["part"] == "crest"]
    assert crest and all(row["as_the_part_says"] for row in crest)
    assert not any(row["flips"] for row in seen.swaps if row["part"] != "crest")
    found = {}
    for place, part in enumerate(TELLING):
        heat = seen.masks[:, place].astype(float)
        importance = part_importance(heat, seen.masks)[:, None].repeat(3, 1)
        found[part], _ = numbers(seen, importance)
    assert found["crest"]["swap_energy"] == [1] and found["crest"]["swap_first"] == [1]
    assert found["legs"]["swap_energy"] == [0] and found["legs"]["swap_first"] == [0]
    ones, _ = numbers(seen, part_importance(np.ones_like(heat), seen.masks)[:, None].repeat(3, 1))
    about = summary({"glas": (found["crest"], 0.1), "constant": (ones, 0.1)}, seen, {})
    chance = about["swaps"]["chance"]
    assert chance["first"] == pytest.approx(0.2) == ones["swap_first"][0]
    assert chance["energy"] == pytest.approx(ones["swap_energy"][0])
    assert about["swaps"]["flips"]["crest"] == 1 and about["swaps"]["flips"]["beak"] == 0
    text = to_markdown(about)
    assert "| glas | **1.000" in text and "crest 100% (100%)" in text and "0.200" in text


def test_the_silhouette_gives_every_part_its_area(source, crest_reader):
    record, reader = crest_reader
    seen = look_up(source, reader, (record,))
    mask = source.load(record).mask[None]
    importance = silhouette(mask, seen)
    assert (
        importance.shape == (1, 3, seen.masks.shape[1])
        and (importance[:, 0] == importance[:, 1]).all()
    )
    inside = importance[0, 0, :5]
    areas = seen.masks[0, :5].sum((1, 2))
    assert (inside > 0.5 * areas / mask.sum()).all() and (inside < 1).all()


@pytest.mark.slow
def test_a_run_makes_the_table_and_goes_on(tmp_path, monkeypatch):
    def as_if_right(*about):
        seen = look_up(*about)
        return seen._replace(correct=np.ones(len(seen.correct), bool))

    monkeypatch.setattr("fgjax.stages.funnybirds.stage.look_up", as_if_right)
    words = ["config=funny_species", "data.size=32", "model.name=toys:MICRO", "data.limit=6",
             "data.train_images=36", "data.test_images=12", "train.epochs=1", f"run_dir={tmp_path}",
             "compare.methods=gradient,occlusion,constant,flipped"]  # fmt: skip
    assert main(words) == 0
    rows = read_csv(tmp_path / "funnybirds.csv")
    named = {"gradient", "occlusion", "constant", "flipped"}
    assert {row["method"] for row in rows} == named | {"silhouette"}
    assert {"swap_energy", "swap_first"} <= {row["metric"] for row in rows}
    assert len(read_csv(tmp_path / "part_swaps.csv")) > 6 * 5
    about = json.loads((tmp_path / "funnybirds.json").read_text())
    assert about["images"] == 6 and about["accuracy"] == 1
    held = (tmp_path / "funnybirds" / "gradient.json").stat().st_mtime_ns
    assert main(words) == 0
    assert (tmp_path / "funnybirds" / "gradient.json").stat().st_mtime_ns == held


def test_images_that_nobody_can_draw_again_are_refused(tmp_path, capsys):
    words = ("config=fido_demo", "stages=funnybirds", f"run_dir={tmp_path}")
    assert main([*words, "model.checkpoint=nowhere"]) == 2
    assert "data.source=species cannot be drawn without their parts" in capsys.readouterr().err
