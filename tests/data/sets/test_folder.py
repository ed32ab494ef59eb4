import os
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from fgjax.data.pipeline import fingerprint, load_examples
from fgjax.data.sets.folder import FolderSource
from fgjax.data.sets.folder_tree import count_words
from fgjax.data.types import DataError


def picture(path, colour="red", size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def classes(root, **counts):
    for name, count in counts.items():
        for i in range(count):
            picture(root / name / f"{i:03}.png")
    return root


def names(source, split=None):
    return [r.name for r in source.records if split in (None, r.split)]


def test_class_folders(tmp_path):
    classes(tmp_path, dog=2, cat=3)
    picture(tmp_path / "dog/deep/down/x.png")
    source = FolderSource(tmp_path)
    assert source.classes == ("cat", "dog") and source.landmark_names == ()
    assert names(source) == [
        "cat/000.png",
        "cat/001.png",
        "cat/002.png",
        "dog/000.png",
        "dog/001.png",
        "dog/deep/down/x.png",
    ]
    assert [record.label for record in source.records] == [0, 0, 0, 1, 1, 1]
    assert source.file(source.records[0]) == tmp_path / "cat/000.png"


def test_what_is_no_image_is_ignored(tmp_path):
    for suffix in ("jpg", "JPEG", "png", "webp", "bmp", "tif", "TIFF", "gif"):
        picture(tmp_path / "cat" / f"a.{suffix}")
    for suffix in ("jfif", "jpe"):
        (tmp_path / "cat" / f"a.{suffix}").write_bytes((tmp_path / "cat" / "a.jpg").read_bytes())
    for name in (".hidden.png", "notes.txt", "a.xml", "Thumbs.db"):
        (tmp_path / "cat" / name).touch()
    picture(tmp_path / ".thumbnails/a.png")
    picture(tmp_path / "cat/.cache/a.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "README.md").touch()
    source = FolderSource(tmp_path)
    assert source.classes == ("cat",) and len(source.records) == 10
    assert all(not isinstance(e, DataError) for _, e in load_examples(source, source.records))


def test_loads_fitted(tmp_path):
    picture(tmp_path / "cat/a.png", "blue")
    source = FolderSource(tmp_path, size=20, crop=1.0)
    example = source.load(source.records[0])
    assert example.image.shape == (20, 20, 3) and (example.image == [0, 0, 255]).all()
    assert example.label == 0
    assert example.box is example.mask is example.cue is example.landmarks is None


def test_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = np.zeros((30, 40, 3), np.uint8)
    image[:, :20] = 255  # the left half; turned clockwise, the upper
    Image.fromarray(image).save(tmp_path / "a.png", exif=exif)
    source = FolderSource(tmp_path, size=30, crop=1.0)
    fitted = source.load(source.records[0]).image[..., 0]
    assert fitted[:13].min() > 240 and fitted[17:].max() < 15


def test_flat_folder(tmp_path):
    for name in "cab":
        picture(tmp_path / f"{name}.png")
    source = FolderSource(tmp_path)
    assert source.classes == ()
    assert [(r.name, r.label, r.split) for r in source.records] == [
        (f"{name}.png", None, "test") for name in "abc"
    ]
    assert source.load(source.records[0]).label is None


def test_given_split(tmp_path):
    classes(tmp_path / "train", cat=3, dog=2)
    classes(tmp_path / "test", dog=1, emu=1)
    source = FolderSource(tmp_path, test_share=0.9)
    assert source.classes == ("cat", "dog", "emu")
    assert names(source, "test") == ["test/dog/000.png", "test/emu/000.png"]
    assert len(names(source, "train")) == 5
    labels = {record.name: record.label for record in source.records}
    assert labels["train/dog/000.png"] == labels["test/dog/000.png"] == 1


def test_val_is_test_unless_there_is_a_test(tmp_path):
    classes(tmp_path / "train", cat=1)
    classes(tmp_path / "val", cat=1)
    assert names(FolderSource(tmp_path), "test") == ["val/cat/000.png"]
    classes(tmp_path / "test", cat=1)
    source = FolderSource(tmp_path)
    assert names(source, "test") == ["test/cat/000.png"]
    assert names(source, "train") == ["train/cat/000.png", "val/cat/000.png"]


@pytest.mark.parametrize(
    "train, held, test",
    [("train", "valid", "test"), ("Train", "Validation", "Test"), ("TRAINING", "dev", "Testing")],
)
@pytest.mark.parametrize("nested", ["", "images", "archive"])
def test_common_names_of_a_split(tmp_path, train, held, test, nested):
    root = tmp_path / nested
    for name in (train, held, test):
        classes(root / name, cat=1, dog=1)
    (tmp_path / "README.txt").write_text("an export")
    if nested:
        (tmp_path / "README.txt").unlink()
    source = FolderSource(tmp_path)
    assert source.classes == ("cat", "dog")
    assert [(r.split, r.validation) for r in source.records if r.label == 0] == [
        {train: ("train", False), held: ("train", True), test: ("test", False)}[name]
        for name in sorted((train, held, test))
    ]


def test_images_one_deeper_in_a_split(tmp_path):
    for name in ("train", "test"):
        classes(tmp_path / name / "images", cat=1, dog=1)
        (tmp_path / name / "labels").mkdir()
    (tmp_path / "train" / "classes.txt").write_text("beside the images, and no image")
    source = FolderSource(tmp_path)
    assert source.classes == ("cat", "dog") and source.left_out == {".txt": 1}


def test_a_split_beside_classes_is_refused(tmp_path):
    for name in ("train", "test", "Meta"):
        classes(tmp_path / name, cat=1)
    with pytest.raises(
        DataError, match=r"Meta beside the folders of a split \(test, train\): move"
    ):
        FolderSource(tmp_path)


def test_a_class_may_be_called_train(tmp_path):
    classes(tmp_path, train=2, bus=2)
    assert FolderSource(tmp_path).classes == ("bus", "train")


def test_one_class_written_in_two_ways(tmp_path, capsys):
    composed, apart = "M\u00f6we", "Mo\u0308we"
    classes(tmp_path / "train", **{"Robin": 1, composed: 1})
    classes(tmp_path / "test", **{"robin": 1, apart: 1})
    source = FolderSource(tmp_path)
    assert source.classes == (composed, "Robin")
    assert [(r.label, r.split) for r in source.records] == [
        (0, "test"), (1, "test"), (0, "train"), (1, "train"),
    ]  # fmt: skip
    assert "'Robin', 'robin' differ only in how they are written" in capsys.readouterr().out
    assert all(not isinstance(e, DataError) for _, e in load_examples(source, source.records))


def test_hash_split(tmp_path):
    classes(tmp_path, a=10, b=7, c=2, d=1)
    source = FolderSource(tmp_path, test_share=0.3)
    count = Counter((record.name[0], record.split) for record in source.records)
    assert count == {
        ("a", "train"): 7,
        ("a", "test"): 3,
        ("b", "train"): 5,
        ("b", "test"): 2,
        ("c", "train"): 1,
        ("c", "test"): 1,
        ("d", "train"): 1,
    }
    assert FolderSource(tmp_path, test_share=0.3).records == source.records
    assert FolderSource(tmp_path, test_share=0.3, seed=1).records != source.records


@pytest.mark.parametrize("share, tests", [(0.0, 0), (0.01, 1), (0.5, 5), (0.99, 9), (1.0, 10)])
def test_hash_split_shares(tmp_path, share, tests):
    classes(tmp_path, a=10)
    assert len(names(FolderSource(tmp_path, test_share=share), "test")) == tests


def test_split_does_not_depend_on_other_classes(tmp_path):
    classes(tmp_path, a=10, b=10)
    before = [r for r in FolderSource(tmp_path).records if r.label == 0]
    classes(tmp_path, c=10)
    assert [r for r in FolderSource(tmp_path).records if r.label == 0] == before


def test_the_split_is_written_down(tmp_path):
    classes(tmp_path, a=4)
    # `printf 0:a/000.png | sha256sum` and so on: d0…, 7f…, 29…, ec…; the smaller half tests.
    assert names(FolderSource(tmp_path), "test") == ["a/001.png", "a/002.png"]


def test_share_out_of_range(tmp_path):
    with pytest.raises(ValueError, match=r"test_share must lie in \[0, 1\], not 1.5"):
        FolderSource(tmp_path, test_share=1.5)


def test_limit(tmp_path):
    classes(tmp_path, a=10, b=10)
    source = FolderSource(tmp_path, limit=3)
    assert Counter(r.split for r in source.records) == {"train": 3, "test": 3}
    assert source.classes == ("a", "b")


# Masks.


def mask(path, size=(40, 30), columns=20):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.zeros(size[::-1], np.uint8)
    values[:, :columns] = 255
    Image.fromarray(values).save(path)


def test_images_beside_masks(tmp_path):
    classes(tmp_path / "images", cat=2)
    mask(tmp_path / "masks/cat/000.png")
    (tmp_path / "model_classes.csv").touch()
    source = FolderSource(tmp_path, size=30, crop=1.0)
    assert source.classes == ("cat",)
    # 40 × 30 loses 5 columns on either side.
    np.testing.assert_array_equal(
        source.load(source.records[0]).mask, np.tile(np.arange(30) < 15, (30, 1))
    )
    assert source.load(source.records[1]).mask is None
    # The folder of images itself knows of no masks.
    assert FolderSource(tmp_path / "images").load(source.records[0]).mask is None


def test_given_masks_win(tmp_path):
    classes(tmp_path / "images", cat=1)
    mask(tmp_path / "masks/cat/000.png", columns=20)
    mask(tmp_path / "better/cat/000.png", columns=40)
    source = FolderSource(tmp_path / "images", masks=tmp_path / "better")
    assert source.load(source.records[0]).mask.all()


def test_masks_inside_the_folder_are_no_class(tmp_path):
    classes(tmp_path, cat=1, dog=1)
    mask(tmp_path / "masks/cat/000.png")
    source = FolderSource(tmp_path, masks=tmp_path / "masks")
    assert source.classes == ("cat", "dog")
    assert source.load(source.records[0]).mask is not None


def test_masks_of_a_flat_folder(tmp_path):
    picture(tmp_path / "images/a.b.jpg")
    mask(tmp_path / "masks/a.b.png")
    source = FolderSource(tmp_path)
    assert source.classes == () and source.load(source.records[0]).mask.any()


def test_masks_that_fit_nothing(tmp_path):
    classes(tmp_path / "images", cat=1)
    mask(tmp_path / "masks/000.png")
    with pytest.raises(DataError, match=r"masks: no mask fits .* of cat/000.png would be .*cat"):
        FolderSource(tmp_path)
    with pytest.raises(DataError, match=r"nowhere: no such folder of masks"):
        FolderSource(tmp_path, masks=tmp_path / "nowhere")


def test_cues_are_read_as_masks_are(tmp_path):
    classes(tmp_path / "images", cat=2)
    mask(tmp_path / "masks/cat/000.png", columns=30)
    mask(tmp_path / "cues/cat/000.png", columns=20)
    mask(tmp_path / "better/cat/001.png", columns=40)
    source = FolderSource(tmp_path / "images", size=30, crop=1.0, cues=tmp_path / "cues")
    # 40 × 30 loses 5 columns on either side.
    wanted = np.tile(np.arange(30) < 15, (30, 1))
    np.testing.assert_array_equal(source.load(source.records[0]).cue, wanted)
    assert source.load(source.records[0]).mask is None
    assert source.load(source.records[1]).cue is None
    given = FolderSource(tmp_path / "images", cues=tmp_path / "better")
    assert given.load(given.records[0]).cue is None and given.load(given.records[1]).cue.all()
    with pytest.raises(DataError, match=r"no mask fits .* would be .*cat/cat/000\.png"):
        FolderSource(tmp_path / "images", cues=tmp_path / "masks" / "cat")
    with pytest.raises(DataError, match=r"nowhere: no such folder of masks of cues"):
        FolderSource(tmp_path / "images", cues=tmp_path / "nowhere")


def test_images_beside_masks_and_cues(tmp_path):
    classes(tmp_path / "images", cat=1)
    for folder, columns in (("masks", 40), ("cues", 20)):
        mask(tmp_path / folder / "cat/000.png", columns=columns)
    source = FolderSource(tmp_path)
    example = source.load(source.records[0])
    assert source.classes == ("cat",) and example.mask.all() and 0.3 < example.cue.mean() < 0.7


def test_a_mask_of_another_size_fails_alone(tmp_path):
    classes(tmp_path / "images", cat=2)
    mask(tmp_path / "masks/cat/000.png", size=(20, 20))
    mask(tmp_path / "masks/cat/001.png")
    source = FolderSource(tmp_path)
    outcomes = [outcome for _, outcome in load_examples(source, source.records)]
    assert "the mask is 20×20 pixels but its image is 40×30" in str(outcomes[0])
    assert outcomes[1].mask is not None


# What cannot be used.


def test_missing_file_and_empty(tmp_path):
    with pytest.raises(DataError, match=r"none: no such folder; wanted: a folder of"):
        FolderSource(tmp_path / "none")
    with pytest.raises(DataError, match=r"holds no images; wanted: a folder of"):
        FolderSource(tmp_path)
    (tmp_path / "a.zip").write_text("x")
    with pytest.raises(DataError, match=r"a.zip: is a file, and no image \(an archive.*wanted"):
        FolderSource(tmp_path / "a.zip")


def test_a_single_photo(tmp_path):
    for name in ("a.png", "b.png"):
        picture(tmp_path / name)
    source = FolderSource(tmp_path / "a.png", size=32)
    assert [(r.name, r.label, r.split) for r in source.records] == [("a.png", None, "test")]
    assert source.classes == () and source.load(source.records[0]).image.shape == (32, 32, 3)


def test_what_is_left_out_is_counted(tmp_path):
    classes(tmp_path, cat=2)
    for name in ("cat/a.CR2", "cat/b.cr2", "cat/notes.txt", "README", "cat/.hidden"):
        (tmp_path / name).write_text("x")
    left_out = FolderSource(tmp_path).left_out
    assert left_out == {".cr2": 2, ".txt": 1, "": 1}
    assert count_words(left_out) == "2 .cr2, 1 without an ending, 1 .txt"


@pytest.mark.parametrize("name", ["a\u00a0b", "\u3000", "👩‍🔬 in the field", "école", "حمامة"])
def test_names_in_any_script(tmp_path, name):
    classes(tmp_path, **{name: 1})
    assert FolderSource(tmp_path, test_share=1.0).classes == (name,)


def test_whose_split_it_is(tmp_path):
    classes(tmp_path / "a", cat=2)
    classes(tmp_path / "b" / "train", cat=2)
    classes(tmp_path / "b" / "test", cat=2)
    assert FolderSource(tmp_path / "a").drawn_split
    assert not FolderSource(tmp_path / "b").drawn_split


def test_cub_is_told_apart(tmp_path):
    classes(tmp_path / "images", cat=2)
    for name in ("images.txt", "image_class_labels.txt"):
        (tmp_path / name).write_text("1 1")
    with pytest.raises(DataError, match="config=fido_cub"):
        FolderSource(tmp_path)


def test_images_beside_class_folders(tmp_path):
    classes(tmp_path, cat=1)
    picture(tmp_path / "cover.png")
    with pytest.raises(DataError, match=r"1 images lie beside the class folders.*\(cover.png\)"):
        FolderSource(tmp_path)


def test_unprintable_names_fail_alone(tmp_path):
    classes(tmp_path, cat=1)
    picture(tmp_path / "cat/two\nlines.png")
    (tmp_path / "cat" / os.fsdecode(b"latin\xe9.png")).write_bytes(b"")
    source = FolderSource(tmp_path)
    outcomes = dict(zip(names(source), (o for _, o in load_examples(source, source.records))))
    assert [name for name, o in outcomes.items() if not isinstance(o, DataError)] == ["cat/000.png"]
    assert "two\\nlines.png has unprintable characters; rename it" in str(
        outcomes["cat/two\\nlines.png"]
    )
    fingerprint(source)
    (tmp_path / "two\nlines").mkdir()
    with pytest.raises(DataError, match=r"the name 'two\\nlines' has unprintable"):
        FolderSource(tmp_path)


def test_names_of_macos_screenshots(tmp_path):
    name = "cat/Screenshot 2024-01-01 at 9.41.00\u202fAM.png"
    picture(tmp_path / name)
    source = FolderSource(tmp_path)
    assert names(source) == [name] and source.load(source.records[0]).label == 0


def test_unreadable_folder(tmp_path, monkeypatch):
    classes(tmp_path, cat=1)

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(tmp_path), "iterdir", refuse)  # emulated: root may read all
    with pytest.raises(DataError, match=r"the folder may not be read \(Permission denied\)"):
        FolderSource(tmp_path)


def test_broken_files_fail_alone(tmp_path):
    classes(tmp_path, cat=2)
    (tmp_path / "cat/000.png").write_text("not an image")
    (tmp_path / "cat/002.png").symlink_to("gone.png")
    source = FolderSource(tmp_path)
    outcomes = [outcome for _, outcome in load_examples(source, source.records)]
    assert [isinstance(outcome, DataError) for outcome in outcomes] == [True, False, True]


def test_links_to_folders(tmp_path):
    classes(tmp_path / "elsewhere", cat=2)
    root = classes(tmp_path / "root", dog=1)
    (root / "cat").symlink_to(tmp_path / "elsewhere/cat")
    (root / "dog/again").symlink_to(root / "dog")  # loops
    (root / "dog/up").symlink_to(root)
    (root / "emu").symlink_to(root)
    source = FolderSource(root)
    assert names(source) == ["cat/000.png", "cat/001.png", "dog/000.png"]


def test_crossed_links_end(tmp_path):
    # Without remembering what was seen, the paths through these would be n! many.
    for i in range(12):
        classes(tmp_path / "cat", **{f"d{i}": 1})
        for j in range(12):
            (tmp_path / f"cat/d{i}/to{j}").symlink_to(tmp_path / f"cat/d{j}")
    assert len(FolderSource(tmp_path).records) == 12


@pytest.mark.shared
def test_the_real_butterflies(shared):
    source = FolderSource(shared / "data/butterflies")
    assert len(source.classes) == 10 and len(source.records) == 240
    assert Counter(r.split for r in source.records) == {"train": 120, "test": 120}
    for (_, example), record in zip(
        load_examples(source, source.records[::24]), source.records[::24], strict=True
    ):
        assert example.image.shape == (224, 224, 3), record
        assert 0.02 < example.mask.mean() < 0.95, record


def test_fingerprint_sees_a_new_file(tmp_path):
    classes(tmp_path, cat=2)
    before = fingerprint(FolderSource(tmp_path))
    assert fingerprint(FolderSource(tmp_path, size=64)) == before
    classes(tmp_path, cat=3)
    assert fingerprint(FolderSource(tmp_path)) != before
