"""What a mask says once it is cut: does it suffice, does it destroy, under which infill?

A soft mask can score without saying anything: half of every pixel may be enough for the model.
So the mask is made hard, in two ways. Cut: every pixel whose importance is above the threshold.
Bernoulli: drawn pixel by pixel with the mask's own probabilities, which is the objective that
FIDO relaxes (its Eqs. 2 and 3). Beside both stand other infills, which say whether the mask holds
only where it was made (the protocol names those that it was optimised on; patches and ROAD's
imputation are never among them by default), and the same mask with its pixels shuffled.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key
from scipy import ndimage

from fgjax.attribution.common.infill import make_infill
from fgjax.evaluation.faithfulness import target_probability
from fgjax.evaluation.road import impute

DRAWS = 16
"""Bernoulli masks of each map."""
SURE = 0.5
"""Shares of p(full) are of images with at least this p(full): of less they say nothing."""
PIECES = 5

OTHERS = {
    "half_blur": "blur of half the σ",
    "double_blur": "blur of twice the σ",
    "mean": "the image's mean colour",
    "grey": "grey with noise",
    "patches": "the image's own patches in another order",
    "road": "ROAD's noisy linear imputation",
}
"""Infills that masks are judged by beside the one they were made with."""
MADE_BY = {"half_blur": "blurs", "double_blur": "blurs"}
"""The infill that draws such pictures, where it has another name."""


def protocols(threshold: float, infill: str, also: tuple[str, ...] = ()) -> dict[str, str]:
    """Return how each number was measured.

    Args:
      threshold: that cuts the maps.
      infill: the one the maps were made with, in words.
      also: names of further infills that they were made with.
    """
    or_map = "or a map that is all there is"
    kept = (
        f"class probability with only the SSR ({or_map}) > {threshold:g} shown, all else replaced"
    )
    gone = f"class probability with the SDR ({or_map}) > {threshold:g} replaced"
    said = {
        "p_full": "class probability of the image as it is",
        "p_kept": f"{kept}; infill: {infill}",
        "p_deleted": f"{gone}; infill: {infill}",
        "kept_share": f"p_kept / p_full, at most 1, of images with p_full of at least {SURE}",
        "area_ssr": f"share of the image in the SSR > {threshold:g}",
        "area_sdr": f"share of the image in the SDR > {threshold:g}",
        "p_kept_bernoulli": f"as p_kept, mean of {DRAWS} masks drawn with the SSR's probabilities",
        "p_deleted_bernoulli": f"as p_deleted, mean of {DRAWS} masks drawn with the SDR's",
        "p_kept_shuffled": "as p_kept, the same mask with its pixels shuffled: a control",
        "p_deleted_shuffled": "as p_deleted, the same mask with its pixels shuffled: a control",
        "five_pieces_ssr": "share of the cut SSR in its five largest pieces (8-connected)",
        "five_pieces_sdr": "share of the cut SDR in its five largest pieces (8-connected)",
    }
    for name, words in OTHERS.items():
        seen = MADE_BY.get(name, name) in (infill, *also)
        words += ", one that the maps were optimised on" if seen else ""
        said[f"p_kept_{name}"] = f"as p_kept, infill: {words}"
        said[f"p_deleted_{name}"] = f"as p_deleted, infill: {words}"
    return said


BETTER: dict[str, bool | None] = {
    name: None if name.startswith("area") else "deleted" not in name or "pieces" in name
    for name in protocols(0.5, "")
} | {"p_full": None, "p_kept_shuffled": None, "p_deleted_shuffled": None}
"""Whether higher is better; None: neither is, by itself."""


def judge_cut(
    model: Callable[[Float[Array, "n h w c"]], Float[Array, "n k"]],
    images: Float[Array, "n h w c"],
    targets: Int[Array, "n"],
    kept: Float[Array, "n h w"],
    deleted: Float[Array, "n h w"],
    infill: Float[Array, "n h w c"],
    *,
    threshold: float = 0.5,
) -> dict[str, Float[Array, "n"]]:
    """Return p_full, and p with only what `kept` says shown and with what `deleted` says replaced.

    Args:
      model: jitted, images -> logits.
      images: RGB in [0, 1].
      targets: class index per image.
      kept: importance whose region is shown alone; for FIDO the SSR.
      deleted: importance whose region is replaced; for FIDO the SDR.
      infill: what a pixel is replaced by.
      threshold: a pixel is in the region when its importance is above it.
    """
    full = target_probability(model(images), targets)
    p_kept = _ask(model, images, targets, kept > threshold, infill, kept)
    p_deleted = _ask(model, images, targets, ~(deleted > threshold), infill, deleted)
    share = jnp.where(full >= SURE, jnp.minimum(1.0, p_kept / full), jnp.nan)
    return {"p_full": full, "p_kept": p_kept, "p_deleted": p_deleted, "kept_share": share}


def judge_hard(
    model: Callable[[Float[Array, "n h w c"]], Float[Array, "n k"]],
    images: Float[Array, "n h w c"],
    targets: Int[Array, "n"],
    kept: Float[Array, "n h w"],
    deleted: Float[Array, "n h w"],
    infill: Float[Array, "n h w c"],
    keys: Key[Array, "n"],
    *,
    threshold: float = 0.5,
    blur_sigma: float = 11.6,
) -> dict[str, Float[Array | np.ndarray, "n"]]:
    """Return every number of `protocols` for each image, by 49 forward passes.

    Args:
      model, images, targets, kept, deleted, infill, threshold: see `judge_cut`.
      keys: of the draws, one per image.
      blur_sigma: of the blur that the others are half and twice of, in pixels of a 224 px image.
    """
    found = judge_cut(model, images, targets, kept, deleted, infill, threshold=threshold)
    regions = {"kept": kept > threshold, "deleted": deleted > threshold}
    soft = {"kept": kept, "deleted": deleted}
    for how, region in regions.items():
        shows = (lambda r: r) if how == "kept" else (lambda r: ~r)
        ask = lambda mask, other: _ask(model, images, targets, shows(mask), other, soft[how])  # noqa: B023
        drawn = [ask(_bernoulli(soft[how], keys, draw), infill) for draw in range(DRAWS)]
        found[f"p_{how}_bernoulli"] = jnp.stack(drawn).mean(0)
        found[f"p_{how}_shuffled"] = ask(_shuffled(region, keys), infill)
        for name, other in _others(images, shows(region), keys, blur_sigma).items():
            found[f"p_{how}_{name}"] = ask(region, other)
        which = "ssr" if how == "kept" else "sdr"
        found[f"area_{which}"] = region.astype(jnp.float32).mean((1, 2))
        found[f"five_pieces_{which}"] = np.array([largest_pieces(m) for m in np.asarray(region)])
    return found


def largest_pieces(mask: Bool[np.ndarray, "h w"], count: int = PIECES) -> float:
    """Return the share of a mask in its largest 8-connected pieces; NaN for an empty one.

    Example:
      >>> largest_pieces(np.array([[1, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0]], bool), count=1)
      0.5
    """
    labels, found = ndimage.label(mask, np.ones((3, 3)))
    sizes = np.sort(np.bincount(labels.ravel())[1:])
    return float(sizes[-count:].sum() / sizes.sum()) if found else float("nan")


def _ask(model, images, targets, shown, infill, maps):
    """p with only `shown` of the images, the rest replaced; NaN where the map is."""
    p = target_probability(model(_show(images, shown, infill)), targets)
    return jnp.where(jnp.isnan(maps).any((1, 2)), jnp.nan, p)


@jax.jit
def _show(images, shown, infill):
    return jnp.where(shown[..., None], images, infill)


@jax.jit
def _bernoulli(maps, keys, draw):
    """Return hard masks drawn by the maps, each image's from its own key."""
    noise = jax.vmap(lambda k: jax.random.uniform(jax.random.fold_in(k, draw), maps.shape[1:]))
    return noise(keys) < maps


@jax.jit
def _shuffled(region, keys):
    flat = region.reshape(len(region), -1)
    order = jax.vmap(lambda k, r: jax.random.permutation(jax.random.fold_in(k, DRAWS), r))
    return order(keys, flat).reshape(region.shape)


def _others(images, shown, keys, sigma):
    """Return the infills of `OTHERS`; ROAD's depends on what is missing."""
    blur = lambda by: make_infill("blur", images, keys, blur_sigma=by)
    return {
        "half_blur": blur(sigma / 2),
        "double_blur": blur(2 * sigma),
        "mean": make_infill("mean", images, keys),
        "grey": make_infill("grey", images, keys),
        "patches": make_infill("patches", images, keys),
        "road": impute(images, ~shown, keys),
    }
