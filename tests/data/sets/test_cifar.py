import numpy as np
import pytest

from fgjax.data.pipeline import fingerprint, load_batch
from fgjax.data.sets.cifar import CifarSource
from fgjax.data.types import DataError


def write(path, images, labels):
    """Rows as the authors describe them: coarse label, fine label, then red, green, blue."""
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    rows = np.concatenate([np.zeros((len(images), 1), np.uint8), labels[:, None], planes], 1)
    path.write_bytes(rows.astype(np.uint8).tobytes())


@pytest.fixture
def cifar(tmp_path):
    """Five training and two test images of three classes."""
    root = tmp_path / "cifar-100-binary"
    root.mkdir()
    (root / "fine_label_names.txt").write_text("apple\naquarium_fish\nbaby\n\n")
    images = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), np.uint8)
    labels = np.array([2, 0, 1, 1, 0, 0, 2], np.uint8)
    write(root / "train.bin", images[:5], labels[:5])
    write(root / "test.bin", images[5:], labels[5:])
    return tmp_path, images


def test_reads_the_binary_version(cifar):
    path, images = cifar
    source = CifarSource(path, size=32, crop=1.0)
    assert source.classes == ("apple", "aquarium_fish", "baby")
    assert [(r.name, r.label, r.split) for r in source.records] == [
        ("train/000000", 2, "train"),
        ("train/000001", 0, "train"),
        ("train/000002", 1, "train"),
        ("train/000003", 1, "train"),
        ("train/000004", 0, "train"),
        ("test/000000", 0, "test"),
        ("test/000001", 2, "test"),
    ]
    np.testing.assert_array_equal(load_batch(source, source.records).images, images)
    large = CifarSource(path / "cifar-100-binary", size=64, crop=1.0)
    assert large.load(large.records[0]).image.shape == (64, 64, 3)
    assert fingerprint(source) == fingerprint(large)


def test_damaged_files_are_told(cifar, tmp_path):
    root = cifar[0] / "cifar-100-binary"
    whole = (root / "test.bin").read_bytes()
    (root / "test.bin").write_bytes(whole[:-1])
    with pytest.raises(DataError, match="test.bin: 6147 bytes are not images of 3074"):
        CifarSource(root)
    (root / "test.bin").unlink()
    with pytest.raises(DataError, match="test.bin: this file of the set is missing"):
        CifarSource(root)
    (root / "test.bin").write_bytes(bytes([0, 7]) + whole[2:])
    with pytest.raises(DataError, match="image 0 has label 7, but .* names 3 classes"):
        CifarSource(root)
    (tmp_path / "python").mkdir()
    with pytest.raises(DataError, match="holds no train.bin; .*pickled"):
        CifarSource(tmp_path / "python")
