"""Prompts on a frozen transformer, as a run: tokens kept by content, a classifier as any other."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

import fgjax
from fgjax.core.features import Features
from fgjax.run import main
from fgjax.stages.prompts.stage import with_trunk
from fgjax.stages.prompts.tokens import Tokens, tokens_key
from fgjax.training.checkpoints import load_classifier


@pytest.fixture(scope="module")
def spots(tmp_path_factory):
    """Class folders: reddish and bluish noise, one file damaged."""
    data, rng = tmp_path_factory.mktemp("spots"), np.random.default_rng(0)
    for place, name in enumerate(("blue", "red")):
        (data / name).mkdir()
        for i in range(12):
            pixels = rng.integers(0, 100, (40, 40, 3), np.uint8)
            pixels[..., 0 if place else 2] += 120
            Image.fromarray(pixels).save(data / name / f"{i}.png")
    (data / "red" / "broken.png").write_text("no image")
    return data


@pytest.fixture(scope="module")
def words(spots, tmp_path_factory):
    base = tmp_path_factory.mktemp("runs")

    def made(run, *more):
        return ["config=prompts_folder", f"data.path={spots}", "prompts.backbone=toys:TOKENS",
                "model.pretrained=null", "data.size=32", "train.validation=0.3", "seed=3",
                "prompts.epochs=6", "prompts.batch_size=3", f"run_dir={base / run}",
                f"prompts.cache={base / 'cache'}", *more]  # fmt: skip

    return base, made


@pytest.fixture(scope="module")
def trained(words):
    base, made = words
    code = main(made("run", "stages=prompts"))
    return base / "run", code


def facts(run):
    return json.loads((run / "run.json").read_text())["stages"]["prompts"]


def test_it_makes_a_classifier_as_any_other(trained):
    run, code = trained
    assert code == 1  # the damaged image
    about = json.loads((run / "prompts.json").read_text())
    accuracies = [row["validation_accuracy"] for row in about["epochs"]]
    assert len(accuracies) == 6 and facts(run)["validation_accuracy"] == max(accuracies)
    assert not (run / "prompts.npz").exists()  # of an unfinished training
    model = load_classifier(run)
    assert (model.classes, model.size, model.name) == (("blue", "red"), 32, "prompts")
    # The network is the one that training began with.
    key = jax.random.fold_in(jax.random.key(3), 1)
    fresh = fgjax.create_model("prompts", 2, key=key, size=32, backbone="toys:TOKENS")
    assert tokens_key(model) == tokens_key(fresh)
    trained_ones, fresh_ones = (m.variables["params"]["class_prompts"] for m in (model, fresh))
    assert np.abs(np.asarray(trained_ones) - np.asarray(fresh_ones)).max() > 1e-3


def test_tokens_are_kept_by_content(trained, words, capsys):
    base, made = words
    count = facts(trained[0])["computed"]
    files = list((base / "cache").glob("*/*.npy"))
    assert len(files) == count > 10
    files[0].write_bytes(files[0].read_bytes()[:50])  # damaged: computed again
    assert main(made("second", "stages=prompts", "prompts.epochs=1")) == 1
    assert facts(base / "second")["computed"] == 1
    capsys.readouterr()
    assert main(made("second", "stages=prompts", "prompts.epochs=1")) == 1
    assert "tokens" not in capsys.readouterr().out  # done before


class One:
    """A data set of drawn images."""

    classes, landmark_names, records = (), (), ()

    def __init__(self, images):
        self.images = images

    def load(self, record):
        return fgjax.data.types.Example(self.images[int(record.name)])


def test_what_is_kept_is_what_the_network_gives(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 32, 32, 3), np.uint8)
    records = [fgjax.data.types.Record(str(i), 0, "train") for i in range(3)]
    model = fgjax.create_model("prompts", 2, backbone="toys:TOKENS", size=32)
    tokens = Tokens(model, tmp_path)
    assert tokens.find(One(images), records, 1) == ({}, 3)
    kept = tokens.read(["0", "1", "2"], np.array([2, 0]))
    wanted = Features(*jax.jit(lambda m, x: m.features(x))(model, images[[2, 0]] / np.float32(255)))
    np.testing.assert_allclose(kept.grid, wanted.grid, atol=1e-5)
    np.testing.assert_allclose(kept.tokens, wanted.tokens, atol=1e-5)
    assert np.ptp(wanted.grid, axis=0).max() > 0.1
    # Another network has a folder of its own; other prompts have not.
    params = model.variables["params"]
    other = model.replace(
        variables={"params": {**params, "class_prompts": 1 + params["class_prompts"]}}
    )
    assert Tokens(other, tmp_path).find(One(images), records, 1) == ({}, 0)
    whole = fgjax.create_model("toys:TOKENS", 2, key=jax.random.key(5), size=32)
    assert Tokens(with_trunk(model, whole), tmp_path).find(One(images), records, 1) == ({}, 3)


@pytest.mark.slow
def test_a_network_of_its_own_is_trained_first_and_all_stages_follow(words):
    base, made = words
    more = ("prompts.trunk_epochs=1", "train.batch_size=4", "data.limit=2", "explain.heads=needed")
    assert main(made("whole", *more)) == 1
    run = base / "whole"
    assert (run / "maps.zarr").exists() and (run / "report.html").is_file()
    assert (run / "test.json").is_file()
    trunk, model = load_classifier(run / "trunk"), load_classifier(run)
    kernel = lambda params: np.asarray(params["patches"]["kernel"])
    own = kernel(model.variables["params"]["trunk"])
    np.testing.assert_array_equal(own, kernel(trunk.variables["params"]))


def test_a_dry_run_counts_both_trainings(words, capsys):
    assert main(words[1]("dry", "dry_run=true", "prompts.trunk_epochs=3")) == 0
    out = capsys.readouterr().out
    assert "toys:TOKENS first, 3 epochs" in out and "6 epochs through the last block" in out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["model.name=resnet18"], "resnet18 has no prompts: model.name=prompts, and in prompts"),
        (["prompts.backbone=resnet18"], "prompts.backbone=resnet18: one of vit_base"),
        (["stages=[train,prompts]"], "train and prompts both make"),
        (["model.checkpoint=nowhere"], "as prompts.backbone and model.pretrained"),
        (["prompts.epochs=0"], "prompts.epochs=0: must be above 0"),
        (["prompts.learning_rate=0"], "prompts.learning_rate=0"),
        (["data.size=36"], "a size of 36"),
    ],
)
def test_what_does_not_go_together_is_told(words, capsys, more, said):
    assert main(words[1]("wrong", *more)) == 2
    err = capsys.readouterr().err
    assert said in err and "Traceback" not in err
