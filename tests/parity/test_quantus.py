"""Our metrics against those of Quantus 0.6, on the same network in JAX and in PyTorch.

Where the definitions are one, the numbers are, to the tolerance beside each test. Where they are
not, the test says how one is made of the other; docs/evaluation.md has the list. Needs Quantus,
which the extra `parity` does not bring (it wants OpenCV, pandas and scikit-learn):
pip install quantus==0.6.0
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fgjax.attribution.common.score_gradient import input_gradient
from fgjax.evaluation import (
    deletion,
    gini,
    insertion,
    max_sensitivity,
    pointing_game,
    random_logit,
)
from fgjax.evaluation.sensitivity import _nearby

torch = pytest.importorskip("torch", reason='needs PyTorch: pip install "fgjax[parity]"')
quantus = pytest.importorskip("quantus", reason="needs Quantus: pip install quantus==0.6.0")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

COUNT, SIDE, CLASSES = 6, 24, 2
STEPS = SIDE  # of as many pixels: Quantus wants a divisor of them, and here also a multiple of 3
KEY = jax.random.key(0)


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 5, 3, padding=1)
        self.head = torch.nn.Linear(5, CLASSES)

    def forward(self, x):
        return self.head(torch.tanh(self.conv(x)).mean((2, 3)))


@jax.tree_util.Partial
def _apply(weights, images):
    kernel, bias, head, last = weights
    x = jax.lax.conv_general_dilated(
        images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision="highest",
    )  # fmt: skip
    return jnp.dot(jnp.tanh(x + bias).mean((1, 2)), head, precision="highest") + last


@pytest.fixture(scope="module")
def both():
    """The network of PyTorch, the same in JAX, images n h w c, targets, and maps."""
    torch.manual_seed(0)
    theirs = Network().eval()
    with torch.no_grad():
        theirs.conv.weight.mul_(4)
        theirs.head.weight.mul_(4)
    arrays = [p.detach().numpy() for p in theirs.parameters()]
    weights = (arrays[0].transpose(2, 3, 1, 0), arrays[1].reshape(1, 1, 1, -1), arrays[2].T,
               arrays[3][None])  # fmt: skip
    ours = jax.tree_util.Partial(_apply, tuple(jnp.asarray(w) for w in weights))
    rng = np.random.default_rng(0)
    images = rng.random((COUNT, SIDE, SIDE, 3), np.float32)
    targets = np.arange(COUNT) % CLASSES
    # No two values alike, so that no order is left open.
    maps = np.stack([rng.permutation(SIDE * SIDE) for _ in range(COUNT)]).reshape(-1, SIDE, SIDE)
    return theirs, ours, images, targets, (maps / maps.max()).astype(np.float32)


def channels_first(images):
    return np.ascontiguousarray(np.moveaxis(np.asarray(images), -1, 1))


def torch_gradient(model, inputs, targets, **_):
    """Σ |∂s/∂x| over the channels, by PyTorch."""
    x = torch.tensor(np.asarray(inputs), dtype=torch.float32, requires_grad=True)
    chosen = torch.as_tensor(np.asarray(targets), dtype=torch.int64)
    model(x).gather(1, chosen[:, None]).sum().backward()
    return x.grad.abs().sum(1, keepdim=True).numpy()


def our_gradient(model, images, targets):
    return jnp.abs(input_gradient(model, images, targets)).sum(-1)


def asked(metric, both, **more):
    theirs, _, images, targets, maps = both
    given = dict(x_batch=channels_first(images), y_batch=targets, a_batch=maps[:, None].copy())
    return np.array(metric(model=theirs, channel_first=True, **(given | more)))


def test_the_networks_are_one(both):
    theirs, ours, images, _, _ = both
    with torch.no_grad():
        wanted = theirs(torch.tensor(channels_first(images))).numpy()
    np.testing.assert_allclose(ours(jnp.asarray(images)), wanted, atol=1e-5)
    assert wanted.argmax(1).tolist() != [wanted[0].argmax()] * COUNT or np.ptp(wanted) > 0.1


def area(curve, first):
    """Trapezoids over the share of pixels; Quantus leaves out the image as it is."""
    whole = np.concatenate([[first], curve])
    return ((whole[1:] + whole[:-1]) / 2).sum() / (len(whole) - 1)


def probabilities(theirs, images, targets):
    with torch.no_grad():
        found = theirs(torch.tensor(channels_first(images))).softmax(1).numpy()
    return found[np.arange(len(targets)), targets]


FLIPPING = dict(features_in_step=3 * SIDE * SIDE // STEPS, disable_warnings=True, abs=False,
                normalise=False)  # fmt: skip


def test_deletion_is_pixel_flipping(both):
    """To 0: what Quantus calls black is the lowest value of the images."""
    theirs, ours, images, targets, maps = both
    metric = quantus.PixelFlipping(perturb_baseline=0.0, **FLIPPING)
    curves = asked(metric, both, softmax=True)
    full = probabilities(theirs, images, targets)
    wanted = [area(curve, first) for curve, first in zip(curves, full)]
    found = deletion(ours, jnp.asarray(images), jnp.asarray(targets), jnp.asarray(maps),
                     steps=STEPS, baseline="zero")  # fmt: skip
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_insertion_is_pixel_flipping_the_other_way(both):
    """Quantus has no insertion: black images are flipped to what the image has there."""
    theirs, ours, images, targets, maps = both
    whole = channels_first(images).reshape(COUNT, -1)

    def put_in(arr, indices, **_):
        changed = arr.copy()
        np.put_along_axis(changed, indices, np.take_along_axis(whole, indices, 1), 1)
        return changed

    metric = quantus.PixelFlipping(perturb_func=put_in, **FLIPPING)
    black = np.zeros_like(images)
    curves = asked(metric, both, x_batch=channels_first(black), softmax=True)
    first = probabilities(theirs, black, targets)
    wanted = [area(curve, start) for curve, start in zip(curves, first)]
    found = insertion(ours, jnp.asarray(images), jnp.asarray(targets), jnp.asarray(maps),
                      steps=STEPS, baseline="zero")  # fmt: skip
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_the_pointing_game(both):
    """Quantus points at the pixel of the highest value: our protocol argmax."""
    truth = np.random.default_rng(1).random((COUNT, SIDE, SIDE)) > 0.5
    metric = quantus.PointingGame(disable_warnings=True, abs=False, normalise=False)
    wanted = asked(metric, both, s_batch=truth[:, None])
    found = pointing_game(jnp.asarray(both[4]), jnp.asarray(truth), protocol="argmax")
    np.testing.assert_array_equal(found, wanted.astype(float))
    assert 0 < wanted.sum() < COUNT


def test_sparseness_is_the_gini_index(both):
    """Quantus adds 1e-7 to every value, and refuses a map of zeros; of that ours is NaN."""
    metric = quantus.Sparseness(disable_warnings=True, abs=True, normalise=False)
    np.testing.assert_allclose(gini(jnp.asarray(both[4])), asked(metric, both), atol=1e-6)
    assert np.isnan(gini(jnp.zeros((COUNT, SIDE, SIDE)))).all()


def test_max_sensitivity_under_the_same_noise(both):
    """Quantus draws by itself, in no order that could be shared: here both are given our draws."""
    _, ours, images, targets, _ = both
    samples, radius, turn = 4, 0.05, iter(range(100))
    keys = jax.vmap(lambda i: jax.random.fold_in(KEY, i))(jnp.arange(COUNT))

    def near(arr, indices, **_):
        drawn = _nearby(jnp.asarray(images), keys, next(turn), radius)
        return channels_first(drawn).reshape(COUNT, -1)

    metric = quantus.MaxSensitivity(
        nr_samples=samples, perturb_func=near, disable_warnings=True, abs=False, normalise=False
    )
    own = torch_gradient(both[0], channels_first(images), targets)
    wanted = asked(metric, both, a_batch=own, explain_func=torch_gradient)
    found = max_sensitivity(our_gradient, ours, jnp.asarray(images), jnp.asarray(targets), key=KEY,
                            radius=radius, samples=samples)  # fmt: skip
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
    assert wanted.min() > 1e-3


def test_random_logit_by_rank_correlation(both):
    """Of two classes the other one is no draw. (Quantus' SSIM slides along the flattened map, ours
    over its rows and columns: those two differ.)"""
    _, ours, images, targets, _ = both
    metric = quantus.RandomLogit(
        similarity_func=quantus.similarity_func.correlation_spearman, num_classes=CLASSES,
        disable_warnings=True, abs=False, normalise=False,
    )  # fmt: skip
    own = torch_gradient(both[0], channels_first(images), targets)
    wanted = asked(metric, both, a_batch=own, explain_func=torch_gradient)
    found = random_logit(our_gradient, ours, jnp.asarray(images), jnp.asarray(targets), key=KEY)
    np.testing.assert_allclose(found.rank_correlation, wanted, atol=1e-3)
