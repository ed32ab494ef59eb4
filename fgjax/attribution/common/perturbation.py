"""What the methods that perturb images and watch the score have in common.

A method of this family needs no gradient and no feature map: it asks the model for a score of
perturbed copies of an image. So the model may return anything, where the user brings the
function that reads a score from it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from fgjax.attribution.common.inputs import (
    check_classes,
    check_images,
    check_inputs,
    class_targets,
)
from fgjax.attribution.common.streaming import choose_chunk, chunks, plan
from fgjax.core.floor import FLOOR, is_flat, sizes
from fgjax.core.functional import Static, combine, partition
from fgjax.core.scores import log_odds, undefined_with
from fgjax.core.spelling import did_you_mean
from fgjax.devices.forward import output_shape
from fgjax.devices.in_flight import InFlight, calls_at_a_time
from fgjax.devices.jit import program

Score = str | Callable[[Any, Any], Array]
"""A name in `CLASS_SCORES`, or a function `(outputs, targets) -> n`: `outputs` is whatever the
model returns for n images, `targets` whatever the user gave, one for each of them. Give the same
function object again: another one is another program."""


def _chosen(values, targets):
    return jnp.take_along_axis(values, targets[:, None], axis=1)[:, 0]


CLASS_SCORES: dict[str, Callable] = {
    "probability": lambda logits, targets: undefined_with(
        _chosen(jax.nn.softmax(logits), targets), logits
    ),
    "log_probability": lambda logits, targets: undefined_with(
        _chosen(jax.nn.log_softmax(logits), targets), logits
    ),
    "log_odds": log_odds,
    "logit": _chosen,
    "sigmoid": lambda logits, targets: jax.nn.sigmoid(_chosen(logits, targets)),
}
"""Scores of a class by name, each `(logits n k, targets n) -> n`."""


def check_score(score: Score) -> None:
    """Raise ValueError for an unknown name, with the nearest known one."""
    if isinstance(score, str) and score not in CLASS_SCORES:
        hint = did_you_mean(score, CLASS_SCORES)
        raise ValueError(
            f"score={score!r}: one of {', '.join(CLASS_SCORES)}, or a function "
            f"(outputs, targets) -> n.{hint}"
        )


def check_at_least_one(config: Any, *names: str) -> None:
    """Raise ValueError where a setting is below 1; None is let pass."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")


def check_choice(config: Any, name: str, known: tuple[str, ...]) -> None:
    """Raise ValueError where a setting is none of the `known`."""
    value = getattr(config, name)
    if value not in known:
        hint = did_you_mean(str(value), known)
        raise ValueError(f"{name}={value!r}: one of {', '.join(known)}.{hint}")


@dataclass(frozen=True)
class Question:
    """What is asked: how much each of these images shows its target to this model."""

    arrays: tuple[Any, ...]
    static: Static
    images: Float[Array, "n ... c"]
    targets: Any
    score: Score

    def chunk_size(self, given: int | None) -> int:
        """Return perturbed images per model call: as given, else chosen (`choose_chunk`)."""
        return given or choose_chunk(self.arrays, self.static, self.images, backward=False)

    def at(self, index: Any) -> "Question":
        """Return the same for some of the images."""
        take = lambda a: a[index]
        targets = jax.tree.map(take, self.targets)
        return Question(self.arrays, self.static, self.images[index], targets, self.score)


def ask(model: Any, images: Any, targets: Any, score: Score, *, volumes: bool = False) -> Question:
    """Check model, images, targets and score against each other.

    Args:
      score: with a name, `targets` are class indices and the model returns logits; with a
        function, `targets` are arrays (any pytree of them) with one row per image.
      volumes: `images` are `n d h w c` of any range, not RGB in [0, 1].

    Raises:
      ValueError: what does not fit, in the user's words.
    """
    images = jnp.asarray(images, jnp.float32)
    arrays, static = partition(model)
    if volumes:
        if images.ndim != 5 or len(images) == 0:
            raise ValueError(f"volumes must be n d h w c with n > 0; got shape {images.shape}")
        if not bool(jnp.isfinite(images).all()):
            raise ValueError("the volumes hold NaN or infinity")
    if not callable(score):
        targets = class_targets(targets)
        if volumes:
            check_classes(arrays, static, images, targets, "volume")
        else:
            check_inputs(arrays, static, images, targets)
        return Question(arrays, static, images, targets, score)
    if not volumes:
        check_images(images)
    targets = jax.tree.map(jnp.asarray, targets)
    rows = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(targets)}
    if rows - {images.shape[:1]}:
        raise ValueError(
            f"one row of targets per image: {len(images)} images, and targets with "
            f"{', '.join(str(r[0]) if r else 'no' for r in sorted(rows))} rows"
        )
    outputs = output_shape(arrays, static, images)
    made = jax.eval_shape(score, outputs, targets)
    shape = getattr(made, "shape", made)
    if shape != images.shape[:1]:
        raise ValueError(
            f"the score function must return one number per image, shape {images.shape[:1]}; "
            f"it returned {shape}"
        )
    return Question(arrays, static, images, targets, score)


def score_perturbed(
    arrays: tuple, static: Static, perturbed: Float[Array, "g m ..."], targets: Any, score: Score
) -> Float[Array, "g m"]:
    """Return the scores of m perturbed copies of each of g images; to be called inside `jit`."""
    g, m = perturbed.shape[:2]
    outputs = combine(arrays, static)(perturbed.reshape(g * m, *perturbed.shape[2:]))
    repeated = jax.tree.map(lambda a: jnp.repeat(a, m, axis=0), targets)
    if not callable(score):
        outputs, score = outputs.astype(jnp.float32), CLASS_SCORES[score]
    return score(outputs, repeated).astype(jnp.float32).reshape(g, m)


@program("explain", static_argnames=("static", "score", "perturb"))
def _scores(arrays, static, images, targets, own, shared, index, score, perturb):
    perturbed = perturb(images, own, shared, index)
    return score_perturbed(arrays, static, perturbed, targets, score)


def perturbed_scores(
    question: Question,
    perturb: Callable[..., Array],
    count: int,
    *,
    own: Any = (),
    shared: Any = (),
    chunk_size: int | None = None,
) -> Float[Array, "n count"]:
    """Return the score of every image under every one of `count` perturbations.

    Args:
      perturb: `(images g …, own, shared, index m) -> g m …`: the images under the
        perturbations with these indices. Static: give a function of a module, not a lambda.
      own: arrays with a row per image (any pytree), handed to `perturb` for its images.
      shared: arrays handed to `perturb` as they are.
      chunk_size: perturbed images per model call; None: see `choose_chunk`.
    """
    n = len(question.images)
    shape = plan(n, count, question.chunk_size(chunk_size))
    sent = InFlight(calls_at_a_time(question.images, question.arrays))
    # Joined on the device, so that Python waits for no call; and by a program that is made for
    # these sizes, not for each number of calls.
    every = jnp.zeros([-(-k // each) * each for k, each in zip((n, count), shape, strict=True)])
    for group in chunks(n, shape.images):
        part = question.at(group.index)
        mine = jax.tree.map(lambda a, index=group.index: a[index], own)
        for chunk in chunks(count, shape.perturbations):
            scores = _scores(
                part.arrays,
                part.static,
                part.images,
                part.targets,
                mine,
                shared,
                chunk.index,
                part.score,
                perturb,
            )
            every = _put(every, scores, group.start, chunk.start)
            sent.add(scores)
    return every if every.shape == (n, count) else every[:n, :count]


@partial(jax.jit, donate_argnames="every")
def _put(every, scores, row, column):
    return jax.lax.dynamic_update_slice(every, scores, (row, column))


@jax.jit
def scale_to_unit(
    maps: Float[Array, "n ..."], silent: Bool[Array, "n"] | None = None
) -> Float[Array, "n ..."]:
    """(map - min) / (max - min), each map by itself.

    A map whose spread is none but rounding (`fgjax.core.floor`) becomes zero everywhere, and so
    does one that is `silent`: made of scores that say nothing. One with a NaN or an infinity
    becomes NaN everywhere.
    """
    axes = tuple(range(1, maps.ndim))
    low, high = maps.min(axes, keepdims=True), maps.max(axes, keepdims=True)
    spread = high - low
    flat = _as_wide(_or(is_flat(maps), silent), maps)
    scaled = jnp.where(flat, 0, (maps - low) / jnp.where(spread == 0, 1, spread))
    return jnp.where(jnp.isfinite(spread), scaled, jnp.nan)


@jax.jit
def positive_part(
    maps: Float[Array, "n ..."], silent: Bool[Array, "n"] | None = None
) -> Float[Array, "n ..."]:
    """max(map, 0) / max(map): evidence for, the strongest at 1, none at 0.

    A map that is nowhere positive but for rounding (its highest value at most `FLOOR` of its size,
    see `fgjax.core.floor`) becomes zero, and so does one that is `silent`: made of scores that say
    nothing. One with a NaN or an infinity becomes NaN everywhere.
    """
    axes = tuple(range(1, maps.ndim))
    high = maps.max(axes, keepdims=True)
    none = high <= FLOOR * _as_wide(sizes(maps), maps)
    none = none | _as_wide(_or(jnp.zeros(len(maps), bool), silent), maps)
    scaled = jnp.where(none, 0, jnp.maximum(maps, 0) / jnp.where(high > 0, high, 1))
    finite = jnp.isfinite(maps).all(axes, keepdims=True)
    return jnp.where(finite, scaled, jnp.nan)


def _or(flat, silent):
    return flat if silent is None else flat | silent


def _as_wide(values, maps):
    return values.reshape(-1, *(1 for _ in maps.shape[1:]))


@jax.jit
def spread_of(scores: Float[Array, "n m"]) -> Float[Array, "n 1"]:
    """Return how far each image's scores lie apart, as a share of the largest: the trace "spread"
    of the methods that perturb. At most `FLOOR` of `fgjax.core.floor`: they say nothing."""
    size = sizes(scores)
    spread = scores.max(1) - scores.min(1)
    return jnp.where(size == 0, 0, spread / jnp.where(size == 0, 1, size))[:, None]
