"""A composed network whose trunk starts from a trained classifier's weights."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
from flax import traverse_util
from jaxtyping import Array, Key

from fgjax.models.classifier import Classifier, create_model
from fgjax.models.pretrained import load_pretrained
from fgjax.models.registry import NETWORKS

TRUNK = "trunk"
"""The module of a composed network that is another network, cut off somewhere."""
TRUNKS = (TRUNK, "global_stream", "local_stream")
"""Modules that start from the weights of a whole network; a two-stream network has two."""
HEAD = "classifier"


def load_trunk(
    name: str,
    source: str | Path,
    num_classes: int,
    *,
    backbone: str,
    key: Key[Array, ""] | None = None,
    size: int = 224,
    classes: tuple[str, ...] = (),
    dtype: Any = jnp.float32,
    say: Callable[[str], None] = warnings.warn,
    read: Mapping[str, Any] = MappingProxyType({}),
    **options: Any,
) -> Classifier:
    """`create_model(name, …)` with the trunk's weights, padding and normalisation of a file.

    Args:
      name: a composed network, such as region_grouping.
      source: as for `load_pretrained`: weights of a whole `backbone`. `say` is told which of its
        layers the network does not have.
      read: what else `load_pretrained` is told of the file.
      options: what else the network takes.

    Raises:
      ValueError: as `load_pretrained`, or a network without a trunk.
    """
    tokens = NETWORKS.find(backbone).tokens
    if tokens:  # a file of a transformer need not have the classifier, which is not wanted here
        read = {"num_classes": num_classes, "say": lambda line: None} | dict(read)
    whole = load_pretrained(backbone, source, dtype=dtype, **read)
    made = dict(whole.options)
    if tokens:
        made.pop("embedding", None)  # of the classifier
        options |= {"grid": made.pop("grid")} if "grid" in made else {}
    if other := [option for option in made if option != "padding"]:
        raise ValueError(
            f"{source}: {backbone} is made otherwise than usual there ({', '.join(other)}); "
            "a trunk is made as usual"
        )
    model = create_model(
        name, num_classes, key=key, size=size, classes=classes, mean=whole.mean, std=whole.std,
        backbone=backbone, padding=made["padding"], **options, dtype=dtype,
    )  # fmt: skip
    if not set(TRUNKS) & set(model.variables["params"]):
        raise ValueError(f"{name} has no trunk to take weights for: give no weights to start from")
    trained = traverse_util.flatten_dict(whole.variables)
    variables, used = traverse_util.flatten_dict(model.variables), set()
    for path in variables:
        if path[1] in TRUNKS and path[2] != HEAD:
            own = (path[0], *path[2:])
            variables[path] = trained[own]
            used.add(own)
    left = dict.fromkeys(path[1] for path in trained if path not in used)
    if left:
        say(
            f"{source}: {name} has no {', '.join(left)} of {backbone}; new layers stand in their "
            "place"
        )
    return model.replace(variables=traverse_util.unflatten_dict(variables))
