"""Blocks that are computed again on the way back: the same gradients, and less is kept."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fgjax.models.networks.convnext import ConvNext
from fgjax.models.networks.resnet import ResNet
from fgjax.models.networks.swin import Swin
from fgjax.models.networks.vit import VisionTransformer

NETWORKS = {
    "resnet": partial(ResNet, depths=(2, 1), width=4, small_stem=True),
    "vit": partial(VisionTransformer, patch=8, width=16, depth=3, heads=2, hidden=32, grid=4),
    "convnext": partial(ConvNext, depths=(2, 1), widths=(8, 16)),
    "swin": partial(Swin, width=8, depths=(2, 1), heads=(1, 2), window=4),
}


def loss_of(network, variables, images):
    """A function of the parameters, as training differentiates it."""

    def loss(params):
        outputs, changed = network.apply(
            {**variables, "params": params},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(1)},
        )
        return (outputs**2).sum(), changed

    return loss


def kept_bytes(loss, params):
    """What the way back is handed by the way there."""
    back = jax.eval_shape(lambda p: jax.vjp(loss, p, has_aux=True)[1], params)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(back))


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n == "resnet" else
                                               pytest.mark.slow) for n in NETWORKS])  # fmt: skip
def test_gradients_are_the_same_and_less_is_kept(name):
    options = {"drop_path": 0.3} if name != "resnet" else {}
    plain = NETWORKS[name](num_classes=3, **options)
    again = plain.clone(checkpointing=True)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(4, 32, 32, 3)), jnp.float32)
    variables = jax.jit(plain.init)(jax.random.key(0), images)
    shapes = jax.eval_shape(again.init, jax.random.key(0), images)
    assert jax.tree.structure(shapes) == jax.tree.structure(variables)
    losses = [loss_of(network, variables, images) for network in (plain, again)]
    found = [jax.jit(jax.grad(f, has_aux=True))(variables["params"]) for f in losses]
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(a).max())
    assert np.abs(jax.tree.leaves(found[0][0])[0]).max() > 0
    without, with_ = (kept_bytes(f, variables["params"]) for f in losses)
    assert with_ < 0.6 * without, (with_, without)


@pytest.mark.slow
@pytest.mark.skipif(
    tuple(map(int, jax.__version__.split(".")[:2])) < (0, 12) and jax.default_backend() == "cpu",
    reason="on a CPU XLA undid it: measured with jax 0.10.2, not with 0.12.0",
)
def test_a_compiled_step_takes_less_memory():
    """By XLA's account, of a deep ViT at 96 px."""
    make = partial(VisionTransformer, patch=8, width=96, depth=8, heads=4, hidden=192, grid=12)
    images = jax.ShapeDtypeStruct((16, 96, 96, 3), jnp.float32)
    taken = {}
    for on in (False, True):
        network = make(num_classes=3, checkpointing=on)
        variables = jax.eval_shape(network.init, jax.random.key(0), images)

        def gradient(variables, images, network=network):
            loss = loss_of(network, variables, images)
            return jax.grad(loss, has_aux=True)(variables["params"])

        compiled = jax.jit(gradient).lower(variables, images).compile()
        taken[on] = compiled.memory_analysis().temp_size_in_bytes
    assert taken[True] < 0.5 * taken[False], taken
