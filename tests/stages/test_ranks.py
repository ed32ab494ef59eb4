"""The rules by which columns rank, on tables made by hand: who may game them does not win."""

import numpy as np
import pytest

from fgjax.stages.compare.ranks import alike, common, gaming, places, rank

HIGHER = {"insertion": True, "deletion": False, "energy": True, "gini": None, "again": True}
METHODS, CONTROLS = ["rise", "glas", "fido"], ["center"]


def table(**rows):
    """Row -> metric -> the same value for three images, or those given."""
    return {
        row: {name: np.broadcast_to(np.float64(v), (3,)) for name, v in values.items()}
        for row, values in rows.items()
    }


BY_HAND = dict(
    rise=dict(insertion=0.6, deletion=0.2, energy=0.5, gini=0.9),
    glas=dict(insertion=0.6, deletion=0.1, energy=0.4, gini=0.1),
    fido=dict(insertion=0.8, deletion=0.3, energy=0.3, again=0.1),
)
NOTHING = dict(insertion=0.1, deletion=0.9, energy=0.1)


def test_by_hand():
    values = table(**BY_HAND, center=NOTHING)
    found = rank(values, METHODS, CONTROLS, HIGHER, HIGHER.get)
    # insertion: fido 1, rise and glas 2.5; deletion: glas 1, rise 2, fido 3; energy: 1, 2, 3.
    assert found.rank == {
        "rise": pytest.approx((2.5 + 2 + 1) / 3),
        "glas": pytest.approx((2.5 + 1 + 2) / 3),
        "fido": pytest.approx((1 + 3 + 3) / 3),
    }
    assert found.questions == (("insertion",), ("deletion",), ("energy",))
    assert found.unranked == {"again": "not every method has a value: rise, glas"}


@pytest.mark.parametrize("column", ["insertion", "deletion", "energy"])
def test_a_column_that_a_control_wins_ranks_nothing(column):
    """Better than the worst method, or as good as the median, it may be."""
    median = {"insertion": 0.6, "deletion": 0.2, "energy": 0.4}[column]
    step = 0.01 if HIGHER[column] else -0.01
    for value, wins in ((median + step, True), (median, False), (median - step, False)):
        values = table(**BY_HAND, center=NOTHING | {column: value})
        found = rank(values, METHODS, CONTROLS, HIGHER, HIGHER.get)
        assert (column in found.unranked) == wins
        if wins:
            assert found.unranked[column] == "center beats the median method"
            assert not any(column in group for group in found.questions)


def test_what_is_undefined_is_left_out_for_all():
    """fido has no value where it would have been bad; rise was good there."""
    values = table(**BY_HAND, center=NOTHING)
    values["fido"]["energy"] = np.array([0.45, np.nan, np.nan])
    values["rise"]["energy"] = np.array([0.4, 0.9, 0.9])
    values["glas"]["energy"] = np.array([0.5, 0.1, 0.1])
    assert common(values, METHODS, "energy").tolist() == [True, False, False]
    found = rank(values, METHODS, CONTROLS, ["energy"], HIGHER.get)
    assert found.rank == {"glas": 1, "fido": 2, "rise": 3} and found.images == {"energy": 1}
    values["glas"]["energy"] = np.array([np.nan, 0.1, 0.1])
    nobody = rank(values, METHODS, CONTROLS, ["energy"], HIGHER.get)
    assert nobody.unranked == {"energy": "on no image has every method a value"}
    assert np.isnan(nobody.rank["fido"])


def test_a_control_that_is_undefined_on_some_images_is_not_let_off():
    values = table(**BY_HAND, center=NOTHING)
    values["center"]["energy"] = np.array([np.nan, np.nan, 0.45])
    assert gaming(values, METHODS, CONTROLS, "energy", True, np.ones(3, bool)) == ["center"]


def test_columns_that_order_alike_count_once():
    """Three of the same against one other: twice the one question would decide."""
    same = {"a": np.array([1.0, 2, 3]), "b": np.array([1.0, 2, 3]), "c": np.array([3.0, 2, 1]),
            "d": np.array([2.0, 2, 2])}  # fmt: skip
    assert alike(same) == (("a", "b"), ("c",), ("d",))
    rows = dict(
        rise=dict(a=3, b=9, c=1), glas=dict(a=2, b=8, c=2), fido=dict(a=1, b=7, c=3),
    )  # fmt: skip
    found = rank(table(**rows), METHODS, [], "abc", lambda _: True)
    assert found.rank == {"rise": 2, "glas": 2, "fido": 2}


def test_ties_share_their_places():
    assert places(np.array([5.0, 7, 5, 1])).tolist() == [2.5, 1, 2.5, 4]


def test_another_map_stands_in_its_methods_stead():
    """GLAS' light is not ranked against GLAS, and pushes nobody down."""
    values = table(**BY_HAND, center=NOTHING)
    values["glas: light"] = {"insertion": np.full(3, 0.9), "deletion": np.full(3, 0.4)}
    found = rank(values, METHODS, CONTROLS, HIGHER, HIGHER.get, {"glas: light": "glas"})
    without = rank(table(**BY_HAND, center=NOTHING), METHODS, CONTROLS, HIGHER, HIGHER.get)
    assert found.rank["glas: light"] == pytest.approx((1 + 3) / 2)
    assert {m: found.rank[m] for m in METHODS} == without.rank


def test_controls_alone_rank_nothing():
    found = rank(table(center=NOTHING), [], CONTROLS, HIGHER, HIGHER.get)
    assert found.rank == {} and found.questions == () and found.unranked == {}
