"""Guided backpropagation and DeconvNet: the gradient with another rule at every ReLU.

With x what goes into a ReLU and g the gradient that comes back to it, what goes on is

  gradient:                 g · [x > 0]
  DeconvNet:                g · [g > 0]
  guided backpropagation:   g · [x > 0] · [g > 0]

(Springenberg et al. 2015, Figure 1c). The model need not be written for it, nor hold its
ReLUs in modules: it is traced to a jaxpr, the ReLUs are found there, and the same jaxpr is
run with others in their place.

What counts as a ReLU, in floating point:
- `jax.nn.relu` (also as `nnx.relu`, `flax.linen.relu`), `jnp.maximum(x, 0)`;
- `jax.nn.relu6` and `jnp.clip(x, 0, 6)`, or any other upper bound: a ReLU by the rule above,
  then a minimum that keeps its own gradient, 0 where it clips. (Captum changes `nn.ReLU` and
  leaves `nn.ReLU6` alone: on MobileNetV2 it returns the plain gradient.)
What does not, and keeps its gradient:
- a maximum with 0 on its way into a (reciprocal) square root: the clamp of a variance in a
  normalisation layer;
- `hard_sigmoid`, `hard_swish` and other gates; `softplus`, `gelu`, `silu`, `leaky_relu`, `elu`, …
  (neither paper has a rule for them, and a model that has nothing else is refused);
  `jnp.where(x > 0, x, 0)` and `lax.clamp`, which no one takes for a ReLU by its form alone.

References:
  Springenberg et al., Striving for Simplicity: The All Convolutional Net, 2015.
  Zeiler & Fergus, Visualizing and Understanding Convolutional Networks, 2014.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from fgjax.attribution.common.score_gradient import (
    attribution,
    chunked_gradient,
    image_gradient,
    prepare,
)
from fgjax.attribution.common.settings import with_config
from fgjax.attribution.common.types import Attribution
from fgjax.attribution.gradients import GradientConfig
from fgjax.attribution.registry import Method, Passes
from fgjax.core.functional import Static, combine
from fgjax.devices.jit import program

ReluRule = Literal["guided", "deconv"]


@dataclass(frozen=True)
class GuidedBackpropConfig(GradientConfig):
    """Settings of guided backpropagation: those of `GradientConfig`."""


@dataclass(frozen=True)
class DeconvnetConfig(GradientConfig):
    """Settings of DeconvNet: those of `GradientConfig`."""


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def ruled_relu(x: Float[Array, "..."], rule: str) -> Float[Array, "..."]:
    """max(x, 0), whose gradient follows `rule`: "guided" or "deconv"."""
    return jnp.maximum(x, 0)


def _relu_forward(x, rule):
    return jnp.maximum(x, 0), (x > 0 if rule == "guided" else None)


def _relu_backward(rule, open_, grad):
    let_through = grad > 0 if open_ is None else (grad > 0) & open_
    return (jnp.where(let_through, grad, 0),)


ruled_relu.defvjp(_relu_forward, _relu_backward)


# Finding the ReLUs. Where they are depends on the jaxpr alone; `_find` says it as a dict from an
# equation's place to the place of the ReLU's operand, or to the dict of the jaxpr inside it.

Found = dict[int, Any]

_INLINED = {"jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint", "scan"}
_OWN_DERIVATIVE = {"custom_jvp_call", "custom_vjp_call"}
_GATES = {"hard_sigmoid", "hard_swish", "hard_silu"}
_STAYS_ZERO = {"broadcast_in_dim", "convert_element_type", "reshape", "copy", "copy_p"}
_CLIPS = {"max", "min", "jit", "pjit", *_STAYS_ZERO}
_RESHAPES = {"broadcast_in_dim", "convert_element_type", "reshape", "squeeze"}
_ROOTS = {"sqrt", "rsqrt", "pow"}


def _open(body: Any) -> tuple[Any, Sequence]:
    """Return a jaxpr and its constants, whether it comes closed or open."""
    return (body.jaxpr, body.consts) if isinstance(body, jex.ClosedJaxpr) else (body, ())


def _bodies(eqn: Any) -> list[Any]:
    """Return the jaxprs that an equation holds."""
    held = []
    for value in eqn.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, jex.ClosedJaxpr | jex.Jaxpr):
                held.append(item)
    return held


def _scan_counts(eqn: Any) -> tuple[int, int]:
    """Return how many of a scan's inputs are the same in every step, and how many are carried on.

    Told by their ranks: what is scanned over has one axis more outside the step than in it.
    """
    body, _ = _open(_bodies(eqn)[0])
    same = lambda outer, inner: sum(
        len(o.aval.shape) == len(i.aval.shape) for o, i in zip(outer, inner, strict=True)
    )
    carried = same(eqn.outvars, body.outvars)
    return same(eqn.invars, body.invars) - carried, carried


def _only_clips(jaxpr: Any) -> bool:
    """Return whether a function does nothing but compare with bounds, as relu and relu6 do."""
    return all(
        eqn.primitive.name in _CLIPS and all(_only_clips(_open(body)[0]) for body in _bodies(eqn))
        for eqn in jaxpr.eqns
    )


def _feeds_a_root(jaxpr: Any, start: Any) -> bool:
    """Return whether a value goes, reshaped and with a constant added, into a square root."""
    follow = {start}
    for eqn in jaxpr.eqns:
        variables = [atom for atom in eqn.invars if not isinstance(atom, jex.Literal)]
        if not any(atom in follow for atom in variables):
            continue
        if eqn.primitive.name in _ROOTS:
            return True
        adds_constant = eqn.primitive.name == "add" and len(variables) == 1
        if adds_constant or eqn.primitive.name in _RESHAPES:
            follow.update(eqn.outvars)
    return False


def _find(jaxpr: Any, zero_inputs: Sequence[bool]) -> Found:
    """Return where the ReLUs of a jaxpr are. `zero_inputs`: which of its inputs are known to be 0.

    Raises:
      ValueError: a ReLU in a place where none can be replaced.
    """
    zeros = {var for var, zero in zip(jaxpr.invars, zero_inputs, strict=True) if zero}

    def is_zero(atom):
        if isinstance(atom, jex.Literal):
            return np.ndim(atom.val) == 0 and atom.val == 0
        return atom in zeros

    found: Found = {}
    for place, eqn in enumerate(jaxpr.eqns):
        name, known = eqn.primitive.name, [is_zero(atom) for atom in eqn.invars]
        if name in _STAYS_ZERO and known[0]:
            zeros.add(eqn.outvars[0])
        elif name == "max":
            floating = jnp.issubdtype(eqn.outvars[0].aval.dtype, jnp.floating)
            if sum(known) == 1 and floating and not _feeds_a_root(jaxpr, eqn.outvars[0]):
                operand = known.index(False)
                if eqn.invars[operand].aval.shape == eqn.outvars[0].aval.shape:
                    found[place] = operand
        elif name in _OWN_DERIVATIVE:
            body, _ = _open(_bodies(eqn)[0])
            if _only_clips(body):
                found[place] = _find(body, known)
            elif _holds_relu(body):
                raise ValueError(
                    f"a ReLU sits inside {body.debug_info.func_name!r}, a function with its own "
                    "derivative (custom_jvp or custom_vjp), where it cannot be replaced: take the "
                    "ReLU out of it, or do without that derivative while explaining"
                )
        elif name in _INLINED:
            if eqn.params.get("name") not in _GATES:
                body, _ = _open(_bodies(eqn)[0])
                if name == "scan":  # what is carried may start as 0 and not stay it
                    fixed, _ = _scan_counts(eqn)
                    known = [*known[:fixed], *([False] * (len(known) - fixed))]
                found[place] = _find(body, known)
        else:
            for body in _bodies(eqn):
                jaxpr_inside, _ = _open(body)
                if _find(jaxpr_inside, [False] * len(jaxpr_inside.invars)):
                    raise ValueError(
                        f"a ReLU sits inside {name!r}, where it cannot be replaced: write the "
                        "model without it (a loop over layers as a Python loop or lax.scan, a "
                        "choice as a plain if)"
                    )
        if found.get(place) == {}:
            del found[place]
    return found


def _holds_relu(jaxpr: Any) -> bool:
    """Return whether `jax.nn.relu` or its like is called inside. A bare maximum is not enough here:
    softplus, for one, is a function with its own derivative that has a maximum with 0."""
    for eqn in jaxpr.eqns:
        for body in (_open(body)[0] for body in _bodies(eqn)):
            own = eqn.primitive.name in _OWN_DERIVATIVE
            if own and _only_clips(body) and _find(body, [False] * len(body.invars)):
                return True
            if _holds_relu(body):
                return True
    return False


# Running the jaxpr with other ReLUs.


def _run(jaxpr: Any, consts: Sequence, found: Found, rule: str, *inputs: Any) -> list:
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *inputs), strict=True))
    read = lambda atom: atom.val if isinstance(atom, jex.Literal) else values[atom]
    for place, eqn in enumerate(jaxpr.eqns):
        operands, what = [read(atom) for atom in eqn.invars], found.get(place)
        if what is None:
            results = eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(eqn.params))
            results = results if eqn.primitive.multiple_results else [results]
        elif isinstance(what, int):
            results = [ruled_relu(operands[what], rule)]
        else:
            results = _run_inside(eqn, what, rule, operands)
        values.update(zip(eqn.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _run_inside(eqn, found, rule, operands) -> list:
    body = partial(_run, *_open(_bodies(eqn)[0]), found, rule)
    params = eqn.params
    if eqn.primitive.name in ("remat", "remat2", "checkpoint"):
        kept = {name: params[name] for name in ("policy", "prevent_cse")}
        return jax.checkpoint(body, **kept)(*operands)
    if eqn.primitive.name == "scan":
        fixed, carried = _scan_counts(eqn)
        first = operands[fixed : fixed + carried]

        def step(carry, xs):
            results = body(*operands[:fixed], *carry, *xs)
            return results[:carried], results[carried:]

        kept = {name: params[name] for name in ("length", "reverse", "unroll")}
        carry, ys = jax.lax.scan(step, first, operands[fixed + carried :], **kept)
        return [*carry, *ys]
    return body(*operands)


def with_relu_rule(model: Callable, rule: ReluRule) -> Callable:
    """Return the same function of the images, with the gradient of its ReLUs by `rule`.

    Args:
      model: images -> logits, or any function of one array that JAX can trace.
      rule: "guided" (Springenberg et al.) or "deconv" (Zeiler & Fergus).

    Returns:
      A function that raises ValueError when called, if the model has no ReLU, or one where
      none can be replaced: inside `while`, `cond` or a function with its own derivative.
      ReLUs inside `jit`, `checkpoint` and `scan` are replaced.
    """

    def call(images: Array) -> Any:
        closed, shapes = jax.make_jaxpr(model, return_shape=True)(images)
        found = _find(closed.jaxpr, [False])
        if not found:
            raise ValueError(
                "the model has no ReLU (jax.nn.relu, relu6, jnp.maximum(x, 0)), so there is "
                "nothing to guide: this would be its plain gradient. Neither paper has a rule for "
                "GELU or SiLU, which transformers, ConvNeXt and EfficientNet have in their place. "
                "Use `gradient`"
            )
        results = _run(closed.jaxpr, closed.consts, found, rule, images)
        return jax.tree.unflatten(jax.tree.structure(shapes), results)

    return call


@program("explain", static_argnames=("static", "rule", "score"))
def _ruled_gradient(
    arrays: tuple, static: Static, images: Any, targets: Any, rule: Any, score: str
) -> Float[Array, "n h w c"]:
    return image_gradient(with_relu_rule(combine(arrays, static), rule), images, targets, score)


def rectified_gradient(
    model: Any,
    images: Float[Array | np.ndarray, "n h w c"],
    targets: Int[Array | np.ndarray, "n"],
    rule: ReluRule,
    *,
    score: str = "logit",
    chunk_size: int | None = None,
) -> Float[Array, "n h w c"]:
    """Return the raw gradient of each image's score, its ReLUs by `rule`: "guided" or "deconv".

    Raises:
      ValueError: a model without ReLUs, or with one that cannot be replaced; inputs that do
        not fit the model.
    """
    program = partial(_ruled_gradient, rule=rule, score=score)
    return chunked_gradient(program, prepare(model, images, targets), chunk_size)


@with_config
def guided_backprop(
    model: Any,
    images: Float[Array | np.ndarray, "n h w c"],
    targets: Int[Array | np.ndarray, "n"],
    *,
    key: Key[Array, "..."] | None = None,
    config: GuidedBackpropConfig = GuidedBackpropConfig(),
) -> Attribution:
    """Guided backpropagation: every ReLU lets back only positive gradients of open units.

      R_in = R_out · [x > 0] · [R_out > 0]   (Springenberg et al. 2015, Figure 1c)

    It hardly depends on the class (Adebayo et al. 2018, Sanity Checks for Saliency Maps).

    Args:
      model: any callable pytree, images -> logits, that uses ReLUs: see the module's text.
      images: RGB in [0, 1].
      targets: class index per image.
      key: not used.
      config: see `GuidedBackpropConfig`.

    Returns:
      heatmap: channels reduced by `config.reduce`, divided by the image's maximum. maps:
      "signed", the sum over channels. Per channel: `rectified_gradient(…, "guided")`.

    Raises:
      ValueError: no ReLU, or one that cannot be replaced; and as in `gradient`.

    Example:
      >>> model = lambda images: jax.nn.relu(images).mean((1, 2))
      >>> images, target = jnp.full((1, 16, 16, 3), 0.5), jnp.array([0])
      >>> guided_backprop(model, images, target).heatmap.shape
      (1, 16, 16)
    """
    return _ruled(model, images, targets, "guided", config)


@with_config
def deconvnet(
    model: Any,
    images: Float[Array | np.ndarray, "n h w c"],
    targets: Int[Array | np.ndarray, "n"],
    *,
    key: Key[Array, "..."] | None = None,
    config: DeconvnetConfig = DeconvnetConfig(),
) -> Attribution:
    """DeconvNet: every ReLU lets back the positive gradients, whether it was open or not.

      R_in = R_out · [R_out > 0]   (Zeiler & Fergus 2014, section 2.1)

    Max pooling sends its gradient to the maximum, as the paper's switches do.

    Args, Returns, Raises:
      as in `guided_backprop`; per channel: `rectified_gradient(…, "deconv")`.

    Example:
      >>> model = lambda images: jax.nn.relu(images).mean((1, 2))
      >>> images, target = jnp.full((1, 16, 16, 3), 0.5), jnp.array([0])
      >>> deconvnet(model, images, target).heatmap.shape
      (1, 16, 16)
    """
    return _ruled(model, images, targets, "deconv", config)


def _ruled(model, images, targets, rule, config) -> Attribution:
    values = rectified_gradient(
        model, images, targets, rule, score=config.score, chunk_size=config.chunk_size
    )
    return attribution(values, config.reduce, "signed")


GUIDED_BACKPROP = Method(
    guided_backprop,
    GuidedBackpropConfig,
    passes=lambda *_: Passes(0, 1),
    needs=("gradient", "relus"),
    order=110,
)
DECONVNET = Method(
    deconvnet,
    DeconvnetConfig,
    passes=lambda *_: Passes(0, 1),
    needs=("gradient", "relus"),
    order=120,
)
