"""Trained weights from safetensors files, by tables of names.

A table is a list of (pattern, replacement): the first pattern that matches a tensor's
whole name says where it goes. Nothing is pickled, and nothing is skipped in silence:
missing, surplus and misshapen tensors are all named in one error.
"""

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from safetensors import SafetensorError, safe_open

from fgjax.models.classifier import IMAGENET_MEAN, IMAGENET_STD, Classifier, make_network

NAMES: dict[str, list[tuple[str, str]]] = {
    "mobilenet_v2": [
        (r"conv_stem\.(.*)", r"stem/\1"),
        (r"bn1\.(.*)", r"stem_norm/norm/\1"),
        (r"blocks\.0\.0\.conv_dw\.(.*)", r"blocks_0_0/depthwise/\1"),
        (r"blocks\.0\.0\.bn1\.(.*)", r"blocks_0_0/depthwise_norm/norm/\1"),
        (r"blocks\.0\.0\.conv_pw\.(.*)", r"blocks_0_0/project/\1"),
        (r"blocks\.0\.0\.bn2\.(.*)", r"blocks_0_0/project_norm/norm/\1"),
        (r"blocks\.(\d+)\.(\d+)\.conv_pw\.(.*)", r"blocks_\1_\2/expand/\3"),
        (r"blocks\.(\d+)\.(\d+)\.bn1\.(.*)", r"blocks_\1_\2/expand_norm/norm/\3"),
        (r"blocks\.(\d+)\.(\d+)\.conv_dw\.(.*)", r"blocks_\1_\2/depthwise/\3"),
        (r"blocks\.(\d+)\.(\d+)\.bn2\.(.*)", r"blocks_\1_\2/depthwise_norm/norm/\3"),
        (r"blocks\.(\d+)\.(\d+)\.conv_pwl\.(.*)", r"blocks_\1_\2/project/\3"),
        (r"blocks\.(\d+)\.(\d+)\.bn3\.(.*)", r"blocks_\1_\2/project_norm/norm/\3"),
        (r"conv_head\.(.*)", r"last/\1"),
        (r"bn2\.(.*)", r"last_norm/norm/\1"),
        (r"classifier\.(.*)", r"classifier/\1"),
    ],
    "resnet": [
        (r"conv1\.(.*)", r"stem/\1"),
        (r"bn1\.(.*)", r"stem_norm/norm/\1"),
        (r"layer1\.(\d+)\.(.*)", r"blocks_0_\1.\2"),
        (r"layer2\.(\d+)\.(.*)", r"blocks_1_\1.\2"),
        (r"layer3\.(\d+)\.(.*)", r"blocks_2_\1.\2"),
        (r"layer4\.(\d+)\.(.*)", r"blocks_3_\1.\2"),
        (r"(blocks_\d_\d+)\.conv(\d)\.(.*)", r"\1/conv\2/\3"),
        (r"(blocks_\d_\d+)\.bn(\d)\.(.*)", r"\1/norm\2/norm/\3"),
        (r"(blocks_\d_\d+)\.downsample\.0\.(.*)", r"\1/shortcut/\2"),
        (r"(blocks_\d_\d+)\.downsample\.1\.(.*)", r"\1/shortcut_norm/norm/\2"),
        (r"fc\.(.*)", r"classifier/\1"),
    ],
}
"""torchvision's and timm's names -> ours, for each family. A result that still has a dot
goes through the table once more."""

ARCHITECTURES = {"mobilenetv2_100": "mobilenet_v2"}
"""A file's `architecture` -> our name, where they differ."""


def _family(name: str) -> str:
    return "resnet" if name.startswith("resnet") else name


def rename(name: str, table: list[tuple[str, str]]) -> str | None:
    """Where the tensor `name` goes, as `module/…/tensor`; None when no pattern knows it."""
    for pattern, replacement in table:
        if match := re.fullmatch(pattern, name):
            return match.expand(replacement)
    return None


def _place(name: str, tensor: np.ndarray, table) -> tuple[str, np.ndarray] | None:
    """Collection and path of a tensor, and the tensor in Flax's layout."""
    path = rename(name, table)
    if path is not None and "." in path:
        path = rename(path, table) or path
    if path is None or "/" not in path:
        return None
    module, leaf = path.rsplit("/", 1)
    if leaf == "running_mean":
        return f"batch_stats/{module}/mean", tensor
    if leaf == "running_var":
        return f"batch_stats/{module}/var", tensor
    if leaf == "weight" and tensor.ndim == 4:  # O I H W -> H W I O; depthwise has I = 1
        return f"params/{module}/kernel", tensor.transpose(2, 3, 1, 0)
    if leaf == "weight" and tensor.ndim == 2:
        return f"params/{module}/kernel", tensor.transpose(1, 0)
    return f"params/{module}/{'scale' if leaf == 'weight' else leaf}", tensor


def read_safetensors(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """All tensors of a safetensors file, as float32, and its metadata.

    Raises:
      ValueError: no such file, or not a safetensors file.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"model.weights={path}: no such file")
    try:
        with safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"model.weights={path}: not a readable safetensors file ({error}). "
            "Other formats are not opened: convert with safetensors.torch.save_file"
        ) from None
    return {
        name: tensor.astype(np.float32) if tensor.dtype.kind == "f" else tensor
        for name, tensor in tensors.items()
    }, metadata


def _listing(title: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return [f"  {title}: {', '.join(names[:8])}{more}"]


def load_pretrained(
    name: str | None,
    source: str | Path,
    *,
    size: int = 224,
    classes: tuple[str, ...] = (),
    dtype: Any = jnp.float32,
) -> Classifier:
    """A classifier with trained weights from a safetensors file.

    The file's metadata, where it has any, says the architecture (`architecture`), the
    padding (`padding: same`) and the normalisation (`input: (rgb/255-0.5)/0.5 …`).

    Args:
      name: a key of `NETWORKS`; None takes the file's word for it.
      source: a .safetensors file with torchvision's or timm's parameter names.
      size, classes, dtype: see `Classifier` and `create_model`.

    Raises:
      ValueError: the file cannot be read, the architecture is unknown, a tensor is
        missing, surplus or misshapen (all are listed), or a weight is not finite.
    """
    tensors, metadata = read_safetensors(source)
    stated = metadata.get("architecture")
    name = name or ARCHITECTURES.get(stated, stated)
    if name is None:
        raise ValueError(f"{source} does not say its architecture: give model.name")
    family = _family(name)
    if family not in NAMES:
        raise ValueError(f"model.name={name!r}: trained weights are read for {', '.join(NAMES)}")
    placed, surplus = {}, []
    for tensor_name, tensor in tensors.items():
        if tensor_name.endswith("num_batches_tracked"):
            continue
        target = _place(tensor_name, tensor, NAMES[family])
        if target is None:
            surplus.append(tensor_name)
        else:
            placed[target[0]] = (tensor_name, target[1])

    head = placed.get("params/classifier/bias")
    if head is None:
        raise ValueError(f"{source} has no classifier that {name} knows: is it another network?")
    padding = {"same": "same"}.get(metadata.get("padding", ""), "symmetric")
    network = make_network(name, len(head[1]), padding=padding, dtype=dtype)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    shapes = traverse_util.flatten_dict(shapes, sep="/")
    missing = [path for path in shapes if path not in placed]
    surplus += [placed[path][0] for path in placed if path not in shapes]
    misshapen = [
        f"{placed[path][0]} {placed[path][1].shape} instead of {shape.shape}"
        for path, shape in shapes.items()
        if path in placed and placed[path][1].shape != shape.shape
    ]
    if missing or surplus or misshapen:
        lines = [f"{source} does not fit {name}:"]
        lines += _listing("missing", missing) + _listing("not ours", surplus)
        raise ValueError("\n".join(lines + _listing("another shape", misshapen)))
    broken = [placed[path][0] for path in shapes if not np.isfinite(placed[path][1]).all()]
    if broken:
        lines = [f"{source} holds weights that are NaN or infinite:", *_listing("in", broken)]
        raise ValueError("\n".join(lines))

    variables = {path: jnp.asarray(placed[path][1]) for path in shapes}
    half = "0.5)/0.5" in metadata.get("input", "")
    mean, std = ((0.5,) * 3, (0.5,) * 3) if half else (IMAGENET_MEAN, IMAGENET_STD)
    variables = traverse_util.unflatten_dict(variables, sep="/")
    return Classifier(variables, network, mean, std, classes, size)
