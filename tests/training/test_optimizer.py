"""Schedules by hand, updates against PyTorch's rules written out, rates per module."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fgjax.training.optimizer import (
    begins_with,
    check_modules,
    depths,
    freeze,
    keep,
    learning_rates,
    make_optimizer,
)

PARAMS = {
    "stem": {"kernel": jnp.ones(2)},
    "blocks_0_0": {"conv1": {"kernel": jnp.ones(2)}, "norm1": {"norm": {"scale": jnp.ones(2)}}},
    "classifier": {"kernel": jnp.ones(2), "bias": jnp.ones(2)},
}


def moves(optimizer, gradients, params=PARAMS):
    """The weights after each of the gradients, which every weight gets alike."""
    state, seen = optimizer.init(params), []
    update = jax.jit(optimizer.update)
    for g in gradients:
        with jax.numpy_dtype_promotion("standard"):  # optax's own sums need it
            same = jax.tree.map(lambda p, g=g: jnp.full_like(p, g), params)
            updates, state = update(same, state, params)
            params = jax.tree.map(jnp.add, params, updates)
        seen.append(jax.tree.map(lambda p: float(p[0]), params))
    return seen


def test_optimizer_warms_up_cools_down_and_decays_kernels_alone():
    optimizer = make_optimizer(10, 0.5, warmup=0.2, weight_decay=0.1)
    params = {"layer": {"kernel": jnp.ones(2), "bias": jnp.ones(2)}}
    state = optimizer.init(params)
    still = jax.tree.map(jnp.zeros_like, params)
    update = jax.jit(optimizer.update)
    moves = []
    for _ in range(11):
        with jax.numpy_dtype_promotion("standard"):  # optax's own sums need it
            updates, state = update(still, state, params)
        np.testing.assert_array_equal(updates["layer"]["bias"], 0)
        moves.append(-float(updates["layer"]["kernel"][0]) / 0.1)
    # Without a gradient only the decay is left: rate times 0.1 times 1.
    rising, falling = [0, 0.25], [0.25 * (1 + np.cos(np.pi * i / 8)) for i in range(9)]
    np.testing.assert_allclose(moves, rising + falling, atol=1e-6)


def test_all_weights_decay_where_that_is_wanted():
    still = [0.0]
    for optimizer in ("sgd", "adamw"):
        settings = dict(optimizer=optimizer, schedule="constant", weight_decay=0.1)
        (kernels,) = moves(make_optimizer(10, 0.5, **settings), still)
        (every,) = moves(make_optimizer(10, 0.5, **settings, decay="all"), still)
        scale = lambda tree: tree["blocks_0_0"]["norm1"]["norm"]["scale"]
        assert (scale(kernels), kernels["classifier"]["bias"]) == (1, 1)
        assert scale(every) == every["classifier"]["bias"] == pytest.approx(0.95)
        assert kernels["stem"]["kernel"] == every["stem"]["kernel"] == pytest.approx(0.95)


def test_drops_that_fall_on_one_step_all_count():
    rate = learning_rates(4, 2.0, "steps", 0.0, (0.5, 0.55))
    assert [round(float(rate(i)), 6) for i in (1, 3)] == [2, 0.02]


@pytest.mark.parametrize("warmup", [0.0, 0.1])
def test_steps_divide_by_ten(warmup):
    rate = learning_rates(100, 2.0, "steps", warmup, (0.4, 0.8))
    assert [round(float(rate(i)), 6) for i in (15, 39, 41, 79, 81, 99)] == [
        2,
        2,
        0.2,
        0.2,
        0.02,
        0.02,
    ]
    assert float(rate(5)) == pytest.approx(1.0 if warmup else 2.0)


def test_cosine_without_warmup_and_constant():
    rate = learning_rates(10, 2.0)
    expected = [1 + np.cos(np.pi * i / 10) for i in range(11)]
    np.testing.assert_allclose([rate(i) for i in range(11)], expected, atol=1e-6)
    rate = learning_rates(10, 2.0, "constant", 0.2)
    np.testing.assert_allclose([rate(i) for i in (0, 1, 2, 9)], [0, 1, 2, 2])


def test_sgd_is_pytorchs():
    """v = 0.9 v + (g + decay w), w = w - rate v; no decay on a bias."""
    optimizer = make_optimizer(
        10, 0.1, optimizer="sgd", schedule="constant", weight_decay=0.5, momentum=0.9
    )
    gradients, w, b, v, u = [0.3, -0.2, 0.5], 1.0, 1.0, 0.0, 0.0
    for g, seen in zip(gradients, moves(optimizer, gradients), strict=True):
        v, u = 0.9 * v + g + 0.5 * w, 0.9 * u + g
        w, b = w - 0.1 * v, b - 0.1 * u
        assert seen["classifier"]["kernel"] == pytest.approx(w, abs=1e-6)
        assert seen["classifier"]["bias"] == pytest.approx(b, abs=1e-6)


def test_adamw_is_pytorchs():
    optimizer = make_optimizer(10, 0.1, schedule="constant", weight_decay=0.5, adam_eps=0.1)
    gradients, w, m, v = [0.3, -0.2, 0.5], 1.0, 0.0, 0.0
    for t, (g, seen) in enumerate(zip(gradients, moves(optimizer, gradients), strict=True), 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        step = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 0.1)
        w = w - 0.1 * 0.5 * w - 0.1 * step
        assert seen["stem"]["kernel"] == pytest.approx(w, rel=1e-4)


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_a_rate_of_its_own_is_a_learning_rate_of_its_own(kind):
    settings = dict(optimizer=kind, schedule="constant", weight_decay=0.2)
    plain = {rate: make_optimizer(10, rate, **settings) for rate in (0.1, 0.01, 1.0)}
    rates = (("backbone", 0.1), ("classifier", 10.0), ("stem", 1.0))
    grouped = moves(make_optimizer(10, 0.1, rates=rates, **settings), [0.3, -0.2])
    for module, rate in {"stem": 0.1, "blocks_0_0": 0.01, "classifier": 1.0}.items():
        expected = moves(plain[rate], [0.3, -0.2])
        assert [jax.tree.leaves(s[module]) for s in grouped] == [
            pytest.approx(jax.tree.leaves(s[module]), rel=1e-5) for s in expected
        ]


def test_a_block_is_slower_than_the_next_one():
    names = ["stem", "blocks_0_0", "blocks_0_1", "shrinks_1", "blocks_1_0", "blocks_1_10",
             "norm", "classifier"]  # fmt: skip
    params = {name: {"kernel": jnp.ones(2)} for name in reversed(names)}
    assert [depths(params)[name] for name in names] == [0, 1, 2, 3, 3, 4, 5, 5]
    plain = dict(optimizer="sgd", momentum=0.0, schedule="constant")
    (moved,) = moves(make_optimizer(10, 0.1, **plain, layer_decay=0.5), [1.0], params)
    factors = [(1 - moved[name]["kernel"]) / 0.1 for name in names]
    expected = [1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 4, 1 / 2, 1, 1]
    assert factors == pytest.approx(expected, rel=1e-4)


def test_depths_of_a_transformer():
    names = ["cls_token", "pos_embed", "patches", "blocks_0", "blocks_2", "blocks_10", "norm"]
    assert list(depths(dict.fromkeys(names)).values()) == [0, 0, 0, 1, 2, 3, 4]


def test_large_gradients_are_scaled_down_together():
    optimizer = make_optimizer(
        10, 1.0, optimizer="sgd", momentum=0.0, schedule="constant", clip=1.0
    )
    params = {"a": {"kernel": jnp.zeros(2)}, "b": {"bias": jnp.zeros(2)}}
    large, small = moves(optimizer, [3.0, -0.1], params)
    assert large["a"]["kernel"] == pytest.approx(-0.5) == large["b"]["bias"]  # norm 6 of four
    assert small["a"]["kernel"] == pytest.approx(-0.4)  # 0.2 is below: as it is


def test_gradients_of_several_calls_move_the_weights_once():
    """By their mean; also where that is clipped, and under a schedule in moves, not calls."""
    settings = dict(weight_decay=0.1, clip=0.5, warmup=0.5)
    gradients = [0.3, -0.1, 0.5, 0.2, 0.4, 0.0]
    several = moves(make_optimizer(6, 0.1, accumulate=2, **settings), gradients)
    once = moves(make_optimizer(3, 0.1, **settings), [0.1, 0.35, 0.2])
    for after, (odd, even) in zip(once, zip(several[::2], several[1::2])):
        assert jax.tree.leaves(even) == pytest.approx(jax.tree.leaves(after), rel=1e-6)
        assert odd != even or after is once[0]  # the first move has the rate 0
    assert several[2] == several[1] and several[4] == several[3]


def test_equal_settings_are_one_object():
    assert make_optimizer(10, 0.1, drops=(0.5,)) is make_optimizer(10, 0.1, drops=(0.5,))


def test_names_of_modules():
    assert begins_with("blocks_0_1/conv1/kernel", ["stem", "blocks_0"])
    assert not begins_with("blocks_1_0/conv1/kernel", ["stem", "blocks_0"])
    assert begins_with("stem/kernel", ["backbone"])
    assert not begins_with("classifier/bias", ["backbone"])
    check_modules(PARAMS, ["stem", "blocks_0", "backbone", "classifier"])
    with pytest.raises(ValueError, match=r"'clasifier'.*Did you mean classifier\?"):
        check_modules(PARAMS, ["clasifier"])


def test_frozen_weights_get_no_gradient_and_no_update():
    def loss(params):
        return sum(jnp.sum(p**2) for p in jax.tree.leaves(freeze(params, ("stem",))))

    gradient = jax.grad(loss)(PARAMS)
    assert gradient["stem"]["kernel"].tolist() == [0, 0]
    assert gradient["classifier"]["kernel"].tolist() == [2, 2]
    kept = keep(PARAMS, ("stem",))
    assert kept["stem"]["kernel"].tolist() == [0, 0] and kept["classifier"]["bias"].tolist() == [
        1,
        1,
    ]
