"""Runs that train: from weights, with every recipe, and the stage that tests what came of it."""

import csv
import json
import os

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from fgjax.models.classifier import create_model
from fgjax.options.resolve import resolve
from fgjax.options.schema import Config, ConfigError, DataConfig, ModelConfig
from fgjax.options.training import TrainConfig
from fgjax.run import main
from fgjax.stages.classifier import training_model
from fgjax.stages.images import make_source
from fgjax.stages.train import images as training_images
from fgjax.stages.train.kinds import Regions
from fgjax.stages.train.recipe import make_recipe, statistics_are_folded
from fgjax.training.checkpoints import load_classifier


@pytest.fixture(scope="module")
def spots(tmp_path_factory, picture):
    """Class folders: reddish and bluish pictures, one of them damaged."""
    data = tmp_path_factory.mktemp("spots")
    rng = np.random.default_rng(0)
    for place, name in enumerate(("blue", "red")):
        (data / name).mkdir()
        for i in range(12):
            pixels = rng.integers(0, 100, (48, 40, 3), np.uint8)
            pixels[..., 0 if place else 2] += 120
            Image.fromarray(pixels).save(data / name / f"{i}.png")
    (data / "red" / "broken.png").write_text("no image")
    return data


@pytest.fixture
def tiny(spots, tmp_path):
    """The words of a training on the spots."""

    def words(*more, run="run"):
        given = (f"data.path={spots}", f"run_dir={tmp_path / run}", "model.pretrained=null")
        small = ("model.name=toys:MICRO", "data.size=32", "train.epochs=3", "train.batch_size=8",
                 "train.learning_rate=0.01", "train.validation=0.3")  # fmt: skip
        return ["config=train_folder", *given, *small, *more]

    return words


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_training_and_its_test(tiny, tmp_path, capsys):
    assert main(tiny()) == 1  # the damaged image
    said = capsys.readouterr().out
    assert "from scratch" in said and "epoch 3/3" in said and "test: right on" in said
    run = tmp_path / "run"
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in metrics] == [0, 1, 2]
    assert len(list((run / "tensorboard").iterdir())) == 1
    predictions, about = rows(run / "predictions.csv"), json.loads((run / "test.json").read_text())
    assert len(predictions) == about["images"] > 8
    page = (run / "test.html").read_text(encoding="utf-8")
    assert "train loss" in page and "What is mistaken for what" in page
    assert [row["name"] for row in rows(run / "classes.csv")] == ["blue", "red"]
    temperature = load_classifier(run).temperature
    assert about["calibration"]["temperature"] == temperature > 0
    right = [int(row["label"] == row["predicted"]) for row in predictions]
    assert [int(row["correct"]) for row in predictions] == right
    value = about["metrics"]["accuracy"]
    assert value["mean"] == pytest.approx(np.mean(right)) and "test images" in value["protocol"]
    low, high = value["interval_95"]
    assert 0 <= low <= value["mean"] <= high <= 1

    # The predictions are the model's.
    model = load_classifier(run)
    assert (model.name, model.classes, model.size) == ("toys:MICRO", ("blue", "red"), 32)
    config = Config(data=DataConfig(source="folder", path=str(tiny()[1][10:]), size=32))
    source = make_source(config)
    records = {r.name: r for r in source.records}
    for row in predictions[:3]:
        image = source.load(records[row["name"]]).image[None].astype(np.float32) / 255
        p = np.asarray(jax.nn.softmax(jax.jit(lambda m, x: m(x))(model, image)))[0]
        assert row["predicted"] == model.classes[p.argmax()]
        assert float(row["probability"]) == pytest.approx(p.max(), abs=1e-4)

    # Again: nothing is done, and the same is said.
    before = (run / "test.json").stat().st_mtime_ns
    assert main(tiny()) == 1
    assert "epoch" not in (again := capsys.readouterr().out) and "test: right on" in again
    assert (run / "test.json").stat().st_mtime_ns == before


@pytest.mark.slow
def test_the_test_set_has_no_part_in_choosing(tiny, tmp_path, spots):
    """Training twice, with the test images' files exchanged for noise the second time."""
    assert main(tiny("stages=train")) == 0  # the damaged image is one of the test images
    config = Config(data=DataConfig(source="folder", path=str(spots), size=32))
    test_names = {r.name for r in make_source(config).records if r.split == "test"}
    for folder in ("blue", "red"):
        (tmp_path / "other" / folder).mkdir(parents=True)
    for path in spots.rglob("*.png"):
        name = path.relative_to(spots).as_posix()
        target = tmp_path / "other" / name
        if name in test_names and "broken" not in name:
            Image.fromarray(np.zeros((48, 40, 3), np.uint8)).save(target)
        else:
            target.write_bytes(path.read_bytes())
    words = [w for w in tiny("stages=train", run="second") if not w.startswith("data.path")]
    assert main([*words, f"data.path={tmp_path / 'other'}"]) == 0
    states = [load_classifier(tmp_path / run).variables for run in ("run", "second")]
    for a, b in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_array_equal(a, b)


RECIPES = {
    "sgd": ["train.optimizer=sgd", "train.schedule=steps", "train.drops=0.5", "train.warmup=0"],
    "frozen backbone": ["train.freeze=[backbone]", "train.schedule=constant"],
    "rates": ["train.rates=[classifier:10,blocks_0:0]", "train.weight_decay=0.5"],
    "crops and colours": ["train.crop=0.4", "train.color=0.3", "train.flip=false"],
    "small batches, averaged": ["train.accumulate=2", "train.ema=0.9", "train.batch_size=4"],
    "computed again": ["train.checkpointing=true", "train.randaugment=9"],
    "crops of files": ["train.crop=0.3", "train.crop_from=file"],
    "classes' weights": ["train.class_weights=effective"],
    "erasing": ["train.erase=hide_and_seek"],
    "mixing": ["train.mix=attentive_cutmix"],
    "augmix": ["train.mix=augmix"],
    "half precision": ["train.precision=bf16"],
    "fixed statistics": ["train.batch_norm=fixed"],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_trains(tiny, tmp_path, spots, recipe):
    with jax.numpy_dtype_promotion("standard"):  # Flax's bfloat16 statistics need it
        assert main(tiny(*RECIPES[recipe], "stages=train")) == 0
    model = load_classifier(tmp_path / "run")
    data = DataConfig(source="folder", path=str(spots), size=32)
    config = Config(model=ModelConfig(name="toys:MICRO"), data=data)
    fresh = training_model(config, make_source(config))
    moved = {
        path[0].key
        for (path, a), b in zip(
            jax.tree_util.tree_leaves_with_path(model.variables["params"]),
            jax.tree.leaves(fresh.variables["params"]),
            strict=True,
        )
        if (np.asarray(a) != np.asarray(b)).any()
    }
    every = set(model.variables["params"])
    expected = {"frozen backbone": {"classifier"}, "rates": every - {"blocks_0_0"}}
    assert moved == expected.get(recipe, every)


WRONG = {
    "train.freeze=[stemm]": ("train.freeze", "stemm", "Did you mean stem"),
    "train.rates=[clasifier:10]": ("train.rates", "Did you mean classifier"),
    "train.rates=[classifier]": ("train.rates", "MODULE:FACTOR"),
    "train.rates=[classifier:-1]": ("train.rates", "MODULE:FACTOR"),
    "train.drops=[1.5]": ("train.drops", "1.5"),
    "train.drops=half": ("train.drops", "a list, such as [0.5,0.75]"),
    "train.crop=0": ("train.crop=0", "above 0"),
    "train.optimizer=adam": ("train.optimizer=adam", "adamw, sgd", "Did you mean adamw"),
    "model.pretrained=nowhere.safetensors": ("model.pretrained", "no such file", "from scratch"),
}


@pytest.mark.parametrize("word", WRONG)
def test_wrong_options_are_told(tiny, tmp_path, capsys, word):
    assert main(tiny(word)) == 2
    err = capsys.readouterr().err
    assert all(part in err for part in WRONG[word]), err
    assert "Traceback" not in err and not (tmp_path / "run" / "checkpoint").exists()


@pytest.mark.slow
def test_fine_tuning_starts_from_the_weights(tiny, tmp_path, untrained, capsys):
    words = [w for w in tiny() if not w.startswith(("model.", "train.learning_rate"))]
    weights = f"model.pretrained={untrained / 'weights.safetensors'}"
    slow = ("train.learning_rate=1e-9", "train.weight_decay=0", "train.epochs=1")
    named = "model.name=toys:MICRO"
    assert main([*words, weights, named, *slow, "train.batch_norm=fixed"]) == 1
    assert "classifier of 10 classes is replaced by a fresh one of 2" in capsys.readouterr().out
    given = load_classifier(untrained / "checkpoint").variables
    tuned = load_classifier(tmp_path / "run").variables
    for collection, module in (("params", "stem"), ("batch_stats", "stem_norm")):
        for a, b in zip(
            jax.tree.leaves(given[collection][module]),
            jax.tree.leaves(tuned[collection][module]),
            strict=True,
        ):
            np.testing.assert_allclose(a, b, atol=1e-6)

    # Other weights under the same name: not the same run.
    other = tmp_path / "other.safetensors"
    tensors = {"x": np.zeros(3, np.float32)}
    save_file(tensors, other)
    again = (f"model.pretrained={other}", named, *slow, "train.batch_norm=fixed")
    assert main([*words, *again]) == 2
    assert "model.pretrained" in capsys.readouterr().err


def test_folded_normalisation_is_left_alone(untrained):
    """Weights with mean 0 and variance 1 everywhere; a batch's statistics would undo them."""
    path = str(untrained / "weights.safetensors")
    config = Config(model=ModelConfig("toys:MICRO", pretrained=path), train=TrainConfig())
    source = make_source(config)
    model = training_model(config, source)
    assert statistics_are_folded(model)
    assert make_recipe(config, model, 5).batch_norm == "fixed"
    scratch = Config(model=ModelConfig("toys:MICRO"))
    assert make_recipe(scratch, training_model(scratch, source), 5).batch_norm == "batch"
    moved = jax.tree.map(lambda v: v + 0.1, model.variables["batch_stats"])
    model = model.replace(variables={**model.variables, "batch_stats": moved})
    assert make_recipe(config, model, 5).batch_norm == "batch"


def test_batches_are_the_same_wherever_the_images_are(spots, monkeypatch):
    """In memory, on the device, and decoded on the way."""
    config = Config(data=DataConfig(source="folder", path=str(spots), size=32))
    source = make_source(config)
    records = [r for r in source.records if r.split == "train"]
    order = np.array([3, 0, 5, 1, 2])
    seen = {}
    for name, memory, free in (("host", 2**30, 0), ("device", 2**30, 2**40), ("decoded", 0, 0)):
        monkeypatch.setattr(training_images, "host_free_bytes", lambda memory=memory: memory)
        monkeypatch.setattr(training_images, "_free_memory", lambda free=free: free)
        images, failed = training_images.load_training_images(source, records, config)
        assert len(failed) <= 1 and len(images.records) == len(records) - len(failed)
        kinds = {"host": np.ndarray, "device": jax.Array, "decoded": type(None)}
        assert isinstance(images.pixels, kinds[name])
        seen[name] = [(np.asarray(x), y) for x, y in images.batches(order, 2)]
    for name in ("device", "decoded"):
        assert [len(y) for _, y in seen[name]] == [2, 2, 1]
        for (a, la), (b, lb) in zip(seen["host"], seen[name], strict=True):
            np.testing.assert_array_equal(a, b)
            np.testing.assert_array_equal(la, lb)


def test_an_image_is_looked_at_once_for_all_runs(tmp_path, monkeypatch):
    """Images that are decoded on the way are not decoded at another start; what has changed is,
    and so is what could not be read."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(training_images, "host_free_bytes", lambda: 0)
    for name in ("a", "b"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (32, 32), (80 * i, 0, 0)).save(tmp_path / "set" / name / f"{i}.png")
    broken = tmp_path / "set" / "b" / "2.png"
    broken.write_bytes(broken.read_bytes()[:40])
    config = Config(data=DataConfig(source="folder", path=str(tmp_path / "set"), size=32))

    def started():
        """Return which images were decoded, and which failed."""
        source, seen = make_source(config), []
        load = source.load
        source.load = lambda record: seen.append(record.name) or load(record)
        images, failed = training_images.load_training_images(source, list(source.records), config)
        assert len(images.labels) == len(images.records) == 6 - len(failed)
        return sorted(set(seen[1:])), sorted(failed)  # the first tells how large they are

    every = [f"{name}/{i}.png" for name in "ab" for i in range(3)]
    assert started() == (every, ["b/2.png"])
    assert started() == (["b/2.png"], ["b/2.png"])
    Image.new("RGB", (40, 40), (1, 2, 3)).save(broken)
    changed = tmp_path / "set" / "a" / "1.png"
    os.utime(changed, (1, 1))
    assert started() == (["a/1.png", "b/2.png"], [])
    assert started() == ([], [])


MIXED = {
    "train.mix=cutmx": ("train.mix=cutmx", "Did you mean cutmix"),
    "train.erase=cutouts": ("train.erase=cutouts", "Did you mean cutout"),
    "train.erase_side=0": ("train.erase_side=0", "above 0"),
    "train.mix_alpha=0": ("train.mix_alpha=0", "above 0"),
}


@pytest.mark.parametrize("word", MIXED)
def test_wrong_mixing_is_told(tiny, capsys, word):
    assert main(tiny(word)) == 2
    err = capsys.readouterr().err
    assert all(part in err for part in MIXED[word]), err


def test_the_recipe_erases_with_the_colour_that_normalises_to_nothing(tiny):
    words = ("train.erase=cutout", "train.erase_side=0.3", "train.mix=cutmix", "train.mix_alpha=2")
    config = resolve(tiny(*words))[1]
    model = create_model("toys:MICRO", 2, size=32)
    recipe = make_recipe(config, model, 5)
    erase, mix = recipe.augment.erase, recipe.mix
    assert (erase.name, erase.side, erase.fill) == ("cutout", 0.3, model.mean)
    assert (mix.name, mix.alpha, mix.probability) == ("cutmix", 2.0, 1.0)
    assert hash(recipe) == hash(make_recipe(config, model, 5))


def test_maps_of_parts_smaller_than_their_window_are_told():
    config = resolve(["config=parts_species", "data.size=32"])[1]
    made = lambda: create_model("region_grouping", 2, size=32, backbone="resnet_tiny")
    model = jax.eval_shape(made)  # a cell for 8 x 8 pixels
    with pytest.raises(
        ConfigError, match="data.size=32: .*4x4 cells.*=40 or more, or parts.rad.*1"
    ):
        Regions().check(config, model)
    Regions().check(resolve(["config=parts_species", "data.size=32", "parts.weight=0"])[1], model)
    Regions().check(resolve(["config=parts_species", "data.size=32", "parts.radius=1"])[1], model)


def test_mixed_labels_are_refused_where_the_loss_knows_none(tiny):
    words = ("train.mix=cutmix", "model.name=region_grouping", "parts.backbone=toys:MICRO")
    config = resolve(tiny(*words))[1]
    model = training_model(config, make_source(config))
    with pytest.raises(ConfigError, match="train.mix=cutmix.*loss of its own"):
        make_recipe(config, model, 5)


@pytest.mark.slow
def test_the_largest_batch_is_found_once_and_kept(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words = [w for w in tiny("stages=train") if not w.startswith("train.batch_size")]
    assert main([*words, "train.batch_size=0"]) == 0
    assert "batches of 8, the largest that fit" in capsys.readouterr().out
    # Ten or so images train, and any memory has room for them: the power of two below that.
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["batch_size"] == 8
    (found,) = json.loads((tmp_path / "cache" / "fgjax" / "batch_sizes.json").read_text()).values()
    assert found == 8
