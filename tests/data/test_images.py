import io
import os
import struct
import sys
import warnings
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from fgjax.data.fit import Fit
from fgjax.data.images import MAX_PIXELS, read_fitted, read_image, read_mask
from fgjax.data.types import DataError


def smooth(height=48, width=64):
    """A smooth colour image, so that lossy formats and resampling stay close to it."""
    y, x = np.mgrid[0:height, 0:width]
    channels = [255 * x / (width - 1), 255 * y / (height - 1), 255 * (x + y) / (height + width - 2)]
    return np.stack(channels, axis=-1).astype(np.uint8)


def encoded(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def raw_png(width, height, depth, colour, rows=b""):
    """A PNG written by hand: kinds Pillow cannot write, and headers that lie."""

    def chunk(kind, data):
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def test_the_cut_lies_where_it_is_told():
    """A wide image: what is cut at either end, and in the middle, is that of NumPy's slices."""
    image = smooth(32, 64)
    cuts = {place: Fit(32, place=(place, 0.5)).image(image) for place in (0.0, 0.5, 1.0)}
    for place, cut in cuts.items():
        np.testing.assert_array_equal(cut, image[:, round(32 * place) :][:, :32])
    np.testing.assert_array_equal(Fit(32).image(image), cuts[0.5])
    corner = Fit(16, 0.5, place=(1.0, 0.0)).image(image)
    np.testing.assert_array_equal(corner, image[:16, 48:])


@pytest.mark.parametrize(
    "suffix, options, tolerance",
    [
        ("png", {}, 0),
        ("bmp", {}, 0),
        ("tif", {}, 0),
        ("tiff", {"compression": "tiff_lzw"}, 0),
        ("webp", {"lossless": True}, 0),
        ("jpg", {"quality": 95}, 6),
        ("jpeg", {"quality": 95, "progressive": True}, 6),
    ],
)
def test_reads_every_format(tmp_path, suffix, options, tolerance):
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(smooth()).save(path, **options)
    image = read_image(path)
    assert image.dtype == np.uint8 and image.flags.writeable
    assert np.abs(image.astype(int) - smooth()).max() <= tolerance


def test_the_suffix_does_not_matter(tmp_path):
    (tmp_path / "image.jpg").write_bytes(encoded(Image.fromarray(smooth()), "PNG"))
    np.testing.assert_array_equal(read_image(tmp_path / "image.jpg"), smooth())


def test_greyscale_and_bilevel_become_rgb(tmp_path):
    grey = smooth()[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), np.stack([grey] * 3, -1))
    Image.fromarray(grey > 100).save(tmp_path / "bits.png")
    expected = np.where(grey > 100, 255, 0)
    np.testing.assert_array_equal(read_image(tmp_path / "bits.png")[..., 1], expected)


def test_palette_gives_its_colours(tmp_path):
    image = Image.new("P", (20, 20), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    image.save(tmp_path / "palette.png")
    assert (read_image(tmp_path / "palette.png") == [200, 100, 50]).all()


def test_cmyk_jpeg_keeps_its_colours(tmp_path):
    Image.new("RGB", (32, 32), (200, 100, 50)).convert("CMYK").save(tmp_path / "cmyk.jpg")
    image = read_image(tmp_path / "cmyk.jpg").astype(int)
    assert np.abs(image - [200, 100, 50]).max() <= 6


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path, suffix):
    values = np.linspace(0, 65535, 400).reshape(20, 20).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / f"deep.{suffix}")
    image = read_image(tmp_path / f"deep.{suffix}")
    np.testing.assert_array_equal(image[..., 0], np.round(values / 257))


def test_16_bit_colour_is_scaled(tmp_path):
    row = b"\0" + np.tile(np.array([0, 32768, 65535], ">u2"), 20).tobytes()
    (tmp_path / "deep.png").write_bytes(raw_png(20, 20, 16, 2, row * 20))
    assert (read_image(tmp_path / "deep.png") == [0, 128, 255]).all()


def test_float_pixels_are_scaled_or_refused(tmp_path):
    Image.fromarray(np.full((20, 20), 0.5, np.float32)).save(tmp_path / "half.tif")
    assert (read_image(tmp_path / "half.tif") == 128).all()
    Image.fromarray(np.full((20, 20), 7.0, np.float32)).save(tmp_path / "seven.tif")
    with pytest.raises(DataError, match=r"seven.tif.*float pixels outside \[0, 1\]"):
        read_image(tmp_path / "seven.tif")


def test_transparency_is_composited_over_white(tmp_path):
    pixels = np.zeros((20, 20, 4), np.uint8)
    pixels[:, :10] = [100, 0, 0, 255]
    pixels[:, 10:] = [100, 0, 0, 51]  # a fifth
    Image.fromarray(pixels).save(tmp_path / "alpha.png")
    image = read_image(tmp_path / "alpha.png")
    assert (image[:, :10] == [100, 0, 0]).all()
    blend = 0.2 * np.array([100, 0, 0]) + 0.8 * 255
    assert np.abs(image[:, 10:] - blend).max() <= 1

    Image.fromarray(pixels).convert("LA").save(tmp_path / "grey_alpha.png")
    assert (read_image(tmp_path / "grey_alpha.png")[:, 10:] > 200).all()

    palette = Image.new("P", (20, 20), 0)
    palette.save(tmp_path / "clear.png", transparency=bytes([0]))
    assert (read_image(tmp_path / "clear.png") == 255).all()


def test_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    for suffix in ("gif", "webp", "png"):
        path = tmp_path / f"moving.{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:])
        assert np.abs(read_image(path).astype(int) - [255, 0, 0]).max() <= 3, suffix


def test_orientation_only_on_request(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    Image.fromarray(smooth()).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "turned.png"), smooth())
    turned = read_image(tmp_path / "turned.png", orient=True)
    np.testing.assert_array_equal(turned, np.rot90(smooth(), k=-1))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_does_not_lose_the_image(tmp_path):
    Image.fromarray(smooth()).save(tmp_path / "odd.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff")
    assert read_image(tmp_path / "odd.jpg", orient=True).shape == (48, 64, 3)


def test_missing_folder_and_empty(tmp_path):
    with pytest.raises(DataError, match=r"nothing.jpg: no such image file"):
        read_image(tmp_path / "nothing.jpg")
    with pytest.raises(DataError, match="is a folder"):
        read_image(tmp_path)
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(DataError, match=r"empty.jpg: the file is empty"):
        read_image(tmp_path / "empty.jpg")


def test_a_dangling_link_is_missing(tmp_path):
    (tmp_path / "link.jpg").symlink_to(tmp_path / "gone.jpg")
    with pytest.raises(DataError, match=r"link.jpg: no such image file"):
        read_image(tmp_path / "link.jpg")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(DataError, match="pipe.jpg"):
        read_image(tmp_path / "pipe.jpg")


def test_no_permission(tmp_path, monkeypatch):
    path = tmp_path / "secret.jpg"
    path.write_bytes(encoded(Image.fromarray(smooth()), "JPEG"))

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    # Emulated: root may read everything.
    monkeypatch.setattr(type(path), "open", refuse)
    with pytest.raises(DataError, match=r"secret.jpg: may not be read; give yourself read"):
        read_image(path)


def test_text_named_jpg(tmp_path):
    (tmp_path / "page.jpg").write_text("404 not found" * 100)
    with pytest.raises(DataError, match=r"page.jpg: is not an image .* save it as one of JPEG"):
        read_image(tmp_path / "page.jpg")


HEIC = b"\0\0\0\x18ftypheic" + b"\0" * 40


def test_heic_names_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "phone.heic").write_bytes(HEIC)
    with pytest.raises(DataError, match=r"phone.heic: HEIC images: needs.*fgjax\[heif\]"):
        read_image(tmp_path / "phone.heic")


def test_heic_is_read_by_the_package_of_its_extra(tmp_path, monkeypatch):
    def opened(stream):
        assert stream.read() == HEIC
        return Image.fromarray(smooth())

    monkeypatch.setitem(sys.modules, "pillow_heif", SimpleNamespace(HeifImageFile=opened))
    (tmp_path / "phone.jpg").write_bytes(HEIC)  # the suffix does not matter
    np.testing.assert_array_equal(read_image(tmp_path / "phone.jpg"), smooth())


@pytest.mark.parametrize(
    "kind, options",
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("GIF", {}),
        ("WEBP", {}),
        ("BMP", {}),
        ("TIFF", {}),
    ],
)
def test_a_cut_file_is_never_half_an_image(tmp_path, kind, options):
    whole = encoded(Image.fromarray(smooth()), kind, **options)
    path = tmp_path / "cut.img"
    path.write_bytes(whole)
    expected = read_image(path)
    refused = 0
    for length in np.linspace(1, len(whole) - 1, 60).astype(int):
        path.write_bytes(whole[:length])
        try:
            image = read_image(path)
        except DataError as error:
            assert "cut.img" in str(error)
            refused += 1
        else:  # only an end marker was cut off
            np.testing.assert_array_equal(image, expected)
    assert refused >= 55


def test_a_png_padded_with_zeros_is_refused(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    whole = encoded(Image.fromarray(noise), "PNG")
    for share in (0.2, 0.5, 0.9):
        length = int(share * len(whole))
        (tmp_path / "padded.png").write_bytes(whole[:length].ljust(len(whole), b"\0"))
        with pytest.raises(DataError, match="padded.png"):
            read_image(tmp_path / "padded.png")


def test_a_bomb_is_found_in_the_header(tmp_path):
    side = 10_001
    assert side * side > MAX_PIXELS
    (tmp_path / "bomb.png").write_bytes(raw_png(side, side, 8, 2))  # there are no pixels to decode
    with pytest.raises(DataError, match=r"bomb.png: 10001×10001 pixels .* 100 million"):
        read_image(tmp_path / "bomb.png")


def test_below_the_limit_no_bomb_warning_leaks(tmp_path):
    # 99 million pixels: above Pillow's own limit for a warning, below ours. No pixels
    # follow, so it gets past the header and fails in decoding.
    (tmp_path / "large.png").write_bytes(raw_png(9_950, 9_950, 1, 0))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(DataError, match=r"large.png: cannot be decoded"):
            read_image(tmp_path / "large.png")
    assert not caught


def test_too_small(tmp_path):
    Image.new("RGB", (400, 15)).save(tmp_path / "strip.png")
    with pytest.raises(DataError, match=r"strip.png: 400×15 pixels .* at least 16"):
        read_image(tmp_path / "strip.png")
    Image.new("RGB", (400, 16)).save(tmp_path / "strip.png")
    assert read_image(tmp_path / "strip.png").shape == (16, 400, 3)


@pytest.mark.parametrize("error", [struct.error("bad"), MemoryError(), RecursionError("deep")])
def test_any_decoder_failure_is_a_data_error(tmp_path, monkeypatch, error):
    path = tmp_path / "odd.png"
    Image.fromarray(smooth()).save(path)

    def fail(*args):
        raise error

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
    with pytest.raises(DataError, match=rf"odd.png: cannot be decoded \({type(error).__name__}"):
        read_image(path)


def disc(height=48, width=64):
    y, x = np.mgrid[0:height, 0:width]
    return (x - 30) ** 2 + (y - 20) ** 2 < 150


def test_masks_of_every_kind(tmp_path):
    mask = disc()
    grey = np.where(mask, 255, 0).astype(np.uint8)
    palette = Image.fromarray(mask.astype(np.uint8)).convert("P")
    palette.putpalette([0, 0, 0, 128, 0, 0])
    alpha = np.stack([grey, np.full_like(grey, 9)], -1)
    kinds = {
        "grey": Image.fromarray(grey),
        "bits": Image.fromarray(mask),
        "deep": Image.fromarray(np.where(mask, 65535, 0).astype(np.uint16)),
        "colour": Image.fromarray(np.stack([grey] * 3, -1)),
        "palette": palette,
        "alpha": Image.fromarray(alpha),
    }
    for name, image in kinds.items():
        image.save(tmp_path / f"{name}.png")
        np.testing.assert_array_equal(read_mask(tmp_path / f"{name}.png", (48, 64)), mask, name)
    palette.save(tmp_path / "clear.png", transparency=bytes([0, 255]))
    np.testing.assert_array_equal(read_mask(tmp_path / "clear.png", (48, 64)), mask)


def test_a_mask_is_cut_at_128(tmp_path):
    values = np.tile(np.arange(256, dtype=np.uint8), (16, 1))
    Image.fromarray(values).save(tmp_path / "ramp.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "ramp.png", (16, 256)), values >= 128)


def test_mask_of_another_size(tmp_path):
    Image.fromarray(disc(48, 64)).save(tmp_path / "mask.png")
    with pytest.raises(DataError, match=r"mask.png: the mask is 64×48 .* its image is 48×64"):
        read_mask(tmp_path / "mask.png", (64, 48))


def test_mask_of_zeros_and_ones_is_explained(tmp_path):
    Image.fromarray(disc().astype(np.uint8)).save(tmp_path / "mask.png")
    with pytest.raises(DataError, match=r"brightest mask value is 1.*object as 255"):
        read_mask(tmp_path / "mask.png", (48, 64))


def test_a_black_mask_is_an_absent_object(tmp_path):
    Image.new("L", (64, 48)).save(tmp_path / "mask.png")
    assert not read_mask(tmp_path / "mask.png", (48, 64)).any()


# The geometry.

FITS = [Fit(64), Fit(56, 0.875), Fit(64, 0.5), Fit(64, mode="squash"), Fit(56, 0.875, "squash"),
        Fit(64, mode="whole"), Fit(60, 0.875, "whole")]  # fmt: skip
SHAPES = [(100, 160), (333, 250), (48, 48), (40, 111)]


def test_the_usual_numbers():
    # A 512 × 384 image shrinks to 341 × 256; the cut starts at 16 from above and
    # (341 - 224) // 2 = 58 from the left.
    left, top, right, bottom = Fit(224, 0.875).window((384, 512))
    scale = 512 / 341
    np.testing.assert_allclose([left, right], [58 * scale, (58 + 224) * scale])
    np.testing.assert_allclose([top, bottom], [16 * 1.5, (16 + 224) * 1.5])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("fit", FITS)
def test_image_equals_resize_then_crop(fit, shape):
    height, width = shape
    pixels = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    side = round(fit.size / fit.crop)
    scale = side / min(shape)
    new = (round(height * scale), round(width * scale)) if fit.mode != "squash" else (side, side)
    large = Image.fromarray(pixels).resize(new[::-1], Image.Resampling.BICUBIC)
    cut = [length - length % 16 for length in new] if fit.mode == "whole" else [fit.size] * 2
    top, left = ((length - own) // 2 for length, own in zip(new, cut, strict=True))
    expected = np.asarray(large)[top : top + cut[0], left : left + cut[1]]
    assert fit.image(pixels).shape == expected.shape
    assert np.abs(fit.image(pixels).astype(int) - expected).max() <= 1


def test_resizing_is_antialiased():
    # Stripes of one pixel, shrunk four times: grey, not a moiré of black and white.
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(Fit(64).image(stripes)[:, 4:-4].astype(int) - 127).max() < 10


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("fit", FITS)
def test_the_box_follows_a_drawn_rectangle(fit, shape):
    height, width = shape
    x0, y0, x1, y1 = width // 3, height // 4, width * 3 // 4, height * 2 // 3
    image = np.zeros((*shape, 3), np.uint8)
    image[y0:y1, x0:x1] = 255
    mask = image[..., 0] > 0
    box = fit.box(np.array([x0, y0, x1, y1], np.float64), shape)
    for drawn in (fit.image(image)[..., 0] >= 128, fit.mask(mask)):
        rows, columns = np.nonzero(drawn.any(1))[0], np.nonzero(drawn.any(0))[0]
        found = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        np.testing.assert_allclose(box, found, atol=1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("fit", FITS)
def test_a_landmark_follows_a_drawn_spot(fit, shape):
    height, width = shape
    centre = np.array([0.53 * width, 0.45 * height])
    y, x = np.mgrid[0:height, 0:width] + 0.5
    spot = 255 * np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * 2.0**2))
    fitted = fit.image(np.stack([spot.astype(np.uint8)] * 3, -1))[..., 0].astype(float)
    y, x = np.mgrid[0 : fitted.shape[0], 0 : fitted.shape[1]] + 0.5
    found = [(x * fitted).sum() / fitted.sum(), (y * fitted).sum() / fitted.sum()]
    moved = fit.landmarks(np.array([[*centre, 1.0]]), shape)
    np.testing.assert_allclose(moved[0], [*found, 1], atol=0.5)


def test_squash_keeps_every_corner():
    box = Fit(64, mode="squash").box(np.array([0.0, 0.0, 300.0, 200.0]), (200, 300))
    np.testing.assert_allclose(box, [0, 0, 64, 64], atol=1e-4)


def test_a_whole_image_loses_less_than_16_pixels():
    fit = Fit(64, mode="whole")
    assert fit.image(np.zeros((100, 300, 3), np.uint8)).shape == (64, 192, 3)
    assert fit.result((300, 100)) == (192, 64) and fit.result((64, 79)) == (64, 64)
    box = fit.box(np.array([0.0, 0.0, 300.0, 100.0]), (100, 300))
    np.testing.assert_allclose(box, [0, 0, 192, 64], atol=1e-4)


def test_boxes_are_clipped_or_gone():
    fit = Fit(100)  # of 100 × 300: the middle third, x from 100 to 200
    shape = (100, 300)
    np.testing.assert_allclose(
        fit.box(np.array([50.0, -5.0, 120.0, 40.0]), shape), [0, 0, 20, 40], atol=1e-4
    )
    assert fit.box(np.array([10.0, 10.0, 100.0, 40.0]), shape) is None  # touches from outside
    assert fit.box(np.array([250.0, 10.0, 280.0, 40.0]), shape) is None


def test_landmarks_outside_are_not_visible():
    fit = Fit(100)
    landmarks = np.array(
        [[150.0, 50.0, 1.0], [99.0, 50.0, 1.0], [200.0, 50.0, 1.0], [150.0, 50.0, 0.0]]
    )
    expected = [[50, 50, 1], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    np.testing.assert_allclose(fit.landmarks(landmarks, (100, 300)), expected, atol=1e-4)


def test_an_extreme_panorama_needs_no_extreme_memory():
    # Resized whole it would be 256 × 32 million pixels.
    image = np.full((16, 2_000_000, 3), 77, np.uint8)
    assert (Fit(224, 0.875).image(image) == 77).all()


@pytest.mark.parametrize("arguments", [(0,), (64, 0.0), (64, 1.5), (64, float("nan"))])
def test_impossible_fits(arguments):
    with pytest.raises(ValueError, match="must"):
        Fit(*arguments)


def test_a_share_of_the_whole_image_is_cut_out():
    fit = Fit(32, area=0.25, aspect=4 / 3, place=(1.0, 0.0))
    x0, y0, x1, y1 = fit.window((100, 300))
    assert (x1, y0) == (300, 0)
    assert (x1 - x0) * (y1 - y0) == pytest.approx(0.25 * 100 * 300)
    assert (x1 - x0) / (y1 - y0) == pytest.approx(4 / 3)
    # A side that would be longer than the image's is the image's.
    np.testing.assert_allclose(Fit(32, area=1.0, aspect=1.0).window((100, 400)), [100, 0, 300, 100])
    box = fit.box(np.array([x0, 0, 300, y1 / 2], np.float32), (100, 300))
    np.testing.assert_allclose(box, [0, 0, 32, 16], atol=1e-4)
    with pytest.raises(ValueError, match="area"):
        Fit(32, area=0.0)


# No more of a photograph is decoded than is needed.


def photograph(height, width):
    """Smooth shades and stripes of 24 pixels, which a small picture still shows."""
    pixels = smooth(height, width).astype(int)
    y, x = np.mgrid[0:height, 0:width]
    pixels[..., 0] += 40 * ((x // 24 + y // 24) % 2)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


LARGE = {
    "crop": (Fit(64, 0.875), (603, 801), 4),
    "of an odd size": (Fit(64, 0.875), (601, 643), 4),
    "squash": (Fit(64, mode="squash"), (520, 777), 4),
    "whole": (Fit(64, mode="whole"), (520, 777), 4),
    "a random window": (Fit(64, place=(0.2, 0.9), area=0.3, aspect=1.2), (603, 801), 2),
    "an eighth": (Fit(32), (603, 801), 8),
}


@pytest.mark.parametrize("case", LARGE)
def test_a_large_jpeg_is_decoded_small(tmp_path, case):
    """Nearly the same picture: its own pixels are not those of the whole file, resized at once."""
    fit, (height, width), part = LARGE[case]
    photograph(height, width).save(tmp_path / "large.jpg", quality=92)
    assert fit.part((height, width)) == part
    image, shape = read_fitted(tmp_path / "large.jpg", fit)
    expected = fit.image(read_image(tmp_path / "large.jpg"))
    assert shape == (height, width) and image.shape == expected.shape
    apart = np.abs(image.astype(int) - expected)
    assert 0 < apart.max() <= 24 and apart.mean() < 2
    shifted = np.abs(image[:, 1:].astype(int) - expected[:, :-1])
    assert shifted.mean() > 2 * apart.mean()  # a pixel aside would be told


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_large_jpeg_is_turned_as_its_exif_says(tmp_path, turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    photograph(400, 601).save(tmp_path / "turned.jpg", quality=92, exif=exif)
    image, shape = read_fitted(tmp_path / "turned.jpg", Fit(48), orient=True)
    whole = read_image(tmp_path / "turned.jpg", orient=True)
    assert shape == whole.shape[:2]
    assert np.abs(image.astype(int) - Fit(48).image(whole)).mean() < 2


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp"])
@pytest.mark.parametrize("side", [48, 100, 190])
def test_other_images_are_the_same_to_the_last_bit(tmp_path, suffix, side):
    """Up to four times the pixels that are needed, and whatever is no JPEG."""
    Image.fromarray(smooth(side, side + 7)).save(tmp_path / f"small.{suffix}")
    fit = Fit(48) if suffix == "jpg" else Fit(16)
    image, _ = read_fitted(tmp_path / f"small.{suffix}", fit)
    np.testing.assert_array_equal(image, fit.image(read_image(tmp_path / f"small.{suffix}")))


def test_a_large_jpeg_that_was_cut_off(tmp_path):
    photograph(603, 801).save(tmp_path / "whole.jpg", quality=92)
    content = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="cut.jpg: cannot be decoded"):
        read_fitted(tmp_path / "cut.jpg", Fit(64))
