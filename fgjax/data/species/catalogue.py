"""The ten imaginary species: their parts, joints and looks."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fgjax.data.species.drawing import (
    Cone,
    Look,
    Point,
    Polygon,
    Stroke,
    disc,
    rgb,
)

# In painting order: a later part lies over an earlier one. Part ids count from 1.
PARTS = (
    "tail", "tail_tip", "legs", "body", "wing", "wing_patch", "crest", "beak", "head", "eye",
)  # fmt: skip

# The joint each part hangs on, and where the joint sits in the body's coordinates. The bird
# looks to the right; its unit is about the length of its body.
JOINT_OF = {
    "tail": "tail", "tail_tip": "tail", "legs": "legs", "body": "body", "wing": "wing",
    "wing_patch": "wing", "crest": "head", "beak": "head", "head": "head", "eye": "head",
}  # fmt: skip
PIVOTS = {
    "body": (0.0, 0.0), "tail": (-0.36, 0.2), "legs": (-0.04, 0.28), "wing": (0.08, -0.08),
    "head": (0.2, -0.28),
}  # fmt: skip
# How far each joint turns, in degrees (least, greatest).
ANGLES = {"tail": (-22, 22), "legs": (-10, 10), "wing": (-12, 24), "head": (-18, 18)}
TILT = 18


@dataclass(frozen=True)
class Species:
    """One class: the look of each of its parts; a part that is not in `looks` is absent."""

    family: str
    name: str
    cue: str
    looks: Mapping[str, Look]

    @property
    def title(self) -> str:
        return f"{self.family}/{self.name}"


def _body(back: str, belly: str) -> Look:
    strokes = (Cone((0.13, -0.05), (-0.22, 0.12), 0.33, 0.23),)
    axis = (0.35, 0.94)  # across the back, slanting like the body
    return Look(strokes, rgb(back), (0.32, 0.08), rgb(belly), "ramp", axis, 0.04, 0.3, ink=0.3)


def _head(colour: str, throat: str, radius: float) -> Look:
    strokes = (Cone((0.0, 0.02), (0.07, -0.15), 0.2, radius),)
    axis = (0.3, 0.95)
    return Look(strokes, rgb(colour), (-0.03, -0.17), rgb(throat), "ramp", axis, 0.0, 0.15, ink=0.3)


def _wing(colour: str, stripe: str, period: float) -> Look:
    strokes = (
        Cone((-0.02, 0.02), (-0.3, 0.14), 0.2, 0.09),
        Cone((-0.05, 0.0), (-0.52, 0.16), 0.15, 0.035),
        Cone((-0.1, 0.1), (-0.42, 0.27), 0.12, 0.035),
    )
    axis = (0.9, 0.43)
    return Look(strokes, rgb(colour), (0.08, 0.05), rgb(stripe), "stripes", axis, 0.0, period)


def _legs(colour: str, length: float) -> Look:
    strokes: tuple[Stroke, ...] = ()
    for x, lean in ((-0.07, -0.03), (0.1, 0.03)):
        foot = (x + lean, length)
        strokes += (
            Cone((x, -0.1), foot, 0.04, 0.03),
            Cone((foot[0] - 0.05, foot[1]), (foot[0] + 0.12, foot[1] + 0.02), 0.03, 0.025),
        )
    return Look(strokes, rgb(colour), (0.13, length), ink=0.3)


def _tail(kind: str, colour: str, second: str) -> Look:
    shapes: dict[str, tuple[Stroke, ...]] = {
        "fan": (Polygon(((-0.4, -0.13), (0.05, -0.07), (0.05, 0.07), (-0.4, 0.13))),),
        "blade": (Cone((0.05, 0.0), (-0.38, 0.0), 0.09, 0.06),),
        "stub": (Cone((0.05, 0.0), (-0.22, -0.02), 0.11, 0.1),),
        "swallow": (
            Cone((0.05, 0.0), (-0.4, -0.14), 0.08, 0.02),
            Cone((0.05, 0.0), (-0.4, 0.14), 0.08, 0.02),
        ),
    }
    anchor = (-0.2, -0.07) if kind == "swallow" else (-0.2, 0.0)
    return Look(shapes[kind], rgb(colour), anchor, rgb(second), "stripes", (0.1, 1.0), 0.0, 0.1)


def _beak(kind: str, colour: str) -> Look:
    shapes: dict[str, tuple[tuple[Stroke, ...], Point]] = {
        "cone": ((Polygon(((0.15, -0.24), (0.4, -0.12), (0.15, -0.04))),), (0.33, -0.13)),
        "short": ((Polygon(((0.15, -0.21), (0.37, -0.13), (0.15, -0.07))),), (0.32, -0.135)),
        "hook": (
            (
                Cone((0.2, -0.17), (0.36, -0.16), 0.1, 0.085),
                Cone((0.36, -0.16), (0.4, 0.03), 0.085, 0.012),
            ),
            (0.37, -0.15),
        ),
        "spear": (
            (Polygon(((0.15, -0.26), (0.64, -0.14), (0.62, -0.1), (0.15, -0.04))),),
            (0.4, -0.15),
        ),
    }
    strokes, anchor = shapes[kind]
    return Look(strokes, rgb(colour), anchor, ink=0.3)


def _eye(ring: str) -> Look:
    pupil = rgb("#101014")
    return Look((disc(0.14, -0.2, 0.062),), rgb(ring), (0.14, -0.2), pupil, "core", offset=0.02)


def _crest(kind: str, colour: str) -> Look:
    strokes, anchor = {
        "spire": (
            (
                Cone((0.0, -0.26), (-0.15, -0.54), 0.085, 0.015),
                Cone((-0.04, -0.24), (-0.27, -0.41), 0.075, 0.015),
            ),
            (-0.08, -0.38),
        ),
        "fan": (
            tuple(
                Cone((0.05, -0.28), tip, 0.03, 0.046)
                for tip in ((-0.1, -0.44), (0.05, -0.48), (0.18, -0.43))
            ),
            (0.05, -0.46),
        ),
        "puff": (
            (disc(-0.11, -0.35, 0.085), disc(0.0, -0.42, 0.085), disc(-0.03, -0.34, 0.08)),
            (-0.02, -0.4),
        ),
    }[kind]
    return Look(strokes, rgb(colour), anchor, ink=0.3)


def _patch(kind: str, colour: str) -> Look:
    strokes, anchor = {
        "disc": ((disc(-0.14, 0.08, 0.105),), (-0.14, 0.08)),
        "bar": ((Cone((-0.025, 0.18), (-0.195, -0.01), 0.053, 0.053),), (-0.11, 0.085)),
    }[kind]
    return Look(strokes, rgb(colour), anchor, ink=0.3)


def _tip(kind: str, colour: str) -> Look:
    shapes: dict[str, tuple[tuple[Stroke, ...], Point]] = {
        "racket": ((disc(-0.46, 0.0, 0.11),), (-0.46, 0.0)),
        "arrow": ((Polygon(((-0.62, 0.0), (-0.37, -0.15), (-0.37, 0.15))),), (-0.45, 0.0)),
        "fork": (
            (
                Cone((-0.36, 0.0), (-0.54, -0.15), 0.05, 0.026),
                Cone((-0.36, 0.0), (-0.54, 0.15), 0.05, 0.026),
            ),
            (-0.38, 0.0),
        ),
    }
    strokes, anchor = shapes[kind]
    return Look(strokes, rgb(colour), anchor, ink=0.3)


# Family -> the looks its members share, the cue part, and the look of the cue of each sibling.
_FAMILIES: dict[str, tuple[dict[str, Look], str, dict[str, Look]]] = {
    "Reedwing": (
        {
            "body": _body("#8a5a34", "#f0dcb4"),
            "head": _head("#7a4a2a", "#e8cfa4", 0.2),
            "wing": _wing("#5c3820", "#86603c", 0.12),
            "tail": _tail("fan", "#5c3820", "#86603c"),
            "legs": _legs("#c98a4a", 0.3),
            "beak": _beak("cone", "#3c3430"),
            "eye": _eye("#f6ead0"),
        },
        "crest",
        {
            "spire-crested": _crest("spire", "#e8202c"),
            "fan-crested": _crest("fan", "#1f9bff"),
            "puff-crested": _crest("puff", "#ffd21a"),
        },
    ),
    "Duskmantle": (
        {
            "body": _body("#3d4a6e", "#aab6d4"),
            "head": _head("#2c3550", "#56648c", 0.22),
            "wing": _wing("#27304c", "#34406a", 0.16),
            "tail": _tail("swallow", "#27304c", "#34406a"),
            "legs": _legs("#6e5a78", 0.24),
            "beak": _beak("short", "#d8c8a0"),
            "eye": _eye("#f2f2ff"),
        },
        "wing_patch",
        {
            "moon-winged": _patch("disc", "#ffd21a"),
            "bar-winged": _patch("bar", "#ff3fa4"),
        },
    ),
    "Emberquill": (
        {
            "body": _body("#c8501c", "#f7b45a"),
            "head": _head("#7e2418", "#c8501c", 0.2),
            "wing": _wing("#8c2c18", "#b8481e", 0.2),
            "tail": _tail("blade", "#7e2418", "#8c2c18"),
            "legs": _legs("#3a2a28", 0.32),
            "beak": _beak("short", "#2a2422"),
            "eye": _eye("#ffe9a8"),
        },
        "tail_tip",
        {
            "racket-tailed": _tip("racket", "#18c8d8"),
            "arrow-tailed": _tip("arrow", "#b8f01c"),
            "fork-tailed": _tip("fork", "#b43cff"),
        },
    ),
    "Stonebill": (
        {
            "body": _body("#4e7a62", "#d6e4c0"),
            "head": _head("#e6e8dc", "#c8d4b8", 0.23),
            "wing": _wing("#2e5848", "#4a7a60", 0.1),
            "tail": _tail("stub", "#2e5848", "#4a7a60"),
            "legs": _legs("#d8a030", 0.22),
            "eye": _eye("#e0a020"),
        },
        "beak",
        {
            "hook-billed": _beak("hook", "#ff8a10"),
            "spear-billed": _beak("spear", "#3050ff"),
        },
    ),
}

SPECIES = tuple(
    Species(family, name, cue, {**shared, cue: look})
    for family, (shared, cue, siblings) in _FAMILIES.items()
    for name, look in siblings.items()
)
CLASSES = tuple(species.title for species in SPECIES)


def species_named(name: str | int) -> Species:
    """Return the species of that title ("Reedwing/fan-crested") or label. ValueError: there is
    none."""
    if isinstance(name, int | np.integer) and 0 <= name < len(SPECIES):
        return SPECIES[name]
    if name in CLASSES:
        return SPECIES[CLASSES.index(name)]
    raise ValueError(f"no species {name!r}: labels are 0 to {len(SPECIES) - 1}, names {CLASSES}")
