"""config=judge_maps: maps made elsewhere, in a run and in Python."""

import csv
import json

import jax.numpy as jnp
import numpy as np
import pytest

import fgjax
from fgjax.data.pipeline import load_examples, stack, take
from fgjax.data.species.source import SpeciesSource
from fgjax.run import main

FEW = ("data.limit=3", "report.images=1", "report.figures=1")
SKIPPED = {"index", "name", "label", "target", "predicted", "correct"}


def judged(trained, run, *more):
    """The words of a run that judges maps of the drawn birds that all tests here use."""
    drawn = ("data.source=species", "data.train_images=40", "data.test_images=8", "data.size=32")
    checkpoint = f"model.checkpoint={trained / 'checkpoint'}"
    return ["config=judge_maps", *drawn, *FEW, checkpoint, f"run_dir={run}", *more]


def rows_of(run):
    with (run / "results.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def numbers(rows):
    names = [name for name in rows[0] if name not in SKIPPED]
    return {name: np.array([float(row[name]) for row in rows]) for name in names}


@pytest.fixture(scope="module")
def birds():
    source = SpeciesSource(size=32, train=40, test=8)
    records = take([r for r in source.records if r.split == "test"], 3)
    examples = [example for _, example in load_examples(source, records)]
    return [r.name for r in records], stack(examples), source.landmark_names


@pytest.fixture(scope="module")
def maps(birds):
    """As Captum would leave them: signed, and of any range."""
    return np.random.default_rng(0).normal(0, 3, (3, 32, 32)).astype(np.float32)


@pytest.fixture(scope="module")
def done(tmp_path_factory, trained, birds, maps):
    folder = tmp_path_factory.mktemp("made")
    for name, one in zip(birds[0], maps, strict=True):
        (folder / "maps" / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(folder / "maps" / f"{name}.npy", one)
    words = judged(
        trained, folder / "run", f"maps={folder / 'maps'}", "maps_scale=absolute",
        "evaluate.curves=3", "evaluate.landmarks=0.2", "evaluate.regions=false",
    )  # fmt: skip
    assert main(words) == 0
    return folder, words


@pytest.mark.slow
def test_a_run_has_the_numbers_of_the_function(done, trained, birds, maps):
    names, batch, parts = birds
    rows = rows_of(done[0] / "run")
    model = fgjax.load_classifier(trained)
    targets = [model.classes.index(row["target"]) for row in rows]
    found = fgjax.evaluate(
        model, batch.images.astype(np.float32) / 255, targets, maps, scale="absolute",
        boxes=batch.boxes, masks=batch.masks, cues=batch.cues, landmarks=batch.landmarks,
        landmark_names=parts, radius=0.2, steps=3, regions=False, names=names,
    )  # fmt: skip
    ours = numbers(rows)
    assert set(ours) == set(found) and "energy_in_part_beak" in ours and "insertion" in ours
    for name, values in ours.items():  # the table has six digits
        np.testing.assert_allclose(values, found[name], rtol=2e-5, atol=2e-6, err_msg=name)


@pytest.mark.slow
def test_the_run_says_whose_maps_they_are_and_how_all_was_measured(done):
    metrics = json.loads((done[0] / "run" / "metrics.json").read_text())
    assert metrics["explain"] == {"maps": str(done[0] / "maps"), "scale": "absolute"}
    every = metrics["metrics"]
    assert "3 equal steps" in every["insertion"]["protocol"]
    assert "20% of the longer side" in every["energy_in_part_beak"]["protocol"]
    assert every["energy_in_part_beak"]["baselines"]["constant"] > 0
    assert every["insertion"]["better"] == "higher" == every["pointing_part_any"]["better"]
    assert "maps of" in (done[0] / "run" / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_maps_that_change_are_not_mixed(done, capsys):
    folder, words = done
    assert main([w for w in words if "scale" not in w] + ["maps_scale=unit"]) == 2
    assert "maps_scale" in capsys.readouterr().err


@pytest.mark.parametrize(
    "more, message",
    [
        ((), "maps=DIR is missing"),
        (("maps=nowhere",), "maps: nowhere: no such folder"),
        (("maps=configs",), "no map for 3 of 3 images"),
        (("maps=configs", "explain.against=second"), "leave it out"),
        (("maps=configs", "maps_scale=units"), "Did you mean unit"),
    ],
)
def test_maps_that_cannot_be_used_are_told_before_anything_else(
    tmp_path, trained, capsys, more, message
):
    assert main(judged(trained, tmp_path / "run", *more)) == 2
    err = capsys.readouterr().err
    assert message in err and "Traceback" not in err and not (tmp_path / "run").exists()


def test_one_bad_map_loses_no_other(tmp_path, trained, maps, capsys):
    bad = maps.copy() / 10
    bad[0], bad[1, 0, 0] = 0.5, np.nan
    np.save(tmp_path / "all.npy", bad)
    words = judged(trained, tmp_path / "run", f"maps={tmp_path / 'all.npy'}", "stages=explain")
    assert main(words) == 1
    stored = fgjax.load_maps(tmp_path / "run")["heatmap"]
    assert (stored[0] == 0.5).all() and np.isnan(stored[1:]).all()
    with (tmp_path / "run" / "failures.csv").open(encoding="utf-8") as file:
        reasons = [row["reason"] for row in csv.DictReader(file)]
    assert "NaN" in reasons[0] and "maps_scale=keep" in reasons[1] and len(reasons) == 2


@pytest.mark.slow
def test_it_is_a_run_of_ours_with_the_same_maps(tmp_path, trained, of_trained):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    few = (*FEW, "evaluate.curves=3", "stages=explain,evaluate")
    assert main(of_trained(ours, *few, "explain.method=grad_cam")) == 0
    np.save(tmp_path / "maps.npy", fgjax.load_maps(ours)["heatmap"])
    assert main(judged(trained, theirs, *few, f"maps={tmp_path / 'maps.npy'}")) == 0
    assert rows_of(ours) == rows_of(theirs)
    assert float(jnp.asarray(fgjax.load_maps(theirs)["heatmap"]).max()) > 0
