"""AttnLRP and attention relevance of a small ViT against PyTorch: relevance propagated by hand,
and hooks on timm's attention."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import fgjax
from fgjax.attribution.lrp import LrpConfig, relevance
from fgjax.models.networks import vit, vit_family
from fgjax.models.registry import NETWORKS, Network

torch = pytest.importorskip("torch", reason='needs PyTorch: pip install "fgjax[parity]"')
timm = pytest.importorskip("timm")

WIDTH, HEADS, PATCH, SIDE, EPSILON = 16, 2, 8, 32, 1e-6
TARGETS = np.array([2, 0])


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """timm's network in float64, ours with its weights, and images that are normalised."""
    torch.manual_seed(0)
    theirs = timm.models.VisionTransformer(
        img_size=SIDE, patch_size=PATCH, embed_dim=WIDTH, depth=2, num_heads=HEADS, num_classes=3
    ).eval()
    with torch.no_grad():
        for name, tensor in theirs.named_parameters():
            one = tensor.ndim == 1 and name.endswith("weight")
            spread = 0.3 if tensor.ndim > 1 else 0.1
            tensor.copy_(float(one) + spread * torch.randn_like(tensor))
    file = tmp_path_factory.mktemp("weights") / "vit.safetensors"
    save_file({k: v.numpy().copy() for k, v in theirs.state_dict().items()}, file)
    make = partial(
        vit.VisionTransformer, patch=PATCH, width=WIDTH, depth=2, heads=HEADS, hidden=64, grid=4
    )
    entry = Network("attended", make, vit_family.timm_names(), classifier=vit.TransformerClassifier)
    NETWORKS.own["attended"] = entry
    model = fgjax.load_pretrained("attended", file, size=SIDE)
    images = np.random.default_rng(0).random((2, SIDE, SIDE, 3), np.float32)
    x = np.asarray(model.normalise(jnp.asarray(images)), np.float64).transpose(0, 3, 1, 2)
    yield theirs.double(), model, images, torch.from_numpy(x.copy())
    del NETWORKS.own["attended"]


def test_attention_relevance_is_that_of_hooks(both):
    theirs, model, images, x = both
    kept = []

    def keep(module, inputs):
        inputs[0].retain_grad()
        kept.append(inputs[0])

    handles = []
    for block in theirs.blocks:
        block.attn.fused_attn = False
        handles.append(block.attn.attn_drop.register_forward_pre_hook(keep))
    logits = theirs(x)
    logits[torch.arange(2), torch.from_numpy(TARGETS)].sum().backward()
    for handle in handles:
        handle.remove()
    through = torch.eye(17, dtype=torch.float64).expand(2, 17, 17)
    for weights in kept:
        through = through + (weights * weights.grad).clamp(min=0).mean(1) @ through
    cells = through[:, 0, 1:].detach().reshape(2, 1, 4, 4)
    expected = torch.nn.functional.interpolate(cells, (SIDE, SIDE), mode="bilinear")[:, 0]
    found = fgjax.attention_relevance(model, images, jnp.asarray(TARGETS)).maps["cells"]
    assert np.abs(found - expected.numpy()).max() < 1e-4 * float(expected.max())


# LRP by hand: what each layer's inputs get, from its inputs, its outputs and their relevance.


def safe(z):
    return torch.where(z == 0, 1.0, z)


def linear(layer, x, relevance):
    z = x @ layer.weight.T + (0 if layer.bias is None else layer.bias)
    return x * ((relevance / (z + EPSILON * torch.where(z >= 0, 1.0, -1.0))) @ layer.weight)


def norm(layer, x, relevance):
    deviation = (x.var(-1, keepdim=True, unbiased=False) + layer.eps).sqrt()
    y = layer(x)
    slope = relevance / safe(y) * layer.weight
    return x * (slope - slope.mean(-1, keepdim=True)) / deviation


def shares(a, b, relevance):
    return (part / safe(a + b) * relevance for part in (a, b))


def attention(layer, x, relevance):
    n, t, d = x.shape
    qkv = layer.qkv(x).reshape(n, t, 3, HEADS, d // HEADS).permute(2, 0, 3, 1, 4)
    q, k, v = qkv
    scores = q @ k.transpose(-1, -2) * layer.scale
    weights = scores.softmax(-1)
    out = weights @ v
    merged = out.transpose(1, 2).reshape(n, t, d)
    relevance = linear(layer.proj, merged, relevance)
    relevance = relevance.reshape(n, t, HEADS, -1).transpose(1, 2)
    each = relevance / safe(out)
    of_weights = weights * (each @ v.transpose(-1, -2)) / 2
    of_v = v * (weights.transpose(-1, -2) @ each) / 2
    of_scores = scores * (of_weights - weights * of_weights.sum(-1, keepdim=True))
    each = of_scores / safe(scores) * layer.scale
    of_q, of_k = q * (each @ k) / 2, k * (each.transpose(-1, -2) @ q) / 2
    together = torch.stack([of_q, of_k, of_v]).permute(1, 3, 0, 2, 4).reshape(n, t, 3 * d)
    return linear(layer.qkv, x, together)


def by_hand(theirs, x):
    """The relevance of every value of the network's input."""
    patches = theirs.patch_embed(x)
    token = theirs.cls_token.expand(len(x), -1, -1)
    first = torch.cat([token, patches], 1)
    tokens, states = first + theirs.pos_embed, []
    for block in theirs.blocks:
        y = block.attn(block.norm1(tokens))
        middle = tokens + y
        hidden = block.mlp.fc1(block.norm2(middle))
        z = block.mlp.fc2(torch.nn.functional.gelu(hidden))
        states.append((block, tokens, y, middle, hidden, z))
        tokens = middle + z
    pooled = theirs.norm(tokens)[:, 0]
    logits = theirs.head(pooled)
    chosen = torch.zeros_like(logits)
    places = (torch.arange(2), torch.from_numpy(TARGETS))
    chosen[places] = logits[places]
    at_token = linear(theirs.head, pooled, chosen)
    relevance = torch.zeros_like(tokens)
    relevance[:, 0] = norm(theirs.norm, tokens[:, 0], at_token)
    for block, tokens, y, middle, hidden, z in reversed(states):
        stays, goes = shares(middle, z, relevance)
        goes = linear(block.mlp.fc2, torch.nn.functional.gelu(hidden), goes)  # and through GELU
        goes = linear(block.mlp.fc1, block.norm2(middle), goes)
        relevance = stays + norm(block.norm2, middle, goes)
        stays, goes = shares(tokens, y, relevance)
        goes = attention(block.attn, block.norm1(tokens), goes)
        relevance = stays + norm(block.norm1, tokens, goes)
    of_patches = (first / safe(first + theirs.pos_embed) * relevance)[:, 1:]
    sign = torch.where(patches >= 0, 1.0, -1.0)
    each = (of_patches / (patches + EPSILON * sign)).transpose(1, 2).reshape(2, WIDTH, 4, 4)
    weight = theirs.patch_embed.proj.weight
    return x * torch.nn.functional.conv_transpose2d(each, weight, stride=PATCH)


def test_attn_lrp_is_that_propagated_by_hand(both):
    theirs, model, images, x = both
    for block in theirs.blocks:
        block.attn.fused_attn = False
    with torch.no_grad():
        expected = by_hand(theirs, x).numpy().transpose(0, 2, 3, 1)
    config = LrpConfig("epsilon", epsilon=EPSILON)
    found = relevance(model, images, jnp.asarray(TARGETS), config=config)
    assert np.abs(expected).max() > 1e-3
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
