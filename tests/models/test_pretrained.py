"""Weights under torchvision's and timm's names: every tensor in its place, or a clear refusal."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import save_file

from fgjax.models.classifier import create_model
from fgjax.models.pretrained import load_pretrained

CLASSES = 3


def conv(theirs, ours):
    return {f"{theirs}.weight": f"params/{ours}/kernel"}


def norm(theirs, ours):
    return {
        f"{theirs}.weight": f"params/{ours}/norm/scale",
        f"{theirs}.bias": f"params/{ours}/norm/bias",
        f"{theirs}.running_mean": f"batch_stats/{ours}/norm/mean",
        f"{theirs}.running_var": f"batch_stats/{ours}/norm/var",
    }


def dense(theirs):
    return {
        f"{theirs}.weight": "params/classifier/kernel",
        f"{theirs}.bias": "params/classifier/bias",
    }


def resnet18_names():
    names = conv("conv1", "stem") | norm("bn1", "stem_norm") | dense("fc")
    for stage in range(4):
        for block in range(2):
            theirs, ours = f"layer{stage + 1}.{block}", f"blocks_{stage}_{block}"
            for i in (1, 2):
                names |= conv(f"{theirs}.conv{i}", f"{ours}/conv{i}")
                names |= norm(f"{theirs}.bn{i}", f"{ours}/norm{i}")
            if stage and not block:
                names |= conv(f"{theirs}.downsample.0", f"{ours}/shortcut")
                names |= norm(f"{theirs}.downsample.1", f"{ours}/shortcut_norm")
    return names


BLOCKS = [(s, i) for s, n in enumerate((1, 2, 3, 4, 3, 3, 1)) for i in range(n)]


def mobilenet_timm_names():
    names = conv("conv_stem", "stem") | norm("bn1", "stem_norm") | dense("classifier")
    names |= conv("conv_head", "last") | norm("bn2", "last_norm")
    for stage, i in BLOCKS:
        theirs, ours = f"blocks.{stage}.{i}", f"blocks_{stage}_{i}"
        if stage == 0:
            layers = [("conv_dw", "bn1", "depthwise"), ("conv_pw", "bn2", "project")]
        else:
            layers = [
                ("conv_pw", "bn1", "expand"),
                ("conv_dw", "bn2", "depthwise"),
                ("conv_pwl", "bn3", "project"),
            ]
        for their_conv, their_norm, layer in layers:
            names |= conv(f"{theirs}.{their_conv}", f"{ours}/{layer}")
            names |= norm(f"{theirs}.{their_norm}", f"{ours}/{layer}_norm")
    return names


def mobilenet_torchvision_names():
    names = conv("features.0.0", "stem") | norm("features.0.1", "stem_norm")
    names |= conv("features.18.0", "last") | norm("features.18.1", "last_norm")
    names |= dense("classifier.1")
    for number, (stage, i) in enumerate(BLOCKS, start=1):
        theirs, ours = f"features.{number}.conv", f"blocks_{stage}_{i}"
        layers = ["depthwise"] if stage == 0 else ["expand", "depthwise"]
        for place, layer in enumerate(layers):
            names |= conv(f"{theirs}.{place}.0", f"{ours}/{layer}")
            names |= norm(f"{theirs}.{place}.1", f"{ours}/{layer}_norm")
        names |= conv(f"{theirs}.{len(layers)}", f"{ours}/project")
        names |= norm(f"{theirs}.{len(layers) + 1}", f"{ours}/project_norm")
    return names


def random_file(network, names):
    """Tensors in PyTorch's layout under their names, and what our variables should be."""
    shapes = jax.eval_shape(lambda: create_model(network, CLASSES)).variables
    shapes = traverse_util.flatten_dict(shapes, sep="/")
    assert sorted(names.values()) == sorted(shapes)
    rng, tensors, expected = np.random.default_rng(0), {}, {}
    for theirs, ours in names.items():
        value = rng.random(shapes[ours].shape, np.float32) * 0.1 + 0.05
        expected[ours] = value
        if value.ndim == 4:  # ours: height, width, in, out; theirs: out, in, height, width
            value = np.einsum("hwio->oihw", value)
        elif value.ndim == 2:
            value = value.T
        tensors[theirs] = np.ascontiguousarray(value)
    return tensors, expected


FILES = {
    "resnet18": ("resnet18", resnet18_names),
    "timm": ("mobilenet_v2", mobilenet_timm_names),
    "torchvision": ("mobilenet_v2", mobilenet_torchvision_names),
}


@pytest.fixture(scope="module")
def mobilenet():
    return random_file("mobilenet_v2", mobilenet_timm_names())[0]


@pytest.mark.parametrize("name", FILES)
def test_every_tensor_finds_its_place(tmp_path, name):
    network, names = FILES[name]
    tensors, expected = random_file(network, names())
    counts = {
        key.replace("running_mean", "num_batches_tracked"): np.int64(7).reshape(1)
        for key in tensors
        if key.endswith("running_mean")
    }
    save_file(tensors | counts, tmp_path / "weights.safetensors")
    model = load_pretrained(network, tmp_path / "weights.safetensors")
    loaded = traverse_util.flatten_dict(model.variables, sep="/")
    assert set(loaded) == set(expected)
    for path, value in expected.items():
        np.testing.assert_array_equal(loaded[path], value, err_msg=path)
    assert model.network.padding == "symmetric" and model.network.num_classes == CLASSES
    assert model.mean == (0.485, 0.456, 0.406) and model.std == (0.229, 0.224, 0.225)


def test_metadata_says_architecture_padding_and_normalisation(tmp_path, mobilenet):
    path = tmp_path / "weights.safetensors"
    half = {name: tensor.astype(np.float16) for name, tensor in mobilenet.items()}
    metadata = {
        "architecture": "mobilenetv2_100",
        "padding": "same",
        "input": "(rgb/255-0.5)/0.5, NHWC",
    }
    save_file(half, path, metadata)
    model = load_pretrained(None, path, size=96, classes=("a", "b", "c"))
    assert model.network.padding == "same"
    assert model.mean == model.std == (0.5, 0.5, 0.5)
    assert (model.size, model.classes) == (96, ("a", "b", "c"))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(model.variables))
    normal = model.normalise(jnp.asarray([[[[0.0, 0.5, 1.0]]]]))
    np.testing.assert_allclose(normal, [[[[-1, 0, 1]]]])


def noted(*args, **options):
    """Loads weights; the classifier, and what was said to be assumed."""
    lines = []
    return load_pretrained(*args, note=lines.append, **options), " ".join(lines)


def test_what_no_file_says_is_assumed_aloud(tmp_path, mobilenet):
    path = tmp_path / "w.safetensors"
    save_file(mobilenet, path)
    model, said = noted("mobilenet_v2", path)
    assert model.mean == (0.485, 0.456, 0.406) and model.network.padding == "symmetric"
    assert "ImageNet's mean=0.485,0.456,0.406" in said and "std=0.229" in said
    assert "padding=symmetric" in said and "model.padding=same" in said


def test_what_the_user_says_goes_before_the_file(tmp_path, mobilenet):
    path = tmp_path / "w.safetensors"
    half = {"architecture": "mobilenetv2_100", "padding": "same", "input": "(rgb/255-0.5)/0.5"}
    save_file(mobilenet, path, half)
    model, said = noted(None, path)
    assert model.mean == (0.5, 0.5, 0.5) and model.network.padding == "same" and said == ""
    model, said = noted(None, path, mean=[0.0, 0.0, 0.25], std=[1.0] * 3, padding="symmetric")
    assert (model.mean, model.std) == ((0, 0, 0.25), (1, 1, 1)) and said == ""
    assert model.network.padding == "symmetric"


TIMM = {
    "architecture": "tf_mobilenetv2_100",
    "pretrained_cfg": {"mean": [0.5, 0.25, 0.125], "std": [0.5, 0.5, 0.5]},
}


@pytest.mark.parametrize("where", ["pretrained_cfg", "config", "beside"])
def test_timms_own_words_are_read(tmp_path, mobilenet, where):
    path = tmp_path / "model.safetensors"
    metadata = {
        "pretrained_cfg": {"pretrained_cfg": json.dumps(TIMM["pretrained_cfg"])},
        "config": {"config": json.dumps(TIMM)},
        "beside": {"format": "pt"},
    }[where]
    if where == "beside":
        (tmp_path / "config.json").write_text(json.dumps(TIMM))
    save_file(mobilenet, path, metadata)
    model, said = noted("mobilenet_v2" if where == "pretrained_cfg" else None, path)
    assert (model.mean, model.std) == ((0.5, 0.25, 0.125), (0.5, 0.5, 0.5)) and said == ""
    # TensorFlow's weights want TensorFlow's padding.
    assert model.network.padding == ("symmetric" if where == "pretrained_cfg" else "same")


@pytest.mark.parametrize(
    "word", [{"mean": [0.5]}, {"std": [0.0, 1.0, 1.0]}, {"mean": [0.0, 0.0, float("nan")]}]
)
def test_a_normalisation_that_is_none(tmp_path, mobilenet, word):
    save_file(mobilenet, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=f"{next(iter(word))}=.*three numbers"):
        load_pretrained("mobilenet_v2", tmp_path / "w.safetensors", **word)


def test_bfloat16_files_become_float32(tmp_path, mobilenet):
    path = tmp_path / "weights.safetensors"
    save_file({n: np.asarray(jnp.asarray(t, jnp.bfloat16)) for n, t in mobilenet.items()}, path)
    model = load_pretrained("mobilenet_v2", path)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(model.variables))
    bias = model.variables["params"]["classifier"]["bias"]
    np.testing.assert_allclose(bias, mobilenet["classifier.bias"], rtol=0.01)


def test_everything_that_does_not_fit_is_listed_at_once(tmp_path, mobilenet):
    path = tmp_path / "weights.safetensors"
    tensors = dict(mobilenet)
    del tensors["conv_stem.weight"], tensors["blocks.3.1.bn2.running_var"]
    tensors["blocks.9.0.conv_pw.weight"] = np.zeros((4, 4, 1, 1), np.float32)
    tensors["something.else"] = np.zeros(3, np.float32)
    tensors["bn2.bias"] = np.zeros(17, np.float32)
    save_file(tensors, path)
    with pytest.raises(ValueError, match="does not fit mobilenet_v2") as error:
        load_pretrained("mobilenet_v2", path)
    missing, surplus, misshapen = str(error.value).splitlines()[1:]
    assert "params/stem/kernel" in missing
    assert "batch_stats/blocks_3_1/depthwise_norm/norm/var" in missing
    assert "blocks.9.0.conv_pw.weight" in surplus and "something.else" in surplus
    assert "bn2.bias (17,) instead of (1280,)" in misshapen


def test_a_long_list_is_cut(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"classifier.bias": np.zeros(3, np.float32)}, path)
    with pytest.raises(ValueError, match=r"missing: .*and \d+ more"):
        load_pretrained("mobilenet_v2", path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, mobilenet, value):
    path = tmp_path / "weights.safetensors"
    broken = mobilenet["blocks.2.1.bn1.weight"].copy()
    broken[3] = value
    save_file(mobilenet | {"blocks.2.1.bn1.weight": broken}, path)
    with pytest.raises(ValueError, match=r"NaN or infinite:\n  in: blocks\.2\.1\.bn1\.weight$"):
        load_pretrained("mobilenet_v2", path)


def test_files_that_cannot_be_read(tmp_path, mobilenet):
    with pytest.raises(ValueError, match="none.safetensors: no such file"):
        load_pretrained("resnet18", tmp_path / "none.safetensors")
    other = tmp_path / "weights.pth"
    other.write_bytes(b"\x80\x02}q\x00" * 20)
    with pytest.raises(ValueError, match="is a pickle.*save_file"):
        load_pretrained("resnet18", other)
    whole = tmp_path / "whole.safetensors"
    save_file(mobilenet, whole)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(whole.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="cut.safetensors: not a readable"):
        load_pretrained("mobilenet_v2", cut)


def test_architectures_that_are_not_known(tmp_path, mobilenet):
    path = tmp_path / "weights.safetensors"
    save_file(mobilenet, path)
    with pytest.raises(ValueError, match="does not say its architecture: name it"):
        load_pretrained(None, path)
    with pytest.raises(ValueError, match="model 'vit_b_16': .*resnet18"):
        load_pretrained("vit_b_16", path)
    with pytest.raises(ValueError, match="no classifier that resnet18 knows"):
        load_pretrained("resnet18", path)


def test_another_architecture_than_the_file_says(tmp_path, mobilenet):
    path = tmp_path / "weights.safetensors"
    save_file(mobilenet, path, {"architecture": "mobilenetv2_100"})
    with pytest.raises(ValueError, match="is a mobilenet_v2, not a resnet18"):
        load_pretrained("resnet18", path)


@pytest.mark.slow
def test_other_classes_get_a_fresh_classifier_and_the_rest_stays(tmp_path, mobilenet):
    path, said = tmp_path / "weights.safetensors", []
    save_file(mobilenet, path)
    whole = load_pretrained("mobilenet_v2", path)
    model = load_pretrained("mobilenet_v2", path, num_classes=7, say=said.append)
    assert said == [f"{path}: its classifier of 3 classes is replaced by a fresh one of 7"]
    assert model.network.num_classes == 7 and model.name == "mobilenet_v2"
    before = traverse_util.flatten_dict(whole.variables, sep="/")
    for name, value in traverse_util.flatten_dict(model.variables, sep="/").items():
        if name.startswith("params/classifier"):
            assert value.shape[-1] == 7
        else:
            np.testing.assert_array_equal(value, before[name])
    assert model.variables["params"]["classifier"]["kernel"].std() > 0
    other = load_pretrained("mobilenet_v2", path, num_classes=7, key=jax.random.key(1), say=print)
    kernels = [m.variables["params"]["classifier"]["kernel"] for m in (model, other)]
    assert (kernels[0] != kernels[1]).any()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A cache of the Hugging Face hub that holds one model; the hub itself is out of reach."""
    from huggingface_hub import constants

    def unreachable(*args, **kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", unreachable)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", unreachable)
    model = tmp_path / "models--timm--mobilenetv2_100.ours"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("abc")
    snapshot = model / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    return snapshot


def test_a_model_in_the_hubs_cache_needs_no_network(hub, mobilenet):
    save_file(mobilenet, hub / "model.safetensors")
    about = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    config = {"architecture": "mobilenetv2_100", "pretrained_cfg": about}
    (hub / "config.json").write_text(json.dumps(config))
    model = load_pretrained(None, "timm/mobilenetv2_100.ours")
    assert (model.mean, model.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert model.name == "mobilenet_v2"


def test_without_a_network_the_hub_is_given_up_at_once(hub):
    with pytest.raises(ValueError, match="timm/resnet50.tv_in1k: no such file, and .* hub cannot"):
        load_pretrained(None, "timm/resnet50.tv_in1k")
