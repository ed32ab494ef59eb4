"""Transformers and their kin: parts that make up the whole, grids that carry gradients, sizes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import fgjax
from fgjax.models.classifier import create_model
from fgjax.models.names import names_of, rename
from fgjax.models.networks import vit, vit_family
from fgjax.models.networks.layers import Conv
from fgjax.models.networks.tokens import DropPath, Patchify, resample_position
from fgjax.models.registry import NETWORKS, Network
from fgjax.models.texts import read_texts

TINY = partial(vit.VisionTransformer, patch=8, width=16, depth=2, heads=2, hidden=32, grid=4)
OPTIONS = {
    "token": dict(registers=2),
    "mean": dict(pool="mean", norm_last=True, class_token=False, layer_scale=0.5, gate="split"),
}
TARGETS = jnp.asarray([1, 0])


def entry(name, **options):
    return Network(
        name, partial(TINY, **options), vit_family.timm_names() + vit_family.open_clip_names(),
        reads=partial(vit_family.made_with, 1), classifier=vit.TransformerClassifier, tokens=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(0).random((2, 32, 32, 3), np.float32))


@pytest.fixture(scope="module")
def models():
    """Both kinds with weights large enough that attention is no mean."""
    found = {}
    for name, options in OPTIONS.items():
        NETWORKS.own[name] = entry(name, **options)
        model = create_model(name, 3, size=32)
        louder = jax.tree.map(lambda a: a * 8 if a.ndim == 2 else a, model.variables)
        found[name] = model.replace(variables=louder)
    yield found
    for name in OPTIONS:
        del NETWORKS.own[name]


@pytest.mark.parametrize("name", OPTIONS)
def test_head_of_features_is_the_whole_and_the_grid_has_a_gradient(images, models, name):
    model = models[name]

    @jax.jit
    def parts(model, images):
        features = model.features(images)
        gradient = jax.grad(lambda f: model.head(f)[:, 1].sum())(features)
        return model(images), model.head(features), model.attend(images), features, gradient

    logits, head, attended, features, gradient = parts(model, images)
    assert features.grid.shape == (2, 4, 4, 16)
    assert features.tokens.shape == (2, 3 if name == "token" else 0, 16)
    np.testing.assert_allclose(head, logits, atol=1e-5)
    np.testing.assert_allclose(attended.logits, logits, atol=1e-5)
    assert all(w.shape == (2, 2, *[16 + features.tokens.shape[1]] * 2) for w in attended.weights)
    np.testing.assert_allclose(attended.weights[0].sum(-1), 1, rtol=1e-5)
    assert attended.readout.sum(1).tolist() == [1] * len(attended.logits)
    assert (jnp.abs(gradient.grid).max((3,)) > 0).all()  # every cell counts
    heat = fgjax.grad_cam(model, images, TARGETS).heatmap
    assert heat.shape == (2, 32, 32) and float(heat.max()) == pytest.approx(1)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_every_kind_of_method_explains_a_transformer(images, models, name, key):
    settings = {
        "fido": fgjax.FidoConfig(steps=2, batch_size=2),
        "rise": fgjax.RiseConfig(masks=8, chunk_size=8),
        "glas": fgjax.GlasConfig(grid=2, chunk_size=8),
        "score_cam": fgjax.ScoreCamConfig(channels=2),
        "grad_cam_plus_plus": fgjax.GradCamPlusPlusConfig(),
        "attention_rollout": fgjax.AttentionRolloutConfig(),
        "attention_relevance": fgjax.AttentionRelevanceConfig(),
    }
    for method, config in settings.items():
        result = fgjax.METHODS[method](models[name], images, TARGETS, key=key, config=config)
        assert np.isfinite(result.heatmap).all() and result.heatmap.max() > 0, method


def test_guided_methods_refuse_gelus(images, models):
    with pytest.raises(ValueError, match="no ReLU .* GELU or SiLU"):
        fgjax.guided_backprop(models["token"], images, TARGETS)


def test_a_size_that_patches_do_not_fill_is_refused(models, images):
    with pytest.raises(ValueError, match="patches of 8 px: a size of 36 is no multiple .* 32 is"):
        create_model("token", 3, size=36)
    with pytest.raises(ValueError, match="images of 30 x 32 px: .* multiples"):
        models["token"](images[:, :30])


def test_other_networks_are_not_built_on_tokens(models):
    with pytest.raises(ValueError, match="no stream is made of 'vit_tiny_patch16_224'"):
        fgjax.create_model("prototypes", 3, size=32, backbone="vit_tiny_patch16_224")


def test_positions_of_the_same_grid_stay_and_others_keep_their_mean():
    rng = np.random.default_rng(0)
    position = jnp.asarray(rng.normal(size=(1, 1 + 36, 2)), jnp.float32)
    assert resample_position(position, 1, 6, 6) is position
    flat = position.at[:, 1:].set(0.5)
    found = resample_position(flat, 1, 3, 9)
    assert found.shape == (1, 1 + 27, 2)
    np.testing.assert_array_equal(found[:, 0], position[:, 0])
    np.testing.assert_allclose(found[:, 1:], 0.5, rtol=1e-5)


def test_patches_are_a_convolution_with_a_stride(images):
    layer = Patchify(5, 8)
    variables = layer.init(jax.random.key(0), images)
    conv = Conv(5, 8, 8, 0, bias=True)
    np.testing.assert_allclose(
        layer.apply(variables, images[:, :30]), conv.apply(variables, images[:, :30]), atol=1e-5
    )


def test_a_dropped_path_is_left_out_and_the_kept_are_scaled():
    x = jnp.ones((4000, 2))
    rngs = {"dropout": jax.random.key(0)}
    out = np.asarray(DropPath(0.25).apply({}, x, True, rngs=rngs))
    assert set(np.unique(out.round(4))) == {0.0, np.float32(1.3333)}
    assert (out[:, 0] == out[:, 1]).all()
    np.testing.assert_allclose(out.mean(), 1, atol=0.05)
    np.testing.assert_array_equal(DropPath(0.25).apply({}, x, False), x)


@pytest.mark.slow
def test_a_classifier_is_written_and_read_exactly(tmp_path, models, images):
    model = models["token"].replace(classes=("a", "b", "c"), mean=(0.1, 0.2, 0.3))
    fgjax.save_pretrained(model, tmp_path / "model.safetensors")
    again = fgjax.load_pretrained(None, tmp_path / "model.safetensors")
    same = jax.tree.map(lambda a, b: bool((a == b).all()), model.variables, again.variables)
    assert all(jax.tree.leaves(same))
    assert (again.mean, again.std, again.size) == (model.mean, model.std, 32)
    assert again.classes == ("a", "b", "c") and again.network == model.network
    said = []
    other = fgjax.load_pretrained(None, tmp_path / "model.safetensors", size=48, say=said.append)
    assert "4 x 4 patches are resampled to 6 x 6" in said[0] and len(said) == 1
    assert other(jnp.zeros((1, 48, 48, 3))).shape == (1, 3)
    with pytest.raises(ValueError, match="ends with .safetensors"):
        fgjax.save_pretrained(model, tmp_path / "model.npz")
    with pytest.raises(ValueError, match="region_grouping: timm has no such network"):
        fgjax.save_pretrained(model.replace(name="region_grouping"), tmp_path / "x.safetensors")


def test_a_file_without_a_classifier_gets_a_fresh_one(tmp_path, models):
    fgjax.save_pretrained(models["token"], tmp_path / "model.safetensors")
    from safetensors.numpy import load_file

    tensors = load_file(tmp_path / "model.safetensors")
    tensors = {k: v for k, v in tensors.items() if not k.startswith("head.")}
    save_file(tensors, tmp_path / "bare.safetensors")
    with pytest.raises(ValueError, match="has no classifier that token knows.* num_classes says"):
        fgjax.load_pretrained("token", tmp_path / "bare.safetensors", size=32)
    said = []
    model = fgjax.load_pretrained(
        "token", tmp_path / "bare.safetensors", size=32, num_classes=7, say=said.append
    )
    assert model.network.num_classes == 7 and "gets a fresh one of 7 classes" in said[0]
    with pytest.raises(ValueError, match="no projection into a space of texts"):
        np.save(tmp_path / "texts.npy", np.ones((2, 4), np.float32))
        fgjax.load_pretrained(
            "token", tmp_path / "bare.safetensors", texts=tmp_path / "texts.npy", size=32
        )


def test_texts_that_are_none_are_refused(tmp_path):
    np.savez(tmp_path / "short.npz", embeddings=np.ones((2, 4), np.float32), classes=["a"])
    with pytest.raises(ValueError, match="1 classes, 2 embeddings"):
        read_texts(tmp_path / "short.npz")
    np.save(tmp_path / "flat.npy", np.ones(4, np.float32))
    with pytest.raises(ValueError, match="not a row of numbers for each class"):
        read_texts(tmp_path / "flat.npy")
    (tmp_path / "text.npz").write_text("a photo of a wren")
    with pytest.raises(ValueError, match="no embeddings can be read .it holds no plain arrays"):
        read_texts(tmp_path / "text.npz")
    np.save(tmp_path / "zero.npy", np.zeros((2, 4), np.float32))
    with pytest.raises(ValueError, match="zero, NaN or infinite"):
        read_texts(tmp_path / "zero.npy")


def test_a_table_is_read_backwards():
    table = [(r"a\.(\d+)\.b(\d)\.(.*)", r"x_\1/y\2/\3"), (r"z\.(.*)", ""), (r"(?:q|r)", "s/t")]
    assert names_of(["x_12/y3/weight"], table) == {"x_12/y3/weight": "a.12.b3.weight"}
    assert rename("a.12.b3.weight", table) == "x_12/y3/weight"
    with pytest.raises(ValueError, match="none for s/t"):
        names_of(["s/t"], table)


@pytest.mark.slow
def test_names_of_all_networks_lead_back():
    """Every network's tensors have names of timm's, which lead back to them."""
    from flax import traverse_util

    from fgjax.models.classifier import make_network, variable_shapes
    from fgjax.models.saving import _as_in_tables

    for name in ("convnext_tiny", "swin_tiny_patch4_window7_224", "efficientnet_b0", "vgg16_bn",
                 "resnet50d", "mobilenet_v2", "vit_small_patch16_dinov3"):  # fmt: skip
        shapes = variable_shapes(make_network(name, 3))
        paths = {_as_in_tables(p) for p in traverse_util.flatten_dict(shapes, sep="/")}
        assert set(names_of(paths, NETWORKS[name].names)) == paths
