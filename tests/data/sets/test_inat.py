import json

import numpy as np
import pytest
from PIL import Image

from fgjax.data.pipeline import load_batch
from fgjax.data.sets.inat import InatSource
from fgjax.data.types import DataError

CATEGORIES = [
    {"id": 7, "name": "Parus major", "supercategory": "Aves"},
    {"id": 2, "name": "Bellis perennis", "supercategory": "Plantae"},
]
IMAGES = {
    "train": ["Aves/Parus major/a.jpg", "Plantae/Bellis perennis/b.jpg"],
    "val": ["Aves/Parus major/c.jpg", "Plantae/Bellis perennis/d.jpg"],
}


def index(part):
    return {
        "images": [
            {"id": 10 * i, "file_name": f"train_val_images/{name}", "width": 64, "height": 48}
            for i, name in enumerate(IMAGES[part])
        ],
        "categories": CATEGORIES,
        "annotations": [
            {"id": i, "image_id": 10 * i, "category_id": c} for i, c in enumerate((7, 2))
        ],
    }


def boxes(part, *values):
    annotations = [{"id": i, "image_id": 0, "category_id": 7, "bbox": box, "area": 1.0}
                   for i, box in enumerate(values)]  # fmt: skip
    return index(part) | {"annotations": annotations}


@pytest.fixture
def root(tmp_path):
    """Two species with an image in either split; the bird has boxes."""
    files = {
        "train2017.json": index("train"),
        "val2017.json": index("val"),
        "train_2017_bboxes.json": boxes("train", [2, 4, 20, 10], [30.5, 20, 10, 8]),
        "val_2017_bboxes.json": boxes("val", [16, 12, 32, 24]),
    }
    for name, value in files.items():
        (tmp_path / name).write_text(json.dumps(value))
    for names in IMAGES.values():
        for name in names:
            path = tmp_path / "train_val_images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (64, 48), (200, 0, 0)).save(path)
    return tmp_path


def edit(root, name, change):
    value = json.loads((root / name).read_text())
    change(value)
    (root / name).write_text(json.dumps(value))


def test_it_reads_what_the_authors_wrote(root):
    source = InatSource(root, size=48, crop=1.0)
    assert source.classes == ("Bellis perennis", "Parus major")  # by id
    assert [(r.name, r.label, r.split) for r in source.records] == [
        ("train_val_images/Aves/Parus major/a.jpg", 1, "train"),
        ("train_val_images/Plantae/Bellis perennis/b.jpg", 0, "train"),
        ("train_val_images/Aves/Parus major/c.jpg", 1, "test"),
        ("train_val_images/Plantae/Bellis perennis/d.jpg", 0, "test"),
    ]
    batch = load_batch(source, source.records)
    # The middle 48 x 48 of 64 x 48 starts at x = 8; two boxes: the smallest around both.
    np.testing.assert_allclose(batch.boxes[0], [0, 4, 32.5, 28], atol=1e-4)
    np.testing.assert_allclose(batch.boxes[2], [8, 12, 40, 36], atol=1e-4)
    assert np.isnan(batch.boxes[[1, 3]]).all() and (batch.labels == [1, 0, 1, 0]).all()


def test_boxes_may_be_missing(root):
    (root / "val_2017_bboxes.json").unlink()
    source = InatSource(root, size=48)
    assert source.load(source.records[0]).box is not None
    assert source.load(source.records[2]).box is None


def test_box_files_without_images_use_the_ids(root):
    edit(root, "val_2017_bboxes.json", lambda v: v.pop("images"))
    assert InatSource(root).load(InatSource(root).records[2]).box is not None


@pytest.mark.parametrize("name, change, message", [
    ("val2017.json", lambda v: v.pop("annotations"), "val2017.json: has no list 'annotations'"),
    ("val2017.json", lambda v: v.pop("images"), "has no list 'images'"),
    ("train2017.json", lambda v: v["annotations"].pop(), "1 images have no annotation: train_val"),
    ("train2017.json", lambda v: v["annotations"][0].update(category_id=9), "category 9"),
    ("train2017.json", lambda v: v["annotations"][0].update(image_id=9), "image 9, which is not"),
    ("train2017.json", lambda v: v["annotations"].append({"image_id": 0, "category_id": 2}),
     "image 0 is of two categories"),
    ("train2017.json", lambda v: v["images"][0].pop("file_name"), "has no 'file_name'"),
    ("train2017.json", lambda v: v["images"][0].update(file_name="../a.jpg"), "leads out of"),
    ("val2017.json", lambda v: v["images"][0].update(
        file_name="train_val_images/Aves/Parus major/a.jpg"), "listed a second time"),
    ("val2017.json", lambda v: v["categories"].pop(), "categories are not those of train2017"),
    ("val_2017_bboxes.json", lambda v: v["annotations"][0].update(bbox=[1, 2, 3]), "four numbers"),
    ("val_2017_bboxes.json", lambda v: v["annotations"][0].update(bbox=[1, 2, 0, 3]), "positive"),
    ("val_2017_bboxes.json", lambda v: v["annotations"][0].update(image_id=5), "image 5, which"),
])  # fmt: skip
def test_damage_is_told(root, name, change, message):
    edit(root, name, change)
    with pytest.raises(DataError, match=message):
        InatSource(root)


def test_missing_and_broken_files_are_told(root):
    (root / "val2017.json").write_text("{")
    with pytest.raises(DataError, match="val2017.json: cannot be read as JSON"):
        InatSource(root)
    (root / "val2017.json").unlink()
    with pytest.raises(DataError, match="val2017.json: this index file of the set is missing"):
        InatSource(root)
