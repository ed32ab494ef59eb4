"""How many images are explained at a time: by XLA's account of the step, and faked memories."""

from dataclasses import replace

import jax
import pytest

import fgjax
import fgjax.stages.explain.images_per_step as module
from fgjax.attribution import CONFIGS
from fgjax.attribution.fido.images_per_step import ROOM
from fgjax.devices.memory import images_that_fit
from fgjax.devices.mesh import make_mesh
from fgjax.options.resolve import resolve
from fgjax.stages.explain.images_per_step import fido_bytes, halved, images_per_step
from toys import linear

SIDE = 32
SETTINGS = fgjax.FidoConfig(batch_size=2)


@pytest.fixture(scope="module")
def model():
    weights = jax.random.normal(jax.random.key(0), (SIDE, SIDE, 3))
    return jax.tree_util.Partial(linear, weights)


@pytest.fixture(scope="module")
def account(model):
    """Bytes of the step of 1, 2 and 4 images."""
    mesh = make_mesh("none")
    return {n: fido_bytes(model, SETTINGS, n, SIDE, mesh, False) for n in (1, 2, 4)}


def weights(model):
    return sum(leaf.nbytes for leaf in jax.tree.leaves(model))


def asked(monkeypatch, model, pending, *words, free=None, account=None, backend="gpu"):
    """What is chosen on a device with so much free memory, as the account says."""
    _, config, _ = resolve(["config=fido_demo", f"data.size={SIDE}", *words])
    mesh = make_mesh("none")
    monkeypatch.setattr(module.jax, "default_backend", lambda: backend)
    monkeypatch.setattr(module, "free_bytes", lambda device: free)
    if account is not None:
        monkeypatch.setattr(module, "fido_bytes", lambda model, settings, n, *rest: account(n))
    return images_per_step(config, model, mesh, pending, False)


@pytest.mark.slow
def test_the_step_is_accounted_and_grows_with_its_images(model, account):
    """Weights once; of each image at least its masks' pixels, both ways, and about as much for
    each, however many there are."""
    assert account[1] > weights(model)
    each = (account[4] - account[2]) / 2
    masked = SIDE**2 * 3 * 4 * 2 * SETTINGS.batch_size
    assert each > 2 * masked
    assert account[2] - account[1] == pytest.approx(each, rel=0.5)


@pytest.mark.parametrize("room", [1, 2.5, 3.9, 4.1])
def test_what_is_chosen_fits_by_the_account(monkeypatch, model, account, room):
    wanted = weights(model) + room * (account[4] - account[2]) / 2
    free = wanted / ROOM
    words = ("explain.batch_size=2",)
    found = asked(monkeypatch, model, 4, *words, free=free, account=account.__getitem__)
    assert found == 1 or account[found] <= wanted
    assert found == 4 or account[2 * found] > wanted * 0.75  # not half of what would do


def test_an_account_that_was_too_rosy_is_corrected(monkeypatch, model):
    """A step of many images may take more than their number of times one image's."""
    growing = lambda n: weights(model) + 1000 * n * n
    free = (weights(model) + 17_000) / ROOM
    assert asked(monkeypatch, model, 16, free=free, account=growing) == 4


@pytest.mark.parametrize(
    "pending, words, expected",
    [
        (96, (), 16),  # 16 x 16 masks: more fills no device better
        (17, (), 9),  # and 8, not 16 and 1 that is filled up to 16
        (100, ("explain.batch_size=32",), 4),
        (100, ("explain.batch_size=512",), 1),
        (9, (), 5),
        (1, (), 1),
        (100, ("explain.images_per_step=5",), 5),
        (3, ("explain.images_per_step=5",), 3),
    ],
)
def test_with_all_the_memory_there_is(monkeypatch, model, pending, words, expected):
    found = asked(monkeypatch, model, pending, *words, free=1e15, account=lambda n: 1000 * n)
    assert found == expected


@pytest.mark.parametrize(
    "method, expected",
    [("gradient", 256), ("mask_perturbation", 256), ("rise", 16), ("step_cam", 16)],
)
def test_methods_that_cut_their_calls_themselves(monkeypatch, model, method, expected):
    assert asked(monkeypatch, model, 1024, f"explain.method={method}") == expected
    assert asked(monkeypatch, model, 12, f"explain.method={method}") == 6


def test_on_a_cpu_one(monkeypatch, model):
    for words in ((), ("explain.method=rise",)):
        assert asked(monkeypatch, model, 100, *words, backend="cpu") == 1


@pytest.mark.parametrize("free, account", [(None, lambda n: 1), (1e12, lambda n: None)])
def test_what_does_not_tell_gets_sixteen(monkeypatch, model, free, account):
    assert asked(monkeypatch, model, 96, free=free, account=account) == 16


@pytest.mark.parametrize("each", [1, 70, 1000])
@pytest.mark.parametrize("fixed", [0, 500])
@pytest.mark.parametrize("free", [0, 1000, 1500, 64_000])
@pytest.mark.parametrize("most", [1, 5, 64])
def test_the_largest_power_of_two_that_fits(each, fixed, free, most):
    powers = [1, 2, 4, 8, 16, 32, 64, 128]
    fitting = [n for n in powers if n <= most and fixed + n * each <= free]
    assert images_that_fit(each, fixed, free, most) == max(fitting, default=1)


def test_half_of_everything_and_then_nothing():
    fido, rise = CONFIGS["fido"](), CONFIGS["rise"]()
    assert halved(fido, 16, None, 1) == (fido, 8)
    assert halved(fido, 16, None, 8) == (fido, 8)
    settings, images = halved(fido, 8, None, 8)  # one image a device: then fewer of its masks
    assert (settings.masks_per_pass, images) == (fido.batch_size * 8, 8)
    assert halved(replace(fido, masks_per_pass=1), 1, None, 1) is None
    settings, images = halved(rise, 1, 64, 1)
    assert (settings.chunk_size, images) == (32, 1)
    settings, images = halved(rise, 4, 8, 8)
    assert images == 8 and settings.chunk_size == 8
    assert halved(rise, 1, 1, 1) is None
