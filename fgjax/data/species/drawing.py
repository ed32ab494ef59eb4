"""Anti-aliased drawing with signed distances, in NumPy.

A shape is a union of strokes; a stroke knows its signed distance (negative inside).
One pixel of linear ramp across the edge turns a distance in pixels into coverage:
`clip(1/2 - distance, 0, 1)`, which is the covered area of the pixel where the edge
runs straight along an axis. Each shape is evaluated in its bounding window only.

Coordinates are x to the right, y down. A `Frame` places a part's own coordinates in
the image, whose side is 1: shapes do not depend on the image's size in pixels.
"""

from dataclasses import dataclass
from functools import lru_cache, reduce
from math import cos, hypot, sin, sqrt

import numpy as np
from jaxtyping import Float

Point = tuple[float, float]
Colour = tuple[float, float, float]


def rgb(code: str) -> Colour:
    """Return a colour from its code: `"#ff8000"` -> (1.0, 0.5, 0.0)."""
    red, green, blue = (int(code[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue


@dataclass(frozen=True)
class Cone:
    """The area swept by a circle that moves from `start` to `end` and changes its radius."""

    start: Point
    end: Point
    start_radius: float
    end_radius: float

    def distance(
        self, x: Float[np.ndarray, "*s"], y: Float[np.ndarray, "*s"]
    ) -> Float[np.ndarray, "*s"]:
        """Return exact: min over t in [0, 1] of |p - c(t)| - r(t), which is convex in t.

        Its derivative vanishes where (x - t l) / |p - c(t)| = k = (r0 - r1) / l, in
        coordinates along and across the axis; clipping t gives the two end caps.
        """
        (x0, y0), (x1, y1) = self.start, self.end
        length = hypot(x1 - x0, y1 - y0)
        x, y = x - x0, y - y0
        if length <= abs(self.start_radius - self.end_radius):  # one circle holds the other
            if self.end_radius > self.start_radius:
                x, y = x - (x1 - x0), y - (y1 - y0)
            return np.sqrt(x * x + y * y) - max(self.start_radius, self.end_radius)
        dx, dy = (x1 - x0) / length, (y1 - y0) / length
        k = (self.start_radius - self.end_radius) / length
        along, across = x * dx + y * dy, y * dx - x * dy
        reach = np.clip(along - np.abs(across) * (k / sqrt(1 - k * k)), 0.0, length)
        along = along - reach
        return np.sqrt(along * along + across * across) + reach * k - self.start_radius

    def circles(self) -> tuple[tuple[float, float, float], ...]:
        """Return circles (x, y, radius) whose convex hull is the stroke."""
        return ((*self.start, self.start_radius), (*self.end, self.end_radius))


def disc(x: float, y: float, radius: float) -> Cone:
    return Cone((x, y), (x, y), radius, radius)


@dataclass(frozen=True)
class Polygon:
    """A convex polygon, corners in clockwise order as seen on the screen."""

    corners: tuple[Point, ...]

    def distance(
        self, x: Float[np.ndarray, "*s"], y: Float[np.ndarray, "*s"]
    ) -> Float[np.ndarray, "*s"]:
        """Return largest distance to a side's line: exact but for the outside of a corner."""
        sides = []
        for (x0, y0), (x1, y1) in self.sides():
            length = hypot(x1 - x0, y1 - y0)
            nx, ny = (y1 - y0) / length, (x0 - x1) / length
            sides.append(x * nx + y * ny - (x0 * nx + y0 * ny))
        return reduce(np.maximum, sides)

    def sides(self) -> tuple[tuple[Point, Point], ...]:
        return tuple(zip(self.corners, self.corners[1:] + self.corners[:1], strict=True))

    def circles(self) -> tuple[tuple[float, float, float], ...]:
        return tuple((x, y, 0.0) for x, y in self.corners)


Stroke = Cone | Polygon


@dataclass(frozen=True)
class Frame:
    """Where a part lies: image = origin + scale · rotation(angle) · mirror(p).

    `xx, xy, yx, yy` are the matrix, row by row; `x, y` the origin. Units: image sides.
    """

    xx: float
    xy: float
    yx: float
    yy: float
    x: float
    y: float

    @property
    def scale(self) -> float:
        return hypot(self.xx, self.yx)

    def joint(self, pivot: Point, angle: float) -> "Frame":
        """Return the frame of a part hung at `pivot` of this one and turned by `angle`
        (radians)."""
        c, s = cos(angle), sin(angle)
        return Frame(
            self.xx * c + self.xy * s,
            self.xy * c - self.xx * s,
            self.yx * c + self.yy * s,
            self.yy * c - self.yx * s,
            *self.place_point(pivot),
        )

    def place_point(self, point: Point) -> Point:
        """Return own coordinates -> image coordinates."""
        x, y = point
        return self.x + self.xx * x + self.xy * y, self.y + self.yx * x + self.yy * y

    def place(self, points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        """Return own coordinates -> image coordinates, of many points."""
        return points @ np.array([[self.xx, self.yx], [self.xy, self.yy]]) + (self.x, self.y)

    def locate(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return image coordinates (broadcast against each other) -> own coordinates."""
        # the inverse of a similarity is its transpose over scale²
        area = self.scale**2
        x, y = x - self.x, y - self.y
        return (
            x * (self.xx / area) + y * (self.yx / area),
            x * (self.xy / area) + y * (self.yy / area),
        )


def frame(x: float, y: float, scale: float, angle: float = 0.0, flip: bool = False) -> Frame:
    """Return a frame at (x, y); `flip` mirrors left and right before the rotation by `angle`."""
    c, s, m = scale * cos(angle), scale * sin(angle), -1.0 if flip else 1.0
    return Frame(m * c, -s, m * s, c, x, y)


@dataclass(frozen=True)
class Look:
    """Shape and colour of one part.

    Attributes:
      strokes: the shape is their union.
      colour, second: two colours, mixed by `blend`. No `second`: plain.
      blend: "ramp" (first colour before, second after a line across `axis`), "stripes"
        (waves along `axis`) or "core" (second colour from `offset` inside the edge on).
      axis, offset, width: direction, position and softness (stripes: period), part's units.
      anchor: the part's landmark, a point inside the shape that other parts leave free.
      ink: how dark the outline is, 0 to 1.
    """

    strokes: tuple[Stroke, ...]
    colour: Colour
    anchor: Point
    second: Colour | None = None
    blend: str = "ramp"
    axis: Point = (0.0, 1.0)
    offset: float = 0.0
    width: float = 0.1
    ink: float = 0.4


@lru_cache(maxsize=1024)
def bounding_circles(strokes: tuple[Stroke, ...]) -> Float[np.ndarray, "n 3"]:
    """Return circles (x, y, radius) whose convex hull holds the shape."""
    return np.array(sorted({circle for stroke in strokes for circle in stroke.circles()}))


def shape_distance(
    strokes: tuple[Stroke, ...], x: Float[np.ndarray, "*s"], y: Float[np.ndarray, "*s"]
) -> Float[np.ndarray, "*s"]:
    """Return signed distance to the union of `strokes` (exact outside it), in the part's units."""
    result = strokes[0].distance(x, y)
    for stroke in strokes[1:]:
        result = np.minimum(result, stroke.distance(x, y))
    return result


@dataclass(frozen=True)
class Patch:
    """A shape on the pixel grid, in its window: coverage, distance (pixels), own x and y."""

    window: tuple[slice, slice]
    coverage: Float[np.ndarray, "h w"]
    distance: Float[np.ndarray, "h w"]
    x: Float[np.ndarray, "h w"]
    y: Float[np.ndarray, "h w"]


def rasterise(strokes: tuple[Stroke, ...], at: Frame, size: int) -> Patch:
    """Return the shape on a `size` x `size` grid; an empty window when it lies outside."""
    circles = bounding_circles(strokes)
    centres, radius = at.place(circles[:, :2]) * size, circles[:, 2] * (at.scale * size) + 1.0
    x0, y0 = (int(v) for v in np.clip((centres - radius[:, None]).min(0), 0, size))
    x1, y1 = (int(v) for v in np.clip(np.ceil((centres + radius[:, None]).max(0)), 0, size))
    x1, y1 = max(x0, x1), max(y0, y1)
    columns = (np.arange(x0, x1, dtype=np.float32) + 0.5) / size
    rows = (np.arange(y0, y1, dtype=np.float32)[:, None] + 0.5) / size
    x, y = at.locate(columns, rows)
    distance = shape_distance(strokes, x, y) * (at.scale * size)
    coverage = np.clip(0.5 - distance, 0.0, 1.0)
    return Patch((slice(y0, y1), slice(x0, x1)), coverage, distance, x, y)


def paint(
    image: Float[np.ndarray, "h h 3"], look: Look, at: Frame
) -> tuple[tuple[slice, slice], Float[np.ndarray, "r c"]]:
    """Paint `look` over `image`, in place; gives the window painted and its coverage."""
    patch = rasterise(look.strokes, at, image.shape[0])
    unit = at.scale * image.shape[0]
    # the outline is a little darker, and light falls from above: flat colour looks like paper
    light = 1.0 - look.ink * np.clip(patch.distance + (0.025 * unit + 0.3), 0.0, 1.0)
    colour = np.array(look.colour, np.float32)
    if look.second is None:
        colour = light[..., None] * colour
    else:
        mix = _blend(look, patch, unit)[..., None]
        colour = light[..., None] * (colour + mix * (np.array(look.second, np.float32) - colour))
    under = image[patch.window]
    under += patch.coverage[..., None] * (colour - under)
    return patch.window, patch.coverage


def _blend(look: Look, patch: Patch, unit: float) -> Float[np.ndarray, "h w"]:
    if look.blend == "core":
        return np.clip(-patch.distance - look.offset * unit + 0.5, 0.0, 1.0)
    along = patch.x * look.axis[0] + patch.y * look.axis[1] - look.offset
    if look.blend == "stripes":
        return 0.5 + 0.5 * np.cos(along * (2 * np.pi / look.width))
    return np.clip(along / look.width + 0.5, 0.0, 1.0)


@dataclass(frozen=True)
class Texture:
    """A background: smooth noise of several grids, mapped to a ramp of two colours.

    Attributes:
      dark, bright: the two colours.
      grids: (rows, columns, weight) of each noise grid; unequal numbers give streaks.
      contrast: slope of the map from noise to colour; large values give hard patches.
    """

    dark: Colour
    bright: Colour
    grids: tuple[tuple[int, int, float], ...]
    contrast: float = 1.0


@lru_cache(maxsize=256)
def _upsampling(cells: int, size: int) -> Float[np.ndarray, "size knots"]:
    """Return weights that take `cells + 1` knots to `size` pixels, with a smoothstep between
    knots."""
    position = (np.arange(size) + 0.5) / size * cells
    left = np.floor(position).astype(int)
    step = position - left
    step = step * step * (3 - 2 * step)
    weights = np.zeros((size, cells + 1), np.float32)
    weights[np.arange(size), left] = 1 - step
    weights[np.arange(size), left + 1] += step
    return weights


def paint_texture(
    texture: Texture, rng: np.random.Generator, size: int
) -> Float[np.ndarray, "size size 3"]:
    """Return a new image filled with `texture`; the same `rng` gives the same pattern at any
    size."""
    noise = np.zeros((size, size), np.float32)
    for rows, columns, weight in texture.grids:
        knots = rng.uniform(-weight, weight, (rows + 1, columns + 1)).astype(np.float32)
        noise += _upsampling(rows, size) @ knots @ _upsampling(columns, size).T
    noise = np.clip(0.5 + texture.contrast * noise, 0.0, 1.0)
    dark = np.array(texture.dark, np.float32)
    return dark + noise[..., None] * (np.array(texture.bright, np.float32) - dark)
