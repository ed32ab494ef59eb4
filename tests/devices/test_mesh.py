"""Eight devices compute what one does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eight import on_eight_devices
from fgjax.devices.collectives import leads, of_first, over_processes, own_part, same_everywhere
from fgjax.devices.mesh import make_mesh, own_copy, own_rows, replicate, shard


def test_a_mesh_has_one_axis():
    for parallel in ("auto", "none", "jit"):
        mesh = make_mesh(parallel)
        assert mesh.axis_names == ("batch",)
    assert make_mesh("none").devices.size == 1
    assert make_mesh("jit").devices.size == jax.device_count()


def test_a_replica_has_buffers_of_its_own():
    """A donated copy must leave the original alone."""
    tree = {"a": jnp.arange(4.0)}
    mesh = make_mesh("none")
    copy = replicate(mesh, tree)
    consume = jax.jit(lambda t: jax.tree.map(lambda x: x + 1, t), donate_argnums=0)
    np.testing.assert_array_equal(consume(copy)["a"], [1, 2, 3, 4])
    assert copy["a"].is_deleted()
    np.testing.assert_array_equal(tree["a"], [0, 1, 2, 3])
    np.testing.assert_array_equal(shard(mesh, tree)["a"], tree["a"])


def test_arrays_are_split_or_whole():
    result = on_eight_devices("""
        x = np.arange(16.0, dtype=np.float32).reshape(16, 1)
        parts = [s.data.shape[0] for s in shard(mesh, x).addressable_shards]
        whole = [s.data.shape[0] for s in replicate(mesh, x).addressable_shards]
        original = jnp.asarray(x)
        jax.block_until_ready(
            jax.jit(lambda a: a + 1, donate_argnums=0)(replicate(mesh, original))
        )
        result = dict(parts=parts, whole=whole, none=make_mesh("none").devices.size,
                      alive=not original.is_deleted(), total=float(original.sum()))
    """)
    assert result == {"parts": [2] * 8, "whole": [16] * 8, "none": 1, "alive": True, "total": 120.0}


@pytest.mark.slow
def test_maps_of_eight_devices_are_those_of_one():
    result = on_eight_devices("""
        import sys
        from fgjax.attribution.fido.method import FidoConfig, fido

        module = sys.modules["fgjax.attribution.fido.loop"]
        step, where = module.fido_step, []

        def waiting(*args):
            state, trace = jax.block_until_ready(step(*args))
            where.append(len(state.logits.sharding.device_set))
            return state, trace

        module.fido_step = waiting

        def linear(weights, x):
            return jnp.einsum("nhwc,hwk->nk", x, weights)

        rng = np.random.default_rng(0)
        images = jnp.asarray(rng.random((8, 8, 8, 3), np.float32))
        weights = jnp.asarray(rng.normal(size=(8, 8, 2)), jnp.float32)
        targets = jnp.arange(8) % 2
        keys = jax.random.split(jax.random.key(0), 8)
        config = FidoConfig(steps=4, batch_size=4, images_per_step=8)
        model = jax.tree_util.Partial(linear, weights)
        one = fido(model, images, targets, key=keys, config=config)
        batch = shard(mesh, (images, targets, keys))
        many = fido(replicate(mesh, model), batch[0], batch[1], key=batch[2], config=config)
        module.fido_step = step
        apart = [
            float(jnp.abs(np.asarray(a) - np.asarray(b)).max())
            for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True)
        ]
        result = dict(apart=max(apart), moved=float(np.ptp(one.heatmap)), where=where)
    """)
    assert result["apart"] < 1e-3 and result["moved"] > 0.05
    # The work itself was spread, step after step.
    assert result["where"] == [1] * 4 + [8] * 4


TWO_STEPS = """
    from fgjax.training.augment.geometry_and_light import Augmentation
    from fgjax.training.classifier import Recipe, start, train_step

    def gap(a, b):
        return max(
            float(np.abs(np.asarray(x) - np.asarray(y)).max())
            for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
        )

    def bright_images(side):
        # Devices see brighter and brighter images.
        rng = np.random.default_rng(0)
        images = rng.integers(0, 100, (16, side, side, 3)) + 10 * np.arange(16)[:, None, None, None]
        return images.astype(np.uint8), np.arange(16, dtype=np.int32) % 2

    def two_steps(model, recipe, images, labels, spread):
        # The state after each step, and the losses.
        state, batch = jax.tree.map(jnp.array, start(model, recipe)), (images, labels)
        if spread:
            state, batch = replicate(mesh, state), shard(mesh, batch)
        kind = dict(network=model.network, recipe=recipe, mean=model.mean, std=model.std)
        states, losses = [], []
        for _ in range(2):
            state, loss = jax.block_until_ready(
                train_step(state, *map(jnp.asarray, batch), jax.random.key(0), **kind)
            )
            states.append(jax.tree.map(jnp.array, state))  # the next step takes this one's place
            losses.append(float(loss))
        return states, losses
"""
"""What both trainings need; read in the process that runs them."""


@pytest.mark.slow
def test_training_on_eight_devices_is_training_on_one():
    """The batch statistics are those of the whole batch: each device's own would differ."""
    result = on_eight_devices(
        TWO_STEPS,
        """
        import pathlib, tempfile
        import optax
        from fgjax.models.classifier import create_model
        from fgjax.training.checkpoints import load_tree, save_tree

        model = create_model("resnet_tiny", 2, size=16)
        recipe = Recipe(optax.sgd(0.1), Augmentation(crop=0.5, light=0.2, color=0.2))
        states = [
            two_steps(model, recipe, *bright_images(16), spread)[0][-1] for spread in (False, True)
        ]
        devices = len(jax.tree.leaves(states[1])[0].sharding.device_set)
        path = pathlib.Path(tempfile.mkdtemp()) / "state"
        save_tree(path, states[1])
        loaded = load_tree(path, start(model, recipe))
        result = dict(
            apart=gap(states[0], states[1]),
            moved=gap(states[0].variables, model.variables),
            devices=devices,
            loaded=gap(states[1], loaded),
            loaded_on=len(jax.tree.leaves(loaded)[0].sharding.device_set),
        )
        """,
    )
    assert result["apart"] < 1e-3 and result["moved"] > 0.05
    assert result["devices"] == 8 and result["loaded_on"] == 1 and result["loaded"] == 0


@pytest.mark.slow
def test_region_grouping_on_eight_devices_is_that_on_one():
    """Occurrence is sorted over the whole batch: each device's own would be another loss."""
    result = on_eight_devices(
        TWO_STEPS,
        """
        import optax
        from fgjax.models.classifier import create_model
        from fgjax.training.objectives.part_objective import PartObjective
        from fgjax.training.objectives.part_occurrence import part_occurrence_loss

        images, labels = bright_images(40)
        model = create_model("region_grouping", 2, backbone="resnet_tiny", num_parts=3, size=40)
        objective = PartObjective(weight=1.0, alpha=2e-3, beta=1e-3)
        recipe = Recipe(optax.sgd(0.02), Augmentation(flip=False), method="regions",
                        objective=objective)
        (ones, loss), (many, losses) = (
            two_steps(model, recipe, images, labels, spread) for spread in (False, True)
        )
        q = model.regions(jnp.asarray(images, jnp.float32) / 255).assignment
        own = [float(part_occurrence_loss(q[i : i + 2], 2e-3, 1e-3)) for i in range(0, 16, 2)]
        result = dict(
            apart=gap(ones[0].variables, many[0].variables),
            moved=gap(ones[0].variables, model.variables),
            losses=[loss, losses],
            whole=float(part_occurrence_loss(q, 2e-3, 1e-3)),
            mean_of_devices=float(np.mean(own)),
            devices=len(jax.tree.leaves(many[-1])[0].sharding.device_set),
        )
        """,
    )
    assert result["devices"] == 8 and result["moved"] > 1e-3
    # Relative to how far a step goes; rounding grows with every step.
    assert result["apart"] < 1e-3 * result["moved"], result
    one, many = result["losses"]
    assert many[0] == pytest.approx(one[0], rel=1e-4)
    # The prior's logarithm is steep where a part is nearly absent: it enlarges the rounding.
    assert many[1] == pytest.approx(one[1], rel=1e-2)
    assert abs(result["whole"] - result["mean_of_devices"]) > 1e-2


def test_alone_everything_is_ones_own():
    """What connected processes do together is nothing special for one process."""
    mesh = make_mesh("auto", everywhere=True)
    assert mesh.devices.tolist() == make_mesh("auto").devices.tolist()
    assert own_rows(mesh, 12) == slice(0, 12) and own_part(np.arange(5)).tolist() == [0, 1, 2, 3, 4]
    assert leads() and of_first(7) == 7 and same_everywhere("so")
    np.testing.assert_array_equal(over_processes(np.array([1.5, 2.0])), [1.5, 2.0])
    tree = {"a": jnp.ones(2), "b": 3}
    assert own_copy(tree)["a"] is tree["a"] and own_copy(tree)["b"] == 3
