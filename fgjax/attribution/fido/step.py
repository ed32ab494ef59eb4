"""One step of FIDO for many images at once: Eqs. 1-4 and 10, and the update of both masks."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from fgjax.attribution.common.infill import named_infill
from fgjax.attribution.common.scores import SCORES
from fgjax.attribution.common.streaming import even
from fgjax.attribution.fido.config import SAMPLERS, FidoConfig
from fgjax.core.filters import REFERENCE_SIDE, smooth, total_variation
from fgjax.core.functional import Static, combine
from fgjax.devices.jit import program

TRACES = ("p_kept", "p_deleted", "loss_ssr", "loss_sdr", "l1_ssr", "l1_sdr", "tv_ssr", "tv_sdr")
"""What is recorded per step: p(c) with only the SSR kept and with the SDR deleted (mean over
the sampled masks), and per objective the whole loss (at the price l1, whatever an image's own is)
and its unweighted L1 and TV terms."""

WANTED = (0.5, 0.85)
"""The share of the sampled SSRs, and of the SDRs, that an image's price leaves at their target."""
NEARLY = 0.5
"""A mask is at its target from this far before it: in units of the score."""
PRICES = (0.5, 4.0)
"""The least and the greatest price, in units of l1."""


class FidoState(NamedTuple):
    """What one step hands to the next. Nothing in it is shared by two images, so that each may be
    at another step. Axis 1 of `logits`, `enough` and `price`: SSR, SDR. `enough`: the score beyond
    which more counts for nothing. `price`: what a pixel costs, in units of l1."""

    step: Int[Array, "n"]
    logits: Float[Array, "n 2 mh mw"]
    optimizer: Any
    enough: Float[Array, "n 2"]
    price: Float[Array, "n 2"]


def upsample(maps: Float[Array, "*n mh mw"], height: int, width: int) -> Float[Array, "*n h w"]:
    """Bilinearly; maps that have the size already, as they are."""
    if maps.shape[-2:] == (height, width):
        return maps
    return jax.image.resize(maps, (*maps.shape[:-2], height, width), "linear")


def importance(logits: Float[Array, "n 2 mh mw"]) -> Float[Array, "n 2 mh mw"]:
    """1 - θ for SSR, θ for SDR."""
    sign = jnp.asarray([-1, 1], logits.dtype)[None, :, None, None]
    return jax.nn.sigmoid(sign * logits)


def _optimizer(config: FidoConfig) -> optax.GradientTransformation:
    rate = config.learning_rate
    if config.schedule == "cosine":
        rate = optax.cosine_decay_schedule(rate, config.steps)
    if config.optimizer == "sgd":
        return optax.sgd(rate)
    return optax.adam(rate, eps=config.adam_eps)


def fido_start(
    logits: Float[Array, "n 2 mh mw"],
    config: FidoConfig,
    enough: Float[Array, "n 2"] | None = None,
) -> FidoState:
    """Return the state before the first step. Without `enough` all of the score counts."""
    optimizer = jax.vmap(_optimizer(config).init)(logits)
    if enough is None:
        enough = jnp.broadcast_to(jnp.asarray([jnp.inf, -jnp.inf]), (len(logits), 2))
    step, price = jnp.zeros(len(logits), jnp.int32), jnp.ones((len(logits), 2))
    return FidoState(step, logits, optimizer, jnp.array(enough), price)


def enough_score(
    full: Float[Array, "n"], alone: Float[Array, "n"], config: FidoConfig
) -> Float[Array, "n 2"]:
    """Return up to where the SSR's score counts, and down to where the SDR's does, of images whose
    own score is `full` and that of whose infill is `alone`: no SDR is asked for more than all of
    the image replaced destroys."""
    kept, deleted = config.kept_margin, config.deleted_margin
    high = jnp.full_like(full, jnp.inf) if kept is None else full + kept
    if deleted is None:
        low = jnp.full_like(full, -jnp.inf)
    else:
        at_most = jnp.minimum(full, 0.0)
        low = jnp.clip(alone, at_most - deleted, at_most)
    return jnp.stack([high, low], axis=1)


def next_price(
    price: Float[Array, "n 2"],
    met: Float[Array, "n 2"],
    step: Int[Array, "n"],
    config: FidoConfig,
) -> Float[Array, "n 2"]:
    """Return the price after a step at which a share `met` of the masks was at its target.

    Dual ascent: price · exp(rate · (met - wanted)), twice as fast downwards, within `PRICES`. It
    starts when a quarter of the steps is over, as until then masks are too large to judge; in the
    last third it only falls, so that no image ends just after a rise that its mask cannot bear.
    """
    change = config.price_rate * (met - jnp.asarray(WANTED)[None])
    change = jnp.where(change < 0, 2 * change, change)
    started, ending = 4 * step >= config.steps, 3 * step >= 2 * config.steps
    change = jnp.where(ending[:, None], jnp.minimum(change, 0.0), change)
    return jnp.clip(price * jnp.exp(jnp.where(started[:, None], change, 0.0)), *PRICES)


def annealed(
    start: float, end: float | None, step: Int[Array, ""], config: FidoConfig
) -> float | Float[Array, ""]:
    """Return start·(end/start)^min(1, step / (anneal·steps)): geometric, then constant."""
    if end is None or end == start:
        return start
    progress = jnp.minimum(1.0, step.astype(jnp.float32) / (config.anneal * config.steps))
    return start * jnp.exp(progress * float(np.log(end / start)))


def finer(state: FidoState, height: int, width: int) -> FidoState:
    """Return the state of masks of another size: logits and both moments of Adam, bilinearly."""
    resize = lambda leaf: upsample(leaf, height, width) if leaf.ndim == 4 else leaf
    return jax.tree.map(resize, state)


def sharpened(
    logits: Float[Array, "n 2 mh mw"], step: Int[Array, "n"], config: FidoConfig
) -> Float[Array, "n 2 mh mw"]:
    """Return the logits of θ at a step: the state's, times what sharpness has grown to."""
    if config.sharpness == 1:
        return logits
    factor: Any = jax.vmap(lambda step: annealed(1.0, config.sharpness, step, config))(step)
    return logits * factor[:, None, None, None]


def _infills(images, infill, keys, step, config):
    """Return the picture that fills each sampled mask, `n samples 1 h w c`; one for all where there
    is but one."""
    if not config.infill_also:
        return infill[:, None, None]

    def draw(image, key, step):
        key = jax.random.fold_in(jax.random.fold_in(key, step), 1)
        keys = jax.random.split(key, len(config.infill_also))
        functions = [named_infill(name, config.blur_sigma) for name in config.infill_also]
        return [f(image[None], k)[0] for f, k in zip(functions, keys, strict=True)]

    kinds = jnp.stack([infill, *jax.vmap(draw)(images, keys, step)], axis=1)
    turns = np.arange(config.batch_size) % kinds.shape[1]
    return kinds[:, turns, None]


def _in_parts(model, images, most):
    """Return the model's outputs for all images, at most so many at a time: nothing of a part is
    kept for the gradient, which computes it anew."""
    count = len(images)
    if most is None or most >= count:
        return model(images)
    size = even(count, most)
    parts = jnp.pad(images, [(0, -count % size), (0, 0), (0, 0), (0, 0)])
    ask = jax.checkpoint(lambda part: model(part))  # a model need not be hashable
    outputs = jax.lax.map(ask, parts.reshape(-1, size, *images.shape[1:]))
    return outputs.reshape(-1, outputs.shape[-1])[:count]


def _loss(logits, enough, price, model, images, infill, targets, keys, step, config):
    """Return sum over images and objectives of Eqs. 2 and 3, with TV; and the traces `n 8`, and
    which share of the masks is at its target, `n 2`.

    Images never mix, so the gradient of the sum is each image's own.
    """
    n, height, width, channels = images.shape
    samples = config.batch_size
    logits = sharpened(logits, step, config)

    def sample(key, step, logits):
        key = jax.random.fold_in(key, step)
        temperature = annealed(config.temperature, config.temperature_end, step, config)
        options = dict(antithetic=config.antithetic, smoothing=config.noise_smoothing)
        return SAMPLERS[config.sampler](key, logits, temperature, samples, **options)

    masks = upsample(jax.vmap(sample)(keys, step, logits), height, width)[..., None]
    x, x_hat = images[:, None, None], _infills(images, infill, keys, step, config)
    phi = (1 - masks) * x + masks * x_hat  # Eq. 1
    phi = phi.reshape(n * samples * 2, height, width, channels)
    outputs = _in_parts(model, phi, config.masks_per_pass).astype(jnp.float32)
    repeated = jnp.repeat(targets, samples * 2)
    scores = SCORES[config.score](outputs, repeated).reshape(n, samples, 2)
    high, low = enough[:, None, 0], enough[:, None, 1]
    met = jnp.stack([scores[..., 0] >= high - NEARLY, scores[..., 1] <= low + NEARLY], -1)
    scores = jnp.stack([jnp.minimum(scores[..., 0], high), jnp.maximum(scores[..., 1], low)], -1)
    scores = scores.mean(1)
    chosen = jnp.take_along_axis(jax.nn.softmax(outputs), repeated[:, None], axis=1)
    probability = chosen.reshape(n, samples, 2).mean(1)

    kept = upsample(importance(logits), height, width)
    l1 = kept.sum((-2, -1)) * (REFERENCE_SIDE**2 / (height * width))
    tv = total_variation(kept, config.tv_norm)
    # In a plane, the sum of squared differences does not depend on the resolution; that of
    # absolute differences grows with the side.
    if config.tv_norm == "absolute":
        tv = tv * (REFERENCE_SIDE / np.sqrt(height * width))
    ramp = jnp.minimum(1.0, step.astype(jnp.float32) / max(config.warmup, 1))
    ramp = ramp if config.warmup else jnp.ones_like(ramp)
    sign = jnp.asarray([-1, 1], jnp.float32)  # SSR raises the score, SDR lowers it
    loss = lambda price: (
        sign[None] * scores + ramp[:, None] * (config.l1 * price * l1 + config.tv * tv)
    )
    trace = jnp.concatenate([probability, loss(1.0), l1, tv], axis=1)
    return loss(price).sum(), (trace, met.mean(1, dtype=jnp.float32))


def _step(state, model, images, infill, targets, keys, config):
    gradient = jax.grad(_loss, has_aux=True)
    data = (model, images, infill, targets, keys, state.step, config)
    grad, (trace, met) = gradient(state.logits, state.enough, state.price, *data)
    grad = grad * (grad.shape[-2] * grad.shape[-1] / REFERENCE_SIDE**2)
    if config.smoothing:
        sigma = lambda step: annealed(config.smoothing, config.smoothing_end, step, config)
        grad = jax.vmap(lambda grad, step: smooth(grad, sigma(step)))(grad, state.step)
    # Adam's bias correction mixes a float with an integer count; nothing else here may.
    with jax.numpy_dtype_promotion("standard"):
        updates, optimizer = jax.vmap(_optimizer(config).update)(grad, state.optimizer)
    price = state.price
    if config.price_rate:  # without a target nothing says whether a price is too high
        moved = next_price(price, met, state.step, config)
        price = jnp.where(jnp.isfinite(state.enough), moved, price)
    return FidoState(state.step + 1, state.logits + updates, optimizer, state.enough, price), trace


@program("explain", static_argnames=("static", "config", "count"), donate_argnames="state")
def fido_step(
    state: FidoState,
    arrays: tuple,
    static: Static,
    images: Float[Array, "n h w c"],
    infill: Float[Array, "n h w c"],
    targets: Int[Array, "n"],
    keys: Key[Array, "n"],
    config: FidoConfig,
    count: int = 1,
) -> tuple[FidoState, Float[Array, "n count 8"]]:
    """Return one optimisation step (Eqs. 1-4, 10) for all images, masks and both objectives, or
    `count` of them as one program.

    The gradient is taken per *reference pixel* (scaled by mask pixels / 224²), so that a
    learning rate and an ε mean the same for every image and mask size. With `smoothing` it is
    blurred before the update: steepest descent among masks whose logits are smooth.

    Returns:
      The next state (the given one is donated), and the columns named in `TRACES` at each step.
    """
    model = combine(arrays, static)
    step = lambda state, _=None: _step(state, model, images, infill, targets, keys, config)
    if count == 1:  # XLA's CPU backend is slow on convolutions inside a scan
        state, trace = step(state)
        return state, trace[:, None]
    state, traces = jax.lax.scan(step, state, length=count)
    return state, traces.swapaxes(0, 1)
