"""Maps that say nothing, and why."""

import numpy as np

from fgjax.evaluation.blank import (
    ALL_ALIKE,
    NO_SCORE_MOVED,
    NOTHING_FOR_IT,
    blank_sentence,
    count_reasons,
    why_blank,
)

ZERO, SOME = np.zeros((4, 5), np.float16), np.eye(4, 5, dtype=np.float16)


def test_why():
    assert why_blank(ZERO, 1e-9) == NO_SCORE_MOVED
    assert why_blank(ZERO, 0.3) == why_blank(ZERO) == NOTHING_FOR_IT
    assert why_blank(ZERO + 0.5) == ALL_ALIKE
    assert why_blank(0.3 + 1e-8 * SOME.astype(np.float32)) == ALL_ALIKE
    for shown in (SOME, np.where(SOME > 0, np.nan, 0), 1e-6 * SOME.astype(np.float32)):
        assert why_blank(shown, 1e-9) is None


def test_they_are_counted_and_said():
    counts = count_reasons([None, NO_SCORE_MOVED, NOTHING_FOR_IT, NO_SCORE_MOVED])
    assert counts == {"maps": 4, "blank": 3, "why": {NO_SCORE_MOVED: 2, NOTHING_FOR_IT: 1}}
    assert blank_sentence(counts).startswith(f"3 of 4 maps are blank (2: {NO_SCORE_MOVED}; 1: zero")
    assert blank_sentence(count_reasons([ALL_ALIKE])).startswith("1 of 1 maps is blank")
    assert blank_sentence(count_reasons([None])) == ""
