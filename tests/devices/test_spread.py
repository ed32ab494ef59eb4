"""A model spread over devices is the model: every method, both ways, any number of images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fgjax
from eight import on_eight_devices
from fgjax.attribution.registry import OWN_NETWORKS, needs
from fgjax.devices.mesh import make_mesh, spread


def test_on_one_device_the_model_stays_as_it_is():
    model = jax.tree_util.Partial(jnp.sum)
    assert spread(model, make_mesh("none"), "pmap") is model


def test_every_call_is_split_and_put_together_again():
    """Fewer images than devices, as many, and a last part that is not full."""
    result = on_eight_devices("""
        from fgjax.devices.mesh import spread
        rng = np.random.default_rng(0)
        weights = jnp.asarray(rng.normal(size=(12, 3)), jnp.float32)

        def model(weights, x):
            return {"logits": jnp.tanh(x.reshape(len(x), -1) @ weights)}

        model = jax.tree_util.Partial(model, weights)
        apart, grads, flops = [], [], []
        for way in ("jit", "pmap"):
            many = spread(model, mesh, way)
            for count in (1, 8, 13):
                x = jnp.asarray(rng.random((count, 2, 2, 3)), jnp.float32)
                one, other = (jax.jit(lambda m, x: m(x))(m, x) for m in (model, many))
                assert one["logits"].shape == other["logits"].shape == (count, 3)
                apart.append(float(np.abs(one["logits"] - np.asarray(other["logits"])).max()))
                total = lambda m, x: (m(x)["logits"] ** 2).sum()
                a, b = (jax.jit(jax.grad(total, argnums=1))(m, x) for m in (model, many))
                grads.append(float(np.abs(a - np.asarray(b)).max()))
            x = jnp.zeros((64, 2, 2, 3))
            cost = lambda m: jax.jit(lambda m, x: m(x)).lower(m, x).compile().cost_analysis()
            flops.append([way, cost(many)["flops"] / cost(model)["flops"]])
        result = dict(apart=apart, grads=grads, flops=flops)
    """)
    assert max(result["apart"]) < 1e-6 and max(result["grads"]) < 1e-5
    # XLA counts for one device: an eighth of the work. (On jax 0.7 it does not look into pmap.)
    ways = ("jit", "pmap") if jax.__version_info__ >= (0, 8) else ("jit",)
    shares = [share for way, share in result["flops"] if way in ways]
    assert shares == pytest.approx([1 / 8] * len(ways), rel=0.2)


def maps_on_eight_devices(methods):
    """Return for each method how far its maps are from those on one device, and their contrast."""
    return on_eight_devices(
        f"methods = {list(methods)}",
        """
        import fgjax
        from fgjax.attribution import CONFIGS
        from fgjax.devices.mesh import spread
        from fgjax.attribution.registry import needs

        settings = dict(fido=dict(steps=3, batch_size=3), glas=dict(grid=3), lime=dict(samples=20),
                        recursive_glas=dict(grid=3), rise=dict(masks=21, chunk_size=10),
                        occlusion=dict(window=84.0, stride=56.0), smooth_gradient=dict(samples=3),
                        mask_perturbation=dict(steps=3),
                        extremal_perturbation=dict(steps=3), integrated_gradients=dict(steps=3))
        model = fgjax.create_model("resnet_tiny", 5, size=32)
        images = jnp.asarray(np.random.default_rng(0).random((3, 32, 32, 3)), jnp.float32)
        targets = jnp.asarray([0, 3, 4])
        result = {}
        for name in methods:
            config = CONFIGS[name](**settings.get(name, {}))
            found = []
            for way in ("none", "jit", "pmap"):
                way = "jit" if "relus" in needs(name) and way == "pmap" else way
                own = model if way == "none" else spread(model, mesh, way)
                method, key = fgjax.METHODS[name], jax.random.key(1)
                maps = method(own, images, targets, key=key, config=config)
                found.append([np.asarray(leaf) for leaf in jax.tree.leaves(maps)])
            apart = [
                max(  # maps are at most 1; traces, such as areas in pixels, may be large
                    float(np.abs(a - b).max() / max(1.0, np.abs(a).max()))
                    for a, b in zip(found[0], other, strict=True)
                )
                for other in found[1:]
            ]
            result[name] = [max(apart), float(np.ptp(found[0][0]))]
    """,
    )


def same_maps(result):
    assert result
    return all(apart < 1e-3 and contrast > 0.03 for apart, contrast in result.values())


@pytest.mark.slow
def test_the_methods_of_each_kind_give_the_same_maps():
    """Optimised, from features, from rules."""
    result = maps_on_eight_devices(("fido", "grad_cam", "lrp"))
    assert same_maps(result), result


@pytest.mark.slow
def test_every_method_gives_the_same_maps():
    own = OWN_NETWORKS | {"attention"}  # of networks of their own
    result = maps_on_eight_devices([m for m in fgjax.METHODS if not own & set(needs(m))])
    assert same_maps(result), result


@pytest.mark.parametrize("way", ["jit", "pmap"])
def test_what_else_a_model_has_is_there(way):
    """On one forced mesh of one device: `Spread` itself, which `spread` would leave out."""
    from fgjax.devices.mesh import Spread

    model = fgjax.create_model("resnet_tiny", 5, size=32)
    many = Spread(model, make_mesh("none"), way == "pmap")
    images = jnp.asarray(np.random.default_rng(0).random((2, 32, 32, 3)), jnp.float32)
    both = jax.jit(lambda m, x: (m.features(x), m(x)))
    features, logits = both(model, images)
    found = many.features(images)
    np.testing.assert_allclose(found, features, atol=1e-5)
    np.testing.assert_allclose(many.head(found), logits, atol=1e-5)
    assert many.size == 32 and not hasattr(many, "no_such_thing")
    assert many.network is model.network  # a part that can be called is no method of the model


@pytest.mark.slow
def test_a_transformer_gives_the_same_maps():
    """Its attention is asked for with what is added to it: two batches in one call."""
    result = on_eight_devices("""
        import fgjax
        from fgjax.devices.mesh import spread

        model = fgjax.create_model(
            "vit_tiny_patch16_224", 5, size=32, width=24, depth=2, heads=3
        )
        images = jnp.asarray(np.random.default_rng(0).random((3, 32, 32, 3)), jnp.float32)
        targets, result = jnp.asarray([0, 3, 4]), {}
        for name in ("attention_rollout", "attention_relevance"):
            result[name] = [
                float(jnp.abs(fgjax.METHODS[name](spread(model, make_mesh("auto"), way), images,
                targets).heatmap - fgjax.METHODS[name](model, images, targets).heatmap).max())
                for way in ("jit", "pmap")
            ]
    """)
    assert max(max(apart) for apart in result.values()) < 1e-4, result
