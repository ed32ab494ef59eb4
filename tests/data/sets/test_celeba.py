import numpy as np
import pytest
from PIL import Image

from fgjax.data.pipeline import load_batch, load_examples
from fgjax.data.sets.celeba import HOME, CelebaSource
from fgjax.data.types import DataError

POINTS = "lefteye_x lefteye_y righteye_x righteye_y nose_x nose_y "
POINTS += "leftmouth_x leftmouth_y rightmouth_x rightmouth_y"
FILES = {
    "Anno/list_attr_celeba.txt": (
        "3\nBald Smiling Young \n1.jpg -1  1  1\n2.jpg  1 -1 -1\n3.jpg -1  1 -1\n"
    ),
    "Anno/list_landmarks_align_celeba.txt": f"3\n{POINTS} \n"
    + "".join(f"{i}.jpg 20 32  44 32  32  48   24   64  40 2\n" for i in (1, 2, 3)),
    "Anno/list_landmarks_celeba.txt": f"3\n{POINTS}\n"
    + "".join(f"{i}.jpg 10 42  34 42  22  58   14   74  30 74\n" for i in (1, 2, 3)),
    "Anno/list_bbox_celeba.txt": (
        "3\nimage_id x_1 y_1 width height\n1.jpg 10 20 30 40\n2.jpg 0 0 0 0\n3.jpg 1 1 60 90\n"
    ),
    "Eval/list_eval_partition.txt": "1.jpg 0\n2.jpg 1\n3.jpg 2\n",
}


@pytest.fixture
def celeba(tmp_path):
    """Three images of 64 × 96 (width × height) in the folders of the authors' share."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    for folder in ("img_align_celeba", "img_celeba"):
        (tmp_path / "Img" / folder).mkdir(parents=True)
        for number in (1, 2, 3):
            image = Image.new("RGB", (64, 96), (60 * number, 0, 0))
            image.save(tmp_path / f"Img/{folder}/{number}.jpg", quality=100)
    return tmp_path


def edit(root, name, old, new):
    text = (root / name).read_text()
    assert old in text
    (root / name).write_text(text.replace(old, new))


def test_attributes(celeba):
    source = CelebaSource(celeba)
    assert source.attribute_names == ("Bald", "Smiling", "Young")
    np.testing.assert_array_equal(source.attributes, [[0, 1, 1], [1, 0, 0], [0, 1, 0]])
    assert source.classes == () and source.identities is None
    assert [(r.name, r.label, r.split) for r in source.records] == [
        ("1.jpg", None, "train"),
        ("2.jpg", None, "train"),
        ("3.jpg", None, "test"),
    ]
    assert [r.validation for r in source.records] == [False, True, False]


def test_one_attribute_as_target(celeba):
    source = CelebaSource(celeba, target="Smiling")
    assert source.classes == ("not Smiling", "Smiling")
    assert [record.label for record in source.records] == [1, 0, 1]
    assert load_batch(source, source.records).labels.tolist() == [1, 0, 1]
    with pytest.raises(DataError, match=r"no attribute 'Smilling'; did you mean 'Smiling'\?"):
        CelebaSource(celeba, target="Smilling")


def test_aligned_faces_have_landmarks(celeba):
    source = CelebaSource(celeba, size=32, crop=1.0)
    example = source.load(source.records[0])
    assert source.landmark_names == ("lefteye", "righteye", "nose", "leftmouth", "rightmouth")
    # 64 × 96 halves to 32 × 48, of which the rows 8 to 40 stay.
    expected = [[10, 8, 1], [22, 8, 1], [16, 16, 1], [12, 24, 1], [0, 0, 0]]
    np.testing.assert_allclose(example.landmarks, expected, atol=1e-4)
    assert example.box is None and example.label is None
    assert abs(int(example.image[16, 16, 0]) - 60) < 3


def test_photographs_have_boxes(celeba):
    source = CelebaSource(celeba, size=32, crop=1.0, aligned=False)
    first, second, _ = (source.load(record) for record in source.records)
    assert source.file(source.records[0]).parent.name == "img_celeba"
    np.testing.assert_allclose(first.box, [5, 2, 20, 22], atol=1e-4)
    np.testing.assert_allclose(first.landmarks[0], [5, 13, 1], atol=1e-4)
    assert second.box is None


def test_identities(celeba):
    (celeba / "Anno/identity_CelebA.txt").write_text("3.jpg 7\n1.jpg 2880\n2.jpg 7\n")
    assert CelebaSource(celeba).identities.tolist() == [2880, 7, 7]
    (celeba / "Anno/identity_CelebA.txt").write_text("1.jpg 2880\n2.jpg 7\n")
    with pytest.raises(DataError, match=r"identity_CelebA.txt: lines are missing for 1 .* 3.jpg$"):
        CelebaSource(celeba)


def test_all_in_one_folder(celeba):
    records = CelebaSource(celeba).records
    for folder in ("Anno", "Eval", "Img"):
        for path in (celeba / folder).iterdir():
            path.rename(celeba / path.name)
        (celeba / folder).rmdir()
    source = CelebaSource(celeba)
    assert source.records == records
    assert not any(isinstance(e, DataError) for _, e in load_examples(source, records))


def test_missing_things_say_where_to_get_them(celeba):
    with pytest.raises(DataError) as caught:
        CelebaSource(celeba / "nowhere")
    assert HOME in str(caught.value) and "\n" not in str(caught.value)
    (celeba / "Eval/list_eval_partition.txt").unlink()
    with pytest.raises(DataError, match=r"list_eval_partition.txt: this index file .* is missing"):
        CelebaSource(celeba)
    (celeba / "Img/img_align_celeba").rename(celeba / "Img/faces")
    with pytest.raises(DataError, match=r"img_align_celeba: no such folder; wanted:"):
        CelebaSource(celeba)


@pytest.mark.parametrize(
    "name, old, new, message",
    [
        ("Anno/list_attr_celeba.txt", "3\nBald", "Bald", r"line 1: .* should be the number of im"),
        ("Anno/list_attr_celeba.txt", "3\nBald", "4\nBald", r"line 1 says 4 images but 3 follow"),
        ("Anno/list_attr_celeba.txt", "3.jpg -1  1 -1", "3.jpg -1  1", r"line 5: .* and 3 values"),
        ("Anno/list_attr_celeba.txt", "3.jpg -1", "3.jpg 0", r"line 5: .* should hold 1 or -1"),
        ("Anno/list_attr_celeba.txt", "3.jpg", "2.jpg", r"line 5: .* gives 2.jpg a second time"),
        ("Anno/list_attr_celeba.txt", "3.jpg", "../3.jpg", r"line 5: .* leads out of the folder"),
        ("Eval/list_eval_partition.txt", "3.jpg 2", "3.jpg 3", r"line 3: .* should end in 0 \(tra"),
        ("Eval/list_eval_partition.txt", "3.jpg 2", "4.jpg 2", r"are missing for 1 .*: 3.jpg$"),
        ("Eval/list_eval_partition.txt", "3.jpg 2", "3.jpg 2\n4.jpg 2", r"has 1 images .*: 4.jpg$"),
        ("Anno/list_landmarks_align_celeba.txt", "3.jpg 20", "3.jpg x", r"line 5: .* 10 numbers"),
        ("Anno/list_landmarks_align_celeba.txt", "3.jpg 20", "3.jpg", r"line 5: .* 10 values"),
        ("Anno/list_landmarks_align_celeba.txt", "3.jpg", "4.jpg", r"missing for 1 .*: 3.jpg$"),
    ],
)
def test_malformed_lines(celeba, name, old, new, message):
    edit(celeba, name, old, new)
    with pytest.raises(DataError, match=message) as caught:
        CelebaSource(celeba)
    assert str(celeba / name) in str(caught.value)


@pytest.fixture
def scops(celeba):
    """SCOPS' lists beside it; boxes have 1200, 0 and 5400 of 4000, 1 and 18000 pixels."""
    (celeba / "MAFL").mkdir()
    for name, text in {
        "MAFL/celebA_training.txt": "3.jpg\n",
        "MAFL/training.txt": "2.jpg\n",
        "MAFL/testing.txt": "1.jpg\n",
        "Anno/list_imsize_celeba.txt": "1.jpg 40 100\n2.jpg 1 1\n3.jpg 100 180\n",
    }.items():
        (celeba / name).write_text(text)
    edit(celeba, "Anno/list_bbox_celeba.txt", "2.jpg 0 0 0 0", "2.jpg 0 0 1 1")
    return celeba


def test_scops_split(scops):
    about = dict(aligned=False, split="scops")
    records = CelebaSource(scops, **about).records
    assert [(r.name, r.split, r.validation) for r in records] == [
        ("1.jpg", "test", False), ("2.jpg", "train", True), ("3.jpg", "train", False),
    ]  # fmt: skip
    # 1200 of 4004 pixels are less than 30 %. A count and a header may stand above.
    (scops / "Anno/identity_CelebA.txt").write_text("3.jpg 7\n1.jpg 2880\n2.jpg 9\n")
    edit(scops, "Anno/list_imsize_celeba.txt", "1.jpg 40 100", "3\nimage_id h w\n1.jpg 44 91")
    source = CelebaSource(scops, **about, target="Smiling")
    assert [(r.name, r.label) for r in source.records] == [("2.jpg", 0), ("3.jpg", 1)]
    np.testing.assert_array_equal(source.attributes_of(source.records), [[1, 0, 0], [0, 1, 0]])
    assert source.identities.tolist() == [9, 7]
    with pytest.raises(ValueError, match="split=scops .* data.aligned=false"):
        CelebaSource(scops, split="scops")


@pytest.mark.parametrize(
    "name, old, new, message",
    [
        ("MAFL/testing.txt", "1.jpg", "4.jpg", "line 1: .* list_attr_celeba.txt has no such image"),
        ("MAFL/testing.txt", "1.jpg", "2.jpg", r"line 1: .* another line, or list of MAFL/, has"),
        ("Anno/list_imsize_celeba.txt", "2.jpg 1 1\n", "", "line 1: '2.jpg': list_imsize_celeba.t"),
        ("Anno/list_imsize_celeba.txt", "2.jpg 1 1", "2.jpg 1", "line 2: .* 2 numbers"),
        ("Anno/list_imsize_celeba.txt", "2.jpg 1 1", "2.jpg", "line 2: .* a height and a width"),
    ],
)
def test_scops_lists_that_do_not_fit(scops, name, old, new, message):
    edit(scops, name, old, new)
    with pytest.raises(DataError, match=message):
        CelebaSource(scops, aligned=False, split="scops")


def test_missing_scops_lists_say_where_to_get_them(scops):
    (scops / "MAFL/training.txt").unlink()
    with pytest.raises(DataError, match="MAFL/training.txt: this index file .* download_CelebA.sh"):
        CelebaSource(scops, aligned=False, split="scops")
