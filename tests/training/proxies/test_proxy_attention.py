"""Proxies: which pixels change and to what, of which images, made of what."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import zoom

import fgjax
from fgjax.attribution.registry import that_need
from fgjax.training.proxies.keep import NONE, Proxies, chosen, clears, proxy_epochs
from fgjax.training.proxies.proxy_attention import (
    ProxySettings,
    attention,
    moved,
    predictions,
    proxy_images,
    proxy_step,
)


def random_images(n=3, side=6):
    return np.random.default_rng(0).random((n, side, side, 3)).astype(np.float32)


def random_cam(n=3, side=6):
    return np.random.default_rng(1).random((n, side, side)).astype(np.float32)


def test_algorithm_1_pixel_by_pixel():
    images, cam = random_images(), random_cam()
    result = np.asarray(fgjax.proxy_images(images, cam, 0.4, 0.7))
    for n, y, x in np.ndindex(cam.shape):
        grads = float(cam[n, y, x])
        expected = (1 - 0.7) * grads * images[n, y, x] if grads >= 0.4 else images[n, y, x]
        np.testing.assert_allclose(result[n, y, x], expected, rtol=1e-6)


@pytest.mark.parametrize("rule", ["attention", "mean", "max", "min", "black", "white"])
def test_pixels_below_the_threshold_are_untouched(rule):
    images, cam = random_images(), random_cam()
    result = np.asarray(proxy_images(images, cam, 0.5, 0.5, rule))
    assert result.dtype == np.float32 and result.shape == images.shape
    np.testing.assert_array_equal(result[cam < 0.5], images[cam < 0.5])
    assert (result[cam >= 0.5] != images[cam >= 0.5]).mean() > 0.9


RULES = {"mean": np.mean, "max": np.max, "min": np.min}


@pytest.mark.parametrize("rule", RULES)
def test_statistics_are_those_of_each_image_and_channel(rule):
    images, cam = random_images(), random_cam()
    result = np.asarray(proxy_images(images, cam, 0.5, 0.5, rule))
    for image, heat, got in zip(images, cam, result, strict=True):
        expected = RULES[rule](image.reshape(-1, 3), axis=0)
        np.testing.assert_allclose(got[heat >= 0.5], np.tile(expected, ((heat >= 0.5).sum(), 1)),
                                   rtol=1e-6)  # fmt: skip


def test_the_ends_of_the_ranges():
    images, cam = random_images(), random_cam()
    np.testing.assert_allclose(proxy_images(images, cam, 0.0, 0.0), cam[..., None] * images)
    assert (np.asarray(proxy_images(images, cam, 0.0, 1.0)) == 0).all()
    cam[0, 2, 3] = 1  # the threshold is part of what is replaced
    top = np.asarray(proxy_images(images, cam, 1.0, 1.0))
    assert (top != images).any(-1).sum() == 1 and (top[0, 2, 3] == 0).all()
    assert (np.asarray(proxy_images(images, cam, 0.5, 0.0, "white"))[cam >= 0.5] == 1).all()
    assert (np.asarray(proxy_images(images, cam, 0.5, 0.0, "black"))[cam >= 0.5] == 0).all()


def test_a_map_that_is_nan_changes_nothing():
    images, cam = random_images(), random_cam()
    cam[1] = np.nan
    np.testing.assert_array_equal(proxy_images(images, cam, 0.2, 0.5)[1], images[1])


def test_an_unknown_rule_is_told():
    with pytest.raises(ValueError, match="attention, mean"):
        proxy_images(random_images(), random_cam(), 0.5, 0.5, "median")


@pytest.mark.parametrize(
    "schedule, expected",
    {
        (10, 0.2, 1.0, 2): (2, 4, 6, 8),
        (10, 0.0, 1.0, 3): (1, 4, 7),  # nothing is learned yet before the first epoch
        (10, 0.5, 0.8, 1): (5, 6, 7),
        (10, 1.0, 1.0, 1): (),
        (10, 0.8, 0.2, 1): (),
        (1, 0.0, 1.0, 1): (),
        (8, 0.3, 1.0, 100): (2,),
    }.items(),
)
def test_the_schedule(schedule, expected):
    assert proxy_epochs(*schedule) == expected


def test_every_nth_step_clears():
    assert [clears(step, 1) for step in range(3)] == [True] * 3
    assert [clears(step, 3) for step in range(7)] == [True, False, False] * 2 + [True]


def test_the_chosen_fraction_is_rounded_up_and_reproducible():
    wrong = np.arange(100, 200) * 3
    for share, count in ((1.0, 100), (0.5, 50), (0.101, 11), (0.3, 30), (0.001, 1)):
        assert len(chosen(wrong, share, 0, 4)) == count
    picked = chosen(wrong, 0.5, 0, 4)
    np.testing.assert_array_equal(picked, chosen(wrong, 0.5, 0, 4))
    assert set(picked) < set(wrong) and (np.diff(picked) > 0).all()
    assert (picked != wrong[:50]).any()  # not the first ones, which are of one class
    assert (picked != chosen(wrong, 0.5, 0, 5)).any()
    assert (picked != chosen(wrong, 0.5, 1, 4)).any()
    assert len(chosen(wrong[:0], 0.5, 0, 4)) == 0


def test_an_image_or_its_proxy():
    images = np.random.default_rng(0).integers(0, 255, (10, 4, 4, 3), np.uint8)
    places = np.array([7, 2, 5, 0])
    assert NONE.put(images[places], places) is not None
    np.testing.assert_array_equal(NONE.put(images[places], places), images[places])
    proxies = NONE.replace(np.array([2, 9]), jnp.asarray(images[[2, 9]] // 2))
    expected = images[places].copy()
    expected[1] //= 2
    np.testing.assert_array_equal(proxies.put(images[places], places), expected)
    # A new proxy takes the place of an old one; others stay.
    more = proxies.replace(np.array([0, 2]), jnp.asarray(images[[0, 2]] // 4))
    np.testing.assert_array_equal(more.places, [0, 2, 9])
    darker = np.array([4, 4, 2], np.uint8)[:, None, None, None]
    np.testing.assert_array_equal(more.pixels, images[[0, 2, 9]] // darker)
    expected[1], expected[3] = images[2] // 4, images[0] // 4
    np.testing.assert_array_equal(more.put(images[places], places), expected)
    # In whatever order they come.
    backwards = NONE.replace(np.array([9, 2]), jnp.asarray(images[[9, 2]] // 2))
    np.testing.assert_array_equal(backwards.places, proxies.places)
    np.testing.assert_array_equal(backwards.pixels, proxies.pixels)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Toy:
    """Features are 2 x 2 block means of red and green; the redder or the greener class wins."""

    scale: jax.Array
    size = 8

    def features(self, images):
        n, h, w, _ = images.shape
        return images[..., :2].reshape(n, h // 2, 2, w // 2, 2, 2).mean((2, 4)) * self.scale

    def head(self, features):
        return features.mean((1, 2))

    def __call__(self, images):
        return self.head(self.features(images))


TOY = Toy(jnp.float32(1))


@pytest.fixture
def spots():
    """Six 12 x 12 images, the middle 8 x 8 of which the toy sees: a spot of red or of green."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 8, (6, 12, 12, 3), np.uint8)
    labels = np.array([0, 0, 1, 1, 0, 1])
    spots = np.array([0, 1, 1, 0, 0, 0])  # images 1, 3 and 5 look like the other class
    for i, colour in enumerate(spots):
        images[i, 4:6, 4 : 6 + 2 * (i % 2), colour] = 250
    return images, labels


def batches_of(images, labels, seen=None):
    def batches(places):
        for i in range(0, len(places), 2):
            part = places[i : i + 2]
            if seen is not None:
                seen.append(np.asarray(images[part]))
            yield images[part], labels[part]

    return batches


def step(images, labels, seen=None, before=NONE, places=None, maps=None, **settings):
    places = np.arange(6) if places is None else places
    return proxy_step(
        TOY, batches_of(images, labels, seen), places, labels[places], batch_size=2,
        settings=ProxySettings(**settings), seed=0, epoch=1, key=jax.random.key(0), before=before,
        maps=maps,
    )  # fmt: skip


def test_predictions_are_of_the_middle_and_do_not_care_for_a_short_batch(spots):
    images, labels = spots
    found = predictions(TOY, batches_of(images, labels), np.arange(5), 2)
    np.testing.assert_array_equal(found, [0, 1, 1, 0, 0])
    loud = images.copy()
    loud[:, :2] = 255  # beside what the model sees
    np.testing.assert_array_equal(
        predictions(TOY, batches_of(loud, labels), np.arange(5), 2), found
    )
    assert len(predictions(TOY, batches_of(images, labels), np.arange(0), 2)) == 0


@pytest.mark.parametrize("target", ["predicted", "true"])
def test_a_step_replaces_the_misclassified_by_their_dimmed_selves(spots, target):
    """Against Grad-CAM written out: each class reads one channel, so its map is that channel."""
    images, labels = spots
    proxies, wrong = step(images, labels, threshold=0.5, weight=0.6, target=target)
    assert wrong == 3
    np.testing.assert_array_equal(proxies.places, [1, 3, 5])
    for place, pixels in zip(proxies.places, np.asarray(proxies.pixels), strict=True):
        channel = labels[place] if target == "true" else 1 - labels[place]
        middle = images[place, 2:10, 2:10]
        coarse = (middle[..., channel] / 255).reshape(4, 2, 4, 2).mean((1, 3))
        cam = zoom(coarse, 2, order=1, mode="nearest", grid_mode=True)
        cam = cam / cam.max()
        expected = images[place].copy()
        dimmed = np.round((1 - 0.6) * cam[..., None] * middle)
        expected[2:10, 2:10] = np.where((cam >= 0.5)[..., None], dimmed, middle)
        sure = np.pad(np.abs(cam - 0.5) > 1e-4, 2, constant_values=True)  # ties may fall either way
        assert (np.abs(pixels.astype(int) - expected)[sure] <= 1).all() and sure.mean() > 0.8
        hot = np.pad(cam > 0.4999, 2)
        np.testing.assert_array_equal(pixels[~hot], images[place][~hot])  # to the bit
        if target == "predicted":
            assert pixels[hot].sum() < images[place][hot].sum() / 2


def test_a_fraction_and_places_of_a_larger_set(spots):
    images, labels = spots
    proxies, wrong = step(images, labels, subset=0.5, places=np.array([5, 3, 2, 1]))
    assert wrong == 3 and len(proxies.places) == 2
    assert set(proxies.places) <= {1, 3, 5}


def test_a_proxy_is_never_the_source_of_a_proxy(spots):
    images, labels = spots
    first, _ = step(images, labels)
    seen = []
    again, wrong = step(images, labels, seen, before=first)
    assert wrong == 3  # judged as they are, not by their proxies
    np.testing.assert_array_equal(np.concatenate(seen)[:6], images)
    np.testing.assert_array_equal(again.pixels, first.pixels)  # no dimmer than before
    np.testing.assert_array_equal(again.places, first.places)


def test_what_is_dimmed_can_be_given(spots):
    """A column of its own for each image, and no heat map."""
    images, labels = spots
    known = np.zeros((6, 8, 8), np.float32)
    known[np.arange(6), :, np.arange(6)] = 1
    proxies, wrong = step(
        images, labels, places=np.array([1, 2, 3, 5]), maps=lambda places: known[places], weight=0.6
    )
    assert wrong == 3
    np.testing.assert_array_equal(proxies.places, [1, 3, 5])
    for place, pixels in zip(proxies.places, np.asarray(proxies.pixels), strict=True):
        expected = images[place].copy()
        column = expected[2:10, 2 + place]
        expected[2:10, 2 + place] = np.round(0.4 * column)
        assert (np.abs(pixels.astype(int) - expected) <= 1).all()
        assert (pixels[2:10, 2 + place] != images[place][2:10, 2 + place]).any()


def test_a_moved_map_is_the_map_rolled(key):
    maps = np.random.default_rng(0).random((5, 6, 8)).astype(np.float32)
    found, ways = np.asarray(moved(key, jnp.asarray(maps))), set()
    for one, got in zip(maps, found, strict=True):
        every = [(y, x) for y in range(6) for x in range(8)
                 if (np.roll(one, (y, x), (0, 1)) == got).all()]  # fmt: skip
        assert len(every) == 1
        ways |= set(every)
    assert len(ways) > 1 and ways != {(0, 0)}  # each its own way


def test_a_random_place_dims_as_much_elsewhere(spots):
    images, labels = spots
    seen = jnp.asarray(images[:, 2:10, 2:10], jnp.float32) / 255
    targets, key = jnp.asarray([0, 1, 1, 0, 0, 0]), jax.random.key(0)
    heat, other = (
        np.asarray(attention(TOY, seen, targets, key, ProxySettings(place=place)))
        for place in ("heat", "random")
    )
    np.testing.assert_array_equal(np.sort(heat.reshape(6, -1)), np.sort(other.reshape(6, -1)))
    assert all((a != b).any() for a, b in zip(heat, other, strict=True))
    there, elsewhere = (step(images, labels, place=place)[0] for place in ("heat", "random"))
    np.testing.assert_array_equal(there.places, elsewhere.places)
    assert (np.asarray(there.pixels) != np.asarray(elsewhere.pixels)).any()


def test_nothing_misclassified_changes_nothing(spots):
    images, labels = spots
    right = np.array([0, 1, 1, 0, 0, 0])
    before = Proxies(np.array([4]), jnp.asarray(images[[4]]))
    proxies, wrong = step(images, right, before=before)
    assert wrong == 0 and proxies is before


@pytest.mark.parametrize("smooth", [0.0, 60.0])
def test_the_map_is_scaled_to_one_and_smoothed_if_asked(spots, smooth):
    seen = jnp.asarray(spots[0][:, 2:10, 2:10], jnp.float32) / 255
    settings = ProxySettings(smooth=smooth)
    targets = jnp.asarray([0, 1, 1, 0, 0, 0])
    heat = np.asarray(attention(TOY, seen, targets, jax.random.key(0), settings))
    np.testing.assert_allclose(heat.max((1, 2)), 1, rtol=1e-5)
    sharp = np.asarray(attention(TOY, seen, targets, jax.random.key(0), ProxySettings()))
    roughness = [np.abs(np.diff(h)).max() for h in (heat, sharp)]
    assert (roughness[0] < roughness[1] / 2) == bool(smooth)
    black = attention(TOY, seen * 0, targets, jax.random.key(0), settings)
    assert (np.asarray(black) == 0).all()


@pytest.mark.slow
def test_every_method_there_is_makes_proxies(key):
    model = fgjax.create_model("toys:MICRO", 3, size=32)
    images = np.random.default_rng(0).integers(0, 255, (2, 32, 32, 3), np.uint8)
    labels = np.array([0, 1])
    for method in ("grad_cam", "grad_cam_plus_plus", "gradient"):
        proxies, wrong = proxy_step(
            model, batches_of(images, labels), np.arange(2), labels, batch_size=2,
            settings=ProxySettings(method=method), seed=0, epoch=1, key=key,
        )  # fmt: skip
        assert wrong == len(proxies.places) > 0
        changed = (np.asarray(proxies.pixels) != images[proxies.places]).any(-1)
        assert changed.any(), method


ATTENTION = set(that_need("attention"))  # of transformers


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", [m for m in that_need("features", "gradient") if m not in ATTENTION]
)
def test_every_method(method, key):
    model = fgjax.create_model("toys:MICRO", 3, size=32)
    images = jnp.asarray(np.random.default_rng(0).random((2, 32, 32, 3)), jnp.float32)
    targets = jnp.asarray([0, 1])
    heat = np.asarray(attention(model, images, targets, key, ProxySettings(method=method)))
    assert heat.shape == (2, 32, 32) and (heat >= 0).all() and (heat <= 1).all()
    assert heat.max() == 1


@pytest.mark.slow
def test_the_map_costs_one_forward_pass_over_the_misclassified(spots, monkeypatch):
    """Grad-CAM differentiates the head alone: what runs through the trunk is counted."""
    images, labels = spots
    passed = []
    real = Toy.features

    def features(self, x):
        jax.debug.callback(lambda: passed.append(len(x)))
        return real(self, x)

    monkeypatch.setattr(Toy, "features", features)
    jax.clear_caches()
    step(images, labels)
    jax.effects_barrier()
    jax.clear_caches()
    # Three batches of two are judged; three wrong images are two batches more.
    assert passed == [2] * 5
