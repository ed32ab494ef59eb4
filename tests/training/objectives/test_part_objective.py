"""What region grouping minimises, against NumPy; and which statistics a folded trunk keeps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict
from scipy.special import expit, log_softmax

import fgjax
from fgjax.models.composed.region_grouping import Regions
from fgjax.training.augment.geometry_and_light import Augmentation
from fgjax.training.classifier import Recipe, measure, start, train_step
from fgjax.training.objectives.losses import binary_cross_entropy
from fgjax.training.objectives.part_objective import PartObjective
from fgjax.training.objectives.part_occurrence import part_occurrence_loss

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(4, 3)).astype(np.float32)
Q = RNG.dirichlet(np.ones(2), (4, 6, 6)).astype(np.float32)
REGIONS = Regions(
    jnp.asarray(LOGITS), jnp.asarray(Q), jnp.full((4, 2), 0.5), jnp.asarray(Q[..., 0])
)


def test_classes():
    labels = np.array([0, 2, 1, 1], np.int32)
    objective = PartObjective(0.5, 2e-3, 1e-3, radius=1, std=0.7, smoothing=0.1)
    log_p = log_softmax(LOGITS.astype(np.float64), axis=1)
    wanted = -(0.9 * log_p[np.arange(4), labels] + 0.1 * log_p.mean(1)).mean()
    prior = float(part_occurrence_loss(REGIONS.assignment, 2e-3, 1e-3, radius=1, std=0.7))
    found = objective(REGIONS, jnp.asarray(labels))
    np.testing.assert_allclose(found, wanted + 0.5 * prior, rtol=1e-5)
    # Without it, maps smaller than its window will do.
    small = REGIONS._replace(assignment=REGIONS.assignment[:, :2, :2])
    plain = PartObjective(0.0, smoothing=0.1)(small, jnp.asarray(labels))
    np.testing.assert_allclose(plain, wanted, rtol=1e-5)


def test_attributes():
    labels = RNG.integers(0, 2, (4, 3)).astype(np.int32)
    p = expit(LOGITS.astype(np.float64))
    wanted = -np.log(np.where(labels == 1, p, 1 - p)).mean(1)
    found = binary_cross_entropy(jnp.asarray(LOGITS), jnp.asarray(labels))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    whole = PartObjective(0.0)(REGIONS, jnp.asarray(labels))
    np.testing.assert_allclose(whole, wanted.mean(), rtol=1e-5)
    huge = binary_cross_entropy(jnp.full((1, 2), 1e4), jnp.asarray([[1, 0]], jnp.int32))
    np.testing.assert_allclose(huge, [5e3])  # log(1 - p) would be log 0


@pytest.fixture(scope="module")
def model():
    return fgjax.create_model(
        "region_grouping", 2, backbone="toys:MICRO", num_parts=2, size=16, attributes=True
    )


@pytest.mark.slow
def test_validation_of_attributes_is_their_mean(model):
    images = RNG.integers(0, 255, (5, 16, 16, 3)).astype(np.uint8)
    labels = RNG.integers(0, 2, (5, 2)).astype(np.int32)
    batches = ((images[i : i + 2], labels[i : i + 2]) for i in (0, 2, 4))
    loss, accuracy = measure(model, batches, 2)
    call = jax.jit(lambda m, x: m(x))
    logits = np.asarray(call(model, images.astype(np.float32) / 255))
    np.testing.assert_allclose(accuracy, ((logits > 0) == (labels > 0)).mean(), atol=1e-6)
    p = expit(logits.astype(np.float64))
    np.testing.assert_allclose(loss, -np.log(np.where(labels == 1, p, 1 - p)).mean(), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("fixed", [("trunk",), ("",)])
def test_fixed_statistics_of_the_trunk_only(model, fixed):
    """New layers must learn theirs, or they would be normalised by nothing."""
    recipe = Recipe(
        optax.sgd(0.1), Augmentation(), batch_norm="fixed", fixed=fixed,
        method="regions", objective=PartObjective(0.5),
    )  # fmt: skip
    images = RNG.integers(0, 255, (4, 16, 16, 3)).astype(np.uint8)
    state, loss = train_step(
        jax.tree.map(jnp.array, start(model, recipe)), jnp.asarray(images),
        jnp.asarray(RNG.integers(0, 2, (4, 2)), jnp.int32), jax.random.key(0),
        network=model.network, mean=model.mean, std=model.std, recipe=recipe,
    )  # fmt: skip
    assert np.isfinite(loss)
    before = flatten_dict(model.variables["batch_stats"], sep="/")
    after = flatten_dict(state.variables["batch_stats"], sep="/")
    moved = {path.split("/")[0] for path in before if (before[path] != after[path]).any()}
    assert moved == ({"post", "classifier"} if fixed == ("trunk",) else set())
    params = flatten_dict(state.variables["params"], sep="/")
    dictionary = model.variables["params"]["grouping"]["dictionary"]
    assert (params["grouping/dictionary"] != dictionary).any()
