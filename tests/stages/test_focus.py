"""Two streams from images to a report: patches found, kept and read; training, test, maps."""

import csv
import json
import shutil

import numpy as np
import pytest

import fgjax
from fgjax.data.patch_table import fitted_patches, read_patches, write_patches
from fgjax.devices.forward import compiled
from fgjax.options.resolve import resolve
from fgjax.run import main
from fgjax.stages.images import make_source
from fgjax.training.checkpoints import load_classifier

pytestmark = pytest.mark.slow  # whole runs; CI has them

SMALL = (
    "config=focus_species", "data.train_images=40", "data.test_images=12", "data.limit=2",
    "data.size=32", "train.epochs=1", "train.batch_size=8", "focus.extractor_epochs=1",
    "focus.steps=3", "focus.last=3", "focus.hidden=8", "focus.patches=2", "focus.patch_size=32",
    "report.figures=1", "focus.backbone=toys:MICRO",
)  # fmt: skip


def focus(run, *more):
    return [*SMALL, f"run_dir={run}", *more]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run with all its stages done. Not to be written to."""
    run = tmp_path_factory.mktemp("focus") / "run"
    assert main(focus(run)) == 0
    return run


@pytest.mark.slow
def test_patches_are_found_once_and_kept(whole):
    source = make_source(resolve(list(SMALL))[1])
    rows = list(csv.DictReader((whole / "patches.csv").read_text("utf-8").splitlines()))
    assert {row["image"] for row in rows} == {r.name for r in source.records}
    assert [row["rank"] for row in rows] == ["1", "2"] * 52
    assert all(float(r["x1"]) - float(r["x0"]) == 16 for r in rows)  # half of 32 px
    assert (whole / "extractor" / "checkpoint" / "classifier.json").is_file()


@pytest.mark.slow
def test_the_test_is_of_the_model_on_those_patches(whole):
    config = resolve(list(SMALL))[1]
    source, model = make_source(config), load_classifier(whole)
    table = read_patches(whole / "patches.csv", [r.name for r in source.records])
    records = [r for r in source.records if r.split == "test"]
    examples = [source.load(r) for r in records]
    boxes = [fitted_patches(source, e, table, r.name, 2) for r, e in zip(records, examples)]
    images = np.stack([e.image for e in examples]).astype(np.float32) / 255
    labels = np.array([r.label for r in records])
    logits = np.asarray(compiled(model.replace(boxes=np.stack(boxes)))(images))
    about = json.loads((whole / "test.json").read_text())["metrics"]
    assert about["accuracy"]["mean"] == pytest.approx((logits.argmax(1) == labels).mean())
    parts = {"global", "local", "step_1", "step_2", "step_3"}
    assert {f"accuracy_{part}" for part in parts} <= set(about)
    alone = np.asarray(model.head(model.features(images))).argmax(1)
    assert about["accuracy_global"]["mean"] == pytest.approx((alone == labels).mean())
    assert "step 2 alone" in about["accuracy_step_2"]["protocol"]


@pytest.mark.slow
def test_the_maps_of_every_step_are_in_the_run_and_on_the_page(whole):
    maps = fgjax.load_maps(whole)
    assert set(maps) == {"heatmap", "step_1", "step_2", "step_3"}
    assert maps["step_1"].shape == (2, 32, 32)
    page = (whole / "report.html").read_text(encoding="utf-8")
    assert page.count('value="step_') == 3
    assert page.index("Step 1") < page.index("Step 2") < page.index("Step 3")
    assert '"notes":{"step_1":"' in page and ("right, p 0." in page or "wrong, p 0." in page)
    assert len(list((whole / "figures").glob("*.png"))) == 1


@pytest.mark.slow
def test_again_nothing_is_done(whole, tmp_path, capsys):
    run = shutil.copytree(whole, tmp_path / "run")
    assert main(focus(run)) == 0
    said = capsys.readouterr().out
    assert "epoch" not in said and "patches:" not in said and "all 2 images are done" in said


@pytest.mark.slow
def test_a_finished_run_is_used_with_its_patches(whole, tmp_path, capsys):
    words = focus(tmp_path / "run", f"model.checkpoint={whole}/checkpoint", "stages=test")
    assert main(words) == 0
    again = json.loads((tmp_path / "run" / "test.json").read_text())
    assert again["metrics"] == json.loads((whole / "test.json").read_text())["metrics"]
    # Without them the network looks for its own.
    shutil.copytree(whole / "checkpoint", tmp_path / "alone" / "checkpoint")
    words = focus(tmp_path / "own", f"model.checkpoint={tmp_path}/alone/checkpoint", "stages=test")
    assert main(words) == 0
    assert "finds its patches by its own global stream" in capsys.readouterr().out


@pytest.mark.slow
def test_patches_of_a_file(whole, tmp_path, capsys):
    """Each image's patch is itself; one has none."""
    source = make_source(resolve(list(SMALL))[1])
    names = [r.name for r in source.records]
    left_out = next(r.name for r in source.records if r.split == "test")
    row = np.float32([[0, 0, 32, 32, 1]])
    write_patches(tmp_path / "mine.csv", {name: row for name in names if name != left_out})
    given = (f"focus.file={tmp_path}/mine.csv", "stages=test")
    words = focus(tmp_path / "run", f"model.checkpoint={whole}/checkpoint", *given)
    assert main(words) == 1
    assert f"{left_out} (test): {left_out}: no patch of this image" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "test.json").read_text())["images"] == 11
    # Another file is another run.
    write_patches(tmp_path / "mine.csv", {name: row for name in names})
    shutil.copytree(whole / "checkpoint", tmp_path / "run" / "checkpoint")
    assert main(words) == 2
    assert "explain.infill or maps have changed" in capsys.readouterr().err


WRONG = {
    "focus.backbone=vgg91": ("focus.backbone=vgg91", "Did you mean vgg19"),
    "focus.readout=sums": ("focus.readout=sums", "Did you mean sum"),
    "focus.steps=0": ("focus.steps=0", "above 0"),
    "focus.patch_side=1.5": ("focus.patch_side=1.5", "at most 1"),
    "focus.margin=2": ("focus.margin=2", "from -1 to 1"),
}
LATE = {  # these are told once there is a model
    "focus.file=nowhere.csv": ("focus.file: nowhere.csv: no such file",),
    "train.rates=[locl:10]": ("train.rates", "local"),
}


@pytest.mark.parametrize("word", [*WRONG, *(pytest.param(w, marks=pytest.mark.slow) for w in LATE)])
def test_wrong_options_are_told(tmp_path, capsys, word):
    assert main(focus(tmp_path / "run", "stages=train", word)) == 2
    err = capsys.readouterr().err
    assert all(part in err for part in (WRONG | LATE)[word]), err
    assert "Traceback" not in err


def test_steps_that_are_not_there_cannot_be_summed(tmp_path, capsys):
    words = ("focus.readout=sum", "focus.first=2", "focus.last=4")
    assert main(focus(tmp_path / "run", *words)) == 2
    assert "focus.last=4: from focus.first=2 to focus.steps=3" in capsys.readouterr().err


def test_a_plain_classifier_has_no_steps_to_explain(untrained, tmp_path, capsys):
    words = focus(tmp_path / "run", f"model.checkpoint={untrained}/checkpoint", "stages=explain")
    assert main(words) == 2
    assert "explain.method=step_cam: the classifier has no time" in capsys.readouterr().err


@pytest.mark.slow
def test_prototypes_find_patches_too(tmp_path, capsys):
    words = focus(tmp_path / "run", "focus.extractor=prototypes", "focus.prototypes=2",
                  "focus.channels=8", "focus.extractor_epochs=3", "focus.warm=1",
                  "focus.push_every=1", "focus.last_layer=1", "stages=train,test")  # fmt: skip
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "by prototypes, which is trained first" in said and "every prototype moves" in said
    extractor = load_classifier(tmp_path / "run" / "extractor")
    assert extractor.name == "prototypes" and dict(extractor.options)["per_class"] == 2
    prototypes = np.asarray(extractor.variables["params"]["prototypes"])
    source = make_source(resolve(list(SMALL))[1])
    images = np.stack([source.load(r).image for r in source.records if r.split == "train"])
    places = np.asarray(extractor.features(images.astype(np.float32) / 255)).reshape(-1, 8)
    gaps = np.abs(places[None] - prototypes[:, None]).max(2).min(1)
    # The last layer has learnt: at first its weights were 1 and -0.5.
    kernel = np.asarray(extractor.variables["params"]["classifier"]["kernel"])
    assert not np.isin(kernel, (1, -0.5)).all()
    # Each lies on a patch of a training image, but those of classes without one.
    assert (gaps < 1e-4).mean() > 0.7


@pytest.mark.slow
@pytest.mark.parametrize("readout", ["none", "cnn", "last"])
def test_every_readout_trains(tmp_path, whole, readout):
    shared = f"focus.folder={whole}"
    words = focus(tmp_path / "run", f"focus.readout={readout}", shared, "stages=train,test")
    assert main(words) == 0
    about = json.loads((tmp_path / "run" / "test.json").read_text())["metrics"]
    assert ("accuracy_local" in about) == (readout != "none")
    assert ("accuracy_step_1" in about) == (readout == "last")
    assert not (tmp_path / "run" / "extractor").exists()
    model = load_classifier(tmp_path / "run")
    assert model.network.readout == readout
