"""How FIDO's steps are arranged: coarse to fine, several as one program, no longer than needed.

Against the plain loop, and against SciPy's bilinear enlargement.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from scipy.ndimage import zoom

from fgjax.attribution.fido import loop as fido_loop
from fgjax.attribution.fido.loop import settled
from fgjax.attribution.fido.method import (
    FidoConfig,
    fido,
    fido_preset,
    fido_start,
    fido_step,
)
from fgjax.attribution.fido.step import TRACES, finer
from fgjax.core.functional import partition

SIDE = 8
CONFIG = fido_preset("soft", infill="zeros", steps=7, batch_size=4, learning_rate=10.0, warmup=2)


def linear(weights, images):
    return jnp.einsum("nhwc,hwk->nk", images, weights)


@pytest.fixture
def problem():
    """A model, five images, their targets and keys."""
    rng = np.random.default_rng(0)
    model = Partial(linear, jnp.asarray(rng.normal(size=(SIDE, SIDE, 3)), jnp.float32))
    images = jnp.asarray(rng.random((5, SIDE, SIDE, 3), np.float32))
    return model, images, jnp.asarray([0, 1, 2, 0, 1]), jax.random.split(jax.random.key(0), 5)


def run(problem, config, rows=slice(None)):
    model, images, targets, keys = problem
    return fido(model, images[rows], targets[rows], key=keys[rows], config=config)


def assert_same(result, expected, atol=1e-6):
    for name in expected.maps:
        np.testing.assert_allclose(result.maps[name], expected.maps[name], atol=atol)
    for name in expected.traces:
        np.testing.assert_allclose(result.traces[name], expected.traces[name], rtol=1e-4, atol=1e-4)


# Several steps as one program.


@pytest.mark.parametrize("per", [2, 3, 7, 20])
def test_steps_per_dispatch_changes_nothing(problem, per):
    assert_same(run(problem, replace(CONFIG, steps_per_dispatch=per)), run(problem, CONFIG))


# Coarse to fine.


def test_finer_is_bilinear_for_logits_and_moments():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(2, 2, 4, 4)).astype(np.float32)
    state = fido_start(jnp.asarray(logits), CONFIG)
    moments = jax.tree.map(lambda leaf: leaf + 1.5 if leaf.ndim == 4 else leaf, state.optimizer)
    larger = finer(state._replace(optimizer=moments), 8, 8)
    expected = zoom(logits, (1, 1, 2, 2), order=1, mode="nearest", grid_mode=True)
    np.testing.assert_allclose(larger.logits, expected, atol=1e-6)
    leaves = jax.tree.leaves(larger.optimizer)
    assert [leaf.shape for leaf in leaves] == [(2,), (2, 2, 8, 8), (2, 2, 8, 8)]
    np.testing.assert_allclose(leaves[1], 1.5, atol=1e-6)


def test_coarse_masks_come_first(problem):
    """The first steps are those of a coarse mask alone; then the mask has finer detail."""
    config = replace(CONFIG, coarse_to_fine=(2, 4), steps=6)
    result = run(problem, config)
    coarse = run(problem, replace(CONFIG, mask_size=2, steps=6))
    for name in TRACES:
        both = result.traces[name], coarse.traces[name]
        np.testing.assert_allclose(both[0][:, :2], both[1][:, :2], rtol=1e-4, atol=1e-4)
    assert np.abs(result.traces["l1_ssr"][:, 3:] - coarse.traces["l1_ssr"][:, 3:]).min() > 1e-3
    # What is left when the detail of a 4 x 4 mask is taken away.
    detail = lambda maps: np.abs(maps - zoom(maps[:, 1::2, 1::2], (1, 2, 2), order=0)).mean()
    assert detail(result.maps["ssr"]) > detail(
        run(problem, replace(CONFIG, mask_size=4)).maps["ssr"]
    )


def test_coarse_to_fine_with_a_stop(problem):
    config = replace(CONFIG, coarse_to_fine=(4,), steps=6)
    assert_same(run(problem, replace(config, stop=-1e9)), run(problem, config))


def test_a_falling_rate(problem):
    """Steps of plain descent, against the cosine's own values."""
    model, images, targets, keys = problem
    arrays, static = partition(model)
    falling = replace(CONFIG, optimizer="sgd", schedule="cosine", steps=10)
    constant = replace(falling, schedule="constant")
    start = jnp.zeros((5, 2, SIDE, SIDE))
    state = fido_start(start, falling)
    for step in range(10):
        before = jnp.array(state.logits)
        plain = fido_start(jnp.array(before), constant)._replace(step=jnp.full(5, step, jnp.int32))
        state, _ = fido_step(state, arrays, static, images, images * 0, targets, keys, falling)
        plain, _ = fido_step(plain, arrays, static, images, images * 0, targets, keys, constant)
        factor = 0.5 * (1 + np.cos(np.pi * step / 10))
        moved = np.asarray(plain.logits - before) * factor
        np.testing.assert_allclose(state.logits - before, moved, rtol=1e-3, atol=1e-6)


# No longer than needed.


def objective(values):
    trace = np.zeros((len(values), len(TRACES)), np.float32)
    trace[:, TRACES.index("loss_ssr")] = np.asarray(values) - 3
    trace[:, TRACES.index("loss_sdr")] = 3
    return trace


def test_settled_compares_five_steps_with_the_five_before():
    config = fido_preset("soft", warmup=2, stop=1.0)
    falling = 100 - 0.3 * np.arange(20)  # gains 1.5 in five steps
    assert not settled(objective(falling), config)
    assert settled(objective(falling / 2), config)
    assert not settled(objective(np.zeros(11)), config), "the prices still rise"
    assert settled(objective(np.zeros(12)), config)
    assert settled(objective(np.full(12, np.nan)), config)


@pytest.mark.parametrize("slots", [1, 2, 3, 5, 9])
def test_an_image_stops_as_if_it_were_alone(problem, slots):
    """Whatever is beside it, and in whichever slot it is."""
    config = replace(CONFIG, steps=40, stop=11.0, images_per_step=slots)
    result = run(problem, config)
    taken = np.asarray(result.traces["running"]).sum(1).astype(int)
    assert len(set(taken.tolist())) > 1, "they stop at different steps"
    for i, steps in enumerate(taken):
        alone = run(problem, replace(CONFIG, steps=int(steps)), slice(i, i + 1))
        for name in alone.maps:
            np.testing.assert_allclose(result.maps[name][i], alone.maps[name][0], atol=1e-5)
        for name in TRACES:
            trace = np.asarray(result.traces[name][i])
            np.testing.assert_allclose(trace[:steps], alone.traces[name][0], rtol=1e-3, atol=1e-3)
            assert (trace[steps:] == trace[steps - 1]).all()


@pytest.mark.parametrize("per", [1, 4])
def test_steps_that_are_sent_ahead_change_nothing(problem, monkeypatch, per):
    """On an accelerator the next call is sent before the traces of the last one are read."""
    config = replace(CONFIG, steps=40, stop=11.0, images_per_step=2, steps_per_dispatch=per)
    expected = run(problem, config)
    monkeypatch.setattr(fido_loop, "calls_at_a_time", lambda *trees: 2)
    found = jax.tree.leaves(run(problem, config))
    for ours, theirs in zip(found, jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_steps_that_are_saved_are_not_computed(problem, monkeypatch):
    calls = []
    step = fido_loop.fido_step
    monkeypatch.setattr(fido_loop, "fido_step", lambda *a: calls.append(len(a[3])) or step(*a))
    result = run(problem, replace(CONFIG, steps=60, stop=1e9, images_per_step=2))
    assert np.asarray(result.traces["running"]).sum(1).tolist() == [12.0] * 5
    assert calls == [2] * 36, "two slots: three turns of 12 steps for five images"


def test_without_a_stop_nothing_stops(problem):
    config = replace(CONFIG, steps=20)
    result = run(problem, replace(config, stop=-1e9))
    assert_same(result, run(problem, config))
    assert (np.asarray(result.traces["running"]) == 1).all()
    assert "running" not in run(problem, config).traces


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(coarse_to_fine=(14, 14)), "larger than the one before"),
        (dict(coarse_to_fine=(56, 14)), "larger than the one before"),
        (dict(coarse_to_fine=(14,), mask_size=14), "smaller than mask_size"),
        (dict(coarse_to_fine=(0,)), "coarse_to_fine"),
        (dict(coarse_to_fine=(1, 2, 3), steps=3), "each of 4 mask sizes"),
        (dict(steps_per_dispatch=0), "steps_per_dispatch=0"),
        (dict(stop=float("nan")), "stop=nan"),
        (dict(schedule="linear"), "schedule='linear'"),
    ],
)
def test_what_is_refused(changes, message, untyped):
    with pytest.raises(ValueError, match=message):
        FidoConfig(**changes)
