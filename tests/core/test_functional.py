"""Models as pure functions: what is an array and what is not, and how often they compile."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from fgjax.core.functional import combine, partition
from fgjax.devices.forward import compiled, forward


def affine(weights, x, *, scale=1.0):
    return scale * x.mean((1, 2, 3))[:, None] * weights[None]


@pytest.fixture
def images():
    return jnp.asarray(np.random.default_rng(0).random((2, 4, 4, 3), np.float32))


def test_partition_takes_the_arrays_out_and_combine_puts_them_back(images):
    weights = jnp.asarray([1.0, 2.0])
    model = Partial(affine, weights, scale=3.0)  # a number is static
    arrays, static = partition(model)
    assert sum(a is not None for a in arrays) == 1 and 3.0 in static.leaves
    again = combine(arrays, static)
    np.testing.assert_array_equal(again(images), model(images))
    np.testing.assert_allclose(again(images), affine(weights, images, scale=3.0), rtol=1e-6)


@pytest.mark.parametrize("array", [np.ones(2, np.float32), jnp.ones(2)])
def test_numpy_arrays_are_arrays_too(images, array):
    arrays, static = partition(Partial(affine, array))
    assert arrays[0] is array and hash(static) == hash(partition(Partial(affine, array + 1))[1])


def test_equal_models_have_equal_statics():
    one, same = (partition(Partial(affine, jnp.ones(2) * k, scale=2.0))[1] for k in (1, 2))
    other = partition(Partial(affine, jnp.ones(2), scale=4.0))[1]
    assert one == same and hash(one) == hash(same) and one != other


def test_a_function_has_no_arrays(images):
    arrays, static = partition(affine)
    assert all(a is None for a in arrays)
    assert combine(arrays, static) is affine


def test_other_weights_do_not_compile_again(images):
    model = Partial(affine, jnp.asarray([1.0, 2.0]))
    np.testing.assert_allclose(compiled(model)(images), model(images), rtol=1e-6)
    before = forward._cache_size()
    for k in range(3):
        other = Partial(affine, jnp.asarray([1.0, k]))
        np.testing.assert_allclose(compiled(other)(images), other(images), rtol=1e-6)
    assert forward._cache_size() == before


def test_what_cannot_be_called_is_refused():
    with pytest.raises(TypeError, match=r"callable as images -> logits; got dict.*Partial"):
        partition({"weights": jnp.ones(2)})


class Unhashable:
    __hash__ = None


def test_what_cannot_be_hashed_is_refused():
    with pytest.raises(TypeError, match="neither an array nor hashable.*Unhashable"):
        partition(Partial(affine, jnp.ones(2), scale=Unhashable()))


@dataclasses.dataclass(frozen=True)
class Doubling:
    weights: jax.Array

    def __call__(self, images):
        return 2 * images.mean((1, 2)) @ self.weights


@dataclasses.dataclass(frozen=True)
class Tripling:
    weights: jax.Array

    def __call__(self, images):
        return 3 * images.mean((1, 2)) @ self.weights


for _kind in (Doubling, Tripling):
    jax.tree_util.register_dataclass(_kind)


def test_two_classes_of_equal_structure_are_two_models():
    """A tree's structure compares equal for both: the second would get the first's program."""
    images, weights = jnp.ones((1, 2, 2, 3)), jnp.ones((3, 2))
    assert compiled(Doubling(weights))(images).tolist() == [[6, 6]]
    assert compiled(Tripling(weights))(images).tolist() == [[9, 9]]
