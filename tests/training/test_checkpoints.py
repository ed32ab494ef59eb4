"""What is written comes back; what is not whole is not read."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fgjax.models.classifier import create_model
from fgjax.training.checkpoints import load_classifier, load_tree, save_classifier, save_tree


@pytest.fixture(scope="module")
def model():
    return create_model(
        "resnet_tiny",
        3,
        key=jax.random.key(7),
        size=48,
        classes=("blå", "grün", "red"),
        mean=(0.1, 0.2, 0.3),
        std=(0.4, 0.5, 0.6),
        padding="same",
    )


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "checkpoint"
    save_classifier(path, model)
    return path


def test_a_classifier_comes_back_as_it_was(model, saved):
    loaded = load_classifier(saved)
    for a, b in zip(jax.tree.leaves(model), jax.tree.leaves(loaded), strict=True):
        np.testing.assert_array_equal(a, b)
    for name in ("network", "mean", "std", "classes", "size", "name", "options"):
        assert getattr(loaded, name) == getattr(model, name), name
    images = jnp.asarray(np.random.default_rng(0).random((2, 48, 48, 3), np.float32))
    call = jax.jit(lambda m, x: m(x))
    np.testing.assert_array_equal(call(model, images), call(loaded, images))


def test_the_runs_folder_will_do(saved):
    assert load_classifier(str(saved.parent)).classes == ("blå", "grün", "red")


def test_a_checkpoint_of_before_there_were_options(model, saved, tmp_path):
    shutil.copytree(saved, tmp_path / "old")
    path = tmp_path / "old" / "classifier.json"
    about = json.loads(path.read_text())
    about["padding"] = about.pop("options")["padding"]
    path.write_text(json.dumps(about))
    assert load_classifier(path.parent).network == model.network


def test_no_checkpoint(tmp_path):
    with pytest.raises(ValueError, match="no checkpoint here .*load_pretrained"):
        load_classifier(tmp_path)


def test_weights_without_their_description_are_not_a_checkpoint(model, tmp_path):
    """The description is written last: without it the writing was cut short."""
    save_tree(tmp_path / "checkpoint" / "weights", model.variables)
    with pytest.raises(ValueError, match="no checkpoint here"):
        load_classifier(tmp_path)


def copy(saved, to):
    return shutil.copytree(saved, to / "checkpoint")


def test_a_corrupted_checkpoint_names_its_folder(saved, tmp_path):
    path = copy(saved, tmp_path)
    (path / "classifier.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="checkpoint: the checkpoint cannot be read"):
        load_classifier(path)


def test_a_checkpoint_without_its_weights(saved, tmp_path):
    path = copy(saved, tmp_path)
    for file in (path / "weights").iterdir():
        file.rename(tmp_path / file.name)
    with pytest.raises(ValueError, match="checkpoint: the checkpoint cannot be read"):
        load_classifier(path)


def test_a_checkpoint_of_other_classes_than_it_says(saved, tmp_path):
    path = copy(saved, tmp_path)
    about = json.loads((path / "classifier.json").read_text(encoding="utf-8"))
    (path / "classifier.json").write_text(json.dumps(about | {"num_classes": 4}), encoding="utf-8")
    with pytest.raises(ValueError, match="checkpoint: the checkpoint cannot be read"):
        load_classifier(path)


def test_what_a_killed_writing_left_is_swept_away(tmp_path):
    tree = {"a": jnp.arange(3), "b": (jnp.float32(2.5), jnp.ones((2, 2)))}
    left = tmp_path / "tree.partial"
    left.mkdir()
    (left / "half").write_text("written")
    with pytest.raises(Exception, match="tree"):
        load_tree(tmp_path / "tree", tree)
    save_tree(tmp_path / "tree", tree)
    assert not left.exists()
    loaded = load_tree(tmp_path / "tree", tree)
    assert jax.tree.structure(loaded) == jax.tree.structure(tree)
    for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(loaded), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype
