import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from fgjax.data.pipeline import load_examples
from fgjax.data.sets.cars import HOME, CarsSource
from fgjax.data.types import DataError

FIELDS = ["bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class"]


def cells(values):
    """A MATLAB cell row, as the authors' files hold them."""
    array = np.empty((1, len(values)), object)
    array[0, :] = values
    return array


def structs(fields, rows):
    """A MATLAB struct array."""
    array = np.empty((1, len(rows)), [(field, object) for field in fields])
    for i, row in enumerate(rows):
        array[0, i] = tuple(row)
    return array


def write(path, rows, fields=(*FIELDS, "fname")):
    savemat(path, {"annotations": structs(fields, rows)})


def paint(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 96), (200, 0, 0)).save(path, quality=100)


@pytest.fixture
def cars(tmp_path):
    """Two images to train on and one to test on, 64 × 96, in the layout with the devkit."""
    devkit = tmp_path / "devkit"
    devkit.mkdir()
    savemat(devkit / "cars_meta.mat", {"class_names": cells(["AM Hummer 2000", "Acura RL 2012"])})
    write(
        devkit / "cars_train_annos.mat",
        [(11, 21, 40, 60, 2, "00001.jpg"), (1, 1, 64, 96, 1.0, "00002.jpg")],
    )
    write(tmp_path / "cars_test_annos_withlabels.mat", [(1, 1, 9, 9, 2, "00001.jpg")])
    for name in ("cars_train/00001.jpg", "cars_train/00002.jpg", "cars_test/00001.jpg"):
        paint(tmp_path / name)
    return tmp_path


def test_the_devkit(cars):
    source = CarsSource(cars, size=32, crop=1.0)
    assert source.classes == ("AM Hummer 2000", "Acura RL 2012")
    assert [(r.name, r.label, r.split) for r in source.records] == [
        ("cars_train/00001.jpg", 1, "train"),
        ("cars_train/00002.jpg", 0, "train"),
        ("cars_test/00001.jpg", 1, "test"),
    ]
    first, second, third = (source.load(record) for record in source.records)
    # Pixels 11 to 40 by 21 to 60 reach from 10 to 40 by 20 to 60. 64 × 96 halves to
    # 32 × 48, of which the rows 8 to 40 stay.
    np.testing.assert_allclose(first.box, [5, 2, 20, 22], atol=1e-4)
    np.testing.assert_allclose(second.box, [0, 0, 32, 32], atol=1e-4)
    assert third.box is None  # wholly above the cut
    assert first.image.shape == (32, 32, 3) and first.label == 1


def test_the_labels_may_lie_in_the_devkit(cars):
    records = CarsSource(cars).records
    name = "cars_test_annos_withlabels.mat"
    (cars / name).rename(cars / "devkit" / name)
    assert CarsSource(cars).records == records
    (cars / "devkit" / name).unlink()
    with pytest.raises(DataError, match=rf"holds no {name}.*cars_test_annos.mat has no labels"):
        CarsSource(cars)


def test_the_single_file(tmp_path):
    rows = [("car_ims/000001.jpg", 11, 21, 40, 60, 1, 0), ("car_ims/000002.jpg", 1, 1, 9, 9, 2, 1)]
    fields = ["relative_im_path", *FIELDS, "test"]
    variables = {"annotations": structs(fields, rows), "class_names": cells(["A", "B"])}
    savemat(tmp_path / "cars_annos.mat", variables)
    paint(tmp_path / "car_ims/000001.jpg")
    source = CarsSource(tmp_path, size=32, crop=1.0)
    assert [(r.name, r.label, r.split) for r in source.records] == [
        ("car_ims/000001.jpg", 0, "train"),
        ("car_ims/000002.jpg", 1, "test"),
    ]
    (_, loaded), (_, missing) = load_examples(source, source.records)
    np.testing.assert_allclose(loaded.box, [5, 2, 20, 22], atol=1e-4)
    assert "000002.jpg: no such image file" in str(missing)


def test_missing_things_say_where_to_get_them(cars):
    for path in (cars / "nowhere", cars / "cars_train"):
        with pytest.raises(DataError) as caught:
            CarsSource(path)
        assert HOME in str(caught.value) and "\n" not in str(caught.value)
    (cars / "devkit/cars_meta.mat").unlink()
    with pytest.raises(DataError, match=r"cars_meta.mat: this index file of the set is missing"):
        CarsSource(cars)


@pytest.mark.parametrize(
    "row, message",
    [
        ((1, 1, 9, 9, 3, "2.jpg"), r"annotation 2: class 3 is out of range \(2 classes"),
        ((1, 1, 9, 9, 0, "2.jpg"), r"annotation 2: class 0 is out of range"),
        ((1, 1, 9, 9, 1.5, "2.jpg"), r"annotation 2: class 1.5 is out of range"),
        ((9, 1, 8, 9, 1, "2.jpg"), r"annotation 2: box '9 1 8 9': a box .* needs x1 ≤ x2"),
        ((np.nan, 1, 8, 9, 1, "2.jpg"), r"annotation 2: box 'nan 1 8 9' should hold 4 numbers$"),
        ((1, 1, 9, 9, 1, "00001.jpg"), r"annotation 2: cars_train/00001.jpg is listed a second"),
        ((1, 1, 9, 9, 1, "../../2.jpg"), r"annotation 2: .* leads out of the folder"),
    ],
)
def test_annotations_that_do_not_fit(cars, row, message):
    path = cars / "devkit/cars_train_annos.mat"
    write(path, [(11, 21, 40, 60, 2, "00001.jpg"), row])
    with pytest.raises(DataError, match=message) as caught:
        CarsSource(cars)
    assert str(path) in str(caught.value)


def test_unlabelled_annotations(cars):
    fields = [*FIELDS[:4], "fname"]
    write(cars / "cars_test_annos_withlabels.mat", [(1, 1, 9, 9, "00001.jpg")], fields)
    with pytest.raises(DataError, match=r"annotation 1 has no field 'class', only bbox_x1, "):
        CarsSource(cars)
