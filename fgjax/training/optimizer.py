"""What moves the weights: AdamW or SGD, a schedule, and a rate of its own for any module."""

import math
import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util

from fgjax.core.spelling import did_you_mean

HEAD = "classifier"
"""The last linear layer of every network."""


def begins_with(path: str, names: Iterable[str]) -> bool:
    """Return whether a module's path, "blocks_0_1/conv1/kernel", begins with one of `names`.

    The name "backbone" stands for everything but the last linear layer.
    """
    return any(
        path.split("/")[0] != HEAD if name == "backbone" else path.startswith(name)
        for name in names
    )


def check_modules(params: Any, names: Iterable[str]) -> None:
    """Raise ValueError for a name that no module begins with, with the nearest one."""
    modules = list(dict.fromkeys(path[0] for path in traverse_util.flatten_dict(params)))
    for name in names:
        if not any(begins_with("/".join(p), [name]) for p in traverse_util.flatten_dict(params)):
            hint = did_you_mean(name, [*modules, "backbone"])
            raise ValueError(
                f"no module's name begins with {name!r}: backbone, {', '.join(modules)}.{hint}"
            )


def learning_rates(
    steps: int,
    learning_rate: float,
    schedule: Literal["cosine", "steps", "constant"] = "cosine",
    warmup: float = 0.0,
    drops: tuple[float, ...] = (),
) -> optax.Schedule:
    """Return step -> learning rate: a linear rise from 0, then one of three ways down.

    Args:
      steps: how many there are in all.
      schedule: "cosine" falls to 0 at the end; "steps" divides by ten at each of `drops`;
        "constant" stays.
      warmup: share of the steps over which the rate rises.
      drops: shares of the steps, in (0, 1).
    """
    rising = max(1, round(warmup * steps)) if warmup else 0
    if schedule == "cosine":
        after = optax.cosine_decay_schedule(learning_rate, max(1, steps - rising))
    elif schedule == "steps":
        at: dict[int, float] = {}
        for share in drops:  # several may fall on one step
            step = round(share * steps) - rising
            at[step] = at.get(step, 1.0) * 0.1
        after = optax.piecewise_constant_schedule(learning_rate, at)
    else:
        after = optax.constant_schedule(learning_rate)
    if not rising:
        return after
    return optax.join_schedules(
        [optax.linear_schedule(0.0, learning_rate, rising), after], [rising]
    )


def _scale_by_module(rates: tuple[tuple[str, float], ...]) -> optax.GradientTransformation:
    """Multiply every module's update by its rate; of several names the last fitting counts."""

    def scale(updates):
        flat = traverse_util.flatten_dict(updates, sep="/")
        for path, value in flat.items():
            fitting = [rate for name, rate in rates if begins_with(path, [name])]
            if fitting:
                flat[path] = value * fitting[-1]
        return traverse_util.unflatten_dict(flat, sep="/")

    return optax.stateless(lambda updates, params: scale(updates))


FIRST = ("stem", "patches", "cls_token", "reg_token", "pos_embed", "norm_pre", "first")
"""What networks call the modules before their first block."""


def depths(params: Any) -> dict[str, int]:
    """Return how deep each module lies: 0 before the first block, then the blocks in their order,
    and what comes behind them deepest. What lies between two stages counts with the next block."""

    def place(name):
        if name.startswith(FIRST):
            return (-1,)
        numbers = tuple(int(n) for n in re.findall(r"\d+", name))
        # A block has the stage's number and its own; what leads to a stage has the stage's alone.
        return numbers if numbers and not name.startswith(HEAD) else (math.inf,)

    blocks = sorted({place(name) for name in params if name.startswith("blocks_")})
    found = {}
    for name in params:
        here = place(name)
        before = sum(block < here for block in blocks)
        found[name] = 0 if here == (-1,) else before + 1
    return found


def _scale_by_depth(decay: float) -> optax.GradientTransformation:
    """Multiply every module's update by `decay`, once for each block between it and the head."""

    def scale(updates):
        deep = depths(updates)
        last = max(deep.values())
        by = lambda name: lambda update: update * decay ** (last - deep[name])
        return {name: jax.tree.map(by(name), value) for name, value in updates.items()}

    return optax.stateless(lambda updates, params: scale(updates))


def _kernels(params):
    flat = traverse_util.flatten_dict(params)
    return traverse_util.unflatten_dict({path: path[-1] == "kernel" for path in flat})


@lru_cache(maxsize=64)  # one object per setting: a step compiled for it serves every run
def make_optimizer(
    steps: int,
    learning_rate: float,
    *,
    optimizer: Literal["adamw", "sgd"] = "adamw",
    schedule: Literal["cosine", "steps", "constant"] = "cosine",
    warmup: float = 0.0,
    drops: tuple[float, ...] = (),
    weight_decay: float = 0.0,
    adam_eps: float = 1e-8,
    momentum: float = 0.9,
    rates: tuple[tuple[str, float], ...] = (),
    layer_decay: float = 1.0,
    clip: float | None = None,
    decay: Literal["kernels", "all"] = "kernels",
    accumulate: int = 1,
) -> optax.GradientTransformation:
    """AdamW, or SGD with momentum, under a schedule (see `learning_rates`).

    AdamW's decay is decoupled, SGD's is part of the gradient, as in PyTorch.

    Args:
      steps: how often it is called in all.
      decay: which weights decay: kernels, or all.
      rates: (beginning of a module's name, factor of its learning rate) pairs, such as
        (("classifier", 10.0),). "backbone" is everything but the classifier.
      layer_decay: what the rate of a block is, as a share of the next one's (see `depths`).
      clip: the largest norm of all gradients together; larger ones are scaled down to it.
      accumulate: so many calls in a row move the weights once, by the mean of their gradients.
    """
    rate = learning_rates(steps // accumulate, learning_rate, schedule, warmup, drops)
    which = _kernels if decay == "kernels" else None
    if optimizer == "adamw":
        moves = optax.adamw(rate, eps=adam_eps, weight_decay=weight_decay, mask=which)
    else:
        decays = optax.add_decayed_weights(weight_decay, mask=which)
        moves = optax.chain(decays, optax.sgd(rate, momentum=momentum))
    before = [optax.clip_by_global_norm(clip)] if clip else []
    after = [_scale_by_module(rates)] if rates else []
    after += [_scale_by_depth(layer_decay)] if layer_decay != 1 else []
    whole = optax.chain(*before, moves, *after) if before or after else moves
    if accumulate == 1:
        return whole
    return optax.MultiSteps(whole, accumulate).gradient_transformation()


def _change(tree: Any, names: tuple[str, ...], change: Callable) -> Any:
    flat = traverse_util.flatten_dict(tree, sep="/")
    changed = {p: change(v) if begins_with(p, names) else v for p, v in flat.items()}
    return traverse_util.unflatten_dict(changed, sep="/")


def freeze(params: Any, frozen: tuple[str, ...]) -> Any:
    """Return the same weights; those of `frozen` modules get no gradient, and none is computed."""
    return _change(params, frozen, jax.lax.stop_gradient)


def keep(updates: Any, frozen: tuple[str, ...]) -> Any:
    """Return the updates, 0 for `frozen` modules: without a gradient decay would still move
    them."""
    return _change(updates, frozen, jnp.zeros_like)
