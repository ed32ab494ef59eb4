"""Which images pick the epoch, and which epoch counts."""

import json

import numpy as np
import pytest
from PIL import Image

import fgjax.stages.train.history
from fgjax.data.sets.folder import FolderSource
from fgjax.models.classifier import create_model
from fgjax.options.resolve import resolve
from fgjax.run import main
from fgjax.stages.images import make_source
from fgjax.stages.train.history import History
from fgjax.stages.train.images import Windows, load_training_images
from fgjax.stages.train.prepare import split_validation, with_margin
from fgjax.stages.train.recipe import make_recipe
from fgjax.training.checkpoints import load_classifier

LABELS = np.repeat(np.arange(3), [10, 5, 1]).astype(np.int32)


def test_no_share_and_a_share():
    every = np.arange(16)
    training, validation = split_validation(LABELS, 0.0, 0)
    assert training.tolist() == every.tolist() and validation.tolist() == []
    training, validation = split_validation(LABELS, 0.2, 0)
    assert np.bincount(LABELS[validation], minlength=3).tolist() == [2, 1, 0]
    assert sorted([*training, *validation]) == every.tolist()


def test_the_sets_own_images_come_before_a_share():
    own = np.arange(16) % 5 == 4
    training, validation = split_validation(LABELS, 0.2, 0, own)
    assert validation.tolist() == [4, 9, 14] and training.tolist() == np.flatnonzero(~own).tolist()
    assert split_validation(LABELS, 0.0, 0, own)[0].tolist() == list(range(16))
    none = split_validation(LABELS, 0.2, 0, np.zeros(16, bool))
    assert [p.tolist() for p in none] == [p.tolist() for p in split_validation(LABELS, 0.2, 0)]


@pytest.mark.parametrize("select, best", [("best", 1), ("last", 2)])
def test_which_epoch_counts(tmp_path, select, best):
    history = History(tmp_path, select)
    history.rows = [
        {"epoch": e, "validation_accuracy": a, "validation_loss": 0.1}
        for e, a in enumerate((0.5, 0.9, 0.7))
    ]
    assert history.best == best
    if select == "best":
        history.rows[1]["counts"] = False
        assert history.best == 2
    history.rows = [dict(row, validation_accuracy=None) for row in history.rows]
    assert history.best == 2


def test_windows_lie_anywhere_and_are_a_function_of_the_epoch(tmp_path):
    pixels = np.broadcast_to(np.arange(160, dtype=np.uint8)[None, :, None], (32, 160, 3))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(4):
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    source = FolderSource(tmp_path, size=32, crop=1.0, test_share=0.0)
    left = lambda epoch: [int(Windows(source, 0, epoch).load(r).image[0, 0, 0])
                          for r in source.records]  # fmt: skip
    assert left(0) == left(0) != left(1)
    seen = [x for epoch in range(10) for x in left(epoch)]
    assert min(seen) < 20 and max(seen) > 108  # 0 to 128, where the middle would be 64
    words = ["config=train_folder", f"data.path={tmp_path}", "data.size=32", "data.crop=1"]
    config = resolve([*words, "train.window=anywhere"])[1]
    images, _ = load_training_images(source, list(source.records), config)
    first = lambda epoch: next(images.batches(np.arange(8), 8, epoch))[0][:, 0, 0, 0].tolist()
    assert first(0) == left(0) and first(3) == left(3) and first(None) == [64] * 8


def test_crops_are_taken_from_the_whole_file_at_its_resolution(tmp_path):
    """The margin's colour, which the middle square never shows, and stripes that shrink away."""
    pixels = np.zeros((64, 192, 3), np.uint8)
    pixels[:, 64:128:2] = 255  # one pixel wide
    pixels[:, :64, 0] = pixels[:, 128:, 0] = 200
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(8):
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    words = ["config=train_folder", f"data.path={tmp_path}", "data.size=32", "data.crop=1",
             "data.test_share=0"]  # fmt: skip
    reddest, sharpest = {}, {}
    for kind in ("square", "file"):
        config = resolve([*words, "train.crop=0.05", f"train.crop_from={kind}"])[1]
        source = make_source(config)
        images, _ = load_training_images(source, list(source.records), config)
        parts = [next(images.batches(np.arange(16), 16, epoch))[0] for epoch in range(3)]
        seen = np.concatenate(parts).astype(int)
        assert seen.shape == (48, 32, 32, 3)
        reddest[kind] = (seen[..., 0] - seen[..., 1]).max()
        sharpest[kind] = np.abs(np.diff(seen[..., 1], axis=2)).max()
    assert reddest["square"] < 20 and reddest["file"] > 190  # the filter reaches over the edge
    assert sharpest["file"] > 2 * sharpest["square"]
    again = next(images.batches(np.arange(16), 16, 2))[0]
    np.testing.assert_array_equal(again, parts[2])
    assert make_recipe(config, create_model("toys:MICRO", 2), 5).augment.crop == 1
    assert not with_margin(config.train)


def test_all_of_an_image_is_squeezed_into_the_square(tmp_path):
    pixels = np.broadcast_to(np.arange(0, 160, dtype=np.uint8)[None, :, None], (32, 160, 3))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.fromarray(pixels).save(tmp_path / name / "0.png")
    words = ["config=train_folder", f"data.path={tmp_path}", "data.size=32", "data.crop=1"]
    ends = {}
    for fit in ("crop", "squash"):
        source = make_source(resolve([*words, f"data.fit={fit}"])[1])
        row = source.load(source.records[0]).image[16, :, 0]
        ends[fit] = int(row[0]), int(row[-1])
    assert ends["crop"] == (64, 95) and ends["squash"][0] < 5 and ends["squash"][1] > 154


TINY = ("config=train_species", "data.size=32", "data.train_images=24", "data.test_images=10",
        "train.epochs=2", "train.batch_size=8", "stages=train")  # fmt: skip


def told(run):
    return json.loads((run / "run.json").read_text(encoding="utf-8"))["stages"]["train"]


@pytest.mark.slow
def test_a_refit_sees_all_images_and_goes_on_where_it_was_left(tmp_path, monkeypatch):
    """The refit of a run whose first epoch was best is that of a run without validation."""
    best = property(lambda self: 0)
    monkeypatch.setattr(fgjax.stages.train.history.History, "best", best)
    assert main([*TINY, "train.refit=true", f"run_dir={tmp_path / 'refit'}"]) == 0
    about = told(tmp_path / "refit")
    assert about["refit"] and about["images"] == 24 and about["best_epoch"] == 0
    rows = (tmp_path / "refit" / "refit" / "metrics.jsonl").read_text().splitlines()
    assert len(rows) == 1 and json.loads(rows[0])["validation_accuracy"] is None
    assert not list(tmp_path.glob("refit/**/epoch_*"))
    assert main([*TINY, "train.validation=0", f"run_dir={tmp_path / 'all'}"]) == 0
    about = told(tmp_path / "all")
    assert (about["images"], about["validation_accuracy"]) == (24, None)
    one, other = (load_classifier(tmp_path / name).variables for name in ("refit", "all"))
    for a, b in zip(*map(lambda v: v["params"].items(), (one, other)), strict=True):
        assert a[0] == b[0]
    np.testing.assert_array_equal(
        one["params"]["classifier"]["kernel"], other["params"]["classifier"]["kernel"]
    )
