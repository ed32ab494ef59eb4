"""From an image file to the model's input.

`read_image` and `read_mask` decode a file or say why it cannot be used; `Fit`
turns an image of any size into a square one and moves its annotations along;
`read_fitted` does both, and decodes no more of a photograph than is needed.

Coordinates are continuous: x to the right, y down, (0, 0) the outer corner of
the first pixel, so pixel centres lie at +0.5.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import (
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from fgjax.core.extras import MissingExtraError, extra
from fgjax.core.sniff import sniff_file
from fgjax.data.types import DataError

MAX_PIXELS = 100_000_000
MIN_SIDE = 16
MULTIPLE = 16
"""Sides of whole images are multiples of the stride of the networks that see them."""
ENOUGH = 2
"""A JPEG is decoded at a part of its size where that is at least so many times what is needed."""

# Called one by one instead of through `Image.open`, whose own bomb limit is another
# one, is global to the process, and speaks through a warning.
_DECODERS: dict[str, Callable[..., Image.Image]] = {
    "JPEG": JpegImagePlugin.jpeg_factory,
    "PNG": PngImagePlugin.PngImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "GIF": GifImagePlugin.GifImageFile,
}
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")


def _heif(stream: BinaryIO) -> Image.Image:
    """Return a photo of a phone, HEIC: read by a package of the extra `heif`."""
    stream.seek(4)
    if stream.read(4) != b"ftyp" or stream.read(4) not in HEIF_BRANDS:
        raise ValueError("not HEIF")
    stream.seek(0)
    with extra("heif", "HEIC images"):
        from pillow_heif import HeifImageFile
    return HeifImageFile(stream)


_DECODERS["HEIC"] = _heif


def read_image(path: str | Path, orient: bool = False) -> UInt8[np.ndarray, "h w 3"]:
    """Decode a JPEG, PNG, WebP, BMP, TIFF, GIF or HEIC (extra `heif`) file to 8-bit RGB.

    Greyscale, palette and CMYK become RGB. 16-bit values are scaled (65535 to 255),
    not clipped; float pixels must lie in [0, 1]. Transparent pixels are composited
    over white. Of an animation the first frame is taken.

    Args:
      path: the file.
      orient: turn the image as its EXIF orientation says. Leave it off where
        annotations are given in raw pixels (CUB-200-2011).

    Raises:
      DataError: the file is missing, unreadable, empty, not an image, damaged or
        truncated, has more than `MAX_PIXELS` pixels (found in the header, before
        decoding), or its shorter side is below `MIN_SIDE` pixels.
    """
    return np.array(_decode(Path(path), _to_rgb, orient)[0])


def read_fitted(
    path: str | Path, fit: "Fit", orient: bool = False
) -> tuple[UInt8[np.ndarray, "H W 3"], tuple[int, int]]:
    """Return `fit.image(read_image(path))`, and height and width of the whole image.

    A JPEG with at least `2 * ENOUGH` times the pixels that are needed, along each side, is decoded
    at 1/2, 1/4 or 1/8 of its size, still `ENOUGH` times what is needed: a photograph of 12
    megapixels in a fraction of the time. Its pixels are then those of blocks of 2, 4 or 8 pixels
    before they are resized, which moves values a little (docs/your-images.md); all other images are
    what `read_image` makes of them.

    Raises:
      DataError: see `read_image`.
    """
    image, shape, part = _decode(Path(path), _to_rgb, orient, fit)
    return fit.image(np.array(image), shape, part), shape


def read_mask(path: str | Path, shape: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Decode an object mask: True where any channel is at least half of white.

    So 1-bit masks, 8-bit masks (128 and above) and palette masks whose background
    is dark all work. Alpha is ignored.

    Args:
      path: the file; the same formats as `read_image`.
      shape: height and width of the image the mask belongs to.

    Raises:
      DataError: as `read_image`; the mask has another size than its image; or it is
        not black but has no pixel of 128 or more (a mask written as 0 and 1).
    """
    path = Path(path)
    values = np.array(_decode(path, _without_alpha, orient=False)[0]).max(axis=-1)
    if values.shape != tuple(shape):
        raise DataError(
            f"{path}: the mask is {_size(values.shape)} pixels but its image is {_size(shape)}; "
            "save the mask at the image's own size"
        )
    if 0 < values.max() < 128:
        raise DataError(
            f"{path}: the brightest mask value is {values.max()}, so no pixel counts as object; "
            "write the object as 255 and the background as 0"
        )
    return values >= 128


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


def _decode(
    path: Path,
    convert: Callable[[Image.Image], Image.Image],
    orient: bool,
    fit: Fit | None = None,
) -> tuple[Image.Image, tuple[int, int], int]:
    """Open, check and decode a file; whatever goes wrong becomes a DataError.

    Returns:
      the image; height and width of the whole one, and into how many parts of its sides it was
      decoded: 1, or what `fit` lets a JPEG have.
    """
    try:
        if path.is_dir():
            raise DataError(f"{path}: is a folder, not an image file")
        if not path.is_file():
            raise DataError(f"{path}: no such image file; is the data set complete?")
        with path.open("rb") as stream:
            image = _open(path, stream)
            width, height = image.size
            shape = (width, height) if orient and _is_turned(image) else (height, width)
            part = 1 if fit is None else _draft(image, fit.part(shape))
            image.load()
            return convert(_oriented(image) if orient else image), shape, part
    except DataError:
        raise
    except PermissionError as error:
        raise DataError(f"{path}: may not be read; give yourself read permission") from error
    except Exception as error:
        # Decoders raise anything from SyntaxError to struct.error on damaged files.
        raise DataError(
            f"{path}: cannot be decoded ({_reason(error)}); the file is damaged, truncated or "
            "of an unusual kind: get it again, or save it as 8-bit PNG or JPEG"
        ) from error


def _open(path: Path, stream: BinaryIO) -> Image.Image:
    """Return the image with its header read and checked, nothing decoded."""
    if not stream.read(1):
        raise DataError(f"{path}: the file is empty; get it again")
    for decoder in _DECODERS.values():
        stream.seek(0)
        try:
            image = decoder(stream)
        except MissingExtraError as error:
            raise DataError(f"{path}: {error}") from None
        except Exception:
            continue  # not of this format, or its header is broken
        _check_size(path, image)
        if isinstance(image, PngImagePlugin.PngImageFile):
            # Decoding skips the checksums, so a half-downloaded file padded with
            # zeros would come out half black. Checking ends the decoder.
            image.verify()
            stream.seek(0)
            image = decoder(stream)
        return image
    if what := sniff_file(path):
        raise DataError(f"{path}: {what}")
    raise DataError(
        f"{path}: is not an image in a known format, or its header is damaged; "
        f"save it as one of {', '.join(_DECODERS)}"
    )


def _draft(image: Image.Image, part: int) -> int:
    """Let a JPEG be decoded at 1 / part of its size; return the part it will have, 1 of others."""
    width, height = image.size
    if part == 1 or not isinstance(image, JpegImagePlugin.JpegImageFile):
        return 1
    image.draft(None, (width // part, height // part))
    return round(width / image.size[0])


def _check_size(path: Path, image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise DataError(
            f"{path}: {width}×{height} pixels are more than the allowed "
            f"{MAX_PIXELS // 1_000_000} million; shrink the image"
        )
    if min(width, height) < MIN_SIDE:
        raise DataError(
            f"{path}: {width}×{height} pixels are too few; "
            f"the shorter side must have at least {MIN_SIDE}"
        )


def _is_turned(image: Image.Image) -> bool:
    """Return whether EXIF says that width and height are to be exchanged."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    except Exception:
        return False  # EXIF that cannot be read says nothing


def _oriented(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        return image  # EXIF that cannot be read says nothing


def _to_rgb(image: Image.Image) -> Image.Image:
    image = _eight_bit(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def _without_alpha(image: Image.Image) -> Image.Image:
    image = _eight_bit(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")  # straight from a palette with alpha Pillow warns
    return image.convert("RGB")


def _eight_bit(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey (65535 is white) and float grey (1 is white) to 8 bits."""
    if image.mode == "F":
        values = np.asarray(image)
        if not (values.min() >= 0 and values.max() <= 1):
            raise ValueError("float pixels outside [0, 1]")
        return Image.fromarray(np.round(values * np.float32(255)).astype(np.uint8))
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("integer pixels outside [0, 65535]")
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))
    return image


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}×{shape[0]}"


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
