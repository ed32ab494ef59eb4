"""The parts of a data set, and groups of them, as targets."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np

from fgjax.stages.part_discs import part_discs, part_names

PLAIN = dict(
    classes=(),
    records=(),
    load=lambda record: None,
    landmark_names=("beak", "tail", "crown"),
)
BIRD = SimpleNamespace(**PLAIN, landmark_groups={"head": ("beak", "crown")})
POINTS = jnp.asarray([[[3, 3, 1], [20, 20, 1], [9, 3, 1]]], jnp.float32)
BOXES = jnp.asarray([[0, 0, 20, 10]], jnp.float32)


def test_a_group_is_its_parts_together():
    discs = np.asarray(part_discs(BIRD, POINTS, BOXES, 24, 24, 0.1))
    assert part_names(BIRD) == ("beak", "tail", "crown", "head") and discs.shape == (1, 4, 24, 24)
    np.testing.assert_array_equal(discs[0, 3], discs[0, 0] | discs[0, 2])
    assert discs[0, 3, 3, 3] and discs[0, 3, 3, 9] and not discs[0, 3, 20, 20]


def test_a_set_without_groups_or_landmarks():
    plain = SimpleNamespace(**PLAIN)
    assert part_names(plain) == plain.landmark_names
    assert part_discs(plain, POINTS, BOXES, 24, 24, 0.1).shape == (1, 3, 24, 24)
    assert part_discs(plain, POINTS, BOXES, 24, 24, 0.0) is None
    assert part_discs(plain, POINTS[:, :0], BOXES, 24, 24, 0.1) is None
