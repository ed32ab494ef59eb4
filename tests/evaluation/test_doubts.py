"""What speaks against a map."""

import pytest

from fgjax.evaluation.doubts import DOUBTS, doubts

GOOD = {"blank": 0.0, "randomisation_rank_correlation": 0.1, "p_full": 0.9, "p_kept": 0.8,
        "p_deleted": 0.1, "smallest_deleted": 0.04}  # fmt: skip
NAN = float("nan")


def test_a_good_map_raises_none_and_an_unknown_number_neither():
    assert doubts(GOOD) == ()
    assert doubts({}) == ()
    assert doubts(GOOD | {"randomisation_rank_correlation": NAN, "p_kept": NAN}) == ()


@pytest.mark.parametrize(
    ("name", "value", "doubt"),
    [
        ("blank", 1.0, "blank map"),
        ("randomisation_rank_correlation", 0.5, "map does not need the weights"),
        ("p_deleted", 0.46, "removing it changes little"),
        ("p_kept", 0.44, "not enough by itself"),
        ("smallest_deleted", NAN, "infill keeps the class"),
    ],
)
def test_each_number_raises_its_own(name, value, doubt):
    assert doubts(GOOD | {name: value}) == (doubt,)


def test_a_map_is_not_blamed_for_what_its_infill_leaves():
    infill = GOOD | {"p_deleted": 0.5, "smallest_deleted": NAN, "smallest_deleted_p": 0.3}
    assert doubts(infill) == ("infill keeps the class",)  # it takes 0.4 of 0.6
    assert "removing it changes little" in doubts(infill | {"p_deleted": 0.61})
    assert "removing it changes little" in doubts(infill | {"smallest_deleted": 0.3})


def test_the_gravest_comes_first():
    bad = {"blank": 1.0, "randomisation_rank_correlation": 1.0, "p_full": 0.4, "p_kept": 0.1,
           "p_deleted": 0.4, "smallest_deleted": NAN}  # fmt: skip
    assert doubts(bad) == tuple(DOUBTS)
