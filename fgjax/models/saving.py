"""A classifier's weights as a safetensors file, by the names that timm knows."""

import json
from pathlib import Path

import numpy as np
from flax import traverse_util
from safetensors.numpy import save_file

from fgjax.models.classifier import Classifier
from fgjax.models.names import names_of
from fgjax.models.pretrained import STATISTICS
from fgjax.models.registry import NETWORKS


def save_pretrained(model: Classifier, file: str | Path) -> None:
    """Write a classifier's weights with timm's names; `load_pretrained(None, file)` reads them back
    exactly.

    Networks that are called as timm calls them are read by timm, too:
    `timm.create_model(name, num_classes=…, checkpoint_path=file)`. The metadata says the
    architecture, what normalises an image, the image size and the names of the classes.

    Args:
      model: of a network that stands alone; one whose batch normalisation is not folded.
      file: `.safetensors`; written anew where it is there already.

    Raises:
      ValueError: a network that timm does not have, another kind of model, or another suffix.
    """
    file = Path(file)
    if file.suffix != ".safetensors":
        raise ValueError(f"{file}: the file's name ends with .safetensors")
    entry = NETWORKS.get(getattr(model, "name", ""))
    if entry is None or not entry.names:
        known = ", ".join(name for name, network in NETWORKS.items() if network.names)
        raise ValueError(
            f"{getattr(model, 'name', '') or type(model).__name__}: timm has no such network, so "
            f"its tensors have no names there; {known} are written. A run's checkpoint keeps any"
        )
    variables = traverse_util.flatten_dict(model.variables, sep="/")
    ours = {_as_in_tables(path): path for path in variables}
    tensors = {
        theirs: _as_theirs(ours[path], np.asarray(variables[ours[path]]), theirs)
        for path, theirs in names_of(ours, entry.names).items()
    }
    metadata = {
        "format": "pt",
        "architecture": model.name,
        "padding": str(getattr(model.network, "padding", "symmetric")),
        "mean": json.dumps(model.mean),
        "std": json.dumps(model.std),
        "size": str(model.size),
        "classes": json.dumps(model.classes),
        "options": json.dumps({k: v for k, v in model.options if k != "padding"}),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    partly = file.with_name(f".{file.name}.part")
    save_file(tensors, partly, metadata)
    partly.replace(file)


def _as_in_tables(path: str) -> str:
    """Return a variable's path as tables of names have it: by PyTorch's word for the tensor."""
    collection, _, path = path.partition("/")
    module, _, leaf = path.rpartition("/")
    if collection == "batch_stats":
        leaf = {ours: theirs for theirs, ours in STATISTICS.items()}[leaf]
    elif leaf in ("kernel", "scale"):
        leaf = "weight"
    return f"{module}/{leaf}" if module else leaf


def _as_theirs(path: str, tensor: np.ndarray, name: str) -> np.ndarray:
    """Return a tensor in PyTorch's layout."""
    if path.endswith("/kernel"):
        if name.startswith("pre_logits."):  # timm writes a VGG's dense layers as convolutions
            side = 7 if "fc1" in name else 1
            tensor = tensor.reshape(side, side, -1, tensor.shape[-1])
        tensor = tensor.transpose(3, 2, 0, 1) if tensor.ndim == 4 else tensor.T
    return np.ascontiguousarray(tensor)
