"""The networks, and what is known of each: one `Network` at the foot of its file."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import flax.linen as nn

from fgjax.core.registry import LAST, Registry
from fgjax.core.spelling import did_you_mean
from fgjax.models.names import Table

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Color = tuple[float, float, float]


class Trunk(NamedTuple):
    """Where region grouping cuts a network off.

    Attributes:
      stage: whose map is grouped.
      width: of the post block's bottlenecks.
      options: what the network is made with.
    """

    stage: str
    width: int
    options: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Network:
    """A network, and what it is made with.

    Attributes:
      name: in `model.name`.
      make: from `num_classes`, `padding`, `dtype` and `options` to a Linen module with
        `features`, `head` and `intermediates`.
      names: what torchvision and timm call its tensors; empty: no trained weights are read.
      also: files' other words for it.
      mean, std: what normalises an image, where the file of its weights does not say it.
      trunk: where region grouping cuts it off; None: it does not.
      stream: what it is made with to end in global average pooling and one linear layer.
      fits: of a network that is built on another one: on which.
      options: its other keywords, and the name of the option each is given.
      attributes: it can have an output for each attribute, and takes `attributes`.
      classifier: the class of its classifiers, where that offers more than `Classifier`.
      tokens: its `features` have tokens beside the grid.
      reads: from the shapes of a file's tensors, by our names, to what they say of how the
        network is made.
      order: its place in lists.
    """

    name: str
    make: Callable[..., nn.Module]
    names: Table = field(default_factory=list)
    also: tuple[str, ...] = ()
    mean: Color = IMAGENET_MEAN
    std: Color = IMAGENET_STD
    trunk: Trunk | None = None
    stream: Mapping[str, Any] = field(default_factory=dict)
    fits: Callable[[Any], bool] | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    attributes: bool = False
    classifier: Any = None
    tokens: bool = False
    reads: Callable[[Mapping[str, tuple[int, ...]]], dict[str, Any]] = lambda shapes: {}
    order: int = LAST


NETWORKS: Registry[Network] = Registry(
    Network,
    "network",
    ["fgjax.models.networks", "fgjax.models.composed"],
    "fgjax.networks",
    lambda entry: entry.make,
)
"""Name -> all that is known of a network."""


def stands_alone(network: Network) -> bool:
    """Return whether a network is not built on another one."""
    return network.fits is None


def has_last_map(network: Network) -> bool:
    """Return whether a network stands alone and its `features` are a map and nothing else."""
    return stands_alone(network) and not network.tokens


def choose(name: str, fits: Callable[[Network], bool]) -> Network:
    """Return the network called `name`, where it fits.

    Raises:
      ValueError: it does not, or there is none; with those that do, and the nearest of them.
    """
    known = [known for known, network in NETWORKS.items() if fits(network)]
    found = NETWORKS.find(name) if ":" in name else NETWORKS.get(name)
    if found is None or not fits(found):
        raise ValueError(f"one of {', '.join(known)}.{did_you_mean(name, known)}")
    return found
