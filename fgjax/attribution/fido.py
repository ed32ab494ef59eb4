"""FIDO: the smallest region that suffices, and the smallest that destroys.

Two masks are optimised per image. SSR keeps the evidence: replacing everything else
leaves the class standing (Eq. 2). SDR destroys it: replacing this region alone makes
the class fall (Eq. 3). What both call important is the joint mask (Eq. 9).

Throughout, θ = σ(ϑ) is the probability that a pixel is *replaced by the infill*, so
importance is 1 - θ for SSR and θ for SDR.

References:
  Korsch et al., Simplified Concrete Dropout, 2023.
  Chang et al., Explaining Image Classifiers by Counterfactual Generation, 2018.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from fgjax.attribution.concrete import concrete_dropout, simplified_concrete_dropout
from fgjax.attribution.infill import Infill, check_infill, make_infill
from fgjax.attribution.inputs import check_inputs
from fgjax.attribution.presets import preset
from fgjax.attribution.scores import SCORES
from fgjax.attribution.types import Attribution
from fgjax.filters import REFERENCE_SIDE, total_variation
from fgjax.functional import Static, combine, partition
from fgjax.keys import image_keys

TRACES = ("p_kept", "p_deleted", "loss_ssr", "loss_sdr", "l1_ssr", "l1_sdr", "tv_ssr", "tv_sdr")
"""What is recorded per step: p(c) with only the SSR kept and with the SDR deleted (mean over
the sampled masks), and per objective the whole loss and its unweighted L1 and TV terms."""


@dataclass(frozen=True)
class FidoConfig:
    """Settings of FIDO. Lengths and areas are those of a 224 px image, and scale with it.

    Attributes:
      steps: optimisation steps.
      batch_size: masks sampled per step for each of the two objectives.
      temperature: t of Eqs. 5 and 8.
      sampler: "simplified" (Eq. 8) or "original" (Eq. 5).
      score: "log_odds" (Eq. 4) or "leaking" (what the released code computes).
      optimizer: "adamw" without weight decay, which is Adam; or "sgd".
      learning_rate: of the mask logits.
      adam_eps: ε of Adam. At 0.1 it exceeds the gradients, so steps keep their size.
      l1: λ of Eqs. 2 and 3: the price of one important pixel of a 224x224 image.
      tv: weight of the total variation (Eq. 10).
      tv_norm: "squared" differences as in Eq. 10, or "absolute" as the released code has.
      warmup: steps over which l1 and tv ramp up from 0.
      mask_size: side of a coarse mask that is upsampled bilinearly; None: every pixel.
      infill: a name (blur, mean, zeros, uniform, normal, original, knockoff); in Python
        also an array or a function `(images, key) -> images`.
      blur_sigma: σ of the blur infill in pixels.
      antithetic: sample masks in pairs with opposite noise.
      initial: importance of every pixel at the start, in (0, 1).
      images_per_step: images optimised together in one compiled step; None: 1 on a CPU,
        16 on an accelerator.
    """

    steps: int = 30
    batch_size: int = 8
    temperature: float = 1.0
    sampler: Literal["simplified", "original"] = "simplified"
    score: Literal["log_odds", "leaking"] = "log_odds"
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 40.0
    adam_eps: float = 0.1
    l1: float = 2e-3
    tv: float = 0.01
    tv_norm: Literal["squared", "absolute"] = "squared"
    warmup: int = 5
    mask_size: int | None = None
    infill: Infill = "blur"
    blur_sigma: float = 11.6
    antithetic: bool = False
    initial: float = 0.5
    images_per_step: int | None = None

    def __post_init__(self):
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        for name in ("temperature", "learning_rate", "adam_eps", "blur_sigma"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)}: must be above 0")
        for name in ("l1", "tv", "warmup"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: must not be negative")
        for name in ("mask_size", "images_per_step"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1, or left out")
        if not 0 < self.initial < 1:
            raise ValueError(f"initial={self.initial}: a probability strictly between 0 and 1")
        if self.antithetic and self.batch_size % 2:
            raise ValueError(f"batch_size={self.batch_size}: antithetic masks come in pairs")
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r}: one of {', '.join(known)}")
        check_infill(self.infill)


_SAMPLERS = {
    "simplified": simplified_concrete_dropout,
    "original": lambda key, logits, *a, **k: concrete_dropout(key, jax.nn.sigmoid(logits), *a, **k),
}
_CHOICES = {
    "sampler": tuple(_SAMPLERS),
    "score": tuple(SCORES),
    "optimizer": ("adamw", "sgd"),
    "tv_norm": ("squared", "absolute"),
}

FIDO_PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # The paper as written: t = 0.1, Eq. 4, λ = 1e-3.
    "korsch-2023": dict(temperature=0.1, learning_rate=10.0, l1=1e-3, tv=0.01, steps=100),
    # The released code: t = 1, a score that saturates, absolute differences in TV, and one
    # λ = 1e-3 for the mean of both masks' L1.
    "fido-pytorch": dict(
        temperature=1.0,
        score="leaking",
        learning_rate=10.0,
        l1=5e-4,
        tv=0.01,
        tv_norm="absolute",
        steps=30,
    ),
    # Chang et al.: a coarse mask, Adam with its usual ε, the original sampler.
    "chang-2019": dict(
        temperature=0.1,
        sampler="original",
        learning_rate=0.05,
        adam_eps=1e-8,
        l1=1e-3,
        tv=0.01,
        mask_size=56,
        blur_sigma=10.0,
        steps=300,
    ),
}
"""Published settings by name; `fido_preset` makes a config of one."""


def fido_preset(name: str, **changes: Any) -> FidoConfig:
    """The settings published under `name` (see `FIDO_PRESETS`), with `changes` on top.

    Raises:
      ValueError: no such preset, or no such setting.
    """
    return preset(FidoConfig, FIDO_PRESETS, name, changes)


class FidoState(NamedTuple):
    """What one step hands to the next. Axis 1 of `logits`: SSR, SDR."""

    step: Int[Array, ""]
    logits: Float[Array, "n 2 mh mw"]
    optimizer: Any


def _upsample(maps: Float[Array, "*n mh mw"], height: int, width: int) -> Float[Array, "*n h w"]:
    if maps.shape[-2:] == (height, width):
        return maps
    return jax.image.resize(maps, (*maps.shape[:-2], height, width), "linear")


def _importance(logits: Float[Array, "n 2 mh mw"]) -> Float[Array, "n 2 mh mw"]:
    """1 - θ for SSR, θ for SDR."""
    sign = jnp.asarray([-1, 1], logits.dtype)[None, :, None, None]
    return jax.nn.sigmoid(sign * logits)


def _optimizer(config: FidoConfig) -> optax.GradientTransformation:
    if config.optimizer == "sgd":
        return optax.sgd(config.learning_rate)
    return optax.adam(config.learning_rate, eps=config.adam_eps)


def _loss(logits, model, images, infill, targets, keys, step, config):
    """Sum over images and objectives of Eqs. 2 and 3, with TV; and the traces `n 8`.

    Images never mix, so the gradient of the sum is each image's own.
    """
    n, height, width, channels = images.shape
    samples = config.batch_size

    def sample(key, logits):
        key = jax.random.fold_in(key, step)
        sampler = _SAMPLERS[config.sampler]
        return sampler(key, logits, config.temperature, samples, antithetic=config.antithetic)

    masks = _upsample(jax.vmap(sample)(keys, logits), height, width)[..., None]
    x, x_hat = images[:, None, None], infill[:, None, None]
    phi = (1 - masks) * x + masks * x_hat  # Eq. 1
    outputs = model(phi.reshape(n * samples * 2, height, width, channels))
    outputs = outputs.astype(jnp.float32)
    repeated = jnp.repeat(targets, samples * 2)
    scores = SCORES[config.score](outputs, repeated).reshape(n, samples, 2).mean(1)
    chosen = jnp.take_along_axis(jax.nn.softmax(outputs), repeated[:, None], axis=1)
    probability = chosen.reshape(n, samples, 2).mean(1)

    importance = _upsample(_importance(logits), height, width)
    l1 = importance.sum((-2, -1)) * (REFERENCE_SIDE**2 / (height * width))
    tv = total_variation(importance, config.tv_norm)
    # In a plane, the sum of squared differences does not depend on the resolution; that of
    # absolute differences grows with the side.
    if config.tv_norm == "absolute":
        tv = tv * (REFERENCE_SIDE / np.sqrt(height * width))
    ramp = jnp.minimum(1.0, step.astype(jnp.float32) / max(config.warmup, 1))
    ramp = ramp if config.warmup else jnp.float32(1)
    sign = jnp.asarray([-1, 1], jnp.float32)  # SSR raises the score, SDR lowers it
    losses = sign[None] * scores + ramp * (config.l1 * l1 + config.tv * tv)
    trace = jnp.concatenate([probability, losses, l1, tv], axis=1)
    return losses.sum(), trace


@partial(jax.jit, static_argnames=("static", "config"), donate_argnames="state")
def fido_step(
    state: FidoState,
    arrays: tuple,
    static: Static,
    images: Float[Array, "n h w c"],
    infill: Float[Array, "n h w c"],
    targets: Int[Array, "n"],
    keys: Key[Array, "n"],
    config: FidoConfig,
) -> tuple[FidoState, Float[Array, "n 8"]]:
    """One optimisation step for all images, masks and both objectives.

    The gradient is taken per *reference pixel* (scaled by mask pixels / 224²), so that a
    learning rate and an ε mean the same for every image and mask size.

    Returns:
      The next state (the given one is donated), and the columns named in `TRACES`.
    """
    gradient = jax.grad(_loss, has_aux=True)
    grad, trace = gradient(
        state.logits, combine(arrays, static), images, infill, targets, keys, state.step, config
    )
    grad = grad * (grad.shape[-2] * grad.shape[-1] / REFERENCE_SIDE**2)
    # Adam's bias correction mixes a float with an integer count; nothing else here may.
    with jax.numpy_dtype_promotion("standard"):
        updates, optimizer = _optimizer(config).update(grad, state.optimizer)
    return FidoState(state.step + 1, state.logits + updates, optimizer), trace


@partial(jax.jit, static_argnames=("height", "width"))
def _maps(logits, broken, height, width):
    importance = _upsample(_importance(logits), height, width)
    importance = jnp.where(broken[:, None, None, None], jnp.nan, importance)
    ssr, sdr = importance[:, 0], importance[:, 1]
    return {"ssr": ssr, "sdr": sdr, "joint": jnp.sqrt(ssr * sdr)}  # Eq. 9


def _initial_state(n: int, height: int, width: int, config: FidoConfig) -> FidoState:
    side = (config.mask_size, config.mask_size) if config.mask_size else (height, width)
    logit = float(np.log(config.initial / (1 - config.initial)))
    signs = jnp.asarray([-1, 1], jnp.float32)[None, :, None, None]  # as in _importance
    logits = jnp.array(jnp.broadcast_to(logit * signs, (n, 2, *side)))
    return FidoState(jnp.int32(0), logits, _optimizer(config).init(logits))


def fido(
    model: Any,
    images: Float[Array | np.ndarray, "n h w c"],
    targets: Int[Array | np.ndarray, "n"],
    *,
    key: Key[Array, "..."],
    config: FidoConfig = FidoConfig(),
) -> Attribution:
    """Fill-in of the dropout: optimised masks of what the decision needs (Eqs. 1-4, 9).

    Args:
      model: any callable pytree, images -> logits.
      images: RGB in [0, 1].
      targets: class index per image.
      key: one key, or one key per image. With one key image i uses `fold_in(key, i)`:
        its masks depend on its key alone, not on the images beside it.
      config: see `FidoConfig`; published settings in `FIDO_PRESETS`.

    Returns:
      heatmap: the joint mask √(ssr·sdr). maps: "ssr" (what is kept) and "sdr" (what is
      destroyed), all in [0, 1]. traces: the names in `TRACES`, each `n steps`. An image
      for which the model returns NaN gets NaN maps; its neighbours do not.

    Raises:
      ValueError: shapes that do not fit, a target outside the model's classes, images
        outside [0, 1], or a key of the old kind.
    """
    images = jnp.asarray(images, jnp.float32)
    targets = jnp.asarray(targets, jnp.int32)
    arrays, static = partition(model)
    check_inputs(arrays, static, images, targets)
    keys = image_keys(key, len(images))
    infill = make_infill(config.infill, images, keys, blur_sigma=config.blur_sigma)
    chunk = config.images_per_step or (1 if jax.default_backend() == "cpu" else 16)
    chunk = min(chunk, len(images))
    # The infill is made: what is left of the config must be hashable for jit. How often the
    # step is called does not change it: another number of steps is no other program.
    steps, config = config.steps, replace(config, infill="blur", steps=1, images_per_step=None)
    parts = []
    for start in range(0, len(images), chunk):
        # The last chunk is filled up with its last image, so that one program serves all.
        index = np.minimum(np.arange(start, start + chunk), len(images) - 1)
        part = _fido_chunk(
            arrays, static, images[index], infill[index], targets[index], keys[index], config, steps
        )
        left = len(images) - start
        parts.append(jax.tree.map(lambda a, left=left: a[:left], part))
    return jax.tree.map(lambda *a: jnp.concatenate(a), *parts)


def _fido_chunk(arrays, static, images, infill, targets, keys, config, steps) -> Attribution:
    height, width = images.shape[1:3]
    state = _initial_state(len(images), height, width, config)
    traces = []
    # Steps are driven from Python: XLA's CPU backend is slow on convolutions inside a scan.
    for _ in range(steps):
        state, trace = fido_step(state, arrays, static, images, infill, targets, keys, config)
        traces.append(trace)
    trace = jnp.stack(traces, axis=1)
    # A NaN need not reach the logits: where the model's NaN is a constant, no gradient carries it.
    maps = _maps(state.logits, jnp.isnan(trace).any((1, 2)), height, width)
    return Attribution(
        heatmap=maps.pop("joint"),
        maps=maps,
        traces={name: trace[:, :, i] for i, name in enumerate(TRACES)},
    )
