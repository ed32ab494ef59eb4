"""A tiny set of our own in the layout of FunnyBirds: parts are squares, things are dots."""

import json
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from fgjax.data.pipeline import load_batch
from fgjax.data.sets.funnybirds import COLOURS, FunnyBirdsSource
from fgjax.data.types import DataError
from fgjax.evaluation.funnybirds import part_importance
from fgjax.stages.classifier import Explained
from fgjax.stages.funnybirds.look_up import look_up
from fgjax.stages.funnybirds.table import numbers, summary, to_markdown

PARTS = ("beak", "eye", "foot", "tail", "wing")
SIZE = 32
KINDS = [[0, 0, 0, 0, 0], [1, 0, 0, 1, 0], [0, 1, 1, 0, 1]]


def place(part):
    """A square of 4 pixels a side for each part, in one row."""
    left = 2 + 6 * PARTS.index(part)
    return slice(12, 16), slice(left, left + 4)


def draw(kind, left=PARTS, things=(0, 1)):
    """A part's square has its class's grey; things are red dots at the lower border."""
    image = np.full((SIZE, SIZE, 4), 255, np.uint8)
    image[..., :3] = 90
    for part in left:
        image[(*place(part), slice(0, 3))] = 20 + 60 * KINDS[kind][PARTS.index(part)]
    for thing in things:
        image[28:31, 4 + 8 * thing : 7 + 8 * thing, :3] = 200, 0, 0
    return image


def part_map():
    found = np.zeros((SIZE, SIZE, 4), np.uint8)
    found[..., 3] = 255
    for part, colours in COLOURS.items():
        found[(*place(part), slice(0, 3))] = colours[-1]
    for thing in (0, 1):
        found[28:31, 4 + 8 * thing : 7 + 8 * thing, :3] = 204, 204, 204 + thing
    return found


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_set(root):
    """Three classes, an image of each to train on and one to test on."""
    about = [{"class_idx": i, "parts": dict(zip(PARTS, kind, strict=True))}
             for i, kind in enumerate(KINDS)]  # fmt: skip
    (root / "classes.json").write_text(json.dumps(about))
    variants = [{"model": "a"}, {"model": "b"}]
    (root / "parts.json").write_text(json.dumps(dict.fromkeys(PARTS, variants)))
    for split in ("train", "test"):
        images = [{"class_idx": i, "bg_objects": "3,1,", "beak_model": "a"} for i in range(3)]
        (root / f"dataset_{split}.json").write_text(json.dumps(images))
        for i in range(3):
            save(root / split / str(i) / f"{i:06d}.png", draw(i))
    for i in range(3):
        save(root / "test_part_map" / str(i) / f"{i:06d}.png", part_map())
        folder = root / "test_interventions" / str(i) / f"{i:06d}"
        for count in range(len(PARTS)):
            for left in combinations(PARTS, count):
                save(folder / f"body_{'_'.join(left)}.png", draw(i, left))
        for thing in (0, 1):
            without = draw(i, things={0, 1} - {thing})
            save(folder / "background_interventions" / f"{thing}.png", without)
    return root


@pytest.fixture
def root(tmp_path):
    (tmp_path / "FunnyBirds").mkdir()
    return write_set(tmp_path / "FunnyBirds")


def test_the_official_layout(root):
    source = FunnyBirdsSource(root.parent, size=SIZE, crop=1.0)
    assert source.classes == ("00", "01", "02") and source.parts == PARTS
    assert source.kinds.tolist() == KINDS
    named = [(r.name, r.label, r.split) for r in source.records]
    assert named[:2] == [("train/0/000000.png", 0, "train"), ("train/1/000001.png", 1, "train")]
    assert named[4] == ("test/1/000001.png", 1, "test") and len(named) == 6
    batch = load_batch(source, source.records)
    np.testing.assert_array_equal(batch.images[4], draw(1)[..., :3])
    assert batch.has_mask.tolist() == [False] * 3 + [True] * 3
    assert batch.masks[4].sum() == 5 * 16


def test_each_drawing_lacks_the_parts_of_its_number(root):
    source = FunnyBirdsSource(root, size=SIZE, crop=1.0)
    record = source.records[5]
    birds = source.subsets(record)
    assert birds.images.shape == (32, SIZE, SIZE, 3) and birds.things.shape == (2, SIZE, SIZE)
    for number in (0, 0b00001, 0b10100, 0b11111):
        left = tuple(part for i, part in enumerate(PARTS) if not number >> i & 1)
        np.testing.assert_array_equal(birds.images[number], draw(2, left)[..., :3])
    for i, part in enumerate(PARTS):
        assert birds.masks[i][place(part)].all() and birds.masks[i].sum() == 16
    np.testing.assert_array_equal(birds.without_things[1], draw(2, things=(0,))[..., :3])
    assert birds.things[1, 28:31, 12:15].all() and birds.things.sum() == 18
    half = FunnyBirdsSource(root, size=16, crop=1.0).subsets(record)
    assert half.images.shape == (32, 16, 16, 3) and half.masks.shape == (5, 16, 16)
    with pytest.raises(DataError, match="only test images"):
        source.subsets(source.records[0])


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("classes.json", "[", "no whole JSON"),
        ("classes.json", "{}", "should hold a list"),
        ("classes.json", '[{"class_idx": 0, "parts": {"beak": 1}}]', "a number for each of beak"),
        ("classes.json", "[]", "class_idx are not"),
        ("parts.json", '{"horn": []}', "horn"),
        ("dataset_test.json", '[{"class_idx": 7}]', "image 0 is of class 7"),
        ("dataset_train.json", None, "dataset_train.json: this index file of the set is missing"),
    ],
)
def test_a_damaged_set_says_what_is_wrong(root, file, text, words):
    if text is None:
        (root / file).unlink()
    else:
        (root / file).write_text(text)
    with pytest.raises(DataError, match=words):
        FunnyBirdsSource(root)


def test_what_is_missing_of_one_image_is_named(root):
    source = FunnyBirdsSource(root, size=SIZE, crop=1.0)
    record = source.records[3]
    (root / "test_interventions/0/000000/body_eye_wing.png").unlink()
    with pytest.raises(DataError, match="body_eye_wing.png: no such image file"):
        source.subsets(record)
    (root / "test_part_map/0/000000.png").unlink()
    assert source.load(record).mask is None
    with pytest.raises(DataError, match="000009.png: no such image"):
        source.load(replace(record, name="test/0/000009.png"))
    with pytest.raises(DataError, match="holds no classes.json; wanted"):
        FunnyBirdsSource(root / "train")


class ByGrey(Explained):
    """The class whose greys its parts' squares have; what is not there says nothing."""

    def __init__(self):
        object.__setattr__(self, "index", (0, 1, 2))

    def predict(self, images, boxes=None):
        grey = np.stack([images[(slice(None), *place(part), 0)].mean((1, 2)) for part in PARTS], 1)
        wanted = (20 + 60 * np.array(KINDS)) / 255
        told = np.abs(grey - 90 / 255) > 1e-3
        return -(np.abs(grey[:, None] - wanted) * told[:, None]).sum(2)


def test_the_protocol_is_looked_up_as_on_drawn_birds(root):
    source = FunnyBirdsSource(root, size=SIZE, crop=1.0)
    test = tuple(record for record in source.records if record.split == "test")
    seen = look_up(source, ByGrey(), test)
    assert seen.correct.all() and seen.logits.shape == (3, 32, 3)
    assert seen.masks.shape == (3, 7, SIZE, SIZE) and seen.irrelevant[:, 5:].all()
    np.testing.assert_array_equal(seen.background, 1)
    # Three classes are too few for two rivals that share two parts each, and none can be swapped.
    assert not seen.behaves.any() and seen.flips is None and not seen.swaps
    importance = part_importance(seen.masks[:, 0].astype(np.float32), seen.masks)
    found, _ = numbers(seen, importance[:, None].repeat(3, 1))
    assert np.isfinite(found["completeness"]).all() and np.isnan(found["contrastivity"]).all()
    assert "energy" not in to_markdown(summary({"glas": (found, 0.1)}, seen, {}))
