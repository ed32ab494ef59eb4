"""An image of any size becomes one of the model's, and its annotations move along.

Coordinates are continuous: x to the right, y down, (0, 0) the outer corner of
the first pixel, so pixel centres lie at +0.5.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

MULTIPLE = 16
"""Sides of whole images are multiples of the stride of the networks that see them."""
ENOUGH = 2
"""A JPEG is decoded at a part of its size where that is at least so many times what is needed."""


@dataclass(frozen=True)
class Fit:
    """How an image of any size becomes `size` × `size` pixels, annotations included.

    Mode "crop": the shorter side is resized to round(size / crop), the aspect kept,
    and the central square cut out (size 224, crop 0.875: shorter side 256). Mode
    "squash": both sides are resized to it, then the same cut; with crop 1 nothing
    of the image is lost. Mode "whole": the shorter side is resized to round(size / crop)
    and no square is cut out; only the borders go, so that both sides are multiples of 16.

    Attributes:
      size: side of the result in pixels.
      crop: share of the shorter side that stays, in (0, 1].
      mode: "crop", "squash" or "whole".
      place: where the cut lies, x and y: 0 is the image's left or upper end, 1 its other one.
      area: share of the whole image's area that becomes the result, whatever `crop` and `mode`
        say, its width over its height being `aspect`; a side that would be longer than the
        image's is the image's. None: as `crop` and `mode` say.
    """

    size: int
    crop: float = 1.0
    mode: Literal["crop", "squash", "whole"] = "crop"
    place: tuple[float, float] = (0.5, 0.5)
    area: float | None = None
    aspect: float = 1.0

    def __post_init__(self):
        if self.size < 1:
            raise ValueError(f"size must be at least 1 pixel, not {self.size}")
        if not 0 < self.crop <= 1:
            raise ValueError(f"crop must lie in (0, 1], not {self.crop}")
        if self.area is not None and not (0 < self.area <= 1 and self.aspect > 0):
            raise ValueError(f"area must lie in (0, 1], not {self.area}, aspect above 0")
        if self.mode not in ("crop", "squash", "whole"):
            raise ValueError(f'mode must be "crop", "squash" or "whole", not {self.mode!r}')

    def _resized(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Return height and width before the cut."""
        height, width = shape
        side = round(self.size / self.crop)
        if self.mode == "squash":
            return side, side
        scale = side / min(height, width)
        return round(height * scale), round(width * scale)

    def result(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Return height and width of what an h × w image becomes."""
        if self.mode != "whole" or self.area is not None:
            return self.size, self.size
        height, width = (max(s // MULTIPLE * MULTIPLE, MULTIPLE) for s in self._resized(shape))
        return height, width

    def window(self, shape: tuple[int, int]) -> tuple[float, float, float, float]:
        """Return the rectangle x0, y0, x1, y1 of an h × w image that becomes the result."""
        height, width = shape
        if self.area is not None:
            side = (self.area * height * width) ** 0.5
            across, down = (
                min(side * self.aspect**p, k) for p, k in ((0.5, width), (-0.5, height))
            )
            left, top = self.place[0] * (width - across), self.place[1] * (height - down)
            return left, top, left + across, top + down
        (new_height, new_width), (down, across) = self._resized(shape), self.result(shape)
        left = int(self.place[0] * (new_width - across))
        top = int(self.place[1] * (new_height - down))
        x, y = width / new_width, height / new_height
        return left * x, top * y, (left + across) * x, (top + down) * y

    def image(
        self,
        image: UInt8[np.ndarray, "h w 3"],
        shape: tuple[int, int] | None = None,
        part: int = 1,
    ) -> UInt8[np.ndarray, "H W 3"]:
        """Return the image, resized by an antialiased bicubic filter and cropped.

        Args:
          shape, part: of an image that was decoded at 1 / part of its size, height and width of
            the whole one.
        """
        return self._resize(image, Image.Resampling.BICUBIC, shape, part)

    def part(self, shape: tuple[int, int]) -> int:
        """Return the largest of 8, 4, 2 and 1 for which 1 / part of an h × w image still has
        `ENOUGH` times the pixels of the result along each side."""
        x0, y0, x1, y1 = self.window(shape)
        height, width = self.result(shape)
        room = min((x1 - x0) / width, (y1 - y0) / height)
        return next((part for part in (8, 4, 2) if part * ENOUGH <= room), 1)

    def mask(self, mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "H W"]:
        """Return the mask, resized to the nearest pixel and cropped."""
        return self._resize(mask.astype(np.uint8), Image.Resampling.NEAREST).astype(bool)

    def map(self, values: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "H W"]:
        """Return a map of any range, resized by an antialiased linear filter and cropped."""
        return self._resize(values.astype(np.float32), Image.Resampling.BILINEAR)

    def box(
        self, box: Float[np.ndarray, "4"], shape: tuple[int, int]
    ) -> Float[np.ndarray, "4"] | None:
        """Return the box x0, y0, x1, y1 of an h × w image, moved and clipped to the result.

        None when the box lies wholly outside the crop.
        """
        corners = self._move(np.asarray(box, np.float64).reshape(2, 2), shape)
        corners = np.clip(corners, 0, self._limits(shape)).astype(np.float32)
        if (corners[1] <= corners[0]).any():
            return None
        return corners.reshape(4)

    def landmarks(
        self, landmarks: Float[np.ndarray, "parts 3"], shape: tuple[int, int]
    ) -> Float[np.ndarray, "parts 3"]:
        """Return the landmarks x, y, visible of an h × w image, moved to the result.

        One that falls outside the crop is not visible; those not visible are 0, 0, 0.
        """
        points = self._move(np.asarray(landmarks[:, :2], np.float64), shape).astype(np.float32)
        inside = ((points >= 0) & (points < self._limits(shape))).all(axis=1)
        visible = (landmarks[:, 2] > 0) & inside
        points = np.concatenate([points, np.ones_like(points[:, :1])], axis=1)
        return np.where(visible[:, None], points, np.float32(0))

    def _resize(
        self,
        pixels: np.ndarray,
        filter: Image.Resampling,
        shape: tuple[int, int] | None = None,
        part: int = 1,
    ) -> np.ndarray:
        # Only the window is computed: the same numbers as resize, then crop, without
        # the large image in between (a panorama's may be enormous).
        shape = shape or pixels.shape[:2]
        window = self.window(shape)
        height, width = self.result(shape)
        image = Image.fromarray(pixels)
        if part > 1:
            left, top, right, bottom = window
            window = (left / part, top / part, right / part, bottom / part)
        return np.array(image.resize((width, height), filter, box=window))

    def _move(self, points: Float[np.ndarray, "p 2"], shape) -> Float[np.ndarray, "p 2"]:
        x0, y0, x1, y1 = self.window(shape)
        return (points - [x0, y0]) * self._limits(shape) / [x1 - x0, y1 - y0]

    def _limits(self, shape: tuple[int, int]) -> Float[np.ndarray, "2"]:
        """Return width and height of the result."""
        return np.array(self.result(shape)[::-1], np.float64)
