"""The folder of a run: whose it is, and files that are whole."""

import csv
import json

import pytest
import yaml

from fgjax.core.files import write_atomic
from fgjax.options.resolve import ConfigError, resolve
from fgjax.runs.folder import ConfigChanged, RunFolder, settled, to_csv

FILES = {"data_fingerprint": "d1", "model_fingerprint": "m1"}


def plain(*words: str) -> dict:
    return resolve(["config=fido_demo", *words])[2]


@pytest.fixture
def opened(tmp_path):
    """A run that has a result."""
    folder = RunFolder(tmp_path / "run", plain(), FILES)
    (folder.path / "maps.zarr").mkdir()
    return folder


def test_opening_makes_the_folder_and_says_what_it_is(tmp_path):
    folder = RunFolder(tmp_path / "a" / "run", plain("seed=3"), FILES)
    assert yaml.safe_load((folder.path / "config.yaml").read_text()) == json.loads(
        json.dumps(plain("seed=3"))
    )
    facts = json.loads((folder.path / "run.json").read_text())
    assert facts["seed"] == 3 and facts["data_fingerprint"] == "d1" and "cpu" in facts["device"]
    assert set(facts["versions"]) == {"python", "fgjax", "jax", "flax", "numpy"}
    assert not list(folder.path.glob(".*"))  # no drafts


def test_the_same_config_opens_it_again(opened):
    opened.finish("explain", seconds=1.5, images=2)
    again = RunFolder(opened.path, plain(), FILES)
    assert again.stage("explain") == {"seconds": 1.5, "images": 2}
    assert again.stage("train") == {}


@pytest.mark.parametrize(
    "word", ["stages=[report]", "run_dir=elsewhere", "parallel=none", "data.workers=2",
             "evaluate.threshold=0.3", "report.images=2", "dry_run=true"]
)  # fmt: skip
def test_options_that_maps_do_not_depend_on_may_change(opened, word):
    RunFolder(opened.path, plain(word), FILES)


@pytest.mark.parametrize(
    "word", ["seed=1", "explain.steps=31", "data.limit=2", "train.adam_eps=1e-7",
             "model.name=resnet18", "data.path=/x", "explain.target=predicted"]
)  # fmt: skip
def test_any_other_is_refused_by_name(opened, word):
    before = (opened.path / "config.yaml").read_bytes()
    with pytest.raises(ConfigChanged) as told:
        RunFolder(opened.path, plain(word), FILES)
    key, value = word.split("=")
    assert f"{key} (was " in str(told.value) and "run_dir=" in str(told.value)
    assert "explain.l1" not in str(told.value)  # only what differs
    assert (opened.path / "config.yaml").read_bytes() == before


@pytest.mark.parametrize("name, part", [("data_fingerprint", "images"),
                                        ("model_fingerprint", "model.weights")])  # fmt: skip
def test_other_files_are_refused(opened, name, part):
    with pytest.raises(ConfigChanged, match=part):
        RunFolder(opened.path, plain(), {**FILES, name: "other"})


def test_an_option_that_came_later_had_its_default(opened):
    path = opened.path / "config.yaml"
    held = yaml.safe_load(path.read_text())
    del held["train"]["momentum"], held["parts"]
    path.write_text(yaml.safe_dump(held))
    with pytest.raises(ConfigChanged, match=r"train\.momentum \(was 0\.9, is 0\.5\)\."):
        RunFolder(opened.path, plain("train.momentum=0.5"), FILES)
    RunFolder(opened.path, plain(), FILES)


def test_without_results_another_config_may_come(tmp_path):
    folder = RunFolder(tmp_path, plain("seed=1"), FILES)
    folder.set_failures("train", {"a": "b"})
    folder = RunFolder(tmp_path, plain("seed=2"), {**FILES, "data_fingerprint": "d2"})
    assert folder.failures() == [] and folder.facts["seed"] == 2
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["seed"] == 2


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ConfigError, match="not the folder of a run"):
        RunFolder(tmp_path, plain(), FILES)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_draft_that_a_kill_left_does_not_matter(tmp_path):
    (tmp_path / ".run.json.1.tmp").write_text("{")
    RunFolder(tmp_path, plain(), FILES)


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "run").write_text("x")
    with pytest.raises(ConfigError, match="cannot be made"):
        RunFolder(tmp_path / "run", plain(), FILES)


@pytest.mark.parametrize("name", ["config.yaml", "run.json"])
def test_a_damaged_file_is_named(opened, name):
    (opened.path / name).write_text("{")
    with pytest.raises(ConfigError, match=name):
        RunFolder(opened.path, plain(), FILES)


def test_failures_are_kept_by_stage(opened):
    opened.set_failures("train", {"a.jpg": 'too small, "they" say\nand more'})
    opened.set_failures("explain", {"b,c.jpg": "NaN", "d.jpg": "NaN"})
    opened.set_failures("explain", {"d.jpg": "NaN"})
    assert opened.failures() == [
        {"name": "a.jpg", "stage": "train", "reason": 'too small, "they" say\nand more'},
        {"name": "d.jpg", "stage": "explain", "reason": "NaN"},
    ]


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_atomic(path, "old")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError):
        write_atomic(path, "new")
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_text_that_is_no_unicode_can_be_written(tmp_path):
    write_atomic(tmp_path / "a", "bad \udcff name")
    assert (tmp_path / "a").read_text() == "bad \\udcff name"


def test_csv_round_trip():
    rows = [{"a": "1,2", "b": 'x"y'}, {"a": "", "b": "line\nbreak"}]
    assert list(csv.DictReader(to_csv(rows, ["a", "b"]).splitlines(keepends=True))) == rows


def test_settled_leaves_out_what_may_change():
    keys = settled(plain())
    assert "explain.steps" in keys and "seed" in keys
    assert not {"run_dir", "stages", "evaluate.threshold", "report.images"} & set(keys)
