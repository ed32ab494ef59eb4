"""FIDO's steps over many images: from coarse masks to fine, and no longer than an image needs.

Steps are driven from Python: XLA's CPU backend is slow on convolutions inside a scan. With
`steps_per_dispatch` several are one program, for a device that waits for its next program.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from fgjax.attribution.common.scores import SCORES
from fgjax.attribution.common.streaming import even
from fgjax.attribution.fido.config import FidoConfig
from fgjax.attribution.fido.step import (
    TRACES,
    FidoState,
    enough_score,
    fido_start,
    fido_step,
    finer,
)
from fgjax.devices.forward import forward
from fgjax.devices.in_flight import calls_at_a_time

WINDOW = 5
"""Steps whose mean objective is compared with that of as many before them."""


@dataclass(frozen=True)
class Task:
    """What the steps of some images need: the model in two parts, and a row per image."""

    arrays: tuple
    static: Any
    images: Float[Array, "n h w c"]
    infill: Float[Array, "n h w c"]
    targets: Int[Array, "n"]
    keys: Key[Array, "n"]

    def rows(self, index: Int[np.ndarray, "m"]) -> "Task":
        """Return the same for some of the images."""
        names = ("images", "infill", "targets", "keys")
        return replace(self, **{name: getattr(self, name)[index] for name in names})


def annealing(config: FidoConfig) -> bool:
    """Return whether temperature, sharpness or smoothing change on the way."""
    moves = lambda start, end: end is not None and end != start
    smoothing = config.smoothing and moves(config.smoothing, config.smoothing_end)
    temperature = moves(config.temperature, config.temperature_end)
    return bool(smoothing or temperature or config.sharpness != 1)


def timed(config: FidoConfig) -> bool:
    """Return whether a step must know how many there are."""
    return config.schedule == "cosine" or annealing(config) or config.price_rate > 0


def step_config(config: FidoConfig) -> FidoConfig:
    """Return what a step knows of the settings: another number of steps, say, is no other
    program."""
    return replace(
        config, infill="blur", steps=config.steps if timed(config) else 1,
        images_per_step=None, steps_per_dispatch=None, stop=None, mask_size=None,
        coarse_to_fine=(),
    )  # fmt: skip


def optimise(
    task: Task, config: FidoConfig, slots: int
) -> tuple[Float[Array, "n 2 mh mw"], Float[Array, "n steps 8"], Int[np.ndarray, "n"]]:
    """Return every image's masks, at most `slots` images at a time.

    Returns:
      the mask logits; the columns of `TRACES` at each step, an image that stopped early repeating
      its last row; and how many steps each image took.
    """
    *coarse, (side, count) = _stages(config, *task.images.shape[1:3])
    states, ends = [], []
    traces: list[Any] = []
    for rows, left in _chunks(task, slots):
        state, parts = _start(rows, coarse[0][0] if coarse else side, config), []
        for mask_side, steps in coarse:
            state, seen = _run(rows, finer(state, *mask_side), config, steps)
            parts.append(seen)
        state = finer(state, *side)
        if config.stop is None:
            state, seen = _run(rows, state, config, count)
            parts.append(seen)
            ends.append(state.logits[:left])
        else:
            states.append(jax.tree.map(lambda leaf, left=left: leaf[:left], state))
        traces.append(jnp.concatenate(parts, 1)[:left] if parts else None)
    images = len(task.targets)
    if config.stop is None:
        whole = jnp.concatenate(traces)
        return jnp.concatenate(ends), whole, np.full(images, config.steps)
    state = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *states)
    logits, trace, taken = _until_settled(task, state, config, count, min(slots, images))
    if coarse:
        trace = jnp.concatenate([jnp.concatenate(traces), trace], 1)
    return logits, trace, config.steps - count + taken


def _stages(config: FidoConfig, height: int, width: int) -> list[tuple[tuple[int, int], int]]:
    """Return sides of the masks, and for how many steps: equal shares."""
    last = (config.mask_size, config.mask_size) if config.mask_size else (height, width)
    sides = [*((side, side) for side in config.coarse_to_fine), last]
    shares = np.array_split(np.arange(config.steps), len(sides))
    return [(side, len(share)) for side, share in zip(sides, shares, strict=True)]


def _chunks(task: Task, size: int) -> Iterator[tuple[Task, int]]:
    """Yield at most `size` images at a time, evenly: one program serves all, and little is filled
    up (with the last image)."""
    images = len(task.targets)
    size = even(images, size)
    for start in range(0, images, size):
        yield task.rows(np.minimum(np.arange(start, start + size), images - 1)), images - start


def _start(rows: Task, side: tuple[int, int], config: FidoConfig) -> FidoState:
    images, enough = len(rows.targets), None
    if config.kept_margin is not None or config.deleted_margin is not None:
        both = jnp.concatenate([rows.images, rows.infill])  # of one image alone a CPU is slow
        outputs = forward(rows.arrays, rows.static, both).astype(jnp.float32)
        scores = SCORES[config.score](outputs, jnp.tile(rows.targets, 2))
        enough = enough_score(scores[:images], scores[images:], config)
    logit = float(np.log(config.initial / (1 - config.initial)))
    signs = jnp.asarray([-1, 1], jnp.float32)[None, :, None, None]  # as in `importance`
    logits = jnp.array(jnp.broadcast_to(logit * signs, (images, 2, *side)))
    return fido_start(logits, step_config(config), enough)


def _run(
    task: Task, state: FidoState, config: FidoConfig, steps: int
) -> tuple[FidoState, Float[Array, "n steps 8"]]:
    """So many steps, `steps_per_dispatch` of them as one program. The state is donated."""
    known, traces = step_config(config), []
    rest = (task.arrays, task.static, task.images, task.infill, task.targets, task.keys, known)
    per = config.steps_per_dispatch or 1
    for start in range(0, steps, per):
        state, trace = fido_step(state, *rest, min(per, steps - start))
        traces.append(trace)
    return state, jnp.concatenate(traces, 1)


def _until_settled(
    task: Task, waiting: FidoState, config: FidoConfig, steps: int, slots: int
) -> tuple[Float[Array, "n 2 mh mw"], Float[Array, "n steps 8"], Int[np.ndarray, "n"]]:
    """At most so many steps each. When an image has settled, the next one takes its slot, so
    that the steps saved are time saved.

    On an accelerator the next call is sent before the traces of the last one are looked at: an
    image that turns out to have settled then took steps in vain, which count for nothing.
    """
    images, ahead = len(task.targets), calls_at_a_time(task.images, task.arrays) - 1
    traces, taken = np.zeros((images, steps, len(TRACES)), np.float32), np.zeros(images, int)
    place, following = np.arange(slots), slots  # the image in each slot; the next to come
    running, sent = np.ones(slots, bool), np.zeros(images, int)  # steps, `taken` once looked at
    state, rows = jax.tree.map(lambda leaf: leaf[place], waiting), task.rows(place)
    done: list[Any] = [None] * images
    calls: deque[_Call] = deque()
    while running.any():
        if left := steps - sent[place[running]].max():
            count = int(min(config.steps_per_dispatch or 1, left))
            state, trace = _run(rows, state, config, count)
            sent[place[running]] += count
            # The next call is given the state, and overwrites it.
            logits = jnp.array(state.logits) if ahead else state.logits
            calls.append(_Call(trace, logits, place.copy(), np.flatnonzero(running), count))
            if len(calls) <= ahead:
                continue
        call, moved = calls.popleft(), False
        told = np.asarray(call.trace)
        for slot in call.slots:
            image = call.place[slot]
            if done[image] is not None:  # settled a call before
                continue
            traces[image, taken[image] : taken[image] + call.steps] = told[slot]
            taken[image] += call.steps
            seen = traces[image, : taken[image]]
            if taken[image] < steps and not settled(seen, config):
                continue
            traces[image, taken[image] :] = seen[-1]
            done[image] = call.logits[slot]
            if following < images:
                place[slot], moved = following, True
                state = _put(state, waiting, slot, following)
                following += 1
            else:
                running[slot] = False
        if moved:
            rows = task.rows(place)
    return jnp.stack(done), jnp.asarray(traces), taken


class _Call(NamedTuple):
    """A call of so many steps: what it returned, and the images it was about.

    Attributes:
      place: the image in each slot.
      slots: those in use.
    """

    trace: Float[Array, "slots count 8"]
    logits: Float[Array, "slots 2 mh mw"]
    place: Int[np.ndarray, "slots"]
    slots: Int[np.ndarray, "used"]
    steps: int


def settled(trace: Float[np.ndarray, "steps 8"], config: FidoConfig) -> bool:
    """Return whether both objectives together gained less than `config.stop` from the five steps
    before the last five to the last five. Not before the prices have ramped up, nor before
    temperature, sharpness and smoothing are at their end."""
    ready = max(config.warmup, config.anneal * config.steps if annealing(config) else 0)
    if len(trace) < ready + 2 * WINDOW:
        return False
    objective = trace[:, TRACES.index("loss_ssr")] + trace[:, TRACES.index("loss_sdr")]
    gain = objective[-2 * WINDOW : -WINDOW].mean() - objective[-WINDOW:].mean()
    return not gain >= config.stop  # NaN will not become better


@jax.jit
def _put(state, waiting, slot, image):
    return jax.tree.map(lambda own, new: own.at[slot].set(new[image]), state, waiting)
