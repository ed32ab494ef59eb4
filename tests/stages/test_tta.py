"""Test-time augmentation: the table against a recomputation, and runs that stop and go on."""

import csv
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import fgjax
import fgjax.stages.tta.crops as tta_crops
import fgjax.stages.tta.stage as tta
import fgjax.stages.tta.table as tta_table
from fgjax.core.keys import image_key
from fgjax.data.pipeline import take
from fgjax.options.judging import CROPS
from fgjax.options.resolve import resolve
from fgjax.options.schema import ConfigError
from fgjax.run import main
from fgjax.stages.images import make_source
from fgjax.training.checkpoints import load_classifier

pytestmark = pytest.mark.slow  # whole runs; CI has them

ALL = tuple(crop for crop in CROPS if crop != "detector")


def rows(run):
    """name, crop -> its row of tta.csv."""
    with (run / "tta.csv").open(encoding="utf-8", newline="") as file:
        return {(row["name"], row["crop"]): row for row in csv.DictReader(file)}


def timeless(run):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows(run).values()]


def table(run):
    return json.loads((run / "tta.json").read_text(encoding="utf-8"))


def box_of(row):
    return [float(row[edge]) for edge in ("x0", "y0", "x1", "y1")]


def cropped(image, box, size):
    """A crop of an 8-bit image, by Pillow, in float."""
    channels = np.moveaxis(image.astype(np.float32) / 255, -1, 0)
    bilinear = Image.Resampling.BILINEAR
    parts = [Image.fromarray(c).resize((size, size), bilinear, box=box) for c in channels]
    return np.stack([np.asarray(part) for part in parts], -1)


def probabilities(model, image):
    return np.asarray(jax.nn.softmax(model(jnp.asarray(image[None], jnp.float32)))[0], np.float64)


def check_row(row, model, names, target, whole, alone):
    mean = whole if alone is None else (whole + alone) / 2
    assert row["predicted"] == names[mean.argmax()]
    assert row["correct"] == str(int(mean.argmax() == target))
    assert float(row["probability"]) == pytest.approx(mean.max(), abs=2e-4)
    assert float(row["label_probability"]) == pytest.approx(mean[target], abs=2e-4)
    if alone is not None:
        assert row["alone"] == names[alone.argmax()]
        assert row["alone_correct"] == str(int(alone.argmax() == target))


@pytest.fixture(scope="module")
def drawn(words):
    """The words of a run of this stage alone on drawings."""
    every = f"tta.crops={','.join(ALL)}"
    return lambda run, *more: words(run, "stages=tta", every, "tta.original_steps=2", *more)


@pytest.fixture(scope="module")
def done(tmp_path_factory, trained, drawn):
    """A run with every crop that needs no detector. Not to be written to."""
    run = shutil.copytree(trained, tmp_path_factory.mktemp("tta") / "run")
    assert main(drawn(run)) == 0
    return run


@pytest.fixture
def run(tmp_path, trained):
    """A copy of the trained run, to change."""
    return shutil.copytree(trained, tmp_path / "run")


def test_rows_are_those_of_a_recomputation(done, drawn):
    _, config, _ = resolve(drawn(done))
    source, model = make_source(config), load_classifier(done)
    records = take([r for r in source.records if r.split == "test"], 3)
    found = rows(done)
    assert list(found) == [(r.name, crop) for r in records for crop in ("none", *ALL)]
    for record in records:
        image = source.load(record).image
        whole = probabilities(model, image.astype(np.float32) / 255)
        for crop in ("none", *ALL):
            row = found[record.name, crop]
            assert row["label"] == model.classes[record.label] and float(row["seconds"]) >= 0
            alone = None
            if crop != "none":
                alone = probabilities(model, cropped(image, box_of(row), 32))
            check_row(row, model, model.classes, record.label, whole, alone)


def test_maps_are_made_in_bf16(tmp_path, trained, drawn, monkeypatch):
    seen, real = [], tta.heat_map

    def noted(method, config, model, *asked):
        seen.append(model.network.dtype)
        return real(method, config, model, *asked)

    monkeypatch.setattr(tta, "heat_map", noted)
    run, given = tmp_path / "run", f"model.checkpoint={trained}/checkpoint"
    few = ("tta.crops=[gradient]", "data.limit=1", "explain.precision=bf16")
    assert main(drawn(run, given, *few)) == 0
    assert seen == [jnp.bfloat16]
    assert table(run)["settings"]["precision"] == "bf16"


def test_boxes_are_where_they_should_be(done, drawn):
    _, config, _ = resolve(drawn(done))
    source, model = make_source(config), load_classifier(done)
    records = take([r for r in source.records if r.split == "test"], 3)
    around_something = 0
    for record in records:
        example = source.load(record)
        found = {crop: box_of(rows(done)[record.name, crop]) for crop in ALL}
        assert found["center"] == [4, 4, 28, 28]
        random = found["random"]
        assert random[2] - random[0] == pytest.approx(24, abs=0.02) and min(random) >= 0
        x0, y0, x1, y1 = example.box  # its square: as wide as the longer side, and around it
        left, top, right, bottom = found["box"]
        assert right - left == pytest.approx(max(x1 - x0, y1 - y0), abs=0.02)
        assert left <= x0 and top <= y0 and right >= x1 and bottom >= y1

        # FIDO explains the predicted class, with the image's own key: Chang et al.'s, and ours.
        image = jnp.asarray(example.image[None], jnp.float32) / 255
        target = np.asarray(model(image)).argmax(1).astype(np.int32)
        key = image_key(jax.random.fold_in(jax.random.key(0), 7), record.name)
        for name, settings in (
            ("fido_original", fgjax.fido_preset("chang-2019", steps=2)),
            ("fido_simplified", fgjax.FidoConfig(steps=2, batch_size=2, initial=0.5)),
        ):
            heat = fgjax.fido(model, image, target, key=key[None], config=settings).heatmap[0]
            y, x = np.nonzero(np.asarray(heat) > 0.5)
            if not len(x):  # two steps of a toy may find nothing: the whole image, as the note says
                assert found[name] == [0, 0, 32, 32]
                continue
            around_something += 1
            side = max(x.max() + 1 - x.min(), y.max() + 1 - y.min()) * 1.2
            box = found[name]
            assert box[2] - box[0] == pytest.approx(min(side, 32), abs=0.02)
            middle = (x.min() + x.max() + 1) / 2
            left = np.clip(middle - min(side, 32) / 2, 0, 32 - min(side, 32))
            assert box[0] == pytest.approx(left, abs=0.02)
            # At 32 px a blob of one pixel is as large as 49 of 224: none is a speck.
            assert found[f"{name}_cleaned"] == box
    assert around_something >= 3


def test_the_table_is_made_of_the_rows(done, capsys, drawn):
    about, found = table(done), rows(done)
    assert about["images"] == 3 and about["failed"] == about["of_unknown_classes"] == 0
    assert list(about["rows"]) == ["none", "box_only", *ALL]
    assert "mean of the image's softmax probability and the crop's" in about["protocol"]
    names = list(dict.fromkeys(name for name, _ in found))
    base = np.array([int(found[name, "none"]["correct"]) for name in names])
    for key, row in about["rows"].items():
        crop, column = ("box", "alone_correct") if key == "box_only" else (key, "correct")
        right = np.array([int(found[name, crop][column]) for name in names])
        assert row["accuracy"] == pytest.approx(right.mean()) and row["images"] == 3
        low, high = row["interval_95"]
        assert low <= row["accuracy"] <= high and row["protocol"]
        if key != "none":
            assert row["minus_baseline"] == pytest.approx((right - base).mean())
            alone = [int(found[name, crop]["alone_correct"]) for name in names]
            assert row["crop_alone"] == pytest.approx(np.mean(alone))
        seconds = sum(float(found[name, crop]["seconds"]) for name in names)
        assert row["seconds"] == pytest.approx(seconds, abs=0.01)
    protocol = about["rows"]["fido_original"]["protocol"]
    assert "sampler=original, steps=2, batch_size=32, temperature=0.1, mask_size=56" in protocol
    assert about["settings"]["fido_original"]["sampler"] == "original"
    text = (done / "tta.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(lines) == 1 + len(about["rows"]) and len({line.count("|") for line in lines}) == 1
    assert all(row["title"] in text and row["protocol"] in text for row in about["rows"].values())
    assert "NaN" not in (done / "tta.json").read_text()


def test_the_same_command_again_does_nothing_but_print(tmp_path, done, drawn, capsys, monkeypatch):
    run = shutil.copytree(done, tmp_path / "run")
    monkeypatch.setattr(tta, "_look_again", None)  # must not be called
    assert main(drawn(run)) == 0
    said = capsys.readouterr().out
    assert "BL + FIDO, ours" in said and "ground-truth box alone" in said
    assert "…" not in said  # every cell fits
    for name in ("tta.csv", "tta.json", "tta.md"):
        assert (run / name).read_bytes() == (done / name).read_bytes()


def test_interrupted_it_goes_on_to_the_same_end(run, done, drawn, capsys, monkeypatch):
    real, calls = tta_crops.glas, []

    def interrupted(*args, **options):
        calls.append(1)
        if len(calls) == 3:
            # What is done is on disk already: a kill would not take it away.
            assert len({name for name, _ in rows(run)}) == 2
            raise KeyboardInterrupt
        return real(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tta_crops, "glas", interrupted)
        patch.setattr(tta, "SAVE_SECONDS", 0.0)
        assert main(drawn(run)) == 130
    assert not (run / "tta.json").exists()
    first = rows(run)
    assert main(drawn(run)) == 0
    assert "1 image of 3, the others are done; box, random" in capsys.readouterr().out
    assert timeless(run) == timeless(done)
    assert {k: v for k, v in rows(run).items() if k in first} == first  # and kept as it was


def test_more_crops_later_only_add_rows(run, done, drawn, monkeypatch):
    assert main(drawn(run, "tta.crops=center")) == 0
    first = rows(run)
    assert set(table(run)["rows"]) == {"none", "center"}
    assert main(drawn(run, "tta.crops=random,center")) == 0
    assert set(table(run)["rows"]) == {"none", "random", "center"}
    found = rows(run)
    assert {k: v for k, v in found.items() if k in first} == first
    whole = {k: v | {"seconds": ""} for k, v in rows(done).items()}
    assert all(row | {"seconds": ""} == whole[key] for key, row in found.items())


def test_another_setting_is_refused_once_there_are_results(run, drawn, capsys):
    assert main(drawn(run, "tta.crops=center", "tta.share=0.5")) == 0
    assert rows(run)["test/000000", "center"]["x0"] == "8.00"
    before = (run / "tta.csv").read_bytes()
    assert main(drawn(run, "tta.crops=center", "tta.share=0.6")) == 2
    assert "tta.share (was 0.5, is 0.6)" in capsys.readouterr().err
    assert (run / "tta.csv").read_bytes() == before


def test_a_damaged_table_is_told(run, drawn, capsys):
    (run / "tta.csv").write_text("name,accuracy\na,1\n")
    assert main(drawn(run, "tta.crops=center", "tta.original_steps=null")) == 2
    assert "tta.csv: is not what this version writes" in capsys.readouterr().err


# A folder of images: crops from the file's own pixels, boxes of a detector, what is left out.


@pytest.fixture(scope="module")
def birds(tmp_path_factory, trained, picture):
    """Class folders, of which the classifier does not know one; a damaged image; boxes."""
    root = tmp_path_factory.mktemp("birds")
    number = 0
    for name in ("auk", "crow", "dodo"):
        (root / "data" / name).mkdir(parents=True)
        for i in range(2):
            picture(number).save(root / "data" / name / f"{i}.png")
            number += 1
    (root / "data" / "crow" / "2.png").write_text("no image")
    (root / "labels.csv").write_text("class_name,model_index\nauk,0\ncrow,3\ndodo,\n")
    (root / "boxes.csv").write_text(
        "name,x0,y0,x1,y1,score\nauk/0.png,8,10,30,30,0.5\nauk/0.png,0,0,3,3,0.1\n"
        "auk/1.png,0,0,40,48,1\ncrow/0.png,-5,0,4,4,1\n"
    )
    return root


@pytest.fixture
def folder(birds, folder_words):
    def words(run, *more):
        given = (f"model.labels={birds / 'labels.csv'}", "data.test_share=1", "stages=tta",
                 f"tta.boxes={birds / 'boxes.csv'}", "tta.crops=detector,center,box")  # fmt: skip
        return folder_words(birds / "data", run, *given, *more)

    return words


def test_a_folder_with_a_detectors_boxes(tmp_path, birds, folder, trained, capsys):
    run = tmp_path / "run"
    assert main(folder(run)) == 1  # the damaged image
    said = capsys.readouterr().out
    assert "2 images of classes the model does not know: left out" in said
    assert "2 images with no detected box in what the model sees" in said
    assert "4 images with no annotated box" in said and "Traceback" not in said
    with (run / "failures.csv").open() as file:
        assert [(r["name"], r["stage"]) for r in csv.DictReader(file)] == [("crow/2.png", "tta")]
    about, found = table(run), rows(run)
    assert about["images"] == 4 and about["of_unknown_classes"] == 2 and about["failed"] == 1
    # crow/0.png's box lies outside the crop, crow/1.png has none.
    images = {key: row["images"] for key, row in about["rows"].items()}
    assert images == {"none": 4, "box_only": 0, "box": 0, "center": 4, "detector": 2}
    assert about["rows"]["box"]["accuracy"] is None and about["rows"]["detector"]["left_out"] == 2
    assert found["crow/1.png", "detector"]["correct"] == ""

    # The shorter side, 40 px, becomes round(64 / 0.875) = 73 px for the crops, 37 for the model.
    model, (left, top) = load_classifier(trained), (4, 12)
    names = [f"output {i}" for i in range(10)]
    names[0], names[3] = "auk", "crow"
    for name, target in (("auk/0.png", 0), ("auk/1.png", 0)):
        file = Image.open(birds / "data" / name)
        window = [left * 40 / 73, top * 48 / 88, (left + 64) * 40 / 73, (top + 64) * 48 / 88]
        fine = np.asarray(file.resize((64, 64), Image.Resampling.BICUBIC, box=window))
        edges = [2 * 40 / 37, 6 * 48 / 44, 34 * 40 / 37, 38 * 48 / 44]
        seen = np.asarray(file.resize((32, 32), Image.Resampling.BICUBIC, box=edges))
        whole = probabilities(model, seen.astype(np.float32) / 255)
        for crop in ("center", "detector"):
            row = found[name, crop]
            box = [2 * edge for edge in box_of(row)]
            check_row(
                row, model, names, target, whole, probabilities(model, cropped(fine, box, 32))
            )
    x0, y0, x1, y1 = box_of(found["auk/0.png", "detector"])
    assert x1 - x0 == pytest.approx(22 * 37 / 40, abs=0.05) == y1 - y0  # of 22 × 20 px
    assert x0 == pytest.approx(8 * 37 / 40 - 2, abs=0.05)
    assert box_of(found["auk/1.png", "detector"]) == [0, 0, 32, 32]


def test_other_boxes_are_refused(tmp_path, birds, folder, capsys):
    run, boxes = tmp_path / "run", tmp_path / "boxes.csv"
    words = folder(run, f"tta.boxes={boxes}", "tta.crops=detector")
    shutil.copy(birds / "boxes.csv", boxes)
    assert main(words) == 1
    boxes.write_text(boxes.read_text().replace("8,10", "9,10"))
    assert main(words) == 2
    err = capsys.readouterr().err
    assert "results of other boxes" in err and str(boxes) in err


def test_a_model_that_knows_no_label(tmp_path, birds, folder, capsys):
    shutil.copytree(birds / "data" / "dodo", tmp_path / "data")  # a flat folder: no labels
    words = folder(tmp_path / "run", f"data.path={tmp_path / 'data'}", "tta.crops=center")
    assert main(words) == 2
    err = capsys.readouterr().err
    assert "no labelled test image" in err and "Traceback" not in err


def test_a_model_that_returns_nan(tmp_path, folder, capsys, monkeypatch):
    real = tta.crop_and_resize

    def broken(images, boxes, size):
        return real(images, boxes, size).at[:].set(jnp.nan)

    monkeypatch.setattr(tta, "crop_and_resize", broken)
    assert main(folder(tmp_path / "run", "tta.crops=center")) == 1
    assert "5 images failed" in capsys.readouterr().out
    assert not (tmp_path / "run" / "tta.csv").exists()
    assert table(tmp_path / "run")["rows"]["center"]["accuracy"] is None


# What is asked for and cannot be.


WRONG = {
    "tta.crops=[box,fido_simple]": "'fido_simple'.*Did you mean fido_simplified",
    "tta.crops=[]": "tta.crops: none given",
    "tta.threshold=0": "tta.threshold=0.0: between 0 and 1",
    "tta.threshold=1": "tta.threshold=1.0: between 0 and 1",
    "tta.padding=-0.1": "tta.padding=-0.1: must not be negative",
    "tta.share=0": "tta.share=0.0: above 0 and at most 1",
    "tta.share=1.5": "tta.share=1.5: above 0 and at most 1",
}


@pytest.mark.parametrize("word", WRONG)
def test_options_out_of_range_are_told(word):
    with pytest.raises(ConfigError, match=WRONG[word]):
        resolve(["config=fido_demo", "stages=tta", word])


def test_a_detector_without_boxes_is_told_before_a_training(tmp_path, words, capsys):
    asked = words(tmp_path / "run", "stages=train,tta", "tta.crops=detector")
    assert main(asked) == 2
    assert "tta.boxes is missing" in capsys.readouterr().err
    assert main([*asked, f"tta.boxes={tmp_path / 'none.csv'}"]) == 2
    err = capsys.readouterr().err
    assert "tta.boxes: " in err and "none.csv: no such file" in err
    assert not (tmp_path / "run").exists()


def test_one_image_has_no_interval():
    row = dict.fromkeys(tta.COLUMNS, "") | {
        "name": "a", "correct": "1", "alone_correct": "0", "seconds": "0.5",
        "x0": "1", "y0": "1", "x1": "5", "y1": "5",
    }  # fmt: skip
    given = [row | {"crop": "none"}, row | {"crop": "center", "correct": "0"}]
    about = tta_table.summary(given, ["none", "center"], dict.fromkeys(tta_table.TITLES, "so"))
    center = about["rows"]["center"]
    assert center["interval_95"] == [None, None] and center["minus_baseline"] == -1
    assert center["crop_alone"] == 0 and center["crop_side"] == 4
    extra = {"failed": 0, "unlabelled": 1, "of_unknown_classes": 0, "model": ""}
    text = tta_table.to_markdown(about | extra)
    assert "| BL + center crop | 0.0 | -100.0 | 0.0 | 4 | 0.5 | 1 |" in text
    assert "1 image without a label: left out." in text
