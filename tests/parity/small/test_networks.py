"""Our transformers, ConvNeXts and their kin against timm's: the same weights, the same logits.

Networks of few and narrow blocks, made by timm's own constructors; real sizes:
`benchmarks/network_parity.py`.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import fgjax
from fgjax.models.networks import convnext, efficientnet, resnet, swin, vit, vit_family
from fgjax.models.registry import NETWORKS, Network

torch = pytest.importorskip("torch", reason='needs PyTorch: pip install "fgjax[parity]"')
timm = pytest.importorskip("timm")

CLASSES = 5
SMALL = dict(width=32, depth=2, heads=4)
THEIRS = dict(embed_dim=32, depth=2, num_heads=4, patch_size=8, num_classes=CLASSES)


def their_vit(**options):
    return timm.models.VisionTransformer(**THEIRS, img_size=32, dynamic_img_size=True, **options)


def their_clip():
    norm = partial(torch.nn.LayerNorm, eps=1e-5)
    return their_vit(pre_norm=True, norm_layer=norm, act_layer="quick_gelu")


def their_dinov2():
    from timm.layers import SwiGLUPacked

    return their_vit(
        init_values=1e-5, reg_tokens=4, no_embed_class=True, mlp_layer=SwiGLUPacked,
        act_layer=torch.nn.SiLU,
    )  # fmt: skip


def their_dinov3():
    return timm.models.eva.Eva(
        **THEIRS, img_size=32, dynamic_img_size=True, qkv_bias=False, init_values=1e-5,
        rope_type="dinov3", rope_temperature=100, rope_rotate_half=True, use_rot_pos_emb=True,
        use_abs_pos_emb=False, num_reg_tokens=4, use_fc_norm=False, swiglu_mlp=True,
        swiglu_align_to=8, norm_layer=partial(torch.nn.LayerNorm, eps=1e-5),
    )  # fmt: skip


def their_convnext(**options):
    return timm.models.ConvNeXt(
        depths=(1, 1, 1, 1), dims=(8, 12, 16, 24), num_classes=CLASSES, **options
    )


def their_swin(size):
    return timm.models.SwinTransformer(
        img_size=size, patch_size=4, window_size=4, embed_dim=12, depths=(2, 2), num_heads=(2, 4),
        num_classes=CLASSES,
    )  # fmt: skip


def their_efficientnet():
    make = timm.models.efficientnet._gen_efficientnet
    return make(
        "efficientnet_b0", channel_multiplier=0.25, depth_multiplier=0.1, num_classes=CLASSES
    )


def their_resnet(**options):
    block = timm.models.resnet.Bottleneck
    return timm.models.ResNet(block, layers=(1, 1, 1, 1), num_classes=CLASSES, **options)


VIT = partial(vit.VisionTransformer, patch=8, grid=4, hidden=128, **SMALL)
CONVNEXT = partial(convnext.ConvNext, depths=(1, 1, 1, 1), widths=(8, 12, 16, 24))
SWIN = partial(swin.Swin, width=12, depths=(2, 2), heads=(2, 4), window=4)
RESNET = partial(resnet.ResNet, depths=(1, 1, 1, 1), bottleneck=True)
# Name -> what makes it in timm, and here.
CASES = {
    "vit": (their_vit, Network("vit", VIT, vit_family.timm_names())),
    "gap": (
        partial(their_vit, class_token=False, no_embed_class=True, reg_tokens=2, global_pool="avg"),
        Network(
            "gap",
            partial(VIT, class_token=False, registers=2, pool="mean", norm_last=True),
            vit_family.timm_names("fc_norm"),
        ),
    ),
    "clip": (
        their_clip,
        Network(
            "clip",
            partial(VIT, norm_first=True, epsilon=1e-5, activation="quick_gelu"),
            vit_family.timm_names() + vit_family.open_clip_names(),
        ),
    ),
    "dinov2": (
        their_dinov2,
        Network(
            "dinov2",
            partial(VIT, hidden=64, gate="packed", layer_scale=1e-5, registers=4,
                    place_class=False),
            vit_family.timm_names(),
        ),
    ),  # fmt: skip
    "dinov3": (
        their_dinov3,
        Network(
            "dinov3",
            partial(VIT, grid=0, gate="split", layer_scale=1e-5, registers=4, pool="mean",
                    qkv_bias=False, epsilon=1e-5),
            vit_family.timm_names(scale=r"gamma_(\d)"),
        ),
    ),  # fmt: skip
    "convnext": (their_convnext, Network("convnext", CONVNEXT, convnext._timm())),
    "convnextv2": (
        partial(their_convnext, use_grn=True, ls_init_value=None, conv_mlp=True),
        Network(
            "convnextv2",
            partial(CONVNEXT, response_norm=True, pointwise=True, layer_scale=None),
            convnext._timm(),
        ),
    ),
    "swin": (their_swin, Network("swin", SWIN, swin._names())),
    "resnet_d": (
        partial(their_resnet, stem_width=32, stem_type="deep", avg_down=True),
        Network("resnet_d", partial(RESNET, deep_stem=True), resnet._names(deep_stem=True)),
    ),
    "resnext": (
        partial(their_resnet, cardinality=32, base_width=4),
        Network("resnext", partial(RESNET, groups=32, inner=2), resnet._names()),
    ),
    "efficientnet": (
        their_efficientnet,
        Network(
            "efficientnet",
            partial(efficientnet.EfficientNet, wider=0.25, deeper=0.1),
            efficientnet._timm(),
        ),
    ),
}  # fmt: skip
BIGGER = {"swin": (56, 56)}
"""Of the others 48 x 40: positions are resampled, maps have odd sides."""


def stirred(model):
    """The PyTorch network with weights and statistics that hide nothing behind a 0 or 1."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            one = tensor.ndim == 1 and name.endswith("weight")
            if "gamma" in name:
                tensor.uniform_(0.3, 1)
            elif tensor.ndim == 1 or "token" in name or "embed" in name:
                tensor.copy_(float(one) + 0.1 * torch.randn_like(tensor))
            else:
                torch.nn.init.kaiming_uniform_(tensor, a=5**0.5)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_logits_gradients_and_files_agree(tmp_path, monkeypatch, name):
    make, entry = CASES[name]
    monkeypatch.setitem(NETWORKS.own, name, entry)
    size = (32, 32)
    theirs = stirred(make(*size[:1]) if name == "swin" else make())
    tensors = {k: v.numpy().copy() for k, v in theirs.state_dict().items()}
    save_file(tensors, tmp_path / "theirs.safetensors")
    model = fgjax.load_pretrained(name, tmp_path / "theirs.safetensors", size=32)

    fgjax.save_pretrained(model, tmp_path / "ours.safetensors")
    written = load_file(tmp_path / "ours.safetensors")
    counts = {k for k in tensors if k.endswith("num_batches_tracked")}
    assert set(written) == set(tensors) - counts
    assert all((written[k] == tensors[k]).all() for k in written)
    theirs.load_state_dict({k: torch.from_numpy(v) for k, v in written.items()})

    def logits_of(model, x):
        return model.network.apply(model.variables, x)

    def with_gradient(model, x):
        logits, back = jax.vjp(lambda x: logits_of(model, x), x)
        return logits, back(jnp.zeros_like(logits).at[:, 3].set(1))[0]

    for height, width in (size, BIGGER.get(name, (48, 40))):
        if name == "swin" and height > 32:
            theirs = their_swin(height).eval()
            theirs.load_state_dict({k: torch.from_numpy(v) for k, v in tensors.items()})
        x = np.random.default_rng(0).normal(size=(2, height, width, 3)).astype(np.float32)
        images = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).requires_grad_()
        logits = theirs(images)
        expected = logits.detach().numpy()
        assert expected.std() > 1e-2
        if (height, width) == size:
            found = jax.jit(logits_of)(model, x)
            assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
            continue
        found, gradient = jax.jit(with_gradient)(model, x)
        assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
        logits[:, 3].sum().backward()
        expected = images.grad.numpy().transpose(0, 2, 3, 1)
        error = np.linalg.norm(gradient - expected) / np.linalg.norm(expected)
        assert error < (0.03 if "res" in name else 1e-4)  # a ReLU's input may be within rounding


class TheirClip(torch.nn.Module):
    """CLIP's image tower as open_clip builds it, on PyTorch's own attention."""

    def __init__(self, width=32, heads=4, depth=2, patch=8, grid=4, space=12):
        super().__init__()
        draw = lambda *shape: torch.nn.Parameter(torch.randn(*shape) * 0.3)
        self.conv1 = torch.nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = draw(width)
        self.positional_embedding = draw(grid**2 + 1, width)
        self.ln_pre, self.ln_post = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
        self.proj = draw(width, space)
        self.transformer = torch.nn.Module()
        self.transformer.resblocks = torch.nn.ModuleList()
        for _ in range(depth):
            block = torch.nn.Module()
            block.ln_1, block.ln_2 = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
            block.attn = torch.nn.MultiheadAttention(width, heads, batch_first=True)
            block.mlp = torch.nn.Sequential()
            block.mlp.add_module("c_fc", torch.nn.Linear(width, 4 * width))
            block.mlp.add_module("gelu", torch.nn.GELU())
            block.mlp.add_module("c_proj", torch.nn.Linear(4 * width, width))
            self.transformer.resblocks.append(block)

    def forward(self, x):
        x = self.conv1(x).flatten(2).transpose(1, 2)
        token = self.class_embedding.expand(len(x), 1, -1)
        x = self.ln_pre(torch.cat([token, x], 1) + self.positional_embedding)
        for block in self.transformer.resblocks:
            y = block.ln_1(x)
            x = x + block.attn(y, y, y, need_weights=False)[0]
            x = x + block.mlp(block.ln_2(x))
        return self.ln_post(x[:, 0]) @ self.proj


def as_hugging_face(tensors):
    """The same tensors as transformers' CLIPModel calls them."""
    out = {
        "logit_scale": tensors["logit_scale"],
        "visual_projection.weight": tensors["visual.proj"].T.copy(),
        "text_model.final_layer_norm.weight": np.ones(3, np.float32),
    }
    names = [
        ("visual.conv1", "embeddings.patch_embedding"),
        ("visual.class_embedding", "embeddings.class_embedding"),
        ("visual.positional_embedding", "embeddings.position_embedding.weight"),
        ("visual.ln_pre", "pre_layrnorm"),
        ("visual.ln_post", "post_layernorm"),
        ("visual.transformer.resblocks.", "encoder.layers."),
        (".ln_", ".layer_norm"),
        (".attn.out_proj", ".self_attn.out_proj"),
        ("c_fc", "fc1"),
        ("c_proj", "fc2"),
    ]
    for name, tensor in tensors.items():
        if name in ("logit_scale", "visual.proj") or not name.startswith("visual."):
            continue
        parts = [(name, tensor)]
        if "in_proj" in name:
            kind = name.rsplit("_", 1)[1]
            parts = [
                (name.replace(f"attn.in_proj_{kind}", f"self_attn.{q}_proj.{kind}"), part)
                for q, part in zip("qkv", np.split(tensor, 3))
            ]
        for name, part in parts:
            for old, new in names:
                name = name.replace(old, new)
            out[f"vision_model.{name}"] = part
    return out


@pytest.mark.slow
@pytest.mark.parametrize("names", ["open_clip", "hugging_face"])
def test_zero_shot_is_the_cosine_to_the_texts(tmp_path, monkeypatch, names):
    torch.manual_seed(0)
    theirs = TheirClip().eval()
    tensors = {f"visual.{k}": v.numpy().copy() for k, v in theirs.state_dict().items()}
    tensors |= {
        "logit_scale": np.array(np.log(20), np.float32),
        "token_embedding.weight": np.ones((3, 2), np.float32),
        "positional_embedding": np.ones((3, 2), np.float32),
        "transformer.resblocks.0.ln_1.weight": np.ones(3, np.float32),
    }
    texts = np.random.default_rng(0).normal(size=(3, 12)).astype(np.float32)
    np.savez(tmp_path / "texts.npz", embeddings=texts, classes=["a", "b", "c"])
    if names == "hugging_face":
        tensors = as_hugging_face(tensors)
    save_file(tensors, tmp_path / "clip.safetensors")
    table = vit_family.timm_names() + vit_family.open_clip_names() + vit_family.hugging_face_names()
    make = partial(VIT, norm_first=True, epsilon=1e-5)
    entry = Network("clip", make, table, reads=partial(vit_family.made_with, 1))
    monkeypatch.setitem(NETWORKS.own, "clip", entry)
    file = tmp_path / "clip.safetensors"
    model = fgjax.load_pretrained("clip", file, texts=tmp_path / "texts.npz")
    assert model.classes == ("a", "b", "c") and model.size == 32
    images = np.random.default_rng(1).uniform(size=(2, 32, 32, 3)).astype(np.float32)
    x = np.asarray(model.normalise(jnp.asarray(images))).transpose(0, 3, 1, 2)
    with torch.no_grad():
        seen = theirs(torch.from_numpy(x.copy()))
    expected = 20 * torch.nn.functional.cosine_similarity(
        seen[:, None], torch.from_numpy(texts)[None], dim=-1
    )
    found = jax.jit(lambda m, x: m(x))(model, images)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-3)

    fgjax.save_pretrained(model, tmp_path / "again.safetensors")
    again = fgjax.load_pretrained(None, tmp_path / "again.safetensors")
    same = jax.tree.map(lambda a, b: bool((a == b).all()), model.variables, again.variables)
    assert all(jax.tree.leaves(same)) and again.classes == model.classes
    assert again.mean == model.mean and again.network == model.network
