"""Runs that mend: an image that changed is done again, a new one is added, the others stay.

What is held against it: the results of a run that saw the images of now from the beginning.
"""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from fgjax.core.tables import read_csv, to_csv
from fgjax.options.resolve import resolve
from fgjax.run import main
from fgjax.runs.arrange import read_names
from fgjax.runs.images import read_images
from fgjax.runs.lock import let_go
from fgjax.runs.maps import load_maps
from fgjax.stages.classifier import load_model
from fgjax.stages.evaluate.stage import current_metrics
from fgjax.stages.images import explained_records, make_source
from fgjax.stages.job import Job
from fgjax.stages.mend import forget_rows

WORDS = ("explain.method=occlusion", "explain.window=16", "explain.stride=16", "report.figures=1",
         "evaluate.regions=false", "model.name=null")  # fmt: skip


@pytest.fixture(scope="module")
def told(trained):
    """The words of a run on a folder of images, and more words."""

    def make(data, run, *more: str) -> list[str]:
        given = (f"data.path={data}", f"run_dir={run}", f"model.checkpoint={trained}/checkpoint")
        return ["config=fido_folder", "data.size=32", *WORDS, *given, *more]

    return make


def photos(folder: Path, picture, **numbers: int) -> Path:
    """A flat folder of pictures: name=number of its picture."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, number in numbers.items():
        picture(number).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def begun(tmp_path_factory, told, picture):
    """A finished run on b, c and d; d cannot be read. Not to be written to."""
    folder = tmp_path_factory.mktemp("begun")
    photos(folder / "data", picture, b=1, c=2)
    (folder / "data" / "d.png").write_bytes(b"")
    assert main(told(folder / "data", folder / "run")) == 1
    return folder


@pytest.fixture
def own(begun, tmp_path) -> Path:
    """A copy of it, to change."""
    return shutil.copytree(begun, tmp_path / "own")


def assert_same_results(run: Path, fresh: Path) -> None:
    ours, theirs = load_maps(run), load_maps(fresh)
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name])
    for name in ("results.csv", "metrics.json", "failures.csv"):
        assert (run / name).read_text() == (fresh / name).read_text(), name


@pytest.mark.slow
def test_photos_that_came_changed_and_went(own, tmp_path, told, picture, capsys):
    photos(own / "data", picture, a=5, c=6, d=7)  # new, another, mended
    capsys.readouterr()
    assert main(told(own / "data", own / "run")) == 0
    out = capsys.readouterr().out
    assert "images: 2 changed, 1 new; the others stay as they are" in out
    assert "3 images of 4, the others are done" in out
    assert main(told(own / "data", tmp_path / "fresh")) == 0
    assert_same_results(own / "run", tmp_path / "fresh")
    assert read_names(own / "run" / "maps.zarr") == ["a.png", "b.png", "c.png", "d.png"]

    (own / "data" / "c.png").unlink()
    capsys.readouterr()
    assert main(told(own / "data", own / "run", "stages=explain")) == 0
    out = capsys.readouterr().out
    assert "1 no longer there" in out and "all 3 images are done" in out
    assert {len(m) for m in load_maps(own / "run").values()} == {3}


def test_another_spelling_of_the_path_and_another_limit(own, told, capsys, monkeypatch):
    """The same images: nothing is explained again."""
    monkeypatch.chdir(own)
    run = own / "run"
    (own / "data" / "d.png").unlink()
    assert main(told("../own/data/", run, "stages=explain", "data.limit=1")) == 0
    assert read_names(run / "maps.zarr") == ["b.png"]
    whole = load_maps(run)["heatmap"]
    capsys.readouterr()
    assert main(told("data", run, "stages=explain")) == 0
    assert "1 images of 2, the others are done" in capsys.readouterr().out
    np.testing.assert_array_equal(load_maps(run)["heatmap"][:1], whole)
    shutil.move(own / "data", own / "moved")
    assert main(told("./moved", run, "stages=explain")) == 0
    assert "all 2 images are done" in capsys.readouterr().out


def test_what_changes_the_meaning_of_a_map_is_refused(own, told, capsys):
    assert main(told(own / "data", own / "run", "explain.stride=8")) == 2
    assert "explain.stride (was 16, is 8)" in capsys.readouterr().err


def test_a_run_of_before_that_does_not_know_its_images(own, told, picture, capsys):
    run = own / "run"
    (run / "images.json").unlink()
    (run / "maps.zarr" / "images.json").unlink()
    facts = json.loads((run / "run.json").read_text())
    del facts["training_fingerprint"]
    (run / "run.json").write_text(json.dumps(facts))
    before = load_maps(run)["heatmap"]
    other = shutil.copytree(own, own / "other")
    capsys.readouterr()
    assert main(told(own / "data", run)) == 1  # the same images: it goes on
    assert "1 images of 3, the others are done" in capsys.readouterr().out
    np.testing.assert_array_equal(load_maps(run)["heatmap"], before)
    assert set(read_images(run)) == {"b.png", "c.png", "d.png"}
    picture(7).save(other / "data" / "d.png")
    assert main(told(other / "data", other / "run")) == 2
    assert "the images of data.path" in capsys.readouterr().err


def garbage(path: Path) -> None:
    path.write_bytes(b"garbage")


def retyped(path: Path) -> None:
    """As a spreadsheet saves it in some countries."""
    path.write_text(path.read_text().replace(",", ";"))


def gone(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


DAMAGE = {
    "a chunk is garbage": ("maps.zarr/heatmap/c/0/0/0", garbage),
    "a chunk is gone": ("maps.zarr/heatmap/c/1", gone),
    "results.csv is gone": ("results.csv", gone),
    "results.csv was edited": ("results.csv", retyped),
    "results.csv is garbage": ("results.csv", garbage),
    "metrics.json is gone": ("metrics.json", gone),
    "metrics.json is garbage": ("metrics.json", garbage),
    "metrics.json is a list": ("metrics.json", lambda path: path.write_text("[1]")),
    "metrics.json lacks": ("metrics.json", lambda path: path.write_text('{"metrics": {"a": 1}}')),
    "failures.csv was edited": ("failures.csv", retyped),
    "failures.csv is garbage": ("failures.csv", lambda path: path.write_bytes(b"\xff\0\n1")),
    "images.json is garbage": ("images.json", garbage),
    "the maps' names are garbage": ("maps.zarr/images.json", garbage),
    "the report is gone": ("report.html", gone),
    "run.json is gone": ("run.json", gone),
}


QUICK = ("a chunk is gone", "failures.csv was edited", "images.json is garbage")


@pytest.mark.parametrize(
    "kind", [k if k in QUICK else pytest.param(k, marks=pytest.mark.slow) for k in DAMAGE]
)
def test_damaged_files_of_ours_are_made_again(own, begun, told, capsys, kind):
    name, damage = DAMAGE[kind]
    damage(own / "run" / name)
    capsys.readouterr()
    assert main(told(own / "data", own / "run")) == 1  # d.png still fails
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    for file in ("results.csv", "metrics.json"):
        assert (own / "run" / file).read_text() == (begun / "run" / file).read_text()
    np.testing.assert_array_equal(
        load_maps(own / "run")["heatmap"], load_maps(begun / "run")["heatmap"]
    )
    assert "d.png" in (own / "run" / "failures.csv").read_text()
    assert (own / "run" / "report.html").is_file()


OF_NUMBERS = [kind for kind in DAMAGE if kind.startswith(("results.csv", "metrics.json"))]


@pytest.mark.parametrize("kind", OF_NUMBERS)
def test_damaged_numbers_are_none(own, told, kind):
    """They are measured again, where they are wanted."""
    _, config, plain = resolve(told(own / "data", own / "run"))
    run = Job("fido_folder", config, plain)
    assert current_metrics(run)["evaluated"] == 2
    name, damage = DAMAGE[kind]
    damage(own / "run" / name)
    assert current_metrics(run) is None
    let_go()


def test_class_folders_with_given_weights_are_explained_in_full(
    tmp_path, picture, untrained, capsys
):
    for name in ("robin", "wren"):
        photos(tmp_path / "data" / name, picture, a=1, b=2)
    given = ["config=fido_folder", f"data.path={tmp_path}/data", "data.size=32"]
    given += [f"model.weights={untrained}/weights.safetensors", "model.name=toys:MICRO"]
    config = resolve(given)[1]
    source = make_source(config)
    assert len(explained_records(source, config)) == 4  # not the half of them
    assert load_model(config, source, tmp_path).index == (None, None)
    out = capsys.readouterr().out
    assert "10 outputs, the data 2 classes: the predicted output is explained" in out
    assert "assumed: ImageNet's mean=0.485,0.456,0.406" in out
    config = resolve([*given, "data.test_share=0.5"])[1]
    assert len(explained_records(make_source(config), config)) == 2


def test_a_test_share_is_said(tmp_path, told, picture, capsys):
    for name in ("robin", "wren"):
        photos(tmp_path / "data" / name, picture, a=1, b=2)
    (tmp_path / "data" / "robin" / "notes.txt").write_text("x")
    run = told(tmp_path / "data", tmp_path / "run", "stages=explain", "explain.target=predicted")
    assert main(run) == 0
    out = capsys.readouterr().out
    assert "2 of 4 images are explained, the test share of each class (data.test_share=1" in out
    assert "1 file is no image and left out: 1 .txt" in out


def test_a_single_photo(tmp_path, told, picture):
    photos(tmp_path, picture, bird=1, other=2)
    assert main(told(tmp_path / "bird.png", tmp_path / "run", "stages=explain")) == 0
    assert read_names(tmp_path / "run" / "maps.zarr") == ["bird.png"]


COMPARE = ("stages=compare", "compare.methods=gradient,center", "compare.steps=4",
           "compare.road=false", "compare.sensitivity=0")  # fmt: skip


def compared(run: Path) -> dict[str, str]:
    """What a comparison found: its files without seconds."""
    found = {str(p.relative_to(run)): p.read_text() for p in run.glob("compare/*/scores.csv")}
    return found | {"compare.csv": (run / "compare.csv").read_text()}


@pytest.mark.slow
def test_a_comparison_mends_too(tmp_path, told, picture, capsys):
    data = photos(tmp_path / "data", picture, b=1, c=2)
    assert main(told(data, tmp_path / "run", *COMPARE)) == 0
    photos(data, picture, a=5, c=6)
    os.remove(tmp_path / "run" / "compare" / "gradient" / "maps.zarr" / "heatmap/c/0/0/0")
    assert main(told(data, tmp_path / "run", *COMPARE)) == 0
    assert main(told(data, tmp_path / "fresh", *COMPARE)) == 0
    assert compared(tmp_path / "run") == compared(tmp_path / "fresh")
    for file in ("scores.csv", "calls.jsonl"):
        with (tmp_path / "run" / "compare" / "gradient" / file).open("a") as table:
            table.write("garbage")  # cut off
    assert main(told(data, tmp_path / "run", *COMPARE)) == 0
    table = compared(tmp_path / "run")["compare.csv"]
    assert table == compared(tmp_path / "fresh")["compare.csv"]


@pytest.mark.parametrize("kind", ["predictions.csv is gone", "test.json is a list"])
def test_a_test_of_the_classifier_is_made_again(tmp_path, trained, of_trained, kind):
    run = tmp_path / "run"
    words = of_trained(run, "stages=test", "data.limit=2")
    assert main(words) == 0
    name = kind.split()[0]
    before = (run / name).read_text()
    (run / name).unlink() if "gone" in kind else (run / name).write_text("[1]")
    assert main(words) == 0
    assert (run / name).read_text() == before


def test_a_damaged_checkpoint_names_its_cure(tmp_path, trained, words, capsys):
    run = shutil.copytree(trained, tmp_path / "run")
    for file in (run / "checkpoint" / "weights").rglob("*"):
        if file.is_file():
            file.write_bytes(b"x")
    assert main(words(run, "stages=explain")) == 2
    err = capsys.readouterr().err
    assert f"Delete {run / 'checkpoint'}" in err and "Traceback" not in err


def test_rows_of_images_that_changed_are_taken_out(tmp_path):
    rows = [{"name": name, "crop": "box", "p": "1"} for name in ("a", "b", "bad \\udcff")]
    (tmp_path / "tta.csv").write_text(to_csv(rows, ["name", "crop", "p"]))
    forget_rows(tmp_path / "tta.csv", {"b", "bad \udcff", "new"})
    assert read_csv(tmp_path / "tta.csv") == rows[:1]
    forget_rows(tmp_path / "none.csv", {"b"})
    assert not (tmp_path / "none.csv").exists()
