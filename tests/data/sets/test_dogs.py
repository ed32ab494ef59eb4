import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from fgjax.data.pipeline import fingerprint, load_examples
from fgjax.data.sets.dogs import HOME, DogsSource
from fgjax.data.types import DataError

TRAIN = ["n1-Pug/n1_1", "n2-soft-coated_terrier/n2_1"]
TEST = ["n1-Pug/n1_2"]
OBJECT = (
    "<object><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
)


def cells(values):
    """A MATLAB cell column, as the authors' lists hold them."""
    array = np.empty((len(values), 1), object)
    array[:, 0] = values
    return array


def write_list(root, split, names, labels, annotations=None):
    savemat(
        root / f"{split}_list.mat",
        {
            "file_list": cells([f"{name}.jpg" for name in names]),
            "annotation_list": cells(annotations or names),
            "labels": np.array(labels, np.uint8)[:, None],
        },
    )


@pytest.fixture
def dogs(tmp_path):
    """Three images of 64 × 96 (width × height); the first has two dogs."""
    write_list(tmp_path, "train", TRAIN, [1, 2])
    write_list(tmp_path, "test", TEST, [1])
    for number, name in enumerate(TRAIN + TEST):
        image = tmp_path / "Images" / f"{name}.jpg"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 96), (60 * number, 0, 0)).save(image, quality=100)
        annotation = tmp_path / "Annotation" / name
        annotation.parent.mkdir(parents=True, exist_ok=True)
        objects = OBJECT.format(10, 20, 30, 40) + (OBJECT.format(20, 30, 40, 60) * (number == 0))
        annotation.write_text(f"<annotation><folder>x</folder>{objects}</annotation>")
    return tmp_path


def test_reads_the_lists(dogs):
    source = DogsSource(dogs)
    assert source.classes == ("Pug", "soft-coated_terrier")
    assert [(r.name, r.label, r.split) for r in source.records] == [
        ("n1-Pug/n1_1.jpg", 0, "train"),
        ("n2-soft-coated_terrier/n2_1.jpg", 1, "train"),
        ("n1-Pug/n1_2.jpg", 0, "test"),
    ]
    assert fingerprint(source) == fingerprint(DogsSource(str(dogs)))


def test_the_box_holds_every_dog(dogs):
    source = DogsSource(dogs, size=32, crop=1.0)
    # 64 × 96 halves to 32 × 48, of which the rows 8 to 40 stay.
    first, second, _ = (source.load(record) for record in source.records)
    assert first.image.shape == (32, 32, 3) and first.label == 0
    np.testing.assert_allclose(first.box, [5, 2, 20, 22], atol=1e-4)
    np.testing.assert_allclose(second.box, [5, 2, 15, 12], atol=1e-4)
    assert abs(int(second.image[16, 16, 0]) - 60) < 3


def test_without_annotations_there_are_no_boxes(dogs):
    (dogs / "Annotation").rename(dogs / "elsewhere")
    source = DogsSource(dogs)
    assert source.load(source.records[0]).box is None


def test_missing_things_say_where_to_get_them(dogs, tmp_path):
    with pytest.raises(DataError) as caught:
        DogsSource(tmp_path / "nowhere")
    assert HOME in str(caught.value) and "\n" not in str(caught.value)
    (dogs / "test_list.mat").unlink()
    with pytest.raises(DataError, match=r"test_list.mat: this index file of the set is missing"):
        DogsSource(dogs)
    (dogs / "Images").rename(dogs / "pictures")
    with pytest.raises(DataError, match=r"Images: no such folder; wanted:"):
        DogsSource(dogs)


@pytest.mark.parametrize(
    "names, labels, annotations, message",
    [
        (["n1-Pug/n1_2"], [0], None, r"row 1: 'n1-Pug/n1_2.jpg': class 0 is out of range"),
        (["n3-Fox/n3_1"], [2], None, r"row 1: .*label 2 already stands for n2-soft-coated"),
        (["n1-Pug/n1_2"], [1], ["n1-Pug/n1_3"], r"row 1: .* annotation of another image"),
        (["n1-Pug/n1_2"], [1, 1], None, r"should be of one length, not 1, 1 and 2"),
        (["n1-Pug/n1_1"], [1], None, r"test_list.mat, row 1: .* is listed a second time"),
        (["../n1-Pug/n1_2"], [1], None, r"row 1: .* should be n02085620-Chihuahua/"),
        (["..-x\\..\\y/n1_2"], [1], None, r"row 1: .* leads out of the folder Images/"),
        (["n3-Fox/n3_1"], [4], None, r"3 labels, up to 4, but none of their images has label 3"),
        (["n1-Pug/n1_2"], [3], None, r"the lists give one breed several labels"),
    ],
)
def test_lists_that_do_not_fit(dogs, names, labels, annotations, message):
    write_list(dogs, "test", names, labels, annotations)
    with pytest.raises(DataError, match=message):
        DogsSource(dogs)


def test_a_damaged_list(dogs):
    (dogs / "train_list.mat").write_bytes(b"not a matlab file" * 20)
    with pytest.raises(DataError, match=r"train_list.mat: cannot be read as a MATLAB file"):
        DogsSource(dogs)
    savemat(dogs / "train_list.mat", {"labels": [1]})
    with pytest.raises(DataError, match=r"has no variable file_list, annotation_list;"):
        DogsSource(dogs)


@pytest.mark.parametrize(
    "text, message",
    [
        ("<annotation>", r"n1_1: is not XML \(no element found.*get Annotation/ anew"),
        ("<annotation/>", r"n1_1: has no object/bndbox"),
        (f"<a>{OBJECT.format(1, 2, 3, 'x')}</a>", r"bndbox '1 2 3 x' should hold 4 numbers$"),
        (f"<a>{OBJECT.format(1, 2, 1, 4)}</a>", r"bndbox '1 2 1 4' needs xmin < xmax"),
        (
            '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]><a>&x;</a>',
            r"n1_1: declares a document type; it is refused",
        ),
    ],
)
def test_a_bad_annotation_fails_alone(dogs, text, message):
    (dogs / "Annotation" / TRAIN[0]).write_text(text)
    source = DogsSource(dogs)
    outcomes = [outcome for _, outcome in load_examples(source, source.records)]
    assert [isinstance(outcome, DataError) for outcome in outcomes] == [True, False, False]
    with pytest.raises(DataError, match=message):
        raise outcomes[0]
