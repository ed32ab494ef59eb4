"""The folder of a run: whose it is, and files that are whole."""

import csv
import json

import pytest
import yaml

from fgjax.core.files import write_atomic
from fgjax.options.resolve import ConfigError, resolve
from fgjax.runs.folder import ConfigChanged, RunFolder, settled, to_csv
from fgjax.runs.lock import let_go

FILES = {"data_fingerprint": "d1", "training_fingerprint": "t1", "model_fingerprint": "m1"}


def plain(*words: str) -> dict:
    return resolve(["config=fido_demo", *words])[2]


@pytest.fixture(autouse=True)
def let_others_in():
    yield
    let_go()


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
    assert {p.name for p in folder.path.glob(".*")} <= {".lock"}  # no drafts


def test_the_same_config_opens_it_again(opened):
    opened.finish("explain", seconds=1.5, images=2)
    again = RunFolder(opened.path, plain(), FILES)
    assert again.stage("explain") == {"seconds": 1.5, "images": 2}
    assert again.stage("train") == {}


@pytest.mark.parametrize(
    "word", ["stages=[report]", "run_dir=elsewhere", "parallel=none", "data.workers=2",
             "evaluate.threshold=0.3", "report.images=2", "dry_run=true", "data.limit=2",
             "data.path=/x", "data.masks=/m", "data.test_share=0.3"]
)  # fmt: skip
def test_options_that_maps_do_not_depend_on_may_change(opened, word):
    RunFolder(opened.path, plain(word), FILES)


@pytest.mark.parametrize(
    "word", ["seed=1", "explain.steps=31", "train.adam_eps=1e-7", "model.name=resnet18",
             "data.size=64", "data.source=folder", "explain.target=predicted"]
)  # fmt: skip
def test_any_other_is_refused_by_name(opened, word):
    before = (opened.path / "config.yaml").read_bytes()
    with pytest.raises(ConfigChanged) as told:
        RunFolder(opened.path, plain(word), FILES)
    key, value = word.split("=")
    assert f"{key} (was " in str(told.value) and "run_dir=" in str(told.value)
    assert "explain.l1" not in str(told.value)  # only what differs
    assert (opened.path / "config.yaml").read_bytes() == before


@pytest.mark.parametrize("name, part", [("training_fingerprint", "model.checkpoint=.*checkpoint"),
                                        ("model_fingerprint", "model.weights")])  # fmt: skip
def test_other_files_are_refused(opened, name, part):
    with pytest.raises(ConfigChanged, match=part):
        RunFolder(opened.path, plain(), {**FILES, name: "other"})


def test_other_images_are_each_looked_at_by_themselves(opened):
    opened.finish("test", seconds=1.0, failed=0)
    opened.finish("explain", seconds=1.0, images=2)
    again = RunFolder(opened.path, plain(), {**FILES, "data_fingerprint": "other"})
    assert not again.same_data and again.stage("test") == {} and again.stage("explain")


def test_other_masks_are_other_numbers(opened):
    for stage in ("explain", "evaluate", "report"):
        opened.finish(stage, seconds=1.0)
    again = RunFolder(opened.path, plain("data.masks=/m"), FILES)
    assert again.stage("explain") and not again.stage("evaluate") and not again.stage("report")


def of_before(folder):
    """Make a run one that did not say which images its results are of."""
    del folder.facts["training_fingerprint"]
    folder.save_facts()


def test_a_run_of_before_goes_on_with_the_same_images(opened):
    of_before(opened)
    assert RunFolder(opened.path, plain(), FILES).same_data


@pytest.mark.parametrize("word", ["data.limit=2", "images"])
def test_a_run_of_before_refuses_other_images(opened, word):
    of_before(opened)
    files = {**FILES, "data_fingerprint": "other"} if word == "images" else FILES
    with pytest.raises(ConfigChanged, match=r"(the images|data\.limit).*run_dir"):
        RunFolder(opened.path, plain(*([] if word == "images" else [word])), files)


def test_a_file_of_the_same_content_may_lie_elsewhere(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text("1")
    words = [f"model.weights={tmp_path}/a", "model.name=resnet18"]
    folder = RunFolder(tmp_path / "run", plain(*words), FILES)
    (folder.path / "maps.zarr").mkdir()
    words[0] = f"model.weights={tmp_path}/./b"
    RunFolder(folder.path, plain(*words), FILES)
    with pytest.raises(ConfigChanged, match=r"model\.weights"):  # a hub's is not in the fingerprint
        RunFolder(folder.path, plain("model.weights=owner/model", words[1]), FILES)


BROKEN = {"a list": [1], "a word": "x", "stages in a list": {"stages": []}, "a number": 3}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_run_json_that_is_none(opened, kind):
    (opened.path / "run.json").write_text(json.dumps(BROKEN[kind]))
    with pytest.raises(ConfigError, match=r"run\.json.*Delete it"):
        RunFolder(opened.path, plain(), FILES)
    (opened.path / "run.json").unlink()
    RunFolder(opened.path, plain(), FILES)


@pytest.mark.parametrize("about", [[1], "x", {"seconds": "x"}, {"images": None}, {"failed": [1]}])
def test_a_stage_whose_facts_are_none_is_done_again(opened, about):
    facts = json.loads((opened.path / "run.json").read_text())
    facts["stages"], facts["batch_size"] = {"explain": about, "test": {"seconds": 1}}, "x"
    (opened.path / "run.json").write_text(json.dumps(facts))
    again = RunFolder(opened.path, plain(), FILES)
    assert again.stage("explain") == {} and again.stage("test") and "batch_size" not in again.facts


def test_failures_that_a_spreadsheet_changed(opened):
    opened.set_failures("train", {"a.jpg": "too small"})
    (opened.path / "failures.csv").write_text("\ufeffname;stage;reason\na.jpg;train;too small\n")
    assert opened.failures() == []
    opened.set_failures("explain", {"b.jpg": "NaN"})
    assert [row["name"] for row in opened.failures()] == ["b.jpg"]
    (opened.path / "failures.csv").write_bytes(b"name,stage\n\xff\xfe,b\n")
    assert opened.failures() == []


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
