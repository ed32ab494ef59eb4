"""The names others write against."""

import ast
import inspect
import tomllib
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from packaging.requirements import Requirement

import fgjax

NAMES = {
    "METHODS", "CONFIGS", "PRESETS", "Attribution", "Classifier", "FidoConfig", "fido",
    "fido_preset", "concrete_dropout", "simplified_concrete_dropout", "log_odds",
    "total_variation", "iou", "pointing_game", "insertion", "deletion", "create_model",
    "load_pretrained", "load_classifier", "load_maps", "glas_volume",
    "group_pixels", "part_occurrence_loss", "landmark_error",
    *"""fido glas recursive_glas rise occlusion gradient smooth_gradient integrated_gradients
    guided_backprop grad_cam grad_cam_plus_plus score_cam mask_perturbation lime""".split(),
}  # fmt: skip
ROOT = Path(__file__).resolve().parents[1]
FIDO_FIELDS = {"steps", "batch_size", "temperature", "sampler", "learning_rate", "l1", "tv",
               "mask_size", "infill"}  # fmt: skip


def test_the_names_are_there_and_documented():
    assert NAMES <= set(fgjax.__all__)
    for name in fgjax.__all__:
        value = getattr(fgjax, name)
        if callable(value):
            assert inspect.getdoc(value), name


@pytest.mark.parametrize("name", fgjax.METHODS)
def test_every_method_is_called_alike(name):
    parameters = inspect.signature(fgjax.METHODS[name]).parameters
    assert list(parameters) == ["model", "images", "targets", "key", "config"]
    kinds = [parameters[p].kind for p in ("key", "config")]
    assert kinds == [inspect.Parameter.KEYWORD_ONLY] * 2
    assert isinstance(parameters["config"].default, fgjax.CONFIGS[name])
    assert set(fgjax.PRESETS[name]) >= {"default"}


def test_fido_is_a_method_with_its_fields():
    assert fgjax.METHODS["fido"] is fgjax.fido
    assert FIDO_FIELDS <= set(inspect.signature(fgjax.FidoConfig).parameters)


def test_every_method_and_its_settings_are_exported():
    for name, method in fgjax.METHODS.items():
        assert getattr(fgjax, name) is method and name in fgjax.__all__
        assert fgjax.CONFIGS[name].__name__ in fgjax.__all__
    fields = {"grid", "sigma_light", "sigma_shadow", "sigma_spatial", "sigma_unit"}
    assert fields <= set(inspect.signature(fgjax.GlasConfig).parameters)


@pytest.mark.parametrize(
    "name, parameters",
    [
        ("concrete_dropout", ["key", "theta", "temperature", "samples"]),
        ("simplified_concrete_dropout", ["key", "logits", "temperature", "samples"]),
        ("log_odds", ["logits", "targets"]),
        ("total_variation", ["maps"]),
        ("iou", ["maps", "truth"]),
        ("soft_attention", ["steps", "weights"]),
        ("ranking_loss", ["p_global", "p_local", "margin"]),
        ("extract_patches", ["model", "images", "n"]),
        ("load_classifier", ["path"]),
        ("load_maps", ["run_dir"]),
        ("group_pixels", ["features", "dictionary", "smoothing"]),
        ("part_occurrence_loss", ["assignment", "alpha", "beta", "radius", "std", "eps"]),
    ],
)
def test_arguments_that_stay(name, parameters):
    assert list(inspect.signature(getattr(fgjax, name)).parameters)[: len(parameters)] == parameters


@pytest.mark.parametrize("name", ["insertion", "deletion"])
def test_faithfulness_says_its_settings(name):
    parameters = inspect.signature(getattr(fgjax, name)).parameters
    assert list(parameters)[:4] == ["model", "images", "targets", "maps"]
    assert {"steps", "baseline"} <= set(parameters)


def test_a_plain_function_is_a_model(key):
    def model(images):
        return images.mean((1, 2)) * 10  # as many classes as channels

    images = jnp.asarray(np.random.default_rng(0).random((2, 16, 16, 3), np.float32))
    targets, config = jnp.asarray([0, 2]), fgjax.FidoConfig(steps=2, batch_size=2)
    result = fgjax.fido(model, images, targets, key=key, config=config)
    assert result.heatmap.shape == (2, 16, 16) and set(result.maps) == {"ssr", "sdr"}
    assert 0 <= float(result.heatmap.min()) and float(result.heatmap.max()) <= 1


def test_names_that_are_imported_late_are_those_that_type_checkers_read():
    tree = ast.parse(Path(fgjax.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    read = {alias.name: node.module for node in block.body for alias in node.names}
    assert read == fgjax._MODULE_OF and sorted(read) == sorted(fgjax.__all__)
    assert set(fgjax.__all__) <= set(dir(fgjax))


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'fgjax' has no attribute 'fidu'"):
        _ = fgjax.fidu


COLAB = {"jax": "0.7.2", "flax": "0.11.2", "omegaconf": "2.3.1", "numpy": "2.1.3"}
"""What Google Colab brings (2026-08)."""


def test_an_install_leaves_colabs_jax_and_its_plugin_alone():
    """Another jax than Colab's finds no plugin for the GPU, and computes on the CPU."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [Requirement(line) for line in project["dependencies"]]
    refused = [r for r in wanted if r.name in COLAB and not r.specifier.contains(COLAB[r.name])]
    assert not refused
    # The extras that bring a plugin ask for the same jax.
    (jax,) = [r.specifier for r in wanted if r.name == "jax"]
    for name in ("cuda12", "tpu"):
        (line,) = project["optional-dependencies"][name]
        assert Requirement(line).specifier == jax and Requirement(line).extras == {name}
