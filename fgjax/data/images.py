"""From an image file to its pixels.

`read_image` and `read_mask` decode a file or say why it cannot be used; `read_fitted` makes the
model's input of it (`fgjax.data.fit`), and decodes no more of a photograph than is needed.
"""

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Bool, UInt8
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
from fgjax.data.fit import Fit
from fgjax.data.types import DataError

MAX_PIXELS = 100_000_000
MIN_SIDE = 16

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
    path: str | Path, fit: Fit, orient: bool = False
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
