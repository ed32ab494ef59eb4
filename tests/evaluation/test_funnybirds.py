"""Five blocks and a model that adds them up: what each number must be is known beforehand."""

import numpy as np
import pytest

from fgjax.evaluation import funnybirds as fb

# Class 0 shares parts 0, 1 with class 1, parts 2, 3 with class 2, and part 4 with class 3.
KINDS = np.array([[0, 0, 0, 0, 0], [0, 0, 1, 1, 1], [1, 1, 0, 0, 1], [2, 2, 2, 2, 0]])
N, P, SIZE = 3, 5, 64


@pytest.fixture(scope="module")
def masks():
    """Blocks of 6 × 6 far apart, and two things in the background that end the rows."""
    masks = np.zeros((N, P + 2, SIZE, SIZE), bool)
    for q in range(P + 2):
        masks[:, q, 10:16, 1 + 9 * q : 7 + 9 * q] = True
    return masks


@pytest.fixture(scope="module")
def logits():
    """A class's logit is how many of its parts are seen; part 0 counts 1.5 and part 4 nothing."""
    worth = np.array([1.5, 1.2, 1.1, 1.0, 0.0])
    seen = np.array([[not (s >> i) & 1 for i in range(P)] for s in range(2**P)])
    own = np.where(seen, worth, 0.0) @ (KINDS == KINDS[0]).T + 0.1 * np.array([1, 0, 2, 0])
    return np.repeat(own[None], N, axis=0)


def scores(heat, masks, logits):
    """All numbers of such maps, with the drops that the toy's logits have."""
    importance = fb.part_importance(heat, masks)
    important = fb.important_parts(importance)
    score, without = logits[:, 0, 0], logits[:, 2 ** np.arange(P), 0]
    every = np.concatenate([without, np.repeat(score[:, None], 2, 1)], axis=1)
    best = fb.best_completeness(
        fb.controlled_data_check(important[..., :P], [fb.sufficient_sets(KINDS, 0)] * N),
        fb.preservation_check(important[..., :P], logits),
        fb.deletion_check(important[..., :P], logits),
        fb.distractibility(important, fb.irrelevant_parts(score, every)),
    )
    return best, fb.single_deletion(importance[:, :P], score, without)


def painted(masks, weights):
    return (masks * np.array([*weights, 0, 0])[:, None, None]).sum(1).astype(np.float32)


def test_sufficient_sets_are_those_of_the_classes():
    assert fb.sufficient_sets(KINDS, 3).astype(int).tolist() == np.eye(5, dtype=int)[:4].tolist()
    found = {tuple(np.flatnonzero(s)) for s in fb.sufficient_sets(KINDS, 0)}
    # one part of class 1's pair with one of class 2's, or either with what class 3 shares
    assert found == {(0, 2), (0, 3), (1, 2), (1, 3), (0, 4), (1, 4), (2, 4), (3, 4)}
    with pytest.raises(ValueError, match="class 0 has the same parts"):
        fb.sufficient_sets(np.zeros((2, 3), int), 0)


def test_subset_numbers_are_bits():
    assert fb.subset_number(np.array([[0, 0, 0], [1, 0, 1]], bool)).tolist() == [0, 5]


def test_importance_is_the_share_in_the_dilated_part(masks):
    heat = np.ones((N, SIZE, SIZE), np.float32)
    grown = (6 + 2) ** 2 / SIZE**2  # a pixel wider all round
    np.testing.assert_allclose(fb.part_importance(heat, masks), grown, rtol=1e-6)
    assert (fb.part_importance(-heat, masks) == 0).all()  # a negative sum makes nothing important


def test_an_oracle_scores_one(masks, logits):
    best, deletion = scores(painted(masks, [1.5, 1.2, 1.1, 1.0, 0.0]), masks, logits)
    for value in (best.completeness, best.csdc, best.pc, best.dc, best.d, deletion):
        np.testing.assert_allclose(value, 1.0)


def test_a_flipped_oracle_scores_what_its_worst_part_allows(masks, logits):
    best, deletion = scores(painted(masks, [0.0, 0.3, 0.4, 0.5, 1.5]), masks, logits)
    np.testing.assert_allclose(deletion, 0.0, atol=1e-12)
    # at best all but part 0 is important: CSDC and PC are 1, DC 0, and D 2/3, for part 4 is nothing
    np.testing.assert_allclose(best.completeness, 2 / 3)


@pytest.mark.parametrize("kind", ["zero", "constant"])
def test_a_map_that_says_nothing_has_the_floor(masks, logits, kind):
    heat = np.full((N, SIZE, SIZE), float(kind == "constant"), np.float32)
    high = fb.important_parts(fb.part_importance(heat, masks))[-1]
    assert not high.any()
    best, deletion = scores(heat, masks, logits)
    if kind == "zero":  # nothing is important: D is 1, the others 0, and of an order there is none
        np.testing.assert_allclose(best.csdc + best.dc, 0)
        np.testing.assert_allclose(best.d, 1)
        # PC is 0: without any part class 2's bias wins
        np.testing.assert_allclose(best.completeness, 0.5)
        np.testing.assert_allclose(deletion, 0.5)
    else:  # at a low threshold all is important: the three are 1 and D is 0, a half again
        assert (best.completeness >= 0.5).all()


def test_things_and_parts_that_cost_nothing_are_irrelevant():
    score, without = np.array([2.0, -2.0]), np.array([[1.95, 1.0, 2.5], [-2.05, -3.0, -1.0]])
    assert fb.irrelevant_parts(score, without).tolist() == [[True, False, True]] * 2
    present = np.array([[True, True, False]] * 2)
    assert fb.irrelevant_parts(score, without, present).tolist() == [[True, False, False]] * 2
    none = np.zeros((1, 2), bool)
    assert np.isnan(fb.distractibility(np.ones((1, 1, 2), bool), none)).all()
    independent = fb.background_independence(
        np.array([[True, False], [True, True]]), np.array([[True, True], [False, False]])
    )
    np.testing.assert_array_equal(independent, [0.5, np.nan])


def test_target_sensitivity_of_right_wrong_and_equal_maps():
    shared = np.array([[[1, 1, 0, 0, 0], [0, 0, 1, 1, 0]]], bool)
    right = shared.astype(float)
    equal = np.ones_like(right)
    one = right.copy()
    one[:, 1] += shared[:, 0] * 2.0  # the second map weighs the first's parts more still
    found = [fb.target_sensitivity(m, shared)[0] for m in (right, right[:, ::-1], equal, one)]
    assert found == [1.0, 0.0, 0.0, 0.5]


def test_rivals_share_two_parts_each_and_the_toy_behaves(logits):
    assert fb.rival_classes(KINDS, 0) == (1, 2)
    with pytest.raises(ValueError, match="no two classes"):
        fb.rival_classes(KINDS, 3)
    shared = np.repeat((KINDS[[1, 2]] == KINDS[0])[None], N, axis=0)
    rivals = np.repeat([[1, 2]], N, axis=0)
    assert fb.rivals_behave(logits, rivals, shared).all()
    assert not fb.rivals_behave(logits, rivals[:, ::-1], shared).any()
