"""Options of what follows explaining: evaluation, pages, comparisons, test-time augmentation."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fgjax.attribution.registry import METHODS
from fgjax.core.option import (
    ABOVE_ZERO,
    BETWEEN_ZERO_AND_ONE,
    NOT_NEGATIVE,
    SHARE,
    ZERO_TO_ONE,
    option,
)

CONTROLS = ("center", "random", "constant", "zero", "flipped")
"""Maps that no number may fall for; compare.methods takes them, too. flipped is 1 - the map of the
method with the fewest passes, the others know nothing of the image."""


def _infills() -> Iterable[str]:
    from fgjax.attribution.common.infill import INFILLS  # slow to import, and of use only here

    return INFILLS


CROPS = ("box", "random", "center", "gradient", "detector", "fido_original", "fido_simplified",
         "fido_original_cleaned", "fido_simplified_cleaned", "glas")  # fmt: skip
"""The crops of test-time augmentation."""


@dataclass(frozen=True)
class EvaluateConfig:
    """How maps are judged."""

    threshold: float = option(
        0.5,
        "a pixel is in the mask when its importance is above this.",
        within=BETWEEN_ZERO_AND_ONE,
    )
    sure: float = option(
        0.9,
        "a prediction climbs to the level of the classes' tree where it is at least so sure.",
        within=BETWEEN_ZERO_AND_ONE,
    )
    mistakes: int = option(
        24,
        "at most so many of the surest mistakes on the page of the test.",
        within=NOT_NEGATIVE,
    )
    regions: bool = option(
        True,
        "whether the smallest regions that suffice and that destroy are found, under the method's "
        "infill and under patches of the image (about 70 forward passes an image).",
    )
    randomised: bool = option(
        False,
        "whether each map is compared with that of the network with a fresh last layer; takes as "
        "long as explaining.",
    )
    curves: int = option(
        0,
        "steps of insertion and deletion, measured with ROAD (2 passes a step, and 18); 0: not "
        "measured.",
        within=NOT_NEGATIVE,
    )
    landmarks: float = option(
        0.0,
        "for data with landmarks: whether maps point at each part, and their energy in it, a disc "
        "of this share of the longer side of the box (0.1 is usual); 0: not measured.",
        within=NOT_NEGATIVE,
    )


@dataclass(frozen=True)
class ReportConfig:
    """What the page shows."""

    images: int = option(300, "at most so many in the gallery.", within=NOT_NEGATIVE)
    figures: int = option(32, "at most so many pictures in figures/.", within=NOT_NEGATIVE)


@dataclass(frozen=True)
class LookConfig:
    """Which images are worth a look, and what their table says."""

    sure: float = option(
        0.8, "sure and wrong: a wrong class with at least this p.", within=ZERO_TO_ONE
    )
    margin: float = option(
        0.2, "unsure: p of the second class is less than this below the first.", within=ZERO_TO_ONE
    )
    background: float = option(
        0.2,
        "explained by the background: less than this share of the map is in the object (or box).",
        within=ZERO_TO_ONE,
    )
    same: float = option(
        0.98,
        "nearly the same: cosine of the features of a test and a training image.",
        within=ZERO_TO_ONE,
    )
    training_images: int = option(
        2000, "at most so many are compared with; 0: none.", within=NOT_NEGATIVE
    )
    images: int = option(200, "at most so many on the page.", within=NOT_NEGATIVE)
    exif: bool = option(False, "whether the table has date and place, from EXIF.")


@dataclass(frozen=True)
class CompareConfig:
    """Many methods on the same images and model. A method's own settings are compare.METHOD.FIELD,
    such as compare.rise.masks=500.
    """

    methods: tuple[str, ...] = option(
        (),
        "which; all when left out. center, random, constant, zero and flipped are controls: a "
        "column in which one of them beats the median method ranks nothing.",
        example="fido,glas,rise",
        names=lambda: METHODS,
        also=CONTROLS,
    )
    steps: int = option(50, "of the insertion and deletion curves.", within=ABOVE_ZERO)
    infills: tuple[str, ...] = option(
        ("patches", "knockoff"),
        "infills that insertion and deletion are measured under as well: such as no method was "
        "optimised on. Each takes about 2 compare.steps forward passes a map.",
        example="patches,grey",
        names=lambda: _infills(),
    )
    variants: bool = option(
        True,
        "whether the other maps of a method are rows, too: light and shadow of GLAS, SSR and SDR "
        "of FIDO, the rounds of recursive GLAS.",
    )
    road: bool = option(
        True,
        "whether ROAD is measured (about 18 forward passes and as many imputations a map).",
    )
    sensitivity: int = option(
        3,
        "nearby images that max-sensitivity explains again; 0: not measured.",
        within=NOT_NEGATIVE,
    )
    randomised: int = option(
        0,
        "images that are explained again with randomised layers; 0: not measured.",
        within=NOT_NEGATIVE,
    )
    again: int = option(
        600,
        "methods with more model passes per image than this are not run again for those two.",
        within=NOT_NEGATIVE,
    )
    images_per_call: int | None = option(
        None,
        "images that are explained and judged at a time; null: 1 on a CPU, 16 on an accelerator.",
        within=ABOVE_ZERO,
    )
    gallery: int = option(12, "at most so many images on the page.", within=NOT_NEGATIVE)
    settings: Any = None


@dataclass(frozen=True)
class TtaConfig:
    """Test-time augmentation: a crop of each test image that the classifier sees as well."""

    crops: tuple[str, ...] = option(
        (
            "box",
            "random",
            "center",
            "gradient",
            "fido_original",
            "fido_simplified",
            "glas",
        ),
        "which: box (the annotated one), random, center, gradient, detector, fido_original, "
        "fido_simplified, glas. fido_original is FIDO with all of Chang et al.'s settings, "
        "fido_simplified ours, those of explain.*; fido_original_cleaned and "
        "fido_simplified_cleaned leave specks of the same mask out of the box.",
        example="box,center,fido_simplified",
        names=lambda: CROPS,
        free=True,
    )
    original_steps: int | None = option(
        None,
        "steps of fido_original; null: their 300, of 2 x 32 masks each, forty times our work.",
        within=ABOVE_ZERO,
    )
    boxes: str | None = option(
        None,
        "for detector: a CSV with the columns name,x0,y0,x1,y1[,score], in pixels of the "
        "image file; of several boxes of an image the one with the highest score counts.",
        path=True,
    )
    threshold: float = option(
        0.5,
        "a map's box is around its values above this.",
        within=BETWEEN_ZERO_AND_ONE,
    )
    padding: float = option(
        0.1,
        "added to a map's box on every side, as a share of its side.",
        within=NOT_NEGATIVE,
    )
    share: float = option(
        0.75,
        "side of the random and center crops, as a share of the image's.",
        within=SHARE,
    )
