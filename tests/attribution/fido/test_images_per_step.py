"""How many images FIDO optimises together when it is called as a function: faked devices."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from jax.tree_util import Partial

from fgjax.attribution.common.streaming import ACTIVATIONS, bytes_per_image
from fgjax.attribution.fido import images_per_step, loop
from fgjax.attribution.fido.images_per_step import (
    ROOM,
    accounted,
    choose_images,
    choose_masks,
    step_bytes,
)
from fgjax.attribution.fido.method import fido, fido_preset
from fgjax.core.functional import partition
from toys import linear

SIDE = 8
CONFIG = fido_preset("soft", infill="zeros", steps=1, batch_size=2)
MODEL = Partial(linear, jnp.ones((SIDE, SIDE, 3)))


@pytest.fixture
def device(monkeypatch):
    """Return a function that makes an accelerator with so much free memory the one there is."""

    def made(free):
        about = {} if free is None else {"bytes_limit": free}
        gpu = SimpleNamespace(platform="gpu", device_kind="made up", memory_stats=lambda: about)
        monkeypatch.setattr(images_per_step, "_chosen", {})
        monkeypatch.setattr(images_per_step, "_masks", {})
        monkeypatch.setattr(images_per_step, "device_of", lambda *trees: gpu)

    return made


@pytest.fixture
def sizes(monkeypatch):
    """Collect the images of every step that is taken."""
    seen, step = [], loop.fido_step
    monkeypatch.setattr(loop, "fido_step", lambda *a: seen.append(len(a[3])) or step(*a))
    return seen


def explain(count, **changes):
    images, targets = jnp.full((count, SIDE, SIDE, 3), 0.5), jnp.zeros(count, int)
    config = fido_preset("soft", **(dict(infill="zeros", steps=1, batch_size=2) | changes))
    return fido(MODEL, images, targets, key=jax.random.key(0), config=config)


def test_the_memory_decides(device, sizes):
    """Room for 4 images, and 5 to explain: 3 and 2, not 16 at once."""
    arrays, static = partition(MODEL)
    device(int(4 * step_bytes(arrays, static, CONFIG, (1, SIDE, SIDE, 3)) / ROOM) + 1)
    assert explain(5).heatmap.shape == (5, SIDE, SIDE)
    assert sizes == [3, 3]


def test_seventeen_where_sixteen_fit_are_shared_evenly(sizes):
    assert explain(17, images_per_step=16).heatmap.shape == (17, SIDE, SIDE)
    assert sizes == [9, 9]


def test_a_model_is_accounted_once(device, monkeypatch):
    asked = []
    weights = SIDE * SIDE * 3 * 4
    account = lambda *a: asked.append(a[3][0]) or weights + 1000 * a[3][0]
    monkeypatch.setattr(images_per_step, "step_bytes", account)
    device(12_000)
    images = jnp.zeros((16, SIDE, SIDE, 3))
    assert [choose_images(*partition(MODEL), images, CONFIG) for _ in range(3)] == [8, 8, 8]
    assert asked == [1, 8]


def test_a_device_that_does_not_tell(device):
    device(None)
    images = jnp.zeros((40, SIDE, SIDE, 3))
    assert choose_images(*partition(MODEL), images, CONFIG) == 16


def test_on_a_cpu_one():
    assert choose_images(*partition(MODEL), jnp.zeros((40, SIDE, SIDE, 3)), CONFIG) == 1


@pytest.mark.parametrize(("free", "expected"), [(0, 1), (1000, 1), (5000, 4), (1e9, 8)])
def test_no_step_beyond_its_room(free, expected):
    assert accounted(lambda n: 800 * n, 0, free, 8) == expected


def test_masks_in_parts_are_the_masks_of_all_at_once():
    """Of 6 masks at most 4 at a time: in two parts of 3."""
    whole, parts = explain(1, batch_size=3), explain(1, batch_size=3, masks_per_pass=4)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_in_parts_less_is_kept_for_the_gradient():
    def step(masks):
        config = fido_preset("soft", infill="zeros", batch_size=8, masks_per_pass=masks)
        model = Deep({"kernels": jnp.ones((24, 8, 8))})
        return step_bytes(*partition(model), config, (1, 32, 32, 3))

    assert step(2) < step(None) / 2


@struct.dataclass
class Deep:
    """What keeps 24 feature maps for its gradient; like a classifier, it is not hashable."""

    variables: dict

    def __call__(self, images):
        x = jnp.repeat(images, 3, -1)[..., :8]
        for kernel in self.variables["kernels"]:
            x = jnp.tanh(jnp.einsum("nhwc,cd->nhwd", x, kernel))
        return x.mean((1, 2))


def test_the_memory_decides_how_many_masks(device):
    """Room for all, told without asking XLA; for five of 16; for none."""
    arrays, static = partition(MODEL)
    config, images = replace(CONFIG, batch_size=8), jnp.zeros((1, SIDE, SIDE, 3))
    choose = lambda together=1: choose_masks(arrays, static, images, config, together)
    device(2 * 16 * SIDE * SIDE * ACTIVATIONS)
    assert choose() == 16
    each = bytes_per_image(arrays, static, (SIDE, SIDE, 3), jnp.float32, backward=True)
    device(2 * 5 * each)
    assert choose() == 4
    assert choose(together=2) == 32
    device(1)
    assert choose() == 1
    device(None)
    assert choose() == 16
