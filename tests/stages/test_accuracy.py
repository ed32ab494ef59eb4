"""The figures of stage "test" by hand, and what a network that returns NaN has of them."""

from types import SimpleNamespace

import numpy as np
import pytest

from fgjax.models.classifier import Classifier, make_network, variable_shapes
from fgjax.stages.classifier import Explained
from fgjax.stages.test import _line, _row, judge

LOGITS = np.array(
    [
        [9, 1, 2, 3, 4, 5, 6],  # class 0, which it is
        [9, 1, 2, 3, 4, 5, 6],  # class 2, which is the fifth highest
        [9, 1, 2, 3, 4, 5, 6],  # class 1, which is the lowest
        [np.nan] * 7,  # class 0, what argmax makes of NaN
        [np.nan, 9, 2, 3, 4, 5, 6],  # class 1, were it not for the NaN
    ],
    np.float32,
)
TARGETS = np.array([0, 3, 1, 0, 1])


def test_nan_is_wrong_and_not_among_the_five_highest():
    found = {k: v["mean"] for k, v in judge(LOGITS, TARGETS, TARGETS).items()}
    assert found["accuracy"] == pytest.approx(1 / 5)
    assert found["top_5"] == pytest.approx(2 / 5)
    assert found["class_accuracy"] == pytest.approx((1 / 2 + 0 + 0) / 3)
    p = np.exp(LOGITS[0].astype(np.float64))
    expected = -np.log(p / p.sum())[TARGETS[:3]].mean()
    assert found["loss"] == pytest.approx(expected, rel=1e-5)
    nothing = judge(LOGITS[3:], TARGETS[3:], TARGETS[3:])
    assert nothing["top_5"]["mean"] == 0 and nothing["loss"]["mean"] is None


def test_nan_is_said():
    network = make_network("resnet_tiny", 7)
    model = Classifier(variable_shapes(network), network)
    explained = Explained(model, tuple("abcdefg"), tuple(range(7)))
    known = SimpleNamespace(name="x", label=0, classes=tuple("abcdefg"))
    row = _row(known, LOGITS[3], 0, explained, known)
    assert row["predicted"] == "NaN" and row["correct"] == 0
    about = {"images": 5, "of_unknown_classes": 0, "nan": 2}
    about["metrics"] = judge(LOGITS, TARGETS, TARGETS)
    assert "of 2 it returned NaN, which counts as wrong" in _line(about)
