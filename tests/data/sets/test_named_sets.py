"""Food-101, Imagenette, the ASL alphabet and PlantVillage, each in a tiny copy of its layout."""

import pytest
from PIL import Image

from fgjax.data.pipeline import fingerprint, load_batch
from fgjax.data.sets.asl import AslSource
from fgjax.data.sets.food import FoodSource
from fgjax.data.sets.imagenette import ImagenetteSource
from fgjax.data.sets.plantvillage import PlantVillageSource
from fgjax.data.types import DataError
from fgjax.options.schema import Config, DataConfig
from fgjax.stages.images import make_source


def draw(*paths):
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (48, 40), (20 * number, 10, 200)).save(path)


def listed(source):
    return [(r.name, source.classes[r.label], r.split) for r in source.records]


@pytest.fixture
def food(tmp_path):
    root = tmp_path / "food-101"
    names = ["apple_pie/1", "apple_pie/2", "sushi/3"]
    draw(*(root / "images" / f"{name}.jpg" for name in names))
    (root / "meta").mkdir()
    (root / "meta" / "classes.txt").write_text("apple_pie\nsushi\n")
    (root / "meta" / "train.txt").write_text("apple_pie/1\nsushi/3\n")
    (root / "meta" / "test.txt").write_text("apple_pie/2\n")
    return tmp_path


def test_food_101(food):
    source = FoodSource(food, size=32)
    assert listed(source) == [
        ("apple_pie/1.jpg", "apple_pie", "train"),
        ("sushi/3.jpg", "sushi", "train"),
        ("apple_pie/2.jpg", "apple_pie", "test"),
    ]
    batch = load_batch(source, source.records)
    assert batch.images.shape == (3, 32, 32, 3) and batch.labels.tolist() == [0, 1, 0]
    assert fingerprint(source) == fingerprint(FoodSource(food / "food-101", size=32))


WRONG_FOOD = {
    "pizza/1": "pizza is no class",
    "apple_pie/1": "listed a second time",
    "../secret": "leads out",
}


@pytest.mark.parametrize("line", WRONG_FOOD)
def test_wrong_lists_of_food(food, line):
    (food / "food-101" / "meta" / "test.txt").write_text(f"{line}\n")
    with pytest.raises(DataError, match=f"test.txt, line 1.*{WRONG_FOOD[line]}"):
        FoodSource(food)


def test_imagenette(tmp_path):
    root = tmp_path / "imagenette2-160"
    draw(
        root / "train" / "n01440764" / "a.JPEG",
        root / "train" / "n03888257" / "b.JPEG",
        root / "val" / "n01440764" / "c.JPEG",
    )
    source = ImagenetteSource(tmp_path, size=32)
    assert listed(source) == [
        ("train/n01440764/a.JPEG", "tench", "train"),
        ("train/n03888257/b.JPEG", "parachute", "train"),
        ("val/n01440764/c.JPEG", "tench", "test"),
    ]
    assert load_batch(source, source.records).images.shape == (3, 32, 32, 3)
    draw(root / "train" / "n00000001" / "d.JPEG")  # Imagewoof, say
    with pytest.raises(DataError, match="n00000001 is no class of Imagenette; wanted"):
        ImagenetteSource(root)


def test_asl(tmp_path):
    inner = tmp_path / "asl_alphabet_train" / "asl_alphabet_train"
    draw(inner / "A" / "A1.jpg", inner / "A" / "A2.jpg", inner / "space" / "space1.jpg")
    draw(tmp_path / "asl_alphabet_test" / "asl_alphabet_test" / "space_test.jpg")
    source = AslSource(tmp_path, size=32)
    assert source.classes == ("A", "space")
    assert [(label, split) for _, label, split in listed(source)] == [
        ("A", "train"), ("A", "train"), ("space", "train"), ("space", "test"),
    ]  # fmt: skip
    assert load_batch(source, source.records).images.shape == (4, 32, 32, 3)
    draw(tmp_path / "asl_alphabet_test" / "asl_alphabet_test" / "Q_test.jpg")
    with pytest.raises(DataError, match="Q has no folder"):
        AslSource(tmp_path)


@pytest.mark.parametrize("below", ["", "raw/color", "plantvillage dataset/color"])
def test_plantvillage(tmp_path, below):
    root = tmp_path / below
    for crop in ("Apple___healthy", "Apple___Black_rot"):
        draw(*(root / crop / f"{i}.JPG" for i in range(4)))
    beside = "raw/segmented/Apple___healthy" if below else "Tomato___Late_blight"
    draw(tmp_path / beside / "0.JPG")
    source = PlantVillageSource(tmp_path, size=32, test_share=0.25)
    healthy = [r for r in source.records if source.classes[r.label] == "Apple___healthy"]
    assert [r.split for r in healthy].count("test") == 1 and len(healthy) == 4
    assert load_batch(source, source.records[:2]).images.shape == (2, 32, 32, 3)
    config = Config(data=DataConfig(source="plantvillage", path=str(tmp_path), size=32))
    assert len(make_source(config).records) == len(source.records)


def test_other_folders_are_no_plants(tmp_path):
    draw(tmp_path / "cats" / "1.jpg", tmp_path / "dogs" / "1.jpg")
    with pytest.raises(DataError, match="CROP___DISEASE"):
        PlantVillageSource(tmp_path)
