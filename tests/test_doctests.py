"""The examples in docstrings are run, those of all that `fgjax` exports among them."""

import doctest
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fgjax

MORE = [
    "fgjax.attribution.common.streaming", "fgjax.core.batching", "fgjax.evaluation.part_swaps",
    "fgjax.training.validation",
]  # fmt: skip
"""Modules with examples, besides those of the exported names."""

BARE = {
    "Attribution", "Classifier", "attention_relevance", "attention_rollout", "export",
    "extract_patches", "fido_preset", "finer_cam", "glas_volume", "grad_cam",
    "grad_cam_plus_plus", "guided_grad_cam", "hires_cam", "landmark_error", "layer_cam",
    "load_classifier", "load_exported", "load_maps", "load_pretrained", "lrp", "prompt_cam",
    "region_attention", "save_pretrained", "score_cam", "step_cam",
}  # fmt: skip
"""Exported names without an example: they want files, extras, or networks with parts."""


def home(name):
    value = getattr(fgjax, name)
    return getattr(value, "__module__", "") if callable(value) else ""


MODULES = sorted({home(name) for name in fgjax.__all__} - {""} | set(MORE))


@pytest.mark.parametrize("module", MODULES)
def test_examples_show_what_happens(module):
    names = {"jax": jax, "jnp": jnp, "np": np, "fgjax": fgjax}
    runner = doctest.DocTestRunner()
    for test in doctest.DocTestFinder().find(importlib.import_module(module), extraglobs=names):
        runner.run(test)
    assert runner.failures == 0, "see the output above"


def test_public_functions_have_an_example():
    bare = {
        name
        for name in fgjax.__all__
        if home(name) and not name.endswith("Config") and ">>>" not in getattr(fgjax, name).__doc__
    }
    assert bare == BARE
