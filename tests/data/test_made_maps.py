"""Maps that were made elsewhere, found by their images' names, and what is wrong with them."""

import numpy as np
import pytest
from PIL import Image

from fgjax.data.fit import Fit
from fgjax.data.made_maps import MadeMaps
from fgjax.data.types import DataError

NAMES = ("wren/1.jpg", "wren/2.jpg", "tit/3.png")
SIZE = 16


@pytest.fixture
def maps():
    return np.random.default_rng(0).normal(size=(3, SIZE, SIZE)).astype(np.float32)


@pytest.fixture
def folder(tmp_path, maps):
    """In class folders, beside them, and as a picture."""
    (tmp_path / "wren").mkdir()
    np.save(tmp_path / "wren" / "1.npy", maps[0])
    np.save(tmp_path / "2.npy", maps[1])
    Image.fromarray((255 * (maps[2] > 0)).astype(np.uint8)).save(tmp_path / "3.png")
    return tmp_path


def test_a_folder_of_files_by_name(folder, maps):
    found = MadeMaps(folder, NAMES, SIZE)
    np.testing.assert_array_equal(found.read(0), maps[0])
    np.testing.assert_array_equal(found.read(1), maps[1])
    np.testing.assert_array_equal(found.read(2), maps[2] > 0)


def test_one_file_in_the_images_order(tmp_path, maps):
    np.save(tmp_path / "all.npy", maps)
    found = MadeMaps(tmp_path / "all.npy", NAMES, SIZE)
    for i in range(3):
        np.testing.assert_array_equal(found.read(i), maps[i])


def test_a_map_of_the_files_size_is_cropped_as_the_image_is(tmp_path):
    """A constant ramp over the file: what is left is the ramp of the crop."""
    fit, shape = Fit(SIZE, 0.5), (64, 96)
    ramp = np.broadcast_to(np.arange(96, dtype=np.float32) - 40, shape)
    np.save(tmp_path / "1.npy", ramp)
    found = MadeMaps(tmp_path, ["1.jpg"], SIZE, fit).read(0, shape)
    x0, _, x1, _ = fit.window(shape)
    centres = x0 + (np.arange(SIZE) + 0.5) * (x1 - x0) / SIZE - 0.5 - 40
    np.testing.assert_allclose(found, np.broadcast_to(centres, (SIZE, SIZE)), atol=0.05)


def test_one_stem_in_two_folders_is_not_guessed(tmp_path, maps):
    np.save(tmp_path / "1.npy", maps[0])
    assert MadeMaps(tmp_path, ["wren/1.jpg"], SIZE).read(0).shape == (SIZE, SIZE)
    with pytest.raises(DataError, match="no map for 2 of 2 images"):
        MadeMaps(tmp_path, ["wren/1.jpg", "tit/1.jpg"], SIZE)


def test_what_is_missing_is_named(folder):
    (folder / "2.npy").unlink()
    with pytest.raises(DataError, match=r"no map for 1 of 3 images \(wren/2\.jpg\).*2\.npy"):
        MadeMaps(folder, NAMES, SIZE)
    with pytest.raises(DataError, match="no such folder or file"):
        MadeMaps(folder / "else", NAMES, SIZE)
    with pytest.raises(DataError, match="one .npy file"):
        MadeMaps(folder / "3.png", NAMES, SIZE)


@pytest.mark.parametrize(
    "made, message",
    [
        (np.zeros((7, 7)), "7 x 7 pixels, wanted 16 x 16.*or 40 x 30, the image file's"),
        (np.zeros((1, SIZE, SIZE)), "a map is h w numbers"),
        (np.zeros((SIZE, SIZE), complex), "real numbers"),
        (np.array([["a"]]), "h w numbers; this is <U1"),
        (np.array([[{}]]), "not readable as a .npy file"),
    ],
)
def test_a_map_that_does_not_fit(tmp_path, made, message):
    np.save(tmp_path / "1.npy", made, allow_pickle=True)
    maps = MadeMaps(tmp_path, ["1.jpg"], SIZE, Fit(SIZE))
    with pytest.raises(DataError, match=message):
        maps.read(0, (30, 40))


def test_one_file_of_another_count_or_kind(tmp_path, maps):
    path = tmp_path / "all.npy"
    np.save(path, maps[:2])
    with pytest.raises(DataError, match=r"\(2, 16, 16\), wanted \(3, h, w\).*wren/1\.jpg"):
        MadeMaps(path, NAMES, SIZE)
    np.savez(tmp_path / "many.npz", a=maps)
    (tmp_path / "many.npz").rename(path)
    with pytest.raises(DataError, match="archive"):
        MadeMaps(path, NAMES, SIZE)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="not readable"):
        MadeMaps(path, NAMES, SIZE)


def test_a_coloured_picture_is_no_map(tmp_path):
    Image.new("RGB", (SIZE, SIZE), (255, 0, 0)).save(tmp_path / "1.png")
    with pytest.raises(DataError, match="coloured picture"):
        MadeMaps(tmp_path, ["1.jpg"], SIZE).read(0)
