"""How a method's model calls are cut: sizes by hand, every place once, memory by arithmetic."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from fgjax.attribution.common import streaming
from fgjax.attribution.common.streaming import (
    LARGEST_CHUNK,
    UNKNOWN_CHUNK,
    bytes_per_image,
    choose_chunk,
    chunks,
    even,
    free_bytes,
    largest_power_of_two,
    plan,
)
from fgjax.core.functional import partition


def linear(weights, images):
    return images.reshape(len(images), -1) @ weights


def parts(side, classes=3):
    return partition(Partial(linear, jnp.ones((side * side * 3, classes))))


@pytest.fixture
def forget(monkeypatch):
    monkeypatch.setattr(streaming, "_chosen", {})


def accelerator(monkeypatch, stats=None):
    """Let arrays lie on a device that is no CPU."""
    device = SimpleNamespace(platform="gpu", device_kind="made up", memory_stats=lambda: stats)
    monkeypatch.setattr(streaming, "device_of", lambda *trees: device)


@pytest.mark.parametrize(("count", "size"), [(1, 1), (5, 5), (5, 2), (5, 8), (64, 7)])
def test_chunks_are_equally_long_and_keep_every_place_once(count, size):
    made = list(chunks(count, size))
    assert all(len(c.index) == len(c.keep) == size for c in made)
    kept = np.concatenate([c.index[c.keep] for c in made])
    np.testing.assert_array_equal(kept, np.arange(count))
    assert all((c.index < count).all() for c in made)
    assert made[0].index.dtype == np.int32


@pytest.mark.parametrize(
    ("images", "perturbations", "chunk", "expected"),
    [
        (1, 225, 128, (1, 113)),  # 2 x 113, not 128 and a filled-up 97
        (3, 450, 450, (1, 450)),
        (3, 10, 32, (3, 10)),
        (4, 10, 32, (2, 10)),  # 3 would fit, but then 3 and a filled-up 1
        (100, 1, 16, (15, 1)),  # 7 x 15 rather than 7 x 16
        (2, 7, 1, (1, 1)),
    ],
)
def test_plan(images, perturbations, chunk, expected):
    assert plan(images, perturbations, chunk) == expected


@pytest.mark.parametrize("images", [1, 3, 16])
@pytest.mark.parametrize("perturbations", [1, 9, 65, 451])
@pytest.mark.parametrize("chunk", [1, 8, 50, 512])
def test_a_plan_fits_the_chunk_and_computes_no_more_in_vain(images, perturbations, chunk):
    made = plan(images, perturbations, chunk)
    assert 1 <= made.images * made.perturbations <= chunk
    computed = lambda each: -(-perturbations // each) * each
    assert computed(made.perturbations) <= computed(even(perturbations, chunk))
    assert 2 * made.perturbations >= min(perturbations, chunk) - 1  # calls of a useful length


@pytest.mark.parametrize(
    ("limit", "most", "expected"),
    [(0.2, 512, 1), (1.0, 512, 1), (31.9, 512, 16), (32.0, 512, 32), (1e9, 512, 512), (9.0, 4, 4)],
)
def test_largest_power_of_two(limit, most, expected):
    assert largest_power_of_two(limit, most) == expected


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((224, 224, 3), 8),
        ((448, 448, 3), 2),
        ((112, 112, 3), 32),
        ((8, 8, 3), 64),
        ((128, 128, 128, 1), 1),
    ],
)
def test_on_a_cpu_the_pixels_decide(forget, shape, expected):
    images = np.zeros((2, *shape), np.float32)
    assert choose_chunk(*partition(lambda x: x), images, backward=False) == expected


@pytest.mark.parametrize("backward", [False, True])
def test_on_a_cpu_with_little_memory_the_model_is_asked(forget, monkeypatch, backward):
    """Half of what is free is filled, and no more than is fastest."""
    arrays, static = parts(16, classes=400)
    images = jnp.zeros((2, 16, 16, 3))
    needed = bytes_per_image(arrays, static, images.shape[1:], images.dtype, backward)
    for free, expected in ((0, 1), (2 * 5 * needed, 4), (2 * 16 * needed, 16), (10**15, 64)):
        monkeypatch.setattr(streaming, "host_free_bytes", lambda free=free: free)
        streaming._chosen.clear()
        assert choose_chunk(arrays, static, images, backward=backward) == expected


def test_on_a_cpu_with_room_the_model_is_not_compiled(forget, monkeypatch):
    monkeypatch.setattr(streaming, "bytes_per_image", None)
    for free in (None, 10**12):
        monkeypatch.setattr(streaming, "host_free_bytes", lambda free=free: free)
        streaming._chosen.clear()
        assert choose_chunk(*parts(16), jnp.zeros((1, 16, 16, 3)), backward=True) == 64


def test_a_model_is_asked_once(forget, monkeypatch):
    """For each shape and direction; other weights and other numbers of images ask nothing."""
    asked = []
    accelerator(monkeypatch)
    monkeypatch.setattr(streaming, "_fitting", lambda *a: asked.append(a[2:]) or 16)
    for n in (1, 5):
        images = np.zeros((n, 8, 8, 3), np.float32)
        assert choose_chunk(*parts(8), images, backward=False) == 16
    assert len(asked) == 1
    choose_chunk(*parts(8), images, backward=True)
    choose_chunk(*parts(9), images[:, :, :4], backward=True)
    assert [a[0] for a in asked] == [(8, 8, 3), (8, 8, 3), (8, 4, 3)]
    assert [a[2] for a in asked] == [False, True, True]


def test_a_wider_network_behind_the_same_function_is_asked_again(forget, monkeypatch):
    """`static` is the same of both; a chunk of the narrow one would not fit the wide one."""
    images = np.zeros((1, 16, 16, 3), np.float32)
    accelerator(monkeypatch, {"bytes_limit": 2**26, "bytes_in_use": 0})
    narrow, wide = (parts(16, classes=classes) for classes in (4, 100_000))
    assert narrow[1] == wide[1]
    few, many = (choose_chunk(*p, images, backward=False) for p in (wide, narrow))
    assert few < many == LARGEST_CHUNK
    assert choose_chunk(*wide, images, backward=False) == few


def test_memory_that_is_gone_is_not_planned_with(forget, monkeypatch):
    asked = []
    accelerator(monkeypatch)
    monkeypatch.setattr(streaming, "bytes_per_image", lambda *a: asked.append(a) or 1000)
    images = np.zeros((1, 8, 8, 3), np.float32)

    def with_free(free):
        monkeypatch.setattr(streaming, "free_bytes", lambda device: free)
        return choose_chunk(*parts(8), images, backward=False)

    assert with_free(512_000) == 256 and len(asked) == 1
    # About as much: the programs that are compiled serve on.
    assert with_free(300_000) == with_free(900_000) == 256 and len(asked) == 1
    assert with_free(100_000) == 32 and len(asked) == 2
    assert with_free(512_000) == 256 and len(asked) == 3


@pytest.mark.parametrize("backward", [False, True])
def test_on_an_accelerator_half_of_what_is_free_is_filled(forget, monkeypatch, backward):
    """The account is XLA's own, so any backend's serves; only the device is made up."""
    arrays, static = parts(16, classes=400)
    images = jnp.zeros((2, 16, 16, 3))
    needed = bytes_per_image(arrays, static, images.shape[1:], images.dtype, backward)
    assert needed >= 2 * 16 * 16 * 3 * 4 + (16 * 16 * 3 if backward else 400) * 4
    for room, expected in ((2.5 * 37 * needed, 32), (1e15, LARGEST_CHUNK), (0, 1)):
        accelerator(monkeypatch, {"bytes_limit": 1000 + int(room), "bytes_in_use": 1000})
        streaming._chosen.clear()
        assert choose_chunk(arrays, static, images, backward=backward) == expected


def test_a_device_that_does_not_tell(forget, monkeypatch):
    arrays, static = parts(4)
    accelerator(monkeypatch)
    monkeypatch.setattr(streaming, "free_bytes", lambda device: None)
    images = jnp.zeros((1, 4, 4, 3))
    assert choose_chunk(arrays, static, images, backward=False) == UNKNOWN_CHUNK


@pytest.mark.parametrize(
    ("stats", "free"),
    [
        (None, None),
        ({}, None),
        ({"bytes_in_use": 3}, None),
        ({"bytes_limit": 10, "bytes_in_use": 3}, 7),
        ({"bytes_limit": 10}, 10),
        ({"bytes_limit": 10, "bytes_in_use": 30}, 0),
    ],
)
def test_free_bytes(stats, free):
    assert free_bytes(SimpleNamespace(memory_stats=lambda: stats)) == free


def test_an_outputs_pytree_is_accounted_too():
    """A detector returns more than logits."""
    detector = partition(lambda x: {"box": x.mean((1, 2)), "index": jnp.zeros(len(x), int)})
    for backward in (False, True):
        assert bytes_per_image(*detector, (4, 4, 3), np.float32, backward) > 0
