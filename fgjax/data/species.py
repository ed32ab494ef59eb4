"""Imaginary birds: a fine-grained data set that is drawn, so that everything is known of it.

Four families differ in several parts. The two or three siblings of a family differ in
exactly one small part, the *cue*: a crest, a wing patch, a tail tip or a beak. What
explains a decision between siblings is therefore known to the pixel, and a scene can be
drawn again with any part left out or taken from another species.

    scene = sample_scene(label=0, rng=np.random.default_rng(7))
    drawing = draw(scene, size=96)
    plain = draw(scene, size=96, without="crest")
    other = draw(scene, size=96, swap={"crest": "Reedwing/fan-crested"})

Pose, flip, scale (0.4 to 1 of the largest that fits), place, light, background, leaves and
twigs in front, and loose cue parts lying in the background are drawn from the same
distribution for every class: `sample_scene` does not look at the label.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from math import radians

import numpy as np
from jaxtyping import Bool, Float, UInt8

from fgjax.data.species_drawing import (
    Colour,
    Cone,
    Frame,
    Look,
    Polygon,
    Texture,
    bounding_circles,
    disc,
    frame,
    paint,
    paint_texture,
    rgb,
    shape_distance,
)
from fgjax.data.types import DataError, Example, Record, Split

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


# ---------------------------------------------------------------- the class tree


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
    strokes = ()
    for x, lean in ((-0.07, -0.03), (0.1, 0.03)):
        foot = (x + lean, length)
        strokes += (
            Cone((x, -0.1), foot, 0.04, 0.03),
            Cone((foot[0] - 0.05, foot[1]), (foot[0] + 0.12, foot[1] + 0.02), 0.03, 0.025),
        )
    return Look(strokes, rgb(colour), (0.13, length), ink=0.3)


def _tail(kind: str, colour: str, second: str) -> Look:
    strokes = {
        "fan": (Polygon(((-0.4, -0.13), (0.05, -0.07), (0.05, 0.07), (-0.4, 0.13))),),
        "blade": (Cone((0.05, 0.0), (-0.38, 0.0), 0.09, 0.06),),
        "stub": (Cone((0.05, 0.0), (-0.22, -0.02), 0.11, 0.1),),
        "swallow": (
            Cone((0.05, 0.0), (-0.4, -0.14), 0.08, 0.02),
            Cone((0.05, 0.0), (-0.4, 0.14), 0.08, 0.02),
        ),
    }[kind]
    anchor = (-0.2, -0.07) if kind == "swallow" else (-0.2, 0.0)
    return Look(strokes, rgb(colour), anchor, rgb(second), "stripes", (0.1, 1.0), 0.0, 0.1)


def _beak(kind: str, colour: str) -> Look:
    strokes, anchor = {
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
    }[kind]
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
    strokes, anchor = {
        "racket": ((disc(-0.46, 0.0, 0.11),), (-0.46, 0.0)),
        "arrow": ((Polygon(((-0.62, 0.0), (-0.37, -0.15), (-0.37, 0.15))),), (-0.45, 0.0)),
        "fork": (
            (
                Cone((-0.36, 0.0), (-0.54, -0.15), 0.05, 0.026),
                Cone((-0.36, 0.0), (-0.54, 0.15), 0.05, 0.026),
            ),
            (-0.38, 0.0),
        ),
    }[kind]
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
    """The species of that title ("Reedwing/fan-crested") or label. ValueError: there is none."""
    if isinstance(name, int | np.integer) and 0 <= name < len(SPECIES):
        return SPECIES[name]
    if name in CLASSES:
        return SPECIES[CLASSES.index(name)]
    raise ValueError(f"no species {name!r}: labels are 0 to {len(SPECIES) - 1}, names {CLASSES}")


# ---------------------------------------------------------------- backgrounds

TEXTURES = {
    "meadow": Texture(rgb("#4c7034"), rgb("#a8c070"), ((5, 40, 0.5), (3, 3, 0.4))),
    "sky": Texture(rgb("#8fb6d8"), rgb("#e6eef4"), ((4, 3, 0.5), (8, 6, 0.3)), 1.2),
    "sand": Texture(rgb("#c4ac80"), rgb("#e8d8b4"), ((40, 40, 0.5), (4, 4, 0.4))),
    "bark": Texture(rgb("#4a3c32"), rgb("#8c7862"), ((3, 18, 0.6), (12, 30, 0.3))),
    "water": Texture(rgb("#3c7480"), rgb("#94c4c4"), ((24, 4, 0.6), (4, 2, 0.3))),
    "stone": Texture(rgb("#80807c"), rgb("#b8b8b0"), ((7, 7, 0.5), (26, 26, 0.4)), 1.4),
    "dusk": Texture(rgb("#6c5a80"), rgb("#d8a898"), ((2, 1, 0.6), (9, 3, 0.15))),
    "foliage": Texture(rgb("#24402c"), rgb("#58884a"), ((10, 10, 0.6), (20, 20, 0.3)), 2.0),
    "snow": Texture(rgb("#ccd8e4"), rgb("#fafcff"), ((5, 5, 0.5), (30, 30, 0.2))),
    "heath": Texture(rgb("#6e6048"), rgb("#a884a0"), ((16, 16, 0.6), (5, 5, 0.4)), 1.8),
}
BACKGROUNDS = tuple(TEXTURES)


# ---------------------------------------------------------------- a scene


@dataclass(frozen=True)
class Loose:
    """A cue part of species `label` that lies in the background, on no animal."""

    label: int
    frame: Frame


@dataclass(frozen=True)
class Occluder:
    """A leaf or twig in front of the animal."""

    look: Look
    frame: Frame


@dataclass(frozen=True)
class Scene:
    """All that decides a picture but its size. Lengths in image sides, angles in radians.

    Attributes:
      label: the species drawn. No other field depends on it.
      frame: place, scale, rotation and flip of the body.
      angles: how far each joint is turned.
      scale: size in units of the largest that fits the image in this pose.
      flip: looks to the left (mirrored before it is turned).
      background: one of BACKGROUNDS.
      distractors, occluders: behind and in front of the animal.
      brightness: factor of the light in the middle of the image.
      gradient: how much the light grows across the image to the right and downwards.
      tint: factor of each colour channel.
      seed: of the background's pattern and the sensor noise.
    """

    label: int
    frame: Frame
    angles: Mapping[str, float]
    scale: float
    flip: bool
    background: str
    distractors: tuple[Loose, ...]
    occluders: tuple[Occluder, ...]
    brightness: float
    gradient: tuple[float, float]
    tint: Colour
    seed: int

    def part_frame(self, part: str) -> Frame:
        """Where `part`'s own coordinates lie in the image."""
        joint = JOINT_OF[part]
        return self.frame.joint(PIVOTS[joint], self.angles.get(joint, 0.0))


# What follows is found from the parts of *every* species, so that no class can be told from it.


@cache
def _looks_at() -> dict[str, tuple[Look, ...]]:
    """All looks that hang on each joint."""
    parts = [(JOINT_OF[part], look) for s in SPECIES for part, look in s.looks.items()]
    return {name: tuple(dict.fromkeys(k for j, k in parts if j == name)) for name in PIVOTS}


@cache
def _hull() -> dict[str, Float[np.ndarray, "n 3"]]:
    """Per joint, circles whose convex hull holds every part that may hang on it."""
    return {
        joint: np.unique(np.concatenate([bounding_circles(k.strokes) for k in looks]), axis=0)
        for joint, looks in _looks_at().items()
    }


@cache
def _grid(looks: tuple[Look, ...], spacing: float, margin: float) -> Float[np.ndarray, "n 2"]:
    """Grid points inside the union of the shapes, or nearer to it than `margin`."""
    side = np.arange(-1, 1, spacing)
    x, y = (a.ravel() for a in np.meshgrid(side, side))
    near = np.min([shape_distance(look.strokes, x, y) for look in looks], axis=0) < margin
    return np.stack([x, y], axis=1)[near]


SPACING = 0.07  # of the points that stand for the animal's area, in body units
CUE_SPACING = 0.035


@cache
def _animal_points() -> dict[str, Float[np.ndarray, "n 2"]]:
    """Per joint, points such that all parts of all species lie within SPACING of one of them."""
    return {joint: _grid(looks, SPACING, 0.75 * SPACING) for joint, looks in _looks_at().items()}


@cache
def _cue_points() -> tuple[tuple[str, Float[np.ndarray, "n 2"]], ...]:
    """The joint and grid points of every species' cue."""
    return tuple((JOINT_OF[s.cue], _grid((s.looks[s.cue],), CUE_SPACING, 0.0)) for s in SPECIES)


# What occluders may hide of any species' cue, counted on points. On the pixel grid at least 60 %
# is then seen; a small cue (a few pixels in a 64-pixel image) may lose a pixel more.
HIDDEN_AT_MOST = 0.3


def sample_scene(label: int, rng: np.random.Generator, *, background: str | None = None) -> Scene:
    """Draw a scene at random. Only the field `label` depends on `label`.

    The largest scale that fits, the places of loose parts and of leaves are found from the
    union of all species, so that none of them tells the class.

    Args:
      label: index into CLASSES.
      rng: the source of everything else.
      background: one of BACKGROUNDS; None: one at random.

    Raises:
      ValueError: no such label or background.
    """
    species_named(label)
    chosen = BACKGROUNDS[rng.integers(len(BACKGROUNDS))]
    if background is not None and background not in TEXTURES:
        raise ValueError(f"no background {background!r}: choose from {BACKGROUNDS}")

    angles = {joint: radians(rng.uniform(*limits)) for joint, limits in ANGLES.items()}
    flip = bool(rng.integers(2))
    scale = rng.uniform(0.4, 1.0)
    body = _place(rng, angles, scale, flip)
    joints = {name: body.joint(p, angles.get(name, 0.0)) for name, p in PIVOTS.items()}
    animal = np.concatenate([joints[name].place(p) for name, p in _animal_points().items()])
    return Scene(
        label=label,
        frame=body,
        angles=angles,
        scale=scale,
        flip=flip,
        background=background or chosen,
        distractors=_sample_distractors(rng, body.scale, animal),
        occluders=_sample_occluders(rng, body.scale, animal, joints),
        brightness=rng.uniform(0.8, 1.1),
        gradient=(rng.uniform(-0.2, 0.2), rng.uniform(-0.2, 0.2)),
        tint=tuple(rng.uniform(0.95, 1.05, 3).tolist()),
        seed=int(rng.integers(2**32)),
    )


def _place(rng: np.random.Generator, angles: dict[str, float], scale: float, flip: bool) -> Frame:
    """Rotate, scale and place the body so that every species would lie inside the image."""
    tilt = radians(rng.uniform(-TILT, TILT))
    unit = frame(0.0, 0.0, 1.0, tilt, flip)
    low, high = [], []
    for name, circles in _hull().items():
        centres = unit.joint(PIVOTS[name], angles.get(name, 0.0)).place(circles[:, :2])
        low.append((centres - circles[:, 2:]).min(0))
        high.append((centres + circles[:, 2:]).max(0))
    low, high = np.min(low, axis=0), np.max(high, axis=0)
    size = scale * 0.98 / (high - low).max()
    corner = rng.uniform(0.01, 0.99 - size * (high - low))
    x, y = (corner - size * low).tolist()
    return frame(x, y, float(size), tilt, flip)


def _sample_distractors(
    rng: np.random.Generator, unit: float, animal: Float[np.ndarray, "n 2"]
) -> tuple[Loose, ...]:
    """Up to two loose cue parts, of any species alike, clear of the animal and each other."""
    found, taken = [], []
    for _ in range(rng.choice(3, p=(0.5, 0.3, 0.2))):
        label = int(rng.integers(len(SPECIES)))
        look = SPECIES[label].looks[SPECIES[label].cue]
        circles = bounding_circles(look.strokes)
        middle = (circles[:, :2].min(0) + circles[:, :2].max(0)) / 2
        reach = (np.hypot(*(circles[:, :2] - middle).T) + circles[:, 2]).max() * unit
        angle, flip = rng.uniform(-np.pi, np.pi), bool(rng.integers(2))
        # the animal lies within SPACING of the points; the rest keeps a few pixels between
        places = rng.uniform(reach, 1 - reach, (12, 2)) if reach < 0.5 else np.empty((0, 2))
        gap = np.hypot(*(places[:, None] - animal).T).min(0) - SPACING * unit - 0.03
        for (x, y), free in zip(places.tolist(), gap, strict=True):
            clear = all(np.hypot(x - u, y - v) > reach + r + 0.02 for u, v, r in taken)
            if free > reach and clear:
                at = frame(x, y, unit, angle, flip)
                found.append(Loose(label, at.joint((-middle[0], -middle[1]), 0.0)))
                taken.append((x, y, reach))
                break
    return tuple(found)


LEAVES = tuple(rgb(c) for c in ("#3e6e2a", "#6a8c34", "#8a7a30", "#2c5638"))
TWIGS = tuple(rgb(c) for c in ("#4a3626", "#6a523a"))


def _leaf(colour: Colour) -> Look:
    rib = tuple(0.75 * c for c in colour)
    strokes = (Cone((0.0, 0.0), (-1.0, 0.0), 0.38, 0.02), Cone((0.0, 0.0), (0.9, 0.0), 0.38, 0.02))
    return Look(strokes, colour, (0.0, 0.0), rib, "stripes", (0.5, 0.8), 0.0, 0.3)


def _twig(colour: Colour) -> Look:
    strokes = (Cone((-6.0, 0.0), (6.0, 0.0), 0.16, 0.1), Cone((0.5, 0.0), (1.6, -0.8), 0.1, 0.05))
    return Look(strokes, colour, (0.0, 0.0))


OCCLUDERS = tuple(_leaf(c) for c in LEAVES) + tuple(_twig(c) for c in TWIGS)


def _sample_occluders(
    rng: np.random.Generator,
    unit: float,
    animal: Float[np.ndarray, "n 2"],
    joints: dict[str, Frame],
) -> tuple[Occluder, ...]:
    """Up to two leaves or twigs that leave at least 70 % of every species' cue points free."""
    cues = [joints[name].place(points) for name, points in _cue_points()]
    owner = np.repeat(np.arange(len(cues)), [len(points) for points in cues])
    cues, hidden, found = np.concatenate(cues), np.zeros(len(owner), bool), []
    for _ in range(rng.choice(3, p=(0.3, 0.4, 0.3))):
        look = OCCLUDERS[rng.integers(len(OCCLUDERS))]
        size, angle = unit * rng.uniform(0.18, 0.3), rng.uniform(-np.pi, np.pi)
        for spot in rng.integers(len(animal), size=6):
            at = frame(*animal[spot].tolist(), float(size), angle)
            # the edge's pixel counts as hidden, at the size of a small image
            covers = shape_distance(look.strokes, *at.locate(*cues.T)) * size < 0.005
            share = np.bincount(owner, hidden | covers) / np.bincount(owner)
            if share.max() <= HIDDEN_AT_MOST:
                hidden |= covers
                found.append(Occluder(look, at))
                break
    return tuple(found)


# ---------------------------------------------------------------- a drawing


@dataclass(frozen=True)
class Drawing:
    """A scene on the pixel grid, with all that is known of it.

    Attributes:
      image: RGB.
      label: index into CLASSES, of the scene's species (also when parts are swapped).
      part_map: 1 + index into PARTS of the part seen in each pixel (half covered counts),
        0 where there is none: background, loose parts, leaves.
      mask: part_map > 0.
      cue: where the scene's cue part is seen.
      box: x0, y0, x1, y1 around the mask, exclusive ends; None when nothing is visible.
      landmarks: x, y, visible per part of PARTS; pixels (the middle of the first pixel lies
        at 0.5); all 0 for a part the animal has not; visible 0 for a covered one.
    """

    image: UInt8[np.ndarray, "h w 3"]
    label: int
    part_map: UInt8[np.ndarray, "h w"]
    mask: Bool[np.ndarray, "h w"]
    cue: Bool[np.ndarray, "h w"]
    box: Float[np.ndarray, "4"] | None
    landmarks: Float[np.ndarray, "parts 3"]


def draw(
    scene: Scene,
    size: int = 96,
    *,
    without: str | tuple[str, ...] = (),
    swap: Mapping[str, str | int] | None = None,
) -> Drawing:
    """Draw `scene` on `size` x `size` pixels.

    Args:
      scene: what to draw.
      size: pixels, 32 to 1024.
      without: parts left out: what lies behind them is seen.
      swap: part -> the species (title or label) whose look it takes; a species without that
        part takes it away. All pixels outside the changed part stay the same.

    Raises:
      ValueError: no such size, part or species.
    """
    _check_size(size)
    looks = _looks(scene, without, swap or {})
    rng = np.random.default_rng(scene.seed)
    image = paint_texture(TEXTURES[scene.background], rng, size)
    for loose in scene.distractors:
        species = SPECIES[loose.label]
        paint(image, species.looks[species.cue], loose.frame)

    part_map = np.zeros((size, size), np.uint8)
    for number, part in enumerate(PARTS, start=1):
        if part in looks:
            window, coverage = paint(image, looks[part], scene.part_frame(part))
            part_map[window][coverage >= 0.5] = number
    for occluder in scene.occluders:
        window, coverage = paint(image, occluder.look, occluder.frame)
        part_map[window][coverage >= 0.5] = 0

    mask = part_map > 0
    return Drawing(
        image=_expose(image, scene, rng),
        label=scene.label,
        part_map=part_map,
        mask=mask,
        cue=part_map == 1 + PARTS.index(SPECIES[scene.label].cue),
        box=_tight_box(mask),
        landmarks=_landmarks(scene, looks, part_map),
    )


def _check_size(size: int) -> None:
    if not 32 <= size <= 1024:
        raise ValueError(f"size={size}: images are 32 to 1024 pixels wide")


def _looks(
    scene: Scene, without: str | tuple[str, ...], swap: Mapping[str, str | int]
) -> dict[str, Look]:
    without = (without,) if isinstance(without, str) else without
    for part in (*without, *swap):
        if part not in PARTS:
            raise ValueError(f"no part {part!r}: a bird has {PARTS}")
    looks = dict(SPECIES[scene.label].looks)
    for part, name in swap.items():
        looks.pop(part, None)
        donor = species_named(name).looks
        if part in donor:
            looks[part] = donor[part]
    return {part: look for part, look in looks.items() if part not in without}


def _expose(
    image: Float[np.ndarray, "h h 3"], scene: Scene, rng: np.random.Generator
) -> UInt8[np.ndarray, "h h 3"]:
    """Light and sensor noise: the same factor and offset whatever was painted."""
    size = image.shape[0]
    across = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    light = scene.brightness + scene.gradient[0] * across + scene.gradient[1] * across[:, None]
    image *= light[..., None] * (255 * np.array(scene.tint, np.float32))
    image += rng.standard_normal(image.shape, np.float32) * 4 + 0.5
    return np.clip(image, 0, 255, out=image).astype(np.uint8)


def _tight_box(mask: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "4"] | None:
    rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
    if not len(rows):
        return None
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)


def _landmarks(
    scene: Scene, looks: dict[str, Look], part_map: UInt8[np.ndarray, "h h"]
) -> Float[np.ndarray, "parts 3"]:
    size, result = part_map.shape[0], np.zeros((len(PARTS), 3), np.float32)
    for i, part in enumerate(PARTS):
        if part in looks:
            x, y = (size * v for v in scene.part_frame(part).place_point(looks[part].anchor))
            inside = 0 <= x < size and 0 <= y < size
            result[i] = x, y, inside and part_map[int(y), int(x)] == i + 1
    return result


# ---------------------------------------------------------------- the data set


@dataclass(frozen=True)
class SpeciesSource:
    """A `Source` of drawn birds; image i of a split depends on (seed, split, i, size) only.

    Labels go round: image i is of class i mod 10.

    Attributes:
      size: side of the images, pixels.
      train, test: how many images of each split.
      seed: another seed is another data set of the same classes.
      background_follows_class: in the training split class k always stands before
        `BACKGROUNDS[k]`, a shortcut to learn; the test split stays as it is.

    Raises:
      ValueError: a size or count that cannot be.
    """

    size: int = 96
    train: int = 3000
    test: int = 500
    seed: int = 0
    background_follows_class: bool = False

    classes = CLASSES
    landmark_names = PARTS

    def __post_init__(self) -> None:
        _check_size(self.size)
        for name in ("train", "test", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: must not be negative")

    @cached_property
    def records(self) -> tuple[Record, ...]:
        return tuple(
            Record(f"{split}/{i:06d}", i % len(SPECIES), split)
            for split, count in (("train", self.train), ("test", self.test))
            for i in range(count)
        )

    def scene(self, record: Record) -> Scene:
        """The scene of `record`. DataError: it is not one of this data set."""
        split, index = _split_and_index(record.name)
        count = {"train": self.train, "test": self.test}[split]
        if index >= count:
            raise DataError(f"{record.name}: this set has {count} {split} images ({split}={count})")
        label = index % len(SPECIES)
        follows = self.background_follows_class and split == "train"
        rng = np.random.default_rng([self.seed, int(split == "test"), index])
        return sample_scene(label, rng, background=BACKGROUNDS[label] if follows else None)

    def load(self, record: Record) -> Example:
        """Draw `record`. DataError: it is not one of this data set."""
        drawing = draw(self.scene(record), self.size)
        return Example(
            image=drawing.image,
            label=drawing.label,
            box=drawing.box,
            mask=drawing.mask,
            cue=drawing.cue,
            landmarks=drawing.landmarks,
        )


def _split_and_index(name: str) -> tuple[Split, int]:
    split, _, number = name.partition("/")
    if split not in ("train", "test") or not number.isdecimal():
        raise DataError(f"{name!r} is no record of the drawn birds: they are called test/000012")
    return split, int(number)
