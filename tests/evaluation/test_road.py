"""The imputation against SciPy's sparse solver, the numbers against cases done by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage
from scipy.signal import convolve2d
from scipy.sparse import csc_matrix
from scipy.sparse.linalg import spsolve
from scipy.special import softmax

from fgjax.evaluation import impute, pixel_ranks, road, road_protocol
from fgjax.evaluation.road import linear_imputation

AROUND = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]


def solved(image, missing):
    """One equation per missing pixel, written down pixel by pixel, and SciPy's direct solver."""
    height, width, _ = image.shape
    number = np.full((height, width), -1)
    number[missing] = np.arange(missing.sum())
    entries, right = {}, np.zeros((missing.sum(), image.shape[2]))
    for y, x in np.argwhere(missing):
        i, total = number[y, x], 0
        for dy, dx in AROUND:
            if 0 <= y + dy < height and 0 <= x + dx < width:
                weight = 1 / 12 if dy and dx else 1 / 6
                total += weight
                if missing[y + dy, x + dx]:
                    entries[i, number[y + dy, x + dx]] = -weight
                else:
                    right[i] += weight * image[y + dy, x + dx]
        entries[i, i] = total
    rows, columns = np.array(list(entries)).T
    matrix = csc_matrix((list(entries.values()), (rows, columns)))
    filled = image.astype(np.float64)
    filled[missing] = spsolve(matrix, right).reshape(-1, image.shape[2])
    return filled


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.random((4, 28, 37, 3)), (0, 1, 1, 0))
    return np.clip(4 * smooth - 1.5, 0, 1).astype(np.float32)


def test_imputation_equals_a_direct_solver(images):
    rng = np.random.default_rng(1)
    missing = rng.random(images.shape[:3]) < 0.6
    missing[1] = ndimage.gaussian_filter(rng.random((28, 37)), 4) > 0.5  # large blobs
    missing[2] = True
    missing[2, 3, 30] = missing[2, 20, 5] = False  # two pixels known
    missing[3] = False
    missing[3, 0, 0] = missing[3, 10, 10] = True
    ours = np.asarray(linear_imputation(jnp.asarray(images), jnp.asarray(missing)))
    for image, gone, filled in zip(images, missing, ours):
        np.testing.assert_array_equal(filled[~gone], image[~gone])
        np.testing.assert_allclose(filled, solved(image, gone), atol=5e-4)
    # A lone pixel is the weighted mean of its eight neighbours.
    weights = np.array([[1, 2, 1], [2, 0, 2], [1, 2, 1]]) / 12
    around = convolve2d(images[3, ..., 0], weights, mode="same")
    assert ours[3, 10, 10, 0] == pytest.approx(around[10, 10], abs=1e-5)


def test_nothing_and_all_missing(images, key):
    keys = jax.random.split(key, 4)
    nothing = np.zeros(images.shape[:3], bool)
    np.testing.assert_array_equal(impute(jnp.asarray(images), jnp.asarray(nothing), keys), images)
    everything = np.asarray(linear_imputation(jnp.asarray(images), jnp.asarray(~nothing)))
    np.testing.assert_array_equal(everything, 0.5)


def test_noise_is_on_the_imputed_pixels_alone_and_cut(images, key):
    grey = jnp.full((2, 40, 40, 3), 0.5).at[1].set(1.0)
    missing = jnp.zeros((2, 40, 40), bool).at[:, 5:35].set(True)
    keys = jax.random.split(key, 2)
    out = np.asarray(impute(grey, missing, keys, 0.02))
    noise = out[0, 5:35] - 0.5
    assert noise.std() == pytest.approx(0.02, rel=0.05) and abs(noise.mean()) < 0.002
    assert abs(np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1]) < 0.1
    np.testing.assert_array_equal(out[:, :5], grey[:, :5])
    assert out.max() == 1 and out[1, 5:35].min() < 0.98
    np.testing.assert_array_equal(impute(grey[1:], missing[1:], keys[1:], 0.02), out[1:])


FIRST = jnp.zeros(2, jnp.int32)


@jax.jit
def linear(images):
    """p(class 0) = 0.1 + 0.8 · mean pixel: logits are log-probabilities."""
    p = 0.1 + 0.8 * jnp.mean(images, axis=(1, 2, 3))
    return jnp.log(jnp.stack([p, 1 - p], axis=1))


def test_a_case_done_by_hand(key):
    # The left half white: without it all is black and p = 0.1, without the right half 0.9.
    image = jnp.zeros((2, 16, 20, 3)).at[:, :, :10].set(1)
    right = image[..., 0]
    maps = jnp.stack([right[0], 1 - right[1]])
    result = road(linear, image, FIRST, maps, key=key, shares=(0.5,), noise=0.0)
    np.testing.assert_allclose(result.most_first, [0.1, 0.9], atol=1e-3)
    np.testing.assert_allclose(result.least_first, [0.9, 0.1], atol=1e-3)
    np.testing.assert_allclose(result.gap, [0.8, -0.8], atol=1e-3)
    assert {value.dtype for value in result} == {jnp.dtype("float32")}


def test_equals_a_numpy_form_with_any_model(images, key):
    rng = np.random.default_rng(2)
    weights = rng.normal(size=(28 * 37 * 3, 5)).astype(np.float32) / 8
    maps = np.round(rng.random(images.shape[:3]) * 6).astype(np.float32) / 6  # many ties
    targets = np.array([4, 0, 2, 1])
    shares = (0.15, 0.3, 0.9)

    def model(x):
        return (x.reshape(len(x), -1) - 0.5) @ jnp.asarray(weights)

    ours = road(
        model, jnp.asarray(images), jnp.asarray(targets), jnp.asarray(maps),
        key=key, shares=shares, noise=0.0,
    )  # fmt: skip
    for i, (image, heat) in enumerate(zip(images, maps)):
        own = jax.random.fold_in(key, i)  # ties go in the order of the image's key
        order = np.argsort(pixel_ranks(jnp.asarray(heat)[None], own).ravel())
        assert (np.diff(heat.ravel()[order]) <= 0).all()
        means = []
        for places in (order, order[::-1]):
            p = []
            for share in shares:
                missing = np.zeros(heat.size, bool)
                missing[places[: int(share * heat.size)]] = True
                filled = np.clip(solved(image, missing.reshape(heat.shape)), 0, 1)
                p.append(softmax((filled.ravel() - 0.5) @ weights)[targets[i]])
            means.append(np.mean(p))
        np.testing.assert_allclose([v[i] for v in ours[:2]], means, rtol=5e-3)
        assert ours.gap[i] == pytest.approx(means[1] - means[0], abs=2e-3)


def test_a_random_map_has_no_gap_and_the_right_one_has(key):
    rng = np.random.default_rng(3)
    image = jnp.asarray(rng.random((12, 24, 24, 3)) < 0.05, jnp.float32)
    image = image.at[:, 8:14, 8:14].set(1)
    maps = jnp.stack([jnp.asarray(rng.random(image.shape[:3]), jnp.float32), image[..., 0]])
    zero = jnp.zeros(12, jnp.int32)
    random, right = (road(linear, image, zero, m, key=key, shares=(0.1, 0.2)).gap for m in maps)
    assert abs(random.mean()) < 0.01 and right.min() > 0.03


def test_undefined_is_nan(images, key):
    maps = jnp.asarray(images[..., 0]).at[1, 2, 3].set(jnp.nan)
    targets = jnp.array([0, 0, 2, -1])  # the model has two classes
    result = road(linear, jnp.asarray(images), targets, maps, key=key, shares=(0.5,))
    for value in result:
        assert jnp.isnan(value).tolist() == [False, True, True, True]


def test_shares_are_checked_and_told(images, key):
    for wrong in ((), (0.0,), (0.5, 1.0)):
        with pytest.raises(ValueError, match="shares="):
            road(
                linear,
                jnp.asarray(images[:2]),
                FIRST,
                jnp.asarray(images[:2, ..., 0]),
                key=key,
                shares=wrong,
            )
    assert "20, 50 % of the pixels" in road_protocol(shares=(0.2, 0.5))
