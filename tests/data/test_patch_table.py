"""patches.csv: written, read back, moved to the fitted image and back; and bad ones told."""

import numpy as np
import pytest
from PIL import Image

from fgjax.data.patch_table import fitted_patches, read_patches, unfitted_boxes, write_patches
from fgjax.data.sets.folder import FolderSource
from fgjax.data.types import DataError, Example

HEAD = "image,rank,x0,y0,x1,y1,score\n"


def test_what_is_written_is_read(tmp_path):
    rng = np.random.default_rng(0)
    table = {}
    for name in ("a/ö 1.jpg", 'b,"2".png'):
        low = rng.uniform(0, 50, (3, 2))
        rows = np.concatenate([low, low + rng.uniform(1, 50, (3, 2)), rng.random((3, 1))], axis=1)
        table[name] = rows.astype(np.float32)
    write_patches(tmp_path / "patches.csv", table)
    found = read_patches(tmp_path / "patches.csv", list(table))
    assert list(found) == list(table)
    for name, rows in table.items():
        np.testing.assert_allclose(found[name], rows, rtol=1e-5)


def test_rank_decides_the_order_and_the_score_may_be_missing(tmp_path):
    file = tmp_path / "p.csv"
    file.write_text("y1,x1,y0,x0,rank,image,why\n9,8,1,2,2,a,x\n7,6,0,0,1,a,y\n3,3,0,0,1,other,z\n")
    found = read_patches(file, ["a", "b"])
    np.testing.assert_array_equal(found["a"], [[0, 0, 6, 7, 0], [2, 1, 8, 9, 0]])
    assert set(found) == {"a"}


WRONG = {
    "image,x0,y0,x1,y1\n": "no column rank",
    "": "no column image, rank",
    HEAD + "a,1,0,0,5\n": "line 2: 5 fields where the first line has 7",
    HEAD + "a,one,0,0,5,5,1\n": "line 2: invalid literal",
    HEAD + "a,1,0,0,nan,5,1\n": "line 2: a number that is not finite",
    HEAD + "a,1,4,0,4,5,1\n": "line 2: an empty box",
    HEAD + "a,1,0,0,4,5,1\na,1,0,0,3,3,1\n": "line 3: a second patch of 'a' with rank 1",
    HEAD + "c,1,0,0,4,5,1\n": "no patch of an image of the data set; it has c, the images are",
    HEAD: "it has none at all",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_bad_file_is_told(tmp_path, text):
    file = tmp_path / "p.csv"
    file.write_text(text)
    with pytest.raises(DataError, match="p.csv.*" + WRONG[text]):
        read_patches(file, ["a", "b"])


def test_no_file(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_patches(tmp_path / "p.csv", ["a"])


@pytest.fixture
def fitted(tmp_path):
    """A 60 x 40 picture of which the middle square is seen at 32 px: its scale is 0.8."""
    (tmp_path / "c").mkdir()
    Image.new("RGB", (60, 40)).save(tmp_path / "c" / "one.png")
    source = FolderSource(path=tmp_path, size=32, crop=1.0)
    return source, source.load(source.records[0]), source.records[0].name


def test_boxes_move_with_the_image_and_back(fitted):
    source, example, name = fitted
    table = {name: np.array([[20, 10, 40, 30, 1], [0, 0, 30, 40, 1]], np.float32)}
    boxes = fitted_patches(source, example, table, name, 2)
    np.testing.assert_allclose(boxes[0], [8, 8, 24, 24], atol=0.3)
    np.testing.assert_allclose(boxes[1], [0, 0, 16, 32], atol=0.3)  # clipped at the left
    back = unfitted_boxes(source, example, boxes)
    np.testing.assert_allclose(back[0], table[name][0, :4], atol=1e-4)


def test_there_are_always_as_many_as_are_wanted(fitted):
    source, example, name = fitted
    rows = [[20, 10, 40, 30, 1], [0, 0, 5, 40, 0.9], [15, 5, 25, 20, 0.5]]
    table = {name: np.array(rows, np.float32)}
    boxes = fitted_patches(source, example, table, name, 3)  # the second is outside the square
    np.testing.assert_array_equal(boxes[2], boxes[0])
    assert len({tuple(box) for box in boxes.tolist()}) == 2
    assert len(fitted_patches(source, example, table, name, 1)) == 1
    table[name] = table[name][1:2]
    np.testing.assert_array_equal(
        fitted_patches(source, example, table, name, 2), [[0, 0, 32, 32]] * 2
    )
    with pytest.raises(DataError, match="two.png: no patch of this image"):
        fitted_patches(source, example, table, "two.png", 1)


def test_drawn_images_are_as_they_are(fitted):
    example = Example(np.zeros((16, 16, 3), np.uint8))
    boxes = np.array([[1, 2, 9, 10]], np.float32)
    np.testing.assert_array_equal(unfitted_boxes(fitted[0], example, boxes), boxes)


def test_boxes_of_a_drawn_image_grow_with_it(fitted):
    table = {"a": np.array([[1, 2, 9, 10, 1]], np.float32)}
    larger = Example(np.zeros((32, 32, 3), np.uint8))
    boxes = fitted_patches(fitted[0], larger, table, "a", 1, drawn=16)
    np.testing.assert_array_equal(boxes, [[2, 4, 18, 20]])
    boxes = fitted_patches(fitted[0], larger, table, "a", 1)
    np.testing.assert_array_equal(boxes, [[1, 2, 9, 10]])
