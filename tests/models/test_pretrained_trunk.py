"""A trunk's weights come from a whole network's file; the new layers stay fresh."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

import fgjax
from fgjax.models.pretrained_trunk import load_trunk

KINDS = {"scale": "weight", "mean": "running_mean", "var": "running_var"}
OURS = {"stem": "conv1", "stem_norm": "bn1", "classifier": "fc"}


def torch_name(path):
    """blocks_2_0/norm1/norm/scale of a ResNet -> layer3.0.bn1.weight"""
    collection, module, *rest, kind = [part for part in path.split("/") if part != "norm"]
    if module.startswith("blocks_"):
        stage, block = module.split("_")[1:]
        inner = rest[0].replace("norm", "bn")
        inner = {"shortcut": "downsample.0", "shortcut_bn": "downsample.1"}.get(inner, inner)
        module = f"layer{int(stage) + 1}.{block}.{inner}"
    return f"{OURS.get(module, module)}.{KINDS.get(kind, 'weight' if kind == 'kernel' else kind)}"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A resnet_tiny of random numbers under torchvision's names, padded as TensorFlow does."""
    rng, tensors = np.random.default_rng(0), {}
    whole = fgjax.create_model("resnet_tiny", 5)
    for path, leaf in flatten_dict(whole.variables, sep="/").items():
        value = np.abs(rng.normal(1, 0.1, leaf.shape)).astype(np.float32)
        if path.endswith("kernel"):
            value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
        tensors[torch_name(path)] = np.ascontiguousarray(value)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(tensors, path, {"padding": "same", "input": "(rgb/255-0.5)/0.5"})
    return path


@pytest.mark.slow
def test_the_trunk_is_the_file_s(file):
    said = []
    model = load_trunk(
        "region_grouping", file, 3, backbone="resnet_tiny", num_parts=2, size=64, say=said.append
    )
    whole = fgjax.load_pretrained("resnet_tiny", file)
    images = jnp.asarray(np.random.default_rng(1).random((2, 64, 64, 3), np.float32))
    np.testing.assert_allclose(
        model.features(images), whole.intermediates(images)["stage_2"], rtol=1e-5
    )
    assert model.network.padding == "same" and model.mean == (0.5, 0.5, 0.5)
    assert dict(model.options)["padding"] == "same" and model.regions(images).logits.shape == (2, 3)
    fresh = fgjax.create_model("region_grouping", 3, backbone="resnet_tiny", num_parts=2)
    for name in ("grouping", "post", "classifier"):
        new, own = (flatten_dict(m.variables["params"][name], sep="/") for m in (fresh, model))
        assert all((new[path] == own[path]).all() for path in new)
    assert len(said) == 1 and "has no blocks_3_0, classifier of resnet_tiny" in said[0]


@pytest.mark.slow
def test_what_does_not_fit_is_told(file):
    with pytest.raises(ValueError, match="does not fit resnet18"):
        load_trunk("region_grouping", file, 3, backbone="resnet18")
    with pytest.raises(ValueError, match="no such file"):
        load_trunk("region_grouping", file.parent / "b.safetensors", 3, backbone="resnet_tiny")
