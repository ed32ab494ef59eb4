"""What is no class index is refused, not cut to one."""

from inspect import unwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fgjax
from fgjax.attribution.common.inputs import class_targets
from fgjax.attribution.common.score_gradient import prepare

IMAGES = jnp.full((2, 12, 12, 3), 0.5)


def model(images):
    return images.mean((1, 2))


@pytest.mark.parametrize(
    "wrong", [np.array([1.7, 0.0]), [1.0, 0.0], jnp.array([0.9, 0.2]), np.array([True, False])]
)
def test_only_whole_numbers_are_classes(wrong):
    with pytest.raises(ValueError, match="targets must be class indices, whole numbers"):
        class_targets(wrong)
    # As they are called where nobody checks types.
    for method in ("occlusion", "fido"):
        with pytest.raises(ValueError, match="class indices"):
            unwrap(fgjax.METHODS[method])(model, IMAGES, wrong, key=jax.random.key(0))
    with pytest.raises(ValueError, match="class indices"):
        prepare(model, IMAGES, wrong)
    with pytest.raises(ValueError, match="class indices"):
        unwrap(fgjax.smallest_regions)(model, IMAGES, wrong, IMAGES[..., 0])


@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.int32])
def test_any_whole_numbers_are(kind):
    found = class_targets(np.array([2, 0], kind))
    assert found.dtype == jnp.int32 and found.tolist() == [2, 0]
    assert class_targets([2, 0]).tolist() == [2, 0]
