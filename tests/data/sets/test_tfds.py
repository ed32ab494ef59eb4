import importlib.util
import io
import json
import time

import numpy as np
import pytest
from PIL import Image

from fgjax.data.pipeline import fingerprint, load_examples
from fgjax.data.sets import tfds as reader
from fgjax.data.sets.tfds import HOME, TfdsSource
from fgjax.data.types import DataError


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    stream.seek(0)
    return stream


@pytest.fixture
def tfds():
    pytest.importorskip("tensorflow_datasets", reason="needs pip install fgjax[tfds]")
    pytest.importorskip("array_record", reason="needs pip install fgjax[tfds]")
    pytest.importorskip("importlib_resources", reason="needs pip install fgjax[tfds]")
    import tensorflow_datasets

    return tensorflow_datasets


def write(tfds, data_dir, splits, features, file_format="array_record"):
    """A prepared set `tiny_birds`, written as TFDS lays it out."""
    from array_record.python.array_record_module import ArrayRecordWriter

    root = data_dir / "tiny_birds" / "1.0.0"
    root.mkdir(parents=True)
    features = tfds.features.FeaturesDict(features)
    features.save_config(root)
    infos = []
    for split, examples in splits.items():
        name = f"tiny_birds-{split}.{file_format}-00000-of-00001"
        writer = ArrayRecordWriter(str(root / name), "group_size:1")
        for example in examples:
            writer.write(features.serialize_example(features.encode_example(example)))
        writer.close()
        template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        count = [str(len(examples))]
        infos.append(
            {"name": split, "shardLengths": count, "numBytes": "1", "filepathTemplate": template}
        )
    info = {"name": "tiny_birds", "version": "1.0.0", "fileFormat": file_format, "splits": infos}
    (root / "dataset_info.json").write_text(json.dumps(info))
    return root


@pytest.fixture
def birds(tfds, tmp_path):
    """Three images to train on and two to test on, 64 × 96, with box and mask."""
    f = tfds.features
    mask = np.zeros((96, 64), np.uint8)
    mask[20:60, 10:40] = 153
    box = f.BBox(ymin=20 / 96, xmin=10 / 64, ymax=60 / 96, xmax=40 / 64)

    def example(split, i):
        return {
            "image": png(np.full((96, 64, 3), 60 * i, np.uint8)),
            "image/filename": f"{split}_{i}.jpg",
            "label": i % 2,
            "bbox": box,
            "segmentation_mask": png(mask),
        }

    write(
        tfds,
        tmp_path,
        {split: [example(split, i) for i in range(n)] for split, n in (("train", 3), ("test", 2))},
        {
            "image": f.Image(shape=(None, None, 3)),
            "image/filename": f.Text(),
            "label": f.ClassLabel(names=["auk", "crow"]),
            "bbox": f.BBoxFeature(),
            "segmentation_mask": f.Image(shape=(None, None, 1)),
        },
    )
    return tmp_path


def test_reads_a_prepared_set(birds):
    source = TfdsSource("tiny_birds", birds)
    assert source.classes == ("auk", "crow")
    assert [(r.name, r.label, r.split) for r in source.records] == [
        ("train/train_0.jpg", 0, "train"),
        ("train/train_1.jpg", 1, "train"),
        ("train/train_2.jpg", 0, "train"),
        ("test/test_0.jpg", 0, "test"),
        ("test/test_1.jpg", 1, "test"),
    ]
    assert fingerprint(source) == fingerprint(TfdsSource("tiny_birds:1.0.0", str(birds)))


def test_loads_with_annotations_in_threads(birds):
    source = TfdsSource("tiny_birds", birds, size=32, crop=1.0)
    records = source.records * 20
    # 64 × 96 halves to 32 × 48, of which the rows 8 to 40 stay.
    for i, example in load_examples(source, records, workers=8, on_error="raise"):
        assert (example.image == 60 * int(records[i].name[-5])).all()
        assert example.label == records[i].label
    np.testing.assert_allclose(example.box, [5, 2, 20, 22], atol=1e-4)
    rows, columns = np.nonzero(example.mask)
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (5, 2, 20, 22)


def test_splits_can_be_named(birds, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(birds))
    source = TfdsSource("tiny_birds", splits={"train[:1]": "train", "train[1:]": "test"})
    assert [(r.name, r.split) for r in source.records] == [
        ("train[:1]/train_0.jpg", "train"),
        ("train[1:]/train_1.jpg", "test"),
        ("train[1:]/train_2.jpg", "test"),
    ]
    assert (source.load(source.records[2]).image == 120).all()
    with pytest.raises(DataError, match=r"no split 'dev'; it has (train, test|test, train)$"):
        TfdsSource("tiny_birds", splits={"dev": "test"})


def test_a_set_with_less(tfds, tmp_path):
    """No labels, no file names, several boxes, a mask of numbered regions, no test split."""
    f = tfds.features
    boxes = [(10, 20, 30, 40), (20, 30, 40, 60)]
    boxes = [f.BBox(xmin=a / 64, ymin=b / 96, xmax=c / 64, ymax=d / 96) for a, b, c, d in boxes]
    examples = [
        {
            "image": image,
            "objects": [{"bbox": box} for box in boxes],
            "segmentation_mask": png(np.full((96, 64), 3, np.uint8)),
        }
        for image in (png(np.full((96, 64), 50, np.uint8)), io.BytesIO(b"damaged"))
    ]
    features = {
        "image": f.Image(shape=(None, None, 1)),
        "objects": f.Sequence({"bbox": f.BBoxFeature()}),
        "segmentation_mask": f.Image(shape=(None, None, 1)),
    }
    write(tfds, tmp_path, {"validation": examples}, features)
    source = TfdsSource("tiny_birds", tmp_path, size=32, crop=1.0)
    assert source.classes == ()
    names = [(r.name, r.label, r.split) for r in source.records]
    assert names == [("validation/000000", None, "test"), ("validation/000001", None, "test")]
    loaded = source.load(source.records[0])
    np.testing.assert_allclose(loaded.box, [5, 2, 20, 22], atol=1e-4)
    assert loaded.mask is None and loaded.image.shape == (32, 32, 3)
    with pytest.raises(DataError, match=r"validation/000001: cannot be decoded"):
        source.load(source.records[1])


def test_a_set_without_images(tfds, tmp_path):
    write(tfds, tmp_path, {"train": [{"x": 1}]}, {"x": tfds.features.Scalar(dtype=np.int64)})
    with pytest.raises(DataError, match=r"the set has no feature image, only x$"):
        TfdsSource("tiny_birds", tmp_path)


def test_not_prepared_is_said_at_once(tfds, tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tensorflow" else find_spec(name)
    )
    start = time.perf_counter()
    with pytest.raises(DataError) as caught:
        TfdsSource("caltech_birds2011", tmp_path)
    assert time.perf_counter() - start < 3
    message = str(caught.value)
    assert "holds no prepared caltech_birds2011" in message and "needs TensorFlow" in message
    assert "file_format='array_record').download_and_prepare()" in message
    assert "the source 'cub' reads" in message and HOME in message and "\n" not in message


def test_prepared_as_something_else(tfds, tmp_path):
    write(tfds, tmp_path, {"train": []}, {"image": tfds.features.Image()}, "tfrecord")
    with pytest.raises(DataError, match=r"1.0.0: is prepared as tfrecord, which cannot be read"):
        TfdsSource("tiny_birds", tmp_path)


def test_preparing_with_tensorflow(tfds, birds, tmp_path, monkeypatch):
    """The builder is asked for array_record, and what it wrote is read."""
    asked = []

    class Builder:
        data_dir = str(birds / "tiny_birds" / "1.0.0")

        def download_and_prepare(self):
            asked.append("prepared")

    def builder(name, **options):
        asked.append((name, options))
        return Builder()

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(tfds, "builder", builder)
    empty = tmp_path / "empty"
    assert len(TfdsSource("tiny_birds", empty).records) == 5
    options = {"data_dir": empty, "file_format": "array_record"}
    assert asked == [("tiny_birds", options), "prepared"]


def test_not_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"needs tensorflow_datasets, .*install 'fgjax\[tfds\]'"):
        TfdsSource("caltech_birds2011", tmp_path)


@pytest.mark.parametrize(
    "name, folder",
    [
        ("a", "a/1.10.0"),
        ("a:1.9.0", "a/1.9.0"),
        ("a:2.0.0", None),
        ("b/small", "b/small/1.0.0"),
        ("b/large", None),
        ("c", None),
    ],
)
def test_finds_the_version_on_the_disk(tmp_path, name, folder):
    for path in ("a/1.9.0", "a/1.10.0", "a/incomplete.3.0.0", "b/small/1.0.0"):
        (tmp_path / path).mkdir(parents=True)
        (tmp_path / path / "dataset_info.json").write_text("{}")
        (tmp_path / path / "x-train.array_record-00000-of-00001").touch()
    assert reader._find_prepared(name, tmp_path) == (folder and tmp_path / folder)
    with pytest.raises(DataError, match=r"say which config, such as b/small"):
        reader._find_prepared("b", tmp_path)
    with pytest.raises(DataError, match=r"'../a' is no name of TensorFlow Datasets"):
        reader._find_prepared("../a", tmp_path)
