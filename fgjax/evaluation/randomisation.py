"""Does the map depend on what the network has learned?

A sanity check: the layers are given fresh weights one after the other, from the top down.
The map of a method that explains the network should change with it; one that stays shows
the image.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import core, traverse_util
from jaxtyping import Array, Float, Int, Key

from fgjax.core.floor import is_flat
from fgjax.evaluation.localization import scaled
from fgjax.evaluation.order import rank_correlation

WINDOW, SIGMA = 11, 1.5


class Randomised(NamedTuple):
    """How alike a map and those of the ever more randomised network are.

    Attributes:
      layers: the layer randomised last, from the top down; all above it are randomised too.
      rank_correlation: |ρ|, Spearman's over the pixels without its sign, in [0, 1]: a map that
        turns into its opposite has not changed what it says.
      ssim: structural similarity, in [−1, 1].
    """

    layers: tuple[str, ...]
    rank_correlation: Float[Array, "layers n"]
    ssim: Float[Array, "layers n"]


def cascading_randomisation(
    explain: Callable,
    model: Any,
    images: Float[Array, "n h w c"],
    targets: Int[Array, "n"],
    *,
    key: Key[Array, ""],
    layers: Sequence[str] | None = None,
    level: int = 1,
) -> Randomised:
    """Return how alike the map stays while the network's layers are randomised from the top down.

    At depth d the d highest layers have fresh variables (weights and batch statistics, drawn
    by the network's own initialisers under `key`), the others are as trained; the targets
    stay. Each map is compared with the trained network's. Near 0 is sane, near 1 says that
    the map does not see those layers. (Two smooth maps have an SSIM above 0 by chance.)

    Args:
      explain: `explain(model, images, targets) -> n h w`, called once per depth and once more.
      model: an `fgjax` classifier: a dataclass with `network`, a Linen module, its
        `variables` and `normalise(images)`.
      layers: after which of `layers_top_down(model, images, level)` to look; None: all.
      level: see `layers_top_down`.

    Returns:
      Values per depth and image. |ρ| is NaN where either map is constant (a randomised network
      may leave nothing to see): undefined, neither 0 nor good. Both are NaN where a map has a NaN
      or an infinity.

    Raises:
      ValueError: no such layer; maps smaller than 11 pixels.

    References:
      Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018, "cascading randomization".
    """
    order = layers_top_down(model, images, level)
    chosen = order if layers is None else tuple(layers)
    if unknown := [name for name in chosen if name not in order]:
        raise ValueError(f"no layer {unknown[0]!r}; from the top down: {', '.join(order)}")
    chosen = tuple(name for name in order if name in chosen)
    start = explain(model, images, targets)
    fresh = _initialise(model.network, key, model.normalise(images[:1]))
    alike = []
    for name in chosen:
        changed = _with_layers_of(fresh, model, order[: order.index(name) + 1], level)
        maps = explain(changed, images, targets)
        alike.append((absolute_correlation(start, maps), structural_similarity(start, maps)))
    empty = jnp.zeros((0, len(images)), jnp.float32)
    ranks, ssim = (jnp.stack(values) for values in zip(*alike)) if alike else (empty, empty)
    return Randomised(chosen, ranks, ssim)


def absolute_correlation(a: Float[Array, "n h w"], b: Float[Array, "n h w"]) -> Float[Array, "n"]:
    """Return |ρ|, Spearman's over the pixels, in [0, 1]; NaN where either map is constant."""
    rho = jnp.abs(rank_correlation(*(maps.reshape(len(maps), -1) for maps in (a, b))))
    return jnp.where(is_flat(a) | is_flat(b), jnp.nan, rho)


def randomisation_protocol(layers: Sequence[str] = ()) -> str:
    """Between what the numbers of `cascading_randomisation` are measured, to print beside them."""
    depth = f" ({', '.join(layers)})" if layers else ""
    return (
        "of the map and that of the network whose layers were given fresh weights from the top "
        f"down{depth}"
    )


def layers_top_down(model: Any, images: Float[Array, "n h w c"], level: int = 1) -> tuple[str, ...]:
    """Return the layers of a classifier that have variables, the last one called first.

    A layer is a module at `level` names below the network (1: "classifier", "blocks_3_1";
    2: "blocks_3_1/conv2"), or above, where the network is less deep. A variable that hangs on
    the network itself is a layer of its own and comes last. Nothing is computed: the forward
    pass is only traced.
    """
    seen: dict[str, None] = {}

    def note(function, args, kwargs, context):
        name = "/".join(context.module.path[:level])
        if context.method_name != "setup":
            seen.pop(name, None)  # a layer called twice stands where it was called last
            seen[name] = None
        return function(*args, **kwargs)

    def forward(variables, x):
        with nn.intercept_methods(note):
            return model.network.apply(variables, x)

    jax.eval_shape(forward, model.variables, model.normalise(images[:1]))
    present = dict.fromkeys(_layer(path, level) for path in sorted(_flat(model.variables)))
    called = [name for name in seen if name in present]
    return tuple(reversed([name for name in present if name not in seen] + called))


def randomise(
    model: Any,
    images: Float[Array, "n h w c"],
    layers: Sequence[str],
    *,
    key: Key[Array, ""],
    level: int = 1,
) -> Any:
    """Return the classifier with fresh variables in those layers; `images` only give a shape."""
    fresh = _initialise(model.network, key, model.normalise(images[:1]))
    return _with_layers_of(fresh, model, layers, level)


@jax.jit
def structural_similarity(a: Float[Array, "n h w"], b: Float[Array, "n h w"]) -> Float[Array, "n"]:
    """SSIM of two maps, each scaled to [0, 1] first (a constant one to 0); 1: equal.

      mean of (2 μ_a μ_b + C₁)(2 σ_ab + C₂) / ((μ_a² + μ_b² + C₁)(σ_a² + σ_b² + C₂))

    over all places of an 11×11 Gaussian window (σ 1.5) inside the image, C₁ = 0.01²,
    C₂ = 0.03², population moments. NaN for a map with a NaN or an infinity.

    Raises:
      ValueError: maps smaller than the window.

    References:
      Wang et al., Image Quality Assessment: From Error Visibility to Structural Similarity, 2004.
    """
    if min(a.shape[1:]) < WINDOW:
        raise ValueError(f"maps of {a.shape[1]}x{a.shape[2]}: SSIM needs at least {WINDOW} pixels")
    a, b = scaled(a), scaled(b)
    rows, columns = (_window_matrix(size) for size in a.shape[1:])

    def local(maps):
        return jnp.einsum("yi,xj,nij->nyx", rows, columns, maps, precision="highest")

    mean_a, mean_b = local(a), local(b)
    var_a, var_b = local(a * a) - mean_a**2, local(b * b) - mean_b**2
    both = local(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    value = (2 * mean_a * mean_b + c1) * (2 * both + c2)
    value /= (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    return jnp.mean(value, axis=(1, 2))


def _window_matrix(size: int) -> Float[np.ndarray, "places size"]:
    """Return the Gaussian window at each of its places on a line of pixels."""
    window = np.exp(-0.5 * ((np.arange(WINDOW) - WINDOW // 2) / SIGMA) ** 2)
    matrix = np.zeros((size - WINDOW + 1, size))
    for place, row in enumerate(matrix):
        row[place : place + WINDOW] = window / window.sum()
    return matrix.astype(np.float32)


@partial(jax.jit, static_argnums=0)
def _initialise(network, key, images):
    return network.init(key, images)


def _with_layers_of(fresh: Any, model: Any, layers: Sequence[str], level: int) -> Any:
    fresh, trained = (_flat(variables) for variables in (fresh, model.variables))
    mixed = {
        path: fresh[path].astype(value.dtype) if _layer(path, level) in layers else value
        for path, value in trained.items()
    }
    return replace(model, variables=traverse_util.unflatten_dict(mixed))


def _layer(path: tuple[str, ...], level: int) -> str:
    """Return the layer of the variable at (collection, module, …, name)."""
    return "/".join(path[1:-1][:level]) or path[-1]


def _flat(variables: Any) -> dict[tuple[str, ...], Any]:
    return traverse_util.flatten_dict(core.unfreeze(variables))
