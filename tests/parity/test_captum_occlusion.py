"""Occlusion agrees with captum's, on the same weights and images."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from fgjax.attribution.occlusion import occlusion, occlusion_preset

torch = pytest.importorskip("torch")
captum = pytest.importorskip("captum.attr")

SIDE = 56  # a quarter of 224: four pixels of a setting are one here


def network(parameters, images):
    """A strided convolution, ReLU, mean, linear."""
    from jax import lax

    kernel, weights = parameters
    dimensions = ("NHWC", "OIHW", "NHWC")
    hidden = lax.conv_general_dilated(images, kernel, (2, 2), "VALID", dimension_numbers=dimensions)
    return jnp.maximum(hidden, 0).mean((1, 2)) @ weights


def torch_network(kernel, weights):
    def forward(images):
        hidden = torch.nn.functional.conv2d(images, torch.as_tensor(kernel), stride=2)
        return hidden.relu().mean((2, 3)) @ torch.as_tensor(weights)

    return forward


@pytest.mark.slow
@pytest.mark.parametrize(("window", "stride"), [(8, 4), (11, 5), (7, 7), (15, 2)])
def test_signed_maps_are_captums(window, stride):
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(16, 3, 5, 5)).astype(np.float32)
    weights = rng.normal(size=(16, 4)).astype(np.float32)
    images, targets = rng.random((2, SIDE, SIDE, 3), np.float32), np.array([3, 1])
    expected = captum.Occlusion(torch_network(kernel, weights)).attribute(
        torch.as_tensor(images.transpose(0, 3, 1, 2).copy()),
        sliding_window_shapes=(3, window, window),
        strides=(3, stride, stride),
        baselines=0,
        target=torch.as_tensor(targets),
    )
    config = occlusion_preset("captum", window=4 * window, stride=4 * stride)
    model = Partial(network, (jnp.asarray(kernel), jnp.asarray(weights)))
    found = np.asarray(occlusion(model, images, targets, config=config).maps["signed"])
    expected = expected.numpy()[:, 0]  # the same for every channel
    error = np.abs(found - expected).max() / np.abs(expected).max()
    assert error < 1e-3
    print(f"window {window}, stride {stride}: largest difference {error:.1e} of the largest value")
