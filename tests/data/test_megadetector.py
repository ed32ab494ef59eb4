"""MegaDetector's format, read and written; boxes that cut images."""

import copy
import json

import numpy as np
import pytest
from PIL import ExifTags, Image

from fgjax.data.boxed import Boxed, read_detections, relative_box, square
from fgjax.data.exif import Taken, read_taken
from fgjax.data.megadetector import check, detection, read_megadetector, to_megadetector
from fgjax.data.sets.folder import FolderSource
from fgjax.data.types import DataError, Example
from megadetector_format import breaches


def document(*images, **more):
    return {
        "info": {"format_version": "1.6", "detector": "MDV5A"},
        "detection_categories": {"1": "animal", "2": "person"},
        "images": list(images),
    } | more


def image(file, *boxes, category="1"):
    found = [{"category": category, "conf": c, "bbox": list(box)} for c, *box in boxes]
    return {"file": file, "detections": found}


def written(folder, value):
    file = folder / "md.json"
    file.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return file


def test_the_surest_animal_of_each_image(tmp_path):
    file = written(tmp_path, document(
        image("a/1.jpg", (0.3, 0, 0, 1, 1), (0.9, 0.1, 0.2, 0.3, 0.4)),
        image("a/2.jpg", (0.1, 0, 0, 1, 1)),  # too unsure
        image("b/1.jpg", (0.9, 0, 0, 1, 1), category="2"),  # a person
        image("b/2.jpg"),
        {"file": "b/3.jpg", "failure": "Failure image access", "detections": None},
        image("else.jpg", (0.9, 0, 0, 1, 1)),
    ))  # fmt: skip
    found = read_megadetector(file, ["a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg", "b/3.jpg"])
    assert set(found) == {"a/1.jpg"} and found["a/1.jpg"].score == 0.9
    np.testing.assert_allclose(found["a/1.jpg"].box, [0.1, 0.2, 0.4, 0.6])


@pytest.mark.parametrize("file", ["D:\\cards\\a\\1.jpg", "/mnt/cards/a/1.jpg", "a/1.jpg", "1.jpg"])
def test_paths_are_found_by_their_ends(tmp_path, file):
    given = written(tmp_path, document(image(file, (0.9, 0, 0, 1, 1))))
    assert set(read_megadetector(given, ["a/1.jpg", "a/2.jpg"])) == {"a/1.jpg"}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{", "is no JSON"),
        ([], "wanted is an object"),
        ({"images": []}, "'info' is missing"),
        (document() | {"info": {"format_version": 1.6}}, "format_version"),
        (document() | {"info": {"format_version": "1.0"}}, "'1.3' to '1.6'"),
        (document() | {"detection_categories": {"a": "animal"}}, "detection_categories has 'a'"),
        (document({"detections": []}), "images\\[0\\] has no 'file'"),
        (document({"file": "a/1.jpg"}), "neither a list of detections nor a failure"),
        (document({"file": "a/1.jpg", "detections": [], "failure": "x"}), "no detections beside"),
        (document({"file": "a/1.jpg", "detections": [{}]}), "without bbox, category, conf"),
        (document({"file": "a/1.jpg", "detections": ["x"]}), "images\\[0\\] \\(a/1.jpg\\)"),
        (document(classification_categories=[]), "'classification_categories' is no object"),
        (document(image("a/1.jpg", (0.9, 3, 4, 100, 90))), "shares from 0 to 1"),
        (document(image("z.jpg")), "no image of the data set; it has z.jpg"),
        (document(), "no images, the images are called"),
        (document(image("1.jpg")), "more than one image"),
        (document(image("x/a/1.jpg"), image("y/a/1.jpg")), "more than one image"),
    ],
)  # fmt: skip
def test_what_is_not_in_the_format_is_told(tmp_path, value, message):
    with pytest.raises(DataError, match=message):
        read_megadetector(written(tmp_path, value), ["a/1.jpg", "b/1.jpg"])


EXAMPLE = {
    "info": {
        "format_version": "1.6",
        "detector": "some detector",
        "detector_metadata": {"typical_detection_threshold": 0.2},
        "summary_report": "<p>text</p>",
    },
    "detection_categories": {"1": "animal", "7": "person"},
    "classification_categories": {"0": "fox", "4": "elk"},
    "classification_category_descriptions": {"0": "vulpes", "4": "cervus"},
    "images": [
        {
            "file": "a/1.jpg",
            "detections": [
                {"category": "1", "conf": 0.9, "bbox": [0.5, 0.25, 0.5, 0.125],
                 "classifications": [["4", 0.9], ["0", 0.1]]},
                {"category": "7", "conf": 0.95, "bbox": [0.0, 0.0, 1, 1]},
            ],
        },
        {"file": "a\\2.jpg", "detections": [], "failure": None},
        {"file": "b/3.mp4", "frame_rate": 20, "frames_processed": [0, 20], "detections": [
            {"category": "1", "conf": 0.8, "bbox": [0.1, 0.2, 0.3, 0.4], "frame_number": 20},
        ]},
        {"file": "b/4.jpg", "failure": "Failure image access", "detections": None},
        {"file": "b/5.jpg", "failure": "Failure image access"},
    ],
}  # fmt: skip
"""Every kind of entry that the format knows."""


def test_every_kind_of_entry_is_read(tmp_path):
    assert breaches(EXAMPLE) == []
    found = read_megadetector(written(tmp_path, EXAMPLE), ["a/1.jpg", "a/2.jpg", "b/4.jpg"])
    assert set(found) == {"a/1.jpg"} and found["a/1.jpg"].score == 0.9
    np.testing.assert_allclose(found["a/1.jpg"].box, [0.5, 0.25, 1, 0.375])


def changed(*path, to):
    """The example with another value at a place; `...`: without it."""
    value = copy.deepcopy(EXAMPLE)
    inner = value
    for step in path[:-1]:
        inner = inner[step]
    if to is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = to
    return value


FIRST = ("images", 0, "detections", 0)


@pytest.mark.parametrize(
    "value",
    [
        changed("info", to=...),
        changed("info", "format_version", to=...),
        changed("info", "format_version", to="new"),
        changed("info", "format_version", to="1.2"),
        changed("detection_categories", to=...),
        changed("detection_categories", "1", to=""),
        changed("detection_categories", "one", to="animal"),
        changed("detection_categories", "-1", to="animal"),
        changed("classification_categories", "4", to=5),
        changed("classification_categories", to=["fox"]),
        changed("images", to=...),
        changed("images", to={}),
        changed("images", 1, to="a/2.jpg"),
        changed("images", 1, "file", to=...),
        changed("images", 1, "detections", to=...),
        changed("images", 1, "detections", to=None),
        changed("images", 1, "failure", to="damaged"),
        changed("images", 3, "failure", to=3),
        changed("images", 3, "detections", to=[]),
        changed(*FIRST, "category", to=...),
        changed(*FIRST, "category", to=1),
        changed(*FIRST, "conf", to=...),
        changed(*FIRST, "conf", to=90.0),
        changed(*FIRST, "conf", to="0.9"),
        changed(*FIRST, "bbox", to=...),
        changed(*FIRST, "bbox", to=[0.5, 0.25, 0.5]),
        changed(*FIRST, "bbox", to=[40, 30, 200, 100]),
        changed(*FIRST, "classifications", to=[["9", 0.9]]),
        changed(*FIRST, "classifications", to=[["4", 0.1], ["0", 0.9]]),
    ],
)
def test_both_find_what_breaks_the_rules(value):
    assert breaches(value)
    with pytest.raises(DataError, match="not in MegaDetector's format"):
        check(value, "a.json")


def test_what_is_written_is_in_the_format():
    """Held against the rules of the format's page, and read again by our own reader."""
    top = [(2, 0.7), (0, 0.2), (1, 0.1)]
    found = {"a/1.jpg": [detection(np.array([0.1, 0.2, 0.4, 1.2]), 1.0, top)], "a/2.jpg": []}
    text = to_megadetector(found, {"b.jpg": "damaged"}, ["robin", "", "wren"], {"classifier": "x"})
    said = json.loads(text)
    assert breaches(said) == []
    check(said, "")
    assert said["info"]["format_version"] == "1.6" and isinstance(said["info"]["classifier"], str)
    assert all(int(k) >= 0 and name for k, name in said["classification_categories"].items())
    by_file = {entry["file"]: entry for entry in said["images"]}
    (one,) = by_file["a/1.jpg"]["detections"]
    assert said["detection_categories"][one["category"]] == "animal"
    assert isinstance(one["conf"], float)  # the validator takes no whole numbers
    np.testing.assert_allclose(one["bbox"], [0.1, 0.2, 0.3, 0.8])
    assert one["classifications"] == [["2", 0.7], ["0", 0.2], ["1", 0.1]]
    assert by_file["a/2.jpg"]["detections"] == [] and "failure" not in by_file["a/2.jpg"]
    assert by_file["b.jpg"] == {"file": "b.jpg", "failure": "damaged", "detections": None}


@pytest.fixture
def folder(tmp_path):
    """An image of 200 × 100 with a red square at x 150…170, y 10…30, and one without a box."""
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[10:30, 150:170, 0] = 255
    (tmp_path / "moth").mkdir()
    for name in ("1.png", "2.png"):
        Image.fromarray(pixels).save(tmp_path / "moth" / name)
    return tmp_path


def test_images_are_cut_to_their_boxes(folder):
    source = FolderSource(folder, size=64, test_share=1.0)
    file = written(folder, document(image("moth/1.png", (0.9, 0.75, 0.1, 0.1, 0.2))))
    cut = Boxed(source, read_detections(file, source))
    one, two = (cut.load(record) for record in cut.records)
    # The centre crop of .875 shows the box, and all of it.
    assert (one.image[4:-4, 4:-4, 0] > 200).all() and one.shape == (23, 23)
    np.testing.assert_array_equal(two.image, source.load(source.records[1]).image)
    whole = relative_box(cut, one, np.array([0, 0, 64, 64.0]))
    np.testing.assert_allclose(whole, [0.75, 0.1, 0.85, 0.3], atol=0.01)
    corner = relative_box(cut, two, np.array([0, 0, 64, 64.0]))
    # 64 of 146 × 73 pixels: 41 are cut off on the left, 4 above.
    np.testing.assert_allclose(corner, [41 / 146, 4 / 73, 105 / 146, 68 / 73])
    drawn = Example(image=np.zeros((10, 20, 3), np.uint8), label=0, shape=None)
    np.testing.assert_allclose(relative_box(cut, drawn, np.array([5.0, 5, 10, 10])),
                               [0.25, 0.5, 0.5, 1])  # fmt: skip


def test_boxes_in_pixels_of_a_csv(folder):
    (folder / "boxes.csv").write_text("name,x0,y0,x1,y1\nmoth/1.png,150,10,170,30\n")
    source = FolderSource(folder, size=64, test_share=1.0)
    (found,) = read_detections(folder / "boxes.csv", source).values()
    np.testing.assert_allclose(found.box, [0.75, 0.1, 0.85, 0.3])


@pytest.mark.parametrize(
    ("box", "wanted"),
    [
        ((0.4, 0.4, 0.6, 0.6), (75, 25, 125, 75)),  # 40 × 20 px, 50 with the crop of 0.8
        ((0.9, 0.8, 1.0, 1.0), (175, 75, 200, 100)),  # moved inwards
        ((0.0, 0.0, 1.0, 1.0), (0, 0, 200, 100)),  # larger than the image: cut
        ((0.5, 0.5, 0.501, 0.501), (92, 42, 108, 58)),  # never below 16 pixels
    ],
)
def test_the_square_around_a_box(box, wanted):
    assert square(np.array(box), (100, 200), 0.8) == wanted


def test_date_and_place_of_a_photograph(tmp_path):
    photo, exif = Image.new("RGB", (32, 32)), Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "2026:05:17 04:31:08"
    gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
    gps.update({1: "S", 2: (2.0, 30.0, 36.0), 3: "E", 4: (29.0, 0.0, 0.0)})
    photo.save(tmp_path / "a.jpg", exif=exif)
    assert read_taken(tmp_path / "a.jpg") == Taken("2026-05-17 04:31:08", "-2.510000", "29.000000")
    photo.save(tmp_path / "b.png")
    (tmp_path / "c.jpg").write_bytes(b"no")
    assert read_taken(tmp_path / "b.png") == read_taken(tmp_path / "c.jpg") == Taken()
