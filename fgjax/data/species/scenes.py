"""All that decides a picture but its size: pose, place, light, background, what lies about.

Everything is drawn from the same distribution for every class.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from math import radians

import numpy as np
from jaxtyping import Float

from fgjax.data.species.catalogue import (
    ANGLES,
    JOINT_OF,
    PIVOTS,
    SPECIES,
    TILT,
    species_named,
)
from fgjax.data.species.drawing import (
    Colour,
    Cone,
    Frame,
    Look,
    Texture,
    bounding_circles,
    frame,
    rgb,
    shape_distance,
)

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
      scale: size in units of the largest that fits the image in this pose (see `sample_scene`).
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
        """Return where `part`'s own coordinates lie in the image."""
        joint = JOINT_OF[part]
        return self.frame.joint(PIVOTS[joint], self.angles.get(joint, 0.0))


# What follows is found from the parts of *every* species, so that no class can be told from it.


@cache
def _looks_at() -> dict[str, tuple[Look, ...]]:
    """Return all looks that hang on each joint."""
    parts = [(JOINT_OF[part], look) for s in SPECIES for part, look in s.looks.items()]
    return {name: tuple(dict.fromkeys(k for j, k in parts if j == name)) for name in PIVOTS}


@cache
def _hull(label: int | None = None) -> dict[str, Float[np.ndarray, "n 3"]]:
    """Per joint, circles whose convex hull holds every part that may hang on it; of one species
    those that do."""
    looks_at = _looks_at()
    if label is not None:
        own = SPECIES[label].looks.items()
        looks_at = {j: tuple(look for p, look in own if JOINT_OF[p] == j) for j in PIVOTS}
    return {
        joint: np.unique(np.concatenate([bounding_circles(k.strokes) for k in looks]), axis=0)
        for joint, looks in looks_at.items()
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
    """Return the joint and grid points of every species' cue."""
    return tuple((JOINT_OF[s.cue], _grid((s.looks[s.cue],), CUE_SPACING, 0.0)) for s in SPECIES)


# What occluders may hide of any species' cue, counted on points. On the pixel grid at least 60 %
# is then seen; a small cue (a few pixels in a 64-pixel image) may lose a pixel more.
HIDDEN_AT_MOST = 0.3


def sample_scene(
    label: int,
    rng: np.random.Generator,
    *,
    background: str | None = None,
    close_up: bool = False,
) -> Scene:
    """Draw a scene at random. Only the field `label` depends on `label`.

    The largest scale that fits, the places of loose parts and of leaves are found from the
    union of all species, so that none of them tells the class.

    Args:
      label: index into CLASSES.
      rng: the source of everything else.
      background: one of BACKGROUNDS; None: one at random.
      close_up: the bird fills the image as a crop to its box would make it, 0.95 to 1 of the
        largest scale at which its own species fits; scale and place then depend on `label`.

    Raises:
      ValueError: no such label or background.
    """
    species_named(label)
    chosen = BACKGROUNDS[rng.integers(len(BACKGROUNDS))]
    if background is not None and background not in TEXTURES:
        raise ValueError(f"no background {background!r}: choose from {BACKGROUNDS}")

    angles = {joint: radians(rng.uniform(*limits)) for joint, limits in ANGLES.items()}
    flip = bool(rng.integers(2))
    scale = rng.uniform(0.95 if close_up else 0.4, 1.0)
    body = _place(rng, angles, scale, flip, _hull(int(label) if close_up else None))
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


def _place(
    rng: np.random.Generator,
    angles: dict[str, float],
    scale: float,
    flip: bool,
    hull: dict[str, Float[np.ndarray, "n 3"]],
) -> Frame:
    """Rotate, scale and place the body so that the hull lies inside the image."""
    tilt = radians(rng.uniform(-TILT, TILT))
    unit = frame(0.0, 0.0, 1.0, tilt, flip)
    low, high = [], []
    for name, circles in hull.items():
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
    found: list[Loose] = []
    taken: list[tuple[float, float, float]] = []
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
    red, green, blue = colour
    rib = (0.75 * red, 0.75 * green, 0.75 * blue)
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
    placed = [joints[name].place(points) for name, points in _cue_points()]
    owner = np.repeat(np.arange(len(placed)), [len(points) for points in placed])
    cues, hidden, found = np.concatenate(placed), np.zeros(len(owner), bool), []
    for _ in range(rng.choice(3, p=(0.3, 0.4, 0.3))):
        look = OCCLUDERS[rng.integers(len(OCCLUDERS))]
        size, angle = unit * rng.uniform(0.18, 0.3), rng.uniform(-np.pi, np.pi)
        for spot in rng.integers(len(animal), size=6):
            x, y = animal[spot].tolist()
            at = frame(x, y, float(size), angle)
            # the edge's pixel counts as hidden, at the size of a small image
            covers = shape_distance(look.strokes, *at.locate(*cues.T)) * size < 0.005
            share = np.bincount(owner, hidden | covers) / np.bincount(owner)
            if share.max() <= HIDDEN_AT_MOST:
                hidden |= covers
                found.append(Occluder(look, at))
                break
    return tuple(found)
