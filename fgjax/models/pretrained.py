"""Trained weights from safetensors files, by the tables of their networks.

Nothing is pickled, and nothing is skipped in silence: missing, surplus and misshapen
tensors are all named in one error.
"""

import json
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import Array, Key
from safetensors import SafetensorError, safe_open

from fgjax.core.extras import extra
from fgjax.core.sniff import sniff_file
from fgjax.models.classifier import (
    Classifier,
    make_network,
    variable_shapes,
)
from fgjax.models.names import Table, rename
from fgjax.models.registry import IMAGENET_MEAN, IMAGENET_STD, NETWORKS

_CONVERT = (
    ". It is not opened, since reading it may run code. Where you trust it: python -c "
    "\"import torch, safetensors.torch as s; s.save_file(torch.load('FILE', weights_only=True), "
    "'FILE.safetensors')\""
)
Color = tuple[float, float, float]


def _architectures() -> dict[str, str]:
    """Return a file's word for its architecture -> ours."""
    known = {name: network for name, network in NETWORKS.items() if network.names}
    return {word: name for name, network in known.items() for word in (*network.also, name)}


def _place(name: str, tensor: np.ndarray, table: Table) -> tuple[str, np.ndarray] | None:
    """Return collection and path of a tensor, and the tensor in Flax's layout; None: not known."""
    path = rename(name, table)
    if not path:
        return None
    module, leaf = path.rsplit("/", 1)
    if leaf == "running_mean":
        return f"batch_stats/{module}/mean", tensor
    if leaf == "running_var":
        return f"batch_stats/{module}/var", tensor
    if leaf != "weight" or tensor.ndim not in (2, 4):
        return f"params/{module}/{'scale' if leaf == 'weight' else leaf}", tensor
    if module.startswith("dense"):
        # The first dense layer of a VGG sees a 7x7 map, flattened channels first or written
        # as a convolution; ours is flattened channels last.
        if tensor.ndim == 2 and tensor.shape[1] % 49 == 0 and module == "dense1":
            tensor = tensor.reshape(len(tensor), -1, 7, 7)
        if tensor.ndim == 4:
            tensor = tensor.transpose(0, 2, 3, 1).reshape(len(tensor), -1)
    if tensor.ndim == 4:  # O I H W -> H W I O; a depthwise kernel has I = 1
        return f"params/{module}/kernel", tensor.transpose(2, 3, 1, 0)
    return f"params/{module}/kernel", tensor.transpose(1, 0)


def find_weights(source: str | Path) -> tuple[Path, dict[str, Any]]:
    """Return a local safetensors file for `source`, and what the hub says of it.

    Args:
      source: a file (a `config.json` of timm's beside it counts), or a Hugging Face hub id
        `owner/name` whose `model.safetensors` (and `config.json`, where there is one) is fetched,
        or taken from the hub's cache.

    Raises:
      ValueError: there is no such file, or the hub cannot be reached or has no such model.
    """
    path = Path(source)
    if path.is_file():
        return path, _beside(path)
    if path.is_dir():
        raise ValueError(f"{source}: is a folder; give the .safetensors file in it")
    if not re.fullmatch(r"[A-Za-z0-9][\w-]*/[\w.-]+", str(source)) or path.suffix == ".safetensors":
        raise ValueError(f"{source}: no such file")
    return _from_hub(str(source))


def _beside(path: Path) -> dict[str, Any]:
    """Return what a config.json of timm's beside a file says; nothing where there is none."""
    try:
        held = json.loads(path.with_name("config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return held if isinstance(held, dict) and "pretrained_cfg" in held else {}


def _from_hub(name: str) -> tuple[Path, dict[str, Any]]:
    with extra("hub", f"{name}: a model of the Hugging Face hub"):  # slow to import
        from huggingface_hub import (
            get_hf_file_metadata,
            hf_hub_download,
            hf_hub_url,
            try_to_load_from_cache,
        )
        from huggingface_hub.errors import HfHubHTTPError

    weights = try_to_load_from_cache(name, "model.safetensors")
    if not isinstance(weights, str):
        try:
            # Asked first because a download without a network is tried for half a minute.
            get_hf_file_metadata(hf_hub_url(name, "model.safetensors"), timeout=5)
            weights = hf_hub_download(name, "model.safetensors")
        except (HfHubHTTPError, ValueError) as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ValueError(f"{name}: not to be had from the hub: {first}") from None
        except Exception as error:  # whatever the HTTP library of this version raises
            raise ValueError(
                f"{name}: no such file, and the Hugging Face hub cannot be reached from here "
                f"({type(error).__name__}). Fetch its model.safetensors elsewhere and give the file"
            ) from None
    about = try_to_load_from_cache(name, "config.json")
    try:
        about = about if isinstance(about, str) else hf_hub_download(name, "config.json")
        return Path(weights), json.loads(Path(about).read_text("utf-8"))
    except Exception:  # a model without one, or no network any more: the weights are enough
        return Path(weights), {}


def read_safetensors(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return all tensors of a safetensors file, as float32, and its metadata.

    Raises:
      ValueError: no such file, or not a safetensors file.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        with safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        if what := sniff_file(path):
            raise ValueError(f"{path}: {what}{_CONVERT if 'PyTorch' in what else ''}") from None
        raise ValueError(
            f"{path}: not a readable safetensors file ({error}). "
            "Other formats are not opened: convert with safetensors.torch.save_file"
        ) from None
    return {
        name: tensor.astype(np.float32) if jnp.issubdtype(tensor.dtype, jnp.floating) else tensor
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
    num_classes: int | None = None,
    key: Key[Array, ""] | None = None,
    size: int = 224,
    classes: tuple[str, ...] = (),
    dtype: Any = jnp.float32,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    padding: str | None = None,
    say: Callable[[str], None] = warnings.warn,
    note: Callable[[str], None] = lambda line: None,
) -> Classifier:
    """Return a classifier with trained weights from a safetensors file or the Hugging Face hub.

    What the file's metadata (timm's `pretrained_cfg` among it), a config.json beside the file or
    the hub's states is honoured: the architecture, the padding (`padding: same`; timm's `tf_…`)
    and the normalisation (`input: (rgb/255-0.5)/0.5 …`, `mean`, `std`). Without it, images are
    normalised as the architecture's weights usually want.

    Args:
      name: a key of `NETWORKS`; None takes the file's word for it.
      source: a .safetensors file with torchvision's or timm's parameter names, or a hub id
        such as `timm/resnet50.tv_in1k`.
      num_classes: outputs wanted; another count than the file's replaces the classifier by a
        fresh one, and `say` is told. None: the file's.
      key: of a fresh classifier. None: key 0.
      size, classes, dtype: see `Classifier` and `create_model`.
      mean, std: what normalises an image in [0, 1], whatever the file says. (): as it says.
      padding: "same" (TensorFlow's) or "symmetric" (PyTorch's). None: as the file says.
      note: is told what is assumed where neither says it.

    Raises:
      ValueError: the file cannot be read, the architecture is unknown, a tensor is
        missing, surplus or misshapen (all are listed), or a weight is not finite.
    """
    path, about = find_weights(source)
    tensors, metadata = read_safetensors(path)
    about = {"pretrained_cfg": {}} | about | _stated(metadata)
    if not isinstance(about["pretrained_cfg"], dict):
        about["pretrained_cfg"] = {}
    stated = str(about.get("architecture") or about["pretrained_cfg"].get("architecture") or "")
    tensorflow = stated.startswith("tf_")
    stated = stated.split(".")[0].removeprefix("tf_")
    words = _architectures()
    name = name or words.get(stated, stated)
    if not name:
        known = ", ".join(dict.fromkeys(words.values()))
        raise ValueError(f"{source} does not say its architecture: name it by model.name, {known}")
    if words.get(stated, name) != name:
        raise ValueError(f"{source} is a {words[stated]}, not a {name}")
    entry = NETWORKS.get(name)
    if entry is None or not entry.names:
        known = ", ".join(dict.fromkeys(words.values()))
        raise ValueError(f"model {name!r}: trained weights are read for {known}")
    table = entry.names
    placed, surplus = {}, []
    for tensor_name, tensor in tensors.items():
        if tensor_name.endswith("num_batches_tracked") or rename(tensor_name, table) == "":
            continue
        target = _place(tensor_name, tensor, table)
        if target is None:
            surplus.append(tensor_name)
        else:
            placed[target[0]] = (tensor_name, target[1])

    head = placed.get("params/classifier/bias")
    if head is None:
        raise ValueError(f"{source} has no classifier that {name} knows: is it another network?")
    told = str(about.get("padding") or ("same" if tensorflow else ""))
    told = told or ("symmetric" if about["pretrained_cfg"] else "")
    assumed = [] if padding or told else ["padding=symmetric"]
    padding = padding or ("same" if told == "same" else "symmetric")
    network = make_network(name, len(head[1]), padding=padding, dtype=dtype)
    shapes = traverse_util.flatten_dict(variable_shapes(network), sep="/")
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
    if num_classes not in (None, len(head[1])):
        say(
            f"{source}: its classifier of {len(head[1])} classes is replaced by a fresh one "
            f"of {num_classes}"
        )
        network = make_network(name, num_classes, padding=padding, dtype=dtype)
        variables |= _fresh_head(network, jax.random.key(0) if key is None else key)
    said = _normalisation(about)
    own = [_color("mean", mean), _color("std", std)]
    if not said and None in own:
        usual = "ImageNet's " if (entry.mean, entry.std) == (IMAGENET_MEAN, IMAGENET_STD) else ""
        pairs = [("mean", own[0], entry.mean), ("std", own[1], entry.std)]
        assumed[:0] = [f"{usual}{k}={_listed(v)}" for k, given, v in pairs if given is None]
    if assumed:
        note(
            f"{source} does not say how it wants its images; assumed: {', '.join(assumed)}. If "
            "its classes come out wrong: model.mean, model.std, model.padding=same"
        )
    of_mean, of_std = said or (entry.mean, entry.std)
    normal = own[0] or of_mean, own[1] or of_std
    variables = traverse_util.unflatten_dict(variables, sep="/")
    options = (("padding", padding),)
    return Classifier(variables, network, *normal, classes, size, name, options)


def _fresh_head(network: nn.Module, key: Key[Array, ""]) -> dict[str, Array]:
    shapes = traverse_util.flatten_dict(variable_shapes(network), sep="/")
    kernel = shapes["params/classifier/kernel"].shape
    return {
        "params/classifier/kernel": nn.initializers.lecun_normal()(key, kernel, jnp.float32),
        "params/classifier/bias": jnp.zeros(kernel[1], jnp.float32),
    }


def _stated(metadata: dict[str, str]) -> dict[str, Any]:
    """Return what a file's metadata says, timm's `pretrained_cfg` as a dict."""
    about: dict[str, Any] = dict(metadata)
    for word in ("pretrained_cfg", "config", "mean", "std"):
        try:
            about[word] = json.loads(metadata[word])
        except (KeyError, ValueError):
            about.pop(word, None)
    whole = about.pop("config", None)
    if isinstance(whole, dict):
        about = whole | about
    return about


def _normalisation(about: dict[str, Any]) -> tuple[Color, Color] | None:
    """Return mean and deviation per channel, as the file or the hub says; None: neither does."""
    half = (0.5, 0.5, 0.5)
    if "0.5)/0.5" in str(about.get("input", "")):
        return half, half
    for known in (about, about["pretrained_cfg"]):
        try:
            mean, std = (_color(word, known[word]) for word in ("mean", "std"))
        except (KeyError, TypeError, ValueError):
            continue
        if mean and std:
            return mean, std
    return None


def _color(word: str, values: Sequence[float]) -> Color | None:
    """Return three numbers; None of none.

    Raises:
      ValueError: they are not three finite numbers, or a deviation is not above 0.
    """
    if not len(values):
        return None
    found = tuple(float(value) for value in values)
    if len(found) != 3 or not np.isfinite(found).all() or (word == "std" and min(found) <= 0):
        raise ValueError(f"{word}={_listed(found)}: wants three numbers in [0, 1], as of RGB")
    return found


def _listed(values: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in values)
