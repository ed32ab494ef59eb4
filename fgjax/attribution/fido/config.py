"""The settings of FIDO, and published ones by name."""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np

from fgjax.attribution.common.infill import Infill, check_infill
from fgjax.attribution.common.presets import preset
from fgjax.attribution.common.scores import SCORES
from fgjax.attribution.fido.concrete import concrete_dropout, simplified_concrete_dropout
from fgjax.core.option import option


@dataclass(frozen=True)
class FidoConfig:
    """Settings of FIDO. Lengths and areas are those of a 224 px image, and scale with it.

    The default's masks are meant to be cut at 0.5. Such a mask should suffice (SSR) or destroy
    (SDR) by itself, whatever stands in the rest, and be small and of few pieces. Five things see
    to that: the temperature falls, so that the last masks are almost binary; masks move smoothly,
    first in large patches and then in smaller ones, and are sampled smoothly; a score beyond what
    is asked counts for nothing, so that only area is left to gain; the price of area is each
    image's own; and the sampled masks are filled in several ways, anew at every step.
    `fido_preset("soft")` has none of them.
    """

    steps: int = option(30, "optimisation steps.")
    batch_size: int = option(8, "masks sampled per step for each of the two objectives.")
    temperature: float = option(1.0, "t of Eqs. 5 and 8, at the first step.")
    temperature_end: float | None = option(0.5, "t at the last steps; None: as at the first.")
    sharpness: float = option(
        5.0,
        "what the mask logits ϑ are multiplied by at the last steps, 1 at the first: rates θ "
        "move away from 1/2, and a mask drawn by them is nearly the mask cut at 1/2.",
    )
    smoothing: float = option(
        12.0,
        "σ of the Gaussian that a step's gradient is smoothed by, in pixels, at the first "
        "step; 0: never. Masks then are sums of such Gaussians: no speck can arise alone.",
    )
    smoothing_end: float | None = option(4.0, "the same at the last steps; None: as at the first.")
    anneal: float = option(
        0.8,
        "share of the steps over which temperature, sharpness and smoothing go, "
        "geometrically, from the first value to the last, where they stay.",
    )
    noise_smoothing: float = option(
        4.0,
        "σ in pixels of the Gaussian that makes neighbouring pixels be sampled alike, each at "
        "its own rate still; 0: every pixel by itself.",
    )
    sampler: Literal["simplified", "original"] = option(
        "simplified",
        '"simplified" (Eq. 8) or "original" (Eq. 5).',
    )
    score: Literal["log_odds", "leaking"] = option(
        "log_odds",
        '"log_odds" (Eq. 4) or "leaking" (what the released code computes).',
    )
    kept_margin: float | None = option(
        0.5,
        "the SSR's score counts up to that of the whole image plus this (log odds: in nats); "
        "None: however high it is.",
    )
    deleted_margin: float | None = option(
        4.6,
        "the SDR's score counts down to this below 0 and below that of the whole image, "
        "whichever is lower (4.6 nats: p = 0.01), but not to below the infill's own; None: however "
        "low it is.",
    )
    optimizer: Literal["adamw", "sgd"] = option(
        "adamw",
        '"adamw" without weight decay, which is Adam; or "sgd".',
    )
    learning_rate: float = option(200.0, "of the mask logits.")
    adam_eps: float = option(
        0.1,
        "ε of Adam. At 0.1 it exceeds the gradients, so steps keep their size.",
    )
    l1: float = option(
        2e-3,
        "λ of Eqs. 2 and 3: the price of one important pixel of a 224x224 image.",
    )
    price_rate: float = option(
        0.4,
        "how fast that price moves, for each image and mask by itself: a step multiplies it by at "
        "most e to this · 1/2 while the sampled masks are near their margins, and lowers it while "
        "they are not, within half and four times l1; 0: it stays, as it does without a margin.",
    )
    tv: float = option(0.01, "weight of the total variation (Eq. 10).")
    tv_norm: Literal["squared", "absolute"] = option(
        "squared",
        '"squared" differences as in Eq. 10, or "absolute" as the released code has.',
    )
    warmup: int = option(15, "steps over which l1 and tv ramp up from 0.")
    schedule: Literal["constant", "cosine"] = option(
        "constant",
        'of the learning rate: "constant", or falling to 0 as a "cosine".',
    )
    mask_size: int | None = option(
        None,
        "side of a coarse mask that is upsampled bilinearly; None: every pixel.",
    )
    coarse_to_fine: tuple[int, ...] = option(
        (),
        "sides of coarser masks to begin with, such as (14, 56); each, and then mask_size, for an "
        "equal share of the steps.",
        example="14,56",
    )
    infill: Infill = option(
        "blur",
        "a name (blur, blurs, mean, zeros, uniform, normal, grey, original, knockoff, "
        "patches); in Python also an array or a function `(images, key) -> images`.",
    )
    infill_also: tuple[str, ...] = option(
        ("blurs", "mean", "grey"),
        "names of infills beside it, drawn anew at every step; each takes an equal share of the "
        "masks, so that what is found holds under all of them.",
        example="blurs,mean",
    )
    blur_sigma: float = option(11.6, "σ of the blur infill in pixels.")
    antithetic: bool = option(False, "sample masks in pairs with opposite noise.")
    initial: float = option(0.5, "importance of every pixel at the start, in (0, 1).")
    images_per_step: int | None = option(
        None,
        "most images optimised together in one compiled step, evenly shared; None: 1 on a CPU, as "
        "many as fit on an accelerator.",
        free=True,
    )
    masks_per_pass: int | None = option(
        None,
        "most masked images that the model is shown at a time; a step in parts costs a forward "
        "pass more. None: all of a step's, or as many as fit into the memory.",
        free=True,
    )
    steps_per_dispatch: int | None = option(None, "steps that are one program; None: 1.", free=True)
    stop: float | None = option(
        None,
        "an image is done, before all its steps, when five steps have lowered its two "
        "objectives together by less than this (in units of the score; log odds: nats); None: "
        "never.",
    )

    def __post_init__(self):
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        for name in ("temperature", "learning_rate", "sharpness", "adam_eps", "blur_sigma"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)}: must be above 0")
        for name in ("temperature_end", "smoothing_end"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)}: must be above 0, or left out")
        for name in ("kept_margin", "deleted_margin"):
            if getattr(self, name) is not None and not np.isfinite(getattr(self, name)):
                raise ValueError(f"{name}={getattr(self, name)}: a finite number, or left out")
        if not 0 < self.anneal <= 1:
            raise ValueError(f"anneal={self.anneal}: a share of the steps, above 0 and at most 1")
        for name in ("l1", "price_rate", "tv", "warmup", "smoothing", "noise_smoothing"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: must not be negative")
        for name in ("mask_size", "images_per_step", "masks_per_pass", "steps_per_dispatch"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1, or left out")
        coarse = self.coarse_to_fine
        sides = [*coarse, *([self.mask_size] if self.mask_size else [])]
        if any(side < 1 for side in sides) or sides != sorted(set(sides)):
            raise ValueError(
                f"coarse_to_fine={list(coarse)}: sides of masks, each larger than the one before, "
                "and smaller than mask_size where that is given"
            )
        if self.steps <= len(coarse):
            raise ValueError(
                f"steps={self.steps}: each of {len(coarse) + 1} mask sizes needs at least one"
            )
        if self.stop is not None and not np.isfinite(self.stop):
            raise ValueError(f"stop={self.stop}: a finite number, or left out")
        if not 0 < self.initial < 1:
            raise ValueError(f"initial={self.initial}: a probability strictly between 0 and 1")
        if self.antithetic and self.batch_size % 2:
            raise ValueError(f"batch_size={self.batch_size}: antithetic masks come in pairs")
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r}: one of {', '.join(known)}")
        check_infill(self.infill)
        for name in self.infill_also:
            check_infill(name, "infill_also")


SAMPLERS = {
    "simplified": simplified_concrete_dropout,
    "original": lambda key, logits, *a, **k: concrete_dropout(key, jax.nn.sigmoid(logits), *a, **k),
}
_CHOICES = {
    "sampler": tuple(SAMPLERS),
    "score": tuple(SCORES),
    "optimizer": ("adamw", "sgd"),
    "tv_norm": ("squared", "absolute"),
    "schedule": ("constant", "cosine"),
}

_AS_PUBLISHED: dict[str, Any] = dict(
    temperature_end=None,
    sharpness=1.0,
    smoothing=0.0,
    smoothing_end=None,
    noise_smoothing=0.0,
    kept_margin=None,
    deleted_margin=None,
    price_rate=0.0,
    infill_also=(),
    warmup=5,
)
"""Without what the default adds to Eqs. 1-10."""

FIDO_PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # Masks that hold under other infills more surely, bought with area: pixels cost less.
    "robust": dict(l1=7.5e-4),
    # As the default, for one infill: masks that hold under no other, and SDRs that fail more often.
    "one-infill": dict(infill_also=()),
    # Soft masks at t = 1, whose p(c) is that of a mixture of both pictures: cut, they keep nothing.
    "soft": dict(_AS_PUBLISHED, learning_rate=40.0, l1=2e-3, initial=0.2),
    # The paper as written: t = 0.1, Eq. 4, λ = 1e-3.
    "korsch-2023": dict(
        _AS_PUBLISHED, temperature=0.1, learning_rate=10.0, l1=1e-3, tv=0.01, steps=100, initial=0.5
    ),
    # The released code: t = 1, a score that saturates, absolute differences in TV, and one
    # λ = 1e-3 for the mean of both masks' L1.
    "fido-pytorch": dict(
        _AS_PUBLISHED,
        temperature=1.0,
        score="leaking",
        learning_rate=10.0,
        l1=5e-4,
        tv=0.01,
        tv_norm="absolute",
        steps=30,
        initial=0.5,
    ),
    # Chang et al.: a coarse mask, Adam with its usual ε, the original sampler, 32 masks.
    "chang-2019": dict(
        _AS_PUBLISHED,
        batch_size=32,
        temperature=0.1,
        sampler="original",
        learning_rate=0.05,
        adam_eps=1e-8,
        l1=1e-3,
        tv=0.01,
        mask_size=56,
        blur_sigma=10.0,
        steps=300,
        initial=0.5,
    ),
}
"""Published settings by name; `fido_preset` makes a config of one."""


def fido_preset(name: str, **changes: Any) -> FidoConfig:
    """Return the settings published under `name` (see `FIDO_PRESETS`), with `changes` on top.

    Raises:
      ValueError: no such preset, or no such setting.
    """
    return preset(FidoConfig, FIDO_PRESETS, name, changes)
