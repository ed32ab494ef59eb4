"""A detector's boxes: read from a CSV, and moved to the image that the model sees."""

import re

import numpy as np
import pytest
from PIL import Image

from fgjax.data.boxes import fitted_box, read_boxes
from fgjax.data.sets.folder import FolderSource
from fgjax.data.species.source import SpeciesSource
from fgjax.data.types import DataError, Example

NAMES = ("a/1.jpg", "a/2.jpg", "b, c/3.jpg")


@pytest.fixture
def read(tmp_path):
    def read(text, names=NAMES):
        (tmp_path / "boxes.csv").write_text(text, encoding="utf-8")
        return read_boxes(tmp_path / "boxes.csv", names)

    return read


def test_reads_boxes_by_name(read):
    boxes = read('name,x0,y0,x1,y1\na/1.jpg,1,2.5,30,40\n\n"b, c/3.jpg",-3,0,1e2,9\n')
    assert set(boxes) == {"a/1.jpg", "b, c/3.jpg"}
    np.testing.assert_array_equal(boxes["a/1.jpg"], [1, 2.5, 30, 40])
    np.testing.assert_array_equal(boxes["b, c/3.jpg"], [-3, 0, 100, 9])


def test_the_highest_score_counts_and_of_equal_ones_the_first(read):
    text = "name,x0,y0,x1,y1,score\na/1.jpg,0,0,1,1,0.2\na/1.jpg,0,0,2,2,0.9\na/1.jpg,0,0,3,3,0.9\n"
    np.testing.assert_array_equal(read(text)["a/1.jpg"], [0, 0, 2, 2])
    negative = "name,x0,y0,x1,y1,score\na/1.jpg,0,0,1,1,-5\na/1.jpg,0,0,2,2,-1\n"
    np.testing.assert_array_equal(read(negative)["a/1.jpg"], [0, 0, 2, 2])


def test_order_case_and_further_columns_are_free(read):
    boxes = read("\ufeffScore, class ,Y1,X1,Y0,X0,NAME\r\n0.5,bird,4,3,2,1,a/1.jpg\r\n")
    np.testing.assert_array_equal(boxes["a/1.jpg"], [1, 2, 3, 4])


def test_boxes_of_other_images_are_left_alone(read):
    boxes = read("name,x0,y0,x1,y1\nz.jpg,0,0,1,1\na/2.jpg,0,0,5,5\n")
    assert list(boxes) == ["a/2.jpg"]


WRONG = {
    "nothing": ("", "the file is empty", None),
    "no header": ("a/1.jpg,1,2,3,4\n", "no column name, x0, y0, x1, y1", 1),
    "a column less": ("name,x0,y0,x1\n", "no column y1", 1),
    "no boxes": ("name,x0,y0,x1,y1\n", "it has only its first line", None),
    "other names": ("name,x0,y0,x1,y1\n1.jpg,0,0,1,1\n", "called a/1.jpg, a/2.jpg", None),
    "a field less": ("name,x0,y0,x1,y1\n\na/1.jpg,1,2,3\n", "4 fields where .* has 5", 3),
    "no number": ("name,x0,y0,x1,y1\na/1.jpg,1,2,3,four\n", "y1 must be a number, not 'four'", 2),
    "not finite": ("name,x0,y0,x1,y1\na/1.jpg,nan,2,3,4\n", "x0 must be a number, not 'nan'", 2),
    "no score": ("name,x0,y0,x1,y1,score\na/1.jpg,1,2,3,4,\n", "score must be a number", 2),
    "width and height": ("name,x0,y0,x1,y1\na/1.jpg,50,60,30,40\n", "x0 < x1 and y0 < y1", 2),
    "no name": ("name,x0,y0,x1,y1\n,1,2,3,4\n", "name is empty", 2),
    "twice": ("name,x0,y0,x1,y1\na/1.jpg,0,0,1,1\na/1.jpg,0,0,2,2\n", "first is in line 2", 3),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_is_told_with_file_and_line(read, kind):
    text, said, line = WRONG[kind]
    with pytest.raises(DataError, match=said) as error:
        read(text)
    assert re.search(r"boxes\.csv(, line \d+)?: ", str(error.value))
    assert line is None or f"boxes.csv, line {line}: " in str(error.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"none\.csv: no such file"):
        read_boxes(tmp_path / "none.csv", NAMES)


def test_boxes_move_with_the_image(tmp_path):
    """A white rectangle on black, boxed in the file, is what the moved box holds."""
    pixels = np.zeros((96, 64, 3), np.uint8)
    pixels[40:60, 16:40] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    source = FolderSource(tmp_path, size=32, crop=1.0)
    example = source.load(source.records[0])
    assert example.shape == (96, 64)
    # 64 × 96 halves to 32 × 48, of which the rows 8 to 40 stay.
    box = fitted_box(source, example, np.array([16.0, 40, 40, 60]))
    np.testing.assert_allclose(box, [8, 12, 20, 22], atol=1e-4)
    inside = np.zeros((32, 32), bool)
    inside[12:22, 8:20] = True
    np.testing.assert_array_equal(example.image[..., 0] > 127, inside)
    assert fitted_box(source, example, np.array([0.0, 0, 64, 16])) is None
    whole = fitted_box(source, example, np.array([-9.0, -9, 900, 900]))
    np.testing.assert_array_equal(whole, [0, 0, 32, 32])


def test_boxes_of_drawn_images_are_in_their_own_pixels():
    source = SpeciesSource(size=32, train=0, test=1)
    example = source.load(source.records[0])
    np.testing.assert_array_equal(fitted_box(source, example, example.box), example.box)
    box = fitted_box(source, example, np.array([-4.0, 3, 40, 9]))
    np.testing.assert_array_equal(box, [0, 3, 32, 9])
    assert fitted_box(source, example, np.array([40.0, 0, 50, 9])) is None


def test_a_source_that_does_not_say_how_it_fits():
    example = Example(image=np.zeros((32, 32, 3), np.uint8), shape=(64, 64))
    with pytest.raises(DataError, match="has no `fit`"):
        fitted_box(SpeciesSource(size=32, train=0, test=1), example, np.array([0.0, 0, 1, 1]))
