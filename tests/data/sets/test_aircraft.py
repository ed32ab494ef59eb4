import numpy as np
import pytest
from PIL import Image

from fgjax.data.pipeline import load_examples
from fgjax.data.sets.aircraft import HOME, AircraftSource
from fgjax.data.types import DataError

FILES = {
    "variants.txt": "707-320\nF/A-18\n",
    "manufacturers.txt": "Boeing\nMcDonnell Douglas\n",
    "images_variant_trainval.txt": "0000001 707-320\n0000002 F/A-18\n",
    "images_variant_test.txt": "0000003 F/A-18\n",
    "images_manufacturer_trainval.txt": "0000001 Boeing\n0000002 McDonnell Douglas\n",
    "images_manufacturer_test.txt": "0000003 McDonnell Douglas\n",
    "images_box.txt": "0000001 11 21 40 60\n0000002 1 1 64 96\n0000003 3 20 64 116\n",
}


@pytest.fixture
def aircraft(tmp_path):
    """Three red images of 64 × 96 (width × height), each with 20 blue rows below."""
    data = tmp_path / "data"
    (data / "images").mkdir(parents=True)
    for name, text in FILES.items():
        (data / name).write_text(text)
    pixels = np.zeros((116, 64, 3), np.uint8)
    pixels[:96, :, 0] = 200
    pixels[96:, :, 2] = 200
    for number in (1, 2, 3):
        Image.fromarray(pixels).save(data / f"images/000000{number}.jpg", "PNG")
    return tmp_path


def edit(root, name, old, new):
    path = root / "data" / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_reads_the_lists(aircraft):
    source = AircraftSource(aircraft)
    assert source.classes == ("707-320", "F/A-18")
    assert [(r.name, r.label, r.split) for r in source.records] == [
        ("0000001.jpg", 0, "train"),
        ("0000002.jpg", 1, "train"),
        ("0000003.jpg", 1, "test"),
    ]
    assert AircraftSource(aircraft / "data").records == source.records


def test_other_levels(aircraft):
    source = AircraftSource(aircraft, level="manufacturer")
    assert source.classes == ("Boeing", "McDonnell Douglas")
    assert [record.label for record in source.records] == [0, 1, 1]
    with pytest.raises(DataError, match=r"families.txt: this index file of the set is missing"):
        AircraftSource(aircraft, level="family")
    with pytest.raises(ValueError, match="variant, family, manufacturer, not 'model'"):
        AircraftSource(aircraft, level="model")


def test_the_banner_is_gone(aircraft):
    source = AircraftSource(aircraft, size=32, crop=1.0)
    examples = [source.load(record) for record in source.records]
    # Pixels 11 to 40 by 21 to 60 reach from 10 to 40 by 20 to 60. 64 × 96 halves to
    # 32 × 48, of which the rows 8 to 40 stay.
    np.testing.assert_allclose(examples[0].box, [5, 2, 20, 22], atol=1e-4)
    np.testing.assert_allclose(examples[2].box, [1, 1.5, 32, 32], atol=1e-4)
    assert examples[1].image.shape == (32, 32, 3) and examples[1].label == 1

    # Squashed, the whole image stays, to its last row: red and nowhere blue.
    Image.open(aircraft / "data/images/0000001.jpg").crop((0, 60, 64, 116)).save(
        aircraft / "data/images/0000001.jpg", "PNG"
    )
    whole = AircraftSource(aircraft, size=36, crop=1.0)
    image = whole.load(whole.records[0]).image
    assert (image[..., 2] == 0).all() and (image[..., 0] == 200).all()


def test_an_image_all_banner(aircraft):
    Image.new("RGB", (64, 30)).save(aircraft / "data/images/0000001.jpg", "PNG")
    source = AircraftSource(aircraft)
    outcomes = [outcome for _, outcome in load_examples(source, source.records)]
    assert [isinstance(outcome, DataError) for outcome in outcomes] == [True, False, False]
    assert "30 rows are too few" in str(outcomes[0])


def test_missing_folder_says_where_to_get_it(tmp_path):
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(DataError) as caught:
            AircraftSource(path)
        assert HOME in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["variants.txt", "images_variant_test.txt"])
def test_missing_index_file(aircraft, name):
    (aircraft / "data" / name).unlink()
    with pytest.raises(DataError, match=rf"{name}: this index file of the set is missing"):
        AircraftSource(aircraft)


@pytest.mark.parametrize(
    "name, old, new, message",
    [
        ("images_variant_test.txt", " F/A-18", "", r"line 1: '0000003' should be a name, a space"),
        ("images_variant_test.txt", "F/A-18", "F-16", r"line 1: .*'F-16' is not among the 2 named"),
        ("images_variant_test.txt", "0000003", "../1", r"line 1: .* leads out of the folder"),
        ("images_variant_test.txt", "3 F", "2 F", r"image 0000002 is in the other split too"),
        ("images_variant_trainval.txt", "2 F", "1 F", r"line 2: .* gives 0000001 a second time"),
        ("images_variant_test.txt", "0000003 F/A-18\n", "", r"test.txt: the file is empty"),
        ("images_box.txt", "1 1 64 96", "1 1 64", r"line 2: .* should hold 4 numbers"),
        ("images_box.txt", "1 1 64 96", "9 1 8 96", r"line 2: .* needs x1 ≤ x2"),
        ("images_box.txt", "0000002 1 1 64 96\n", "", r"are missing for 1 images .*: 0000002$"),
        ("images_box.txt", "0000001", "4 1 1 2 2\n0000001", r"has 1 images that .* has not: 4$"),
    ],
)
def test_malformed_lines(aircraft, name, old, new, message):
    edit(aircraft, name, old, new)
    with pytest.raises(DataError, match=message) as caught:
        AircraftSource(aircraft)
    assert str(aircraft / "data" / name) in str(caught.value)
