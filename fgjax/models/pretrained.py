"""Trained weights from safetensors files, by the tables of their networks.

Nothing is pickled, and nothing is skipped in silence: missing, surplus and misshapen
tensors are all named in one error.
"""

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

from fgjax.core.spelling import did_you_mean
from fgjax.models.classifier import (
    Classifier,
    check_size,
    classifier_of,
    make_network,
    native_size,
    variable_shapes,
)
from fgjax.models.names import Table, rename
from fgjax.models.registry import NETWORKS
from fgjax.models.stated import normalisation, read_metadata, stated_classes, stated_options
from fgjax.models.texts import read_texts
from fgjax.models.weight_files import find_weights, read_safetensors


def _architectures() -> dict[str, str]:
    """Return a file's word for its architecture -> ours."""
    known = {name: network for name, network in NETWORKS.items() if network.names}
    return {word: name for name, network in known.items() for word in (*network.also, name)}


def _place(name: str, tensor: np.ndarray, table: Table) -> tuple[str, np.ndarray] | None:
    """Return collection and path of a tensor, and the tensor in Flax's layout; None: not known."""
    path, _, mark = (rename(name, table) or "").partition(":")
    if not path:
        return None
    module, _, leaf = path.rpartition("/")
    part = f":{mark}" if mark.isdigit() else ""  # of a tensor that the file holds in parts
    if leaf in STATISTICS:
        return f"batch_stats/{module}/{STATISTICS[leaf]}", tensor
    if leaf != "weight":
        return f"params/{path}{part}", tensor.T if mark == "T" else tensor
    if tensor.ndim not in (2, 4):
        return f"params/{module}/scale{part}", tensor
    if module.startswith("dense"):
        # The first dense layer of a VGG sees a 7x7 map, flattened channels first or written
        # as a convolution; ours is flattened channels last.
        if tensor.ndim == 2 and tensor.shape[1] % 49 == 0 and module == "dense1":
            tensor = tensor.reshape(len(tensor), -1, 7, 7)
        if tensor.ndim == 4:
            tensor = tensor.transpose(0, 2, 3, 1).reshape(len(tensor), -1)
    if tensor.ndim == 4:  # O I H W -> H W I O; a depthwise kernel has I = 1
        return f"params/{module}/kernel{part}", tensor.transpose(2, 3, 1, 0)
    return f"params/{module}/kernel{part}", tensor.transpose(1, 0)


STATISTICS = {"running_mean": "mean", "running_var": "var"}
"""PyTorch's words for what a batch normalisation remembers -> Flax's."""

Placed = dict[str, tuple[str, np.ndarray]]
"""Our path of a tensor -> its name in the file, and the tensor."""


def _place_all(tensors: dict[str, np.ndarray], table: Table) -> tuple[Placed, list[str]]:
    """Return the tensors by our paths, and the names that no pattern knows."""
    placed: Placed = {}
    surplus = []
    for name, tensor in tensors.items():
        if name.endswith("num_batches_tracked") or rename(name, table) == "":
            continue
        target = _place(name, tensor, table)
        if target is None:
            surplus.append(name)
        else:
            placed[target[0]] = (name, target[1])
    for path in [path for path in placed if path.endswith(":0")]:
        whole = path.removesuffix(":0")
        parts: list[tuple[str, np.ndarray]] = []
        while (part := f"{whole}:{len(parts)}") in placed:
            parts.append(placed.pop(part))
        placed[whole] = (parts[0][0], np.concatenate([tensor for _, tensor in parts], axis=-1))
    return placed, surplus


def _as_ours(tensor: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return a tensor that differs from ours by leading axes of length 1 in our shape."""
    strip = lambda shape: shape[next((i for i, n in enumerate(shape) if n != 1), len(shape)) :]
    return tensor.reshape(shape) if strip(tensor.shape) == strip(shape) else tensor


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
    size: int | None = None,
    classes: tuple[str, ...] = (),
    texts: str | Path | None = None,
    dtype: Any = jnp.float32,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    padding: str | None = None,
    say: Callable[[str], None] = warnings.warn,
    note: Callable[[str], None] = lambda line: None,
    **options: Any,
) -> Classifier:
    """Return a classifier with trained weights from a safetensors file or the Hugging Face hub.

    What the file's metadata (timm's `pretrained_cfg` among it), a config.json beside the file or
    the hub's states is honoured: the architecture, the padding (`padding: same`; timm's `tf_…`),
    the normalisation (`input: (rgb/255-0.5)/0.5 …`, `mean`, `std`), and what `save_pretrained`
    writes besides. Without it, images are normalised as the architecture's weights usually want.

    Args:
      name: a key of `NETWORKS`; None takes the file's word for it.
      source: a .safetensors file with torchvision's or timm's parameter names, of a CLIP also
        with open_clip's or transformers', or a hub id such as `timm/resnet50.tv_in1k`.
      num_classes: outputs wanted; another count than the file's replaces the classifier by a
        fresh one, and `say` is told. None: the file's.
      key: of a fresh classifier. None: key 0.
      size: side of the images it is meant for. None: what the file says, or the network was made
        for, or 224.
      classes: see `Classifier`.
      texts: of a CLIP: a file with an embedding of each class's text, see `read_texts`; the
        logits are then the scaled cosines to them.
      mean, std: what normalises an image in [0, 1], whatever the file says. (): as it says.
      padding: "same" (TensorFlow's) or "symmetric" (PyTorch's). None: as the file says.
      note: is told what is assumed where neither says it.
      dtype, options: see `create_model`.

    Raises:
      ValueError: the file cannot be read, the architecture is unknown, a tensor is
        missing, surplus or misshapen (all are listed), or a weight is not finite.
    """
    path, about = find_weights(source)
    tensors, metadata = read_safetensors(path)
    about = {"pretrained_cfg": {}} | about | read_metadata(metadata)
    if not isinstance(about["pretrained_cfg"], dict):
        about["pretrained_cfg"] = {}
    stated = str(about.get("architecture") or about["pretrained_cfg"].get("architecture") or "")
    name = _name_of(name, source, stated.split(".")[0])
    entry = NETWORKS[name]
    placed, surplus = _place_all(tensors, entry.names)
    if texts is not None:
        classes = _place_texts(placed, texts, source) or classes
    count = _count_classes(placed)
    if count is None and num_classes is None:
        raise ValueError(
            f"{source} has no classifier that {name} knows: is it another network? Where it only "
            "has features, num_classes says how many outputs a fresh classifier gets; of a CLIP, "
            "texts gives the embeddings of the classes' texts"
        )
    fresh = num_classes not in (None, count)
    if fresh:
        placed = {p: found for p, found in placed.items() if not p.startswith(f"{HEAD}/")}
    shapes = {path: tensor.shape for path, (_, tensor) in placed.items()}
    given = {**stated_options(metadata), **entry.reads(shapes), **options}
    told = str(about.get("padding") or ("same" if stated.startswith("tf_") else ""))
    told = told or ("symmetric" if about["pretrained_cfg"] or "padding" in given else "")
    assumed = [] if padding or told else ["padding=symmetric"]
    padding = padding or given.get("padding") or ("same" if told == "same" else "symmetric")
    try:
        default = make_network(name, 1)
        options = {k: v for k, v in given.items() if getattr(default, k, None) != v}
        options |= {"padding": padding}
        outputs = (num_classes if fresh else count) or 1
        network = make_network(name, outputs, dtype=dtype, **options)
        wanted = traverse_util.flatten_dict(variable_shapes(network), sep="/")
    except TypeError as error:
        raise ValueError(f"{source} does not fit {name}: {error}") from None
    if fresh:
        wanted = {path: shape for path, shape in wanted.items() if not path.startswith(HEAD)}
    variables = _fitting(placed, surplus, wanted, source, name)
    if fresh:
        say(
            f"{source} has no classifier: {name} gets a fresh one of {num_classes} classes"
            if count is None
            else f"{source}: its classifier of {count} classes is replaced by a fresh one of "
            f"{num_classes}"
        )
        variables |= _fresh_head(network, jax.random.key(0) if key is None else key)
    normal, unsaid = normalisation(entry, about, mean, std)
    if assumed := unsaid + assumed:
        note(
            f"{source} does not say how it wants its images; assumed: {', '.join(assumed)}. If "
            "its classes come out wrong: model.mean, model.std, model.padding=same"
        )
    classes = classes or stated_classes(metadata, network.num_classes)
    side = metadata.get("size", "")
    size = size or (int(side) if side.isdigit() else native_size(network))
    check_size(network, size, name)
    _say_resampled(network, size, source, say)
    return classifier_of(name)(
        traverse_util.unflatten_dict(variables, sep="/"), network, *normal, classes, size, name,
        tuple(options.items()),
    )  # fmt: skip


HEAD = "params/classifier"


def _name_of(name: str | None, source: Any, stated: str) -> str:
    """Return the key of `NETWORKS` for what is asked for, or what the file says."""
    words = _architectures()
    if stated not in words:
        stated = stated.removeprefix("tf_")
    name = name or words.get(stated, stated)
    if not name:
        known = ", ".join(dict.fromkeys(words.values()))
        raise ValueError(f"{source} does not say its architecture: name it by model.name, {known}")
    if words.get(stated, name) != name:
        raise ValueError(f"{source} is a {words[stated]}, not a {name}")
    entry = NETWORKS.get(name)
    if entry is None or not entry.names:
        known = ", ".join(dict.fromkeys(words.values()))
        raise ValueError(
            f"model {name!r}: trained weights are read for {known}.{did_you_mean(name, words)}"
        )
    return name


def _count_classes(placed: Placed) -> int | None:
    """Return how many classes the file's classifier tells apart; None: it has none."""
    for path in (f"{HEAD}/bias", f"{HEAD}/kernel"):
        if path in placed:
            return placed[path][1].shape[-1]
    return None


def _place_texts(placed: Placed, texts: str | Path, source: Any) -> tuple[str, ...]:
    """Put the texts' embeddings in the classifier's place, and return what the file calls them.

    Raises:
      ValueError: the file is no CLIP, or its space has another width than the texts'.
    """
    embeddings, classes = read_texts(texts)
    projection = placed.get(f"{HEAD}/projection")
    head, bias = placed.pop(f"{HEAD}/kernel", None), placed.pop(f"{HEAD}/bias", None)
    if projection is None and head is not None and (bias is None or not bias[1].any()):
        projection = placed[f"{HEAD}/projection"] = head  # as timm keeps a CLIP's
    if projection is None:
        raise ValueError(
            f"{source} has no projection into a space of texts: texts go with a CLIP, whose file "
            "has visual.proj or visual_projection"
        )
    width = projection[1].shape[-1]
    if embeddings.shape[1] != width:
        raise ValueError(
            f"{texts}: embeddings of {embeddings.shape[1]} numbers; {source} has a space of "
            f"{width}: were they made with another CLIP?"
        )
    placed[f"{HEAD}/kernel"] = (str(texts), embeddings.T)
    placed.setdefault(f"{HEAD}/logit_scale", ("", np.array(np.log(100), np.float32)))
    return classes


def _fitting(
    placed: Placed, surplus: list[str], shapes: dict[str, Any], source: Any, name: str
) -> dict[str, Array | np.ndarray]:
    """Return the variables, once each is there, fits and is finite.

    Raises:
      ValueError: they do not; all that is wrong is named.
    """
    placed = {
        path: (theirs, _as_ours(tensor, shapes[path].shape) if path in shapes else tensor)
        for path, (theirs, tensor) in placed.items()
    }
    missing = [path for path in shapes if path not in placed]
    surplus = surplus + [placed[path][0] for path in placed if path not in shapes]
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
    return {path: jnp.asarray(placed[path][1]) for path in shapes}


def _say_resampled(network: nn.Module, size: int, source: Any, say: Callable[[str], None]) -> None:
    """Tell, once, that positions were learned for images of another size."""
    grid, patch = getattr(network, "grid", 0), getattr(network, "patch", 1)
    if grid and size // patch != grid:
        say(
            f"{source}: position embeddings of {grid} x {grid} patches are resampled to "
            f"{size // patch} x {size // patch} (bicubic, antialiased) for images of {size} px"
        )


def _fresh_head(network: nn.Module, key: Key[Array, ""]) -> dict[str, Array]:
    shapes = traverse_util.flatten_dict(variable_shapes(network), sep="/")
    kernel = shapes["params/classifier/kernel"].shape
    return {
        "params/classifier/kernel": nn.initializers.lecun_normal()(key, kernel, jnp.float32),
        "params/classifier/bias": jnp.zeros(kernel[1], jnp.float32),
    }
