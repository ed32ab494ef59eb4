"""The vision transformers there are, and what others call their tensors: timm, torchvision,
open_clip and Hugging Face. A network is called as timm calls it.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from fgjax.models.names import Table
from fgjax.models.networks.vit import TransformerClassifier, VisionTransformer
from fgjax.models.networks.zero_shot import CLIP_MEAN, CLIP_STD
from fgjax.models.registry import Network


def timm_names(norm: str = "norm", scale: str = r"ls(\d)\.gamma") -> Table:
    """Return timm's names.

    Args:
      norm: what it calls the last normalisation; the other word is understood, too.
      scale: what it calls LayerScale; the other word is understood, too.
    """
    block, ours = r"blocks\.(\d+)", r"blocks_\1"
    norms = sorted(["norm", "fc_norm"], key=lambda word: word != norm)
    scales = sorted([r"ls(\d)\.gamma", r"gamma_(\d)"], key=lambda word: word != scale)
    return [
        (r"cls_token", r"cls_token"),
        (r"reg_token", r"reg_token"),
        (r"pos_embed", r"pos_embed"),
        (r"mask_token", r""),
        (r"rope\.periods", r""),
        (r"patch_embed\.proj\.(.*)", r"patches/\1"),
        (r"norm_pre\.(.*)", r"norm_pre/\1"),
        *((rf"{word}\.(.*)", r"norm/\1") for word in norms),
        (rf"{block}\.norm(\d)\.(.*)", rf"{ours}/norm\2/\3"),
        (rf"{block}\.attn\.(qkv|proj)\.(.*)", rf"{ours}/attention/\2/\3"),
        (rf"{block}\.mlp\.(fc\w+)\.(.*)", rf"{ours}/mlp/\2/\3"),
        *((rf"{block}\.{word}", rf"{ours}/scale\2/gamma") for word in scales),
        (r"head\.(.*)", r"classifier/\1"),
    ]


def torchvision_names() -> Table:
    """Return torchvision's names."""
    block, ours = r"encoder\.layers\.encoder_layer_(\d+)", r"blocks_\1"
    return [
        (r"class_token", r"cls_token"),
        (r"encoder\.pos_embedding", r"pos_embed"),
        (r"conv_proj\.(.*)", r"patches/\1"),
        (r"encoder\.ln\.(.*)", r"norm/\1"),
        (rf"{block}\.ln_(\d)\.(.*)", rf"{ours}/norm\2/\3"),
        (rf"{block}\.self_attention\.in_proj_(.*)", rf"{ours}/attention/qkv/\2"),
        (rf"{block}\.self_attention\.out_proj\.(.*)", rf"{ours}/attention/proj/\2"),
        (rf"{block}\.mlp\.(?:0|linear_1)\.(.*)", rf"{ours}/mlp/fc1/\2"),
        (rf"{block}\.mlp\.(?:3|linear_2)\.(.*)", rf"{ours}/mlp/fc2/\2"),
        (r"heads\.head\.(.*)", r"classifier/\1"),
    ]


def open_clip_names() -> Table:
    """Return the names of a whole CLIP, and of BioCLIP: its text tower is left out."""
    block, ours = r"visual\.transformer\.resblocks\.(\d+)", r"blocks_\1"
    return [
        (r"visual\.class_embedding", r"cls_token"),
        (r"visual\.positional_embedding", r"pos_embed"),
        (r"visual\.conv1\.(.*)", r"patches/\1"),
        (r"visual\.ln_pre\.(.*)", r"norm_pre/\1"),
        (r"visual\.ln_post\.(.*)", r"norm/\1"),
        (r"visual\.proj", r"classifier/projection"),
        (rf"{block}\.ln_(\d)\.(.*)", rf"{ours}/norm\2/\3"),
        (rf"{block}\.attn\.in_proj_(.*)", rf"{ours}/attention/qkv/\2"),
        (rf"{block}\.attn\.out_proj\.(.*)", rf"{ours}/attention/proj/\2"),
        (rf"{block}\.mlp\.c_fc\.(.*)", rf"{ours}/mlp/fc1/\2"),
        (rf"{block}\.mlp\.c_proj\.(.*)", rf"{ours}/mlp/fc2/\2"),
        (r"logit_scale", r"classifier/logit_scale"),
        (r"(?:transformer|token_embedding|ln_final)\..*", r""),
        (r"positional_embedding|text_projection|attn_mask|logit_bias|text\..*", r""),
    ]


def hugging_face_names() -> Table:
    """Return the names of transformers' CLIPModel; queries, keys and values are apart there."""
    block, ours = r"vision_model\.encoder\.layers\.(\d+)", r"blocks_\1"
    return [
        (r"vision_model\.embeddings\.class_embedding", r"cls_token"),
        (r"vision_model\.embeddings\.position_embedding\.weight", r"pos_embed"),
        (r"vision_model\.embeddings\.patch_embedding\.(.*)", r"patches/\1"),
        (r"vision_model\.pre_layrnorm\.(.*)", r"norm_pre/\1"),
        (r"vision_model\.post_layernorm\.(.*)", r"norm/\1"),
        (r"visual_projection\.weight", r"classifier/projection:T"),
        (rf"{block}\.layer_norm(\d)\.(.*)", rf"{ours}/norm\2/\3"),
        *(
            (rf"{block}\.self_attn\.{q}_proj\.(.*)", rf"{ours}/attention/qkv/\2:{i}")
            for i, q in enumerate("qkv")
        ),
        (rf"{block}\.self_attn\.out_proj\.(.*)", rf"{ours}/attention/proj/\2"),
        (rf"{block}\.mlp\.(fc\d)\.(.*)", rf"{ours}/mlp/\2/\3"),
        (r"(?:text_model|text_projection)\..*|.*\.position_ids", r""),
    ]


def made_with(placed: int, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return what a file says of the grid its positions were learned for, and of a space that
    images share with texts."""
    found = {}
    if (shape := shapes.get("params/pos_embed")) is not None:
        found["grid"] = round((shape[-2] - placed) ** 0.5)
    if "params/classifier/kernel" in shapes and "params/classifier/projection" in shapes:
        found["embedding"] = shapes["params/classifier/projection"][-1]
    return found


def _vit(name: str, names: Table, *, mean: Any = None, std: Any = None, **options: Any) -> Network:
    make = partial(VisionTransformer, **options)
    placed = make(num_classes=1).placed
    known: dict[str, Any] = {} if mean is None else dict(mean=mean, std=std)
    reads = partial(made_with, placed)
    return Network(
        name, make, names, reads=reads, classifier=TransformerClassifier, tokens=True, order=200,
        **known,
    )  # fmt: skip


SIZES: dict[str, dict[str, Any]] = {
    "tiny": dict(width=192, depth=12, heads=3, hidden=768),
    "small": dict(width=384, depth=12, heads=6, hidden=1536),
    "base": dict(width=768, depth=12, heads=12, hidden=3072),
    "large": dict(width=1024, depth=24, heads=16, hidden=4096),
    "giant": dict(width=1536, depth=40, heads=24, hidden=4096),
}
_HALF: dict[str, Any] = dict(mean=(0.5,) * 3, std=(0.5,) * 3)
_CLIP: dict[str, Any] = dict(mean=CLIP_MEAN, std=CLIP_STD)


def _plain() -> list[Network]:
    made = [("tiny", 16), ("small", 16), ("small", 32), ("base", 16), ("base", 32), ("large", 14),
            ("large", 16)]  # fmt: skip
    return [
        _vit(
            f"vit_{size}_patch{patch}_224",
            timm_names() + torchvision_names(),
            **_HALF,
            patch=patch,
            grid=224 // patch,
            **SIZES[size],
        )
        for size, patch in made
    ]


def _averaged() -> list[Network]:
    """Without a class token."""
    mean: dict[str, Any] = dict(class_token=False, pool="mean", **_HALF)
    return [
        _vit("vit_base_patch16_siglip_gap_224", timm_names(), **mean, **SIZES["base"]),
        _vit(
            "vit_base_patch16_reg4_gap_256",
            timm_names("fc_norm"),
            **mean,
            **SIZES["base"],
            grid=16,
            registers=4,
            norm_last=True,
        ),
    ]


def _dino() -> list[Network]:
    second: dict[str, Any] = dict(patch=14, grid=37, layer_scale=1e-5)
    third: dict[str, Any] = dict(
        grid=0, registers=4, pool="mean", qkv_bias=False, layer_scale=1e-5, epsilon=1e-5
    )
    rotary = timm_names(scale=r"gamma_(\d)")
    found = []
    for size in ("small", "base", "large", "giant"):
        options = second | SIZES[size] | ({"gate": "packed"} if size == "giant" else {})
        found += [
            _vit(f"vit_{size}_patch14_dinov2", timm_names(), **options),
            _vit(
                f"vit_{size}_patch14_reg4_dinov2",
                timm_names(),
                **options,
                registers=4,
                place_class=False,
            ),
        ]
    for size in ("small", "base", "large"):
        found.append(_vit(f"vit_{size}_patch16_dinov3", rotary, **third, **SIZES[size]))
    plus = third | SIZES["small"] | {"gate": "split"}
    return [*found, _vit("vit_small_plus_patch16_dinov3", rotary, **plus)]


def _clip() -> list[Network]:
    made = [("base", 32), ("base", 16), ("large", 14)]
    return [
        _vit(
            f"vit_{size}_patch{patch}_clip{act and '_quickgelu'}_224",
            timm_names() + open_clip_names() + hugging_face_names(),
            **_CLIP,
            patch=patch,
            grid=224 // patch,
            norm_first=True,
            epsilon=1e-5,
            activation="quick_gelu" if act else "gelu",
            **SIZES[size],
        )
        for size, patch in made
        for act in ("", "quick_gelu")
    ]


def _ours() -> list[Network]:
    """Return a network small enough to be trained from scratch in minutes, on images of 96 px."""
    small = dict(patch=8, width=96, depth=4, heads=4, hidden=192, grid=12)
    return [_vit("vit_tiny", timm_names(), **small)]


VITS = (*_ours(), *_plain(), *_averaged(), *_dino(), *_clip())
"""BioCLIP is vit_base_patch16_clip_224, BioCLIP 2 vit_large_patch14_clip_224; OpenAI's CLIPs are
the "quickgelu" ones."""
