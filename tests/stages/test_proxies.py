"""Trainings with proxy attention: their schedule, what they leave alone, and going on."""

import json

import jax
import numpy as np
import pytest

import fgjax.stages.train.stage
import fgjax.training.classifier
from fgjax.options.schema import Config, DataConfig
from fgjax.run import main
from fgjax.stages.images import make_source
from fgjax.training.checkpoints import load_classifier

# 36 of 40 drawings train in two steps an epoch, 4 validate.
SMALL = ("train.epochs=5", "train.batch_size=15", "stages=train", "train.learning_rate=1e-3")
PROXIES = ("proxy.method=grad_cam", "proxy.threshold=0.6", "proxy.start=0.2", "proxy.every=2")


def epochs(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


@pytest.fixture
def seen(monkeypatch):
    """The images of every training step, and those that were measured."""
    steps, measured = [], []
    real_step, real_measure = (
        fgjax.training.classifier.train_step,
        fgjax.training.classifier.measure,
    )

    def step(state, images, labels, *args, **options):
        steps.append(np.asarray(images))
        return real_step(state, images, labels, *args, **options)

    def measure(model, batches, size, *more):
        batches = list(batches)
        measured.extend(np.asarray(images) for images, _ in batches)
        return real_measure(model, iter(batches), size, *more)

    monkeypatch.setattr(fgjax.training.classifier, "train_step", step)
    monkeypatch.setattr(fgjax.training.classifier, "measure", measure)
    return steps, measured


@pytest.fixture(scope="module")
def drawings():
    """The 40 training drawings, as bytes."""
    source = make_source(Config(data=DataConfig(size=32, train_images=40, test_images=8)))
    return {source.load(r).image.tobytes() for r in source.records if r.split == "train"}


def test_the_schedule_is_followed_and_validation_never_sees_a_proxy(
    tmp_path, words, seen, drawings, capsys
):
    run = tmp_path / "run"
    more = ("proxy.stop=0.8", *PROXIES, *SMALL)
    assert main(words(run, *more)) == 0
    assert "proxies" in capsys.readouterr().out
    rows = epochs(run)
    # Steps at epochs 1 and 3; after 0.8 * 5 epochs every image is itself again.
    assert [i for i, row in enumerate(rows) if "misclassified" in row] == [1, 3]
    counts = [row["proxies"] for row in rows]
    assert counts[0] == counts[4] == 0 and counts[1] == counts[2] > 0 and counts[3] > 0
    for row in (rows[1], rows[3]):
        assert row["proxies"] == row["misclassified"]

    steps, measured = seen
    assert len(steps) == 10 and len(measured) == 5
    for images in measured:
        assert all(image.tobytes() in drawings for image in images)
    for epoch, row in enumerate(rows):
        shown = [image for part in steps[2 * epoch : 2 * epoch + 2] for image in part]
        assert len(shown) == 30  # the set's size stays the same
        strange = sum(image.tobytes() not in drawings for image in shown)
        # 6 of 36 images are left out of an epoch of two full batches.
        assert row["proxies"] - 6 <= strange <= row["proxies"]


def stop_in_step(patch, number):
    real, calls = fgjax.training.classifier.train_step, []

    def step(*args, **options):
        calls.append(1)
        if len(calls) == number:
            raise KeyboardInterrupt
        return real(*args, **options)

    patch.setattr(fgjax.training.classifier, "train_step", step)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, words):
    """Five epochs without an interruption: steps at epochs 1, 2, 3, 4; two share their proxies."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert main(words(run, *RESUMED)) == 0
    return run


RESUMED = (*PROXIES, "proxy.every=1", "proxy.clear=2", "proxy.subset=0.5", *SMALL)


@pytest.mark.parametrize(
    "step", [pytest.param(4, marks=pytest.mark.slow), 6, pytest.param(8, marks=pytest.mark.slow)]
)
def test_going_on_in_the_middle_of_a_proxied_epoch_gives_the_same_weights(
    tmp_path, words, whole, step, capsys
):
    """Steps are two an epoch. Step 4: in the first proxied epoch. Step 6: in one whose proxies are
    partly of the epoch before, whose classifier is gone. Step 8: in one that has cleared those."""
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        stop_in_step(patch, step)
        assert main(words(run, *RESUMED)) == 130
    stored = sorted(p.name for p in (run / "training").glob("proxies_*"))
    assert stored and len(stored) <= 2 and not (run / "checkpoint").exists()
    assert main(words(run, *RESUMED)) == 0
    assert f"going on after epoch {(step - 1) // 2}" in capsys.readouterr().out
    assert epochs(run) == epochs(whole)
    a, b = load_classifier(run), load_classifier(whole)
    jax.tree.map(np.testing.assert_array_equal, a.variables, b.variables)
    assert not (run / "training").exists()


def test_some_proxies_outlive_a_step_that_clears_nothing(whole):
    rows = epochs(whole)
    # Half of the misclassified: with clear=2 the second step adds to those of the first.
    assert rows[1]["proxies"] == -(-rows[1]["misclassified"] // 2)
    assert rows[2]["proxies"] > -(-rows[2]["misclassified"] // 2)
    assert rows[3]["proxies"] == -(-rows[3]["misclassified"] // 2)


@pytest.mark.parametrize("damage", ["missing", "cut off"])
def test_lost_proxies_are_told(tmp_path, words, capsys, damage):
    run = tmp_path / "run"
    more = (*PROXIES, *SMALL)  # made before epoch 1, in use in epoch 2
    with pytest.MonkeyPatch.context() as patch:
        stop_in_step(patch, 5)
        assert main(words(run, *more)) == 130
    (file,) = (run / "training").glob("proxies_*")
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-50])
    assert main(words(run, *more)) == 2
    err = capsys.readouterr().err
    assert "proxies_0001.npz" in err and "delete" in err and "Traceback" not in err


WRONG = {
    "proxy.method=gradcam": ("proxy.method=gradcam", "Did you mean grad_cam"),
    "proxy.threshold=1.5": ("proxy.threshold=1.5", "from 0 to 1"),
    "proxy.subset=0": ("proxy.subset=0", "above 0"),
    "proxy.every=0": ("proxy.every=0", "above 0"),
    "proxy.rule=median": ("proxy.rule=median", "attention, mean"),
}


@pytest.mark.parametrize("word", WRONG)
def test_wrong_options_are_told(tmp_path, words, capsys, word):
    assert main(words(tmp_path / "run", word)) == 2
    err = capsys.readouterr().err
    assert all(part in err for part in WRONG[word]), err
