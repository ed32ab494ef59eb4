import re

import numpy as np
import pytest
from PIL import Image

from fgjax.data.pipeline import fingerprint, load_examples
from fgjax.data.sets.cub import CubSource
from fgjax.data.types import DataError

FILES = {
    "images.txt": "1 001.Auk/a b.jpg\n2 001.Auk/b.jpg\n3 002.Crow/c.jpg\n4 002.Crow/d.jpg\n",
    "image_class_labels.txt": "1 1\n2 1\n3 2\n4 2\n",
    "train_test_split.txt": "1 1\n2 0\n3 1\n4 0\n",
    "bounding_boxes.txt": "1 10.0 20.0 30.0 40.0\n2 1 1 9 9\n3 -5 -5 200 200\n4 0 0 9 9\n",
    "classes.txt": "1 001.Auk\n2 002.Crow\n",
    "parts/parts.txt": "1 left eye\n2 tail\n",
    "parts/part_locs.txt": "".join(
        f"{image} 1 24.0 32.0 1\n{image} 2 0.0 0.0 0\n" for image in (1, 2, 3, 4)
    ),
}


@pytest.fixture
def cub(tmp_path):
    """Four images of 64 × 96 (width × height) in the official layout."""
    root = tmp_path / "CUB_200_2011"
    (root / "parts").mkdir(parents=True)
    for name, text in FILES.items():
        (root / name).write_text(text)
    for number, line in enumerate(FILES["images.txt"].splitlines()):
        path = root / "images" / line.split(" ", 1)[1]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 96), (60 * number, 0, 0)).save(path, quality=100)
    return root


def edit(root, name, old, new):
    text = (root / name).read_text()
    assert old in text
    (root / name).write_text(text.replace(old, new))


def test_reads_the_index(cub):
    source = CubSource(cub, size=32, crop=1.0)
    assert source.classes == ("001.Auk", "002.Crow")
    assert source.landmark_names == ("left eye", "tail")
    assert source.landmark_groups == {"head": ("left eye",)}
    assert [(r.name, r.label, r.split) for r in source.records] == [
        ("001.Auk/a b.jpg", 0, "train"),
        ("001.Auk/b.jpg", 0, "test"),
        ("002.Crow/c.jpg", 1, "train"),
        ("002.Crow/d.jpg", 1, "test"),
    ]
    assert fingerprint(CubSource(cub.parent)) == fingerprint(CubSource(str(cub)))


def test_loads_with_annotations(cub):
    source = CubSource(cub, size=32, crop=1.0)
    # 64 × 96 halves to 32 × 48, of which the rows 8 to 40 stay.
    example = source.load(source.records[0])
    assert example.image.shape == (32, 32, 3) and example.label == 0
    np.testing.assert_allclose(example.box, [5, 2, 20, 22], atol=1e-4)
    np.testing.assert_allclose(example.landmarks, [[12, 8, 1], [0, 0, 0]], atol=1e-4)
    assert example.mask is None and example.cue is None

    beyond = source.load(source.records[2])
    np.testing.assert_allclose(beyond.box, [0, 0, 32, 32], atol=1e-4)
    assert source.load(source.records[3]).box is None  # wholly above the cut
    assert abs(int(beyond.image[16, 16, 0]) - 120) < 3


def test_exif_orientation_is_ignored(cub):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 96), "red").save(cub / "images/001.Auk/b.jpg", exif=exif)
    source = CubSource(cub, size=32, crop=1.0)
    np.testing.assert_allclose(source.load(source.records[0]).box, [5, 2, 20, 22], atol=1e-4)


@pytest.mark.parametrize("beside", [True, False])
def test_segmentations_inside_or_beside(cub, beside):
    folder = (cub.parent if beside else cub) / "segmentations"
    (folder / "001.Auk").mkdir(parents=True)
    values = np.zeros((96, 64), np.uint8)
    values[20:60, 10:40] = 153  # three of five annotators
    values[60:, :] = 102  # two of five
    Image.fromarray(values).save(folder / "001.Auk" / "a b.png")
    source = CubSource(cub, size=32, crop=1.0)
    mask = source.load(source.records[0]).mask
    rows, columns = np.nonzero(mask)
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (5, 2, 20, 22)
    assert source.load(source.records[1]).mask is None  # not annotated


def test_limit_counts_each_split(cub):
    records = CubSource(cub, limit=1).records
    assert [record.name for record in records] == ["001.Auk/a b.jpg", "001.Auk/b.jpg"]


def test_missing_folder_says_where_to_get_it(tmp_path):
    with pytest.raises(DataError) as caught:
        CubSource(tmp_path / "birds")
    message = str(caught.value)
    assert "https://www.vision.caltech.edu/datasets/cub_200_2011/" in message
    assert "wanted: the folder CUB_200_2011" in message and "\n" not in message


def test_not_the_data_set(tmp_path):
    with pytest.raises(DataError, match=r"holds no images.txt; wanted:"):
        CubSource(tmp_path)
    (tmp_path / "CUB_200_2011.tgz").touch()
    with pytest.raises(DataError, match=r"is a file \(an archive\? unpack it first\)"):
        CubSource(tmp_path / "CUB_200_2011.tgz")


@pytest.mark.parametrize("name", [name for name in FILES if name != "images.txt"])
def test_missing_index_file(cub, name):
    (cub / name).unlink()
    with pytest.raises(DataError, match=rf"{re.escape(name)}: this index file .* is missing"):
        CubSource(cub)


@pytest.mark.parametrize("name", [name for name in FILES if name != "parts/part_locs.txt"])
def test_empty_index_file(cub, name):
    (cub / name).write_text("\n")
    with pytest.raises(DataError, match=rf"{re.escape(name)}: the file is empty"):
        CubSource(cub)


@pytest.mark.parametrize(
    "name, old, new, message",
    [
        ("images.txt", "2 001", "two 001", r"images.txt, line 2: 'two 001.Auk/b.jpg' should be"),
        ("images.txt", "2 001.Auk/b.jpg", "2", r"line 2: '2' should be a number, a space"),
        ("images.txt", "2 001", "1 001", r"line 2: .* gives number 1 a second time"),
        ("images.txt", "a b.jpg", "b.jpg", r"images.txt: names images twice: 001.Auk/b.jpg"),
        ("image_class_labels.txt", "4 2", "4 3", r"line 4: '4 3': class 3 is out of range"),
        ("image_class_labels.txt", "4 2", "4 0", r"line 4: '4 0': class 0 is out of range"),
        ("image_class_labels.txt", "4 2", "4 x", r"line 4: '4 x': class x is out of range"),
        ("train_test_split.txt", "3 1", "3 2", r"line 3: '3 2' should end in 1 \(train\) or 0"),
        ("bounding_boxes.txt", "1 1 9 9", "1 1 9", r"line 2: '2 1 1 9' should hold 4 numbers"),
        ("bounding_boxes.txt", "1 1 9 9", "1 1 9 x", r"line 2: '2 1 1 9 x' should hold 4 numbers"),
        ("bounding_boxes.txt", "1 1 9 9", "1 1 nan 9", r"line 2: .* should hold 4 numbers"),
        ("bounding_boxes.txt", "1 1 9 9", "1 1 0 9", r"line 2: .* positive width and height"),
        ("parts/part_locs.txt", "2 2 0.0", "2 3 0.0", r"line 4: .*part 3 is out of range"),
        ("parts/part_locs.txt", "2 2 0.0", "2 1 0.0", r"line 4: .* part 1 of image 2 a second"),
        ("parts/part_locs.txt", "3 2 0.0 0.0 0", "3 2 0.0 0", r"line 6: .* should hold 3 numbers"),
        ("parts/part_locs.txt", "3 2 0.0 0.0 0", "3 2 0 0 7", r"line 6: .* should end in 1"),
    ],
)
def test_malformed_lines(cub, name, old, new, message):
    edit(cub, name, old, new)
    with pytest.raises(DataError, match=message) as caught:
        CubSource(cub)
    assert str(cub / name) in str(caught.value)


@pytest.mark.parametrize(
    "name, old",
    [
        ("image_class_labels.txt", "2 1\n"),
        ("train_test_split.txt", "2 0\n"),
        ("bounding_boxes.txt", "2 1 1 9 9\n"),
        ("parts/part_locs.txt", "2 2 0.0 0.0 0\n"),
    ],
)
def test_images_missing_from_a_file_are_named(cub, name, old):
    edit(cub, name, old, "")
    message = rf"{re.escape(name)}: lines are missing for 1 images .*: 001.Auk/b.jpg$"
    with pytest.raises(DataError, match=message):
        CubSource(cub)


@pytest.mark.parametrize(
    "name, line",
    [
        ("image_class_labels.txt", "77 1\n"),
        ("train_test_split.txt", "77 1\n"),
        ("bounding_boxes.txt", "77 1 1 9 9\n"),
        ("parts/part_locs.txt", "77 1 0.0 0.0 0\n"),
    ],
)
def test_images_unknown_to_the_index_are_named(cub, name, line):
    with (cub / name).open("a") as file:
        file.write(line)
    with pytest.raises(DataError, match=r"has 1 image numbers that images.txt has not: 77$"):
        CubSource(cub)


@pytest.mark.parametrize("path", ["../x.jpg", "001.Auk/../../x.jpg", "/etc/x.jpg", "..\\x.jpg"])
def test_paths_out_of_the_folder_are_refused(cub, path):
    edit(cub, "images.txt", "001.Auk/b.jpg", path)
    with pytest.raises(DataError, match=r"line 2: .* leads out of the folder images/"):
        CubSource(cub)


def test_a_missing_image_fails_alone(cub):
    (cub / "images/001.Auk/b.jpg").unlink()
    source = CubSource(cub)
    outcomes = [outcome for _, outcome in load_examples(source, source.records)]
    assert [isinstance(outcome, DataError) for outcome in outcomes] == [False, True, False, False]
    assert "b.jpg: no such image file" in str(outcomes[1])


def test_windows_line_ends(cub):
    before = CubSource(cub).records
    for name in FILES:
        (cub / name).write_bytes((cub / name).read_bytes().replace(b"\n", b"\r\n"))
    assert CubSource(cub).records == before


@pytest.mark.shared
def test_the_real_birds(shared):
    source = CubSource(shared / "data/birds")
    assert len(source.classes) == 20 and len(source.landmark_names) == 15
    splits = [record.split for record in source.records]
    assert (splits.count("train"), splits.count("test")) == (600, 588)
    some = source.records[::60]
    for (_, example), record in zip(load_examples(source, some), some, strict=True):
        assert example.image.shape == (224, 224, 3), record
        x0, y0, x1, y1 = example.box
        x, y, visible = example.landmarks.T
        # Landmarks lie on the bird, so inside its box (annotators differ by a little).
        inside = (x >= x0 - 8) & (x <= x1 + 8) & (y >= y0 - 8) & (y <= y1 + 8)
        assert visible.any() and inside[visible == 1].all(), record
