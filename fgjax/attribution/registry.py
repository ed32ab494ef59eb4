"""The methods, and what is known of each: one `Method` at the foot of its file.

Every method is `method(model, images, targets, *, key, config) -> Attribution`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

from fgjax.attribution.common.types import Attribution
from fgjax.core.registry import LAST, Column, Registry

Need = Literal[
    "gradient", "descent", "features", "relus", "attention", "rules", "regions", "prompts", "steps"
]
"""What a method wants of a model beside logits:

gradient: that of its score by the image, or by its last feature map.
descent: gradients by masks of the image, for every step of an optimisation.
features: `features(images)` and `head(features)`.
attention: `attend(images, taps)`, a transformer's attention weights.
rules: `with_rules(…)`, the same model with rules of relevance in place of its layers' gradients.
relus: ReLUs that it can find and rewrite; inside a pmap it could not.
regions: parts that pixels belong to, `regions(images)`.
prompts: a prompt for each class, `features(images)` and `ask(features, tap)`.
steps: patches that are looked at step by step, `classify_patches(features)`, and the model as it
  is, so that each image's own patches can be given.
"""

OWN_NETWORKS: frozenset[Need] = frozenset({"regions", "prompts", "steps"})
"""What networks have that are made for a method: its map is read off their own parts, prompts or
steps."""


class Passes(NamedTuple):
    """Per image. A pass with its gradient is counted once, as `backward`; so the two are apart.

    Attributes:
      forward: images sent through the model without a gradient.
      backward: images sent through the model and back.
    """

    forward: int
    backward: int


Maps = Mapping[str, Any]
"""The maps of a method by name, `heatmap` among them, each `n h w` or `h w`."""


def no_variants(maps: Maps) -> dict[str, Any]:
    """Return nothing: the heat map is all the method says."""
    return {}


@dataclass(frozen=True)
class Method:
    """An attribution method, and what is known of it.

    Attributes:
      function: the method; its name is the method's.
      config: the dataclass of its settings.
      passes: `(config, height, width, channels) -> Passes`, the model passes for one image of that
        many pixels; where it may stop early, the most. What fills up a last, short chunk is not
        counted, nor is a pass through the head alone. `channels` are those of the model's last
        feature map.
      presets: published settings by name, each a dict of changes to the defaults. "default", the
        defaults themselves, is always there.
      needs: what it wants of a model, see `Need`.
      order: its place in lists.
      variants: of the maps of one run, those that are explanations by themselves, in [0, 1], by
        name: a comparison shows each beside the heat map.
    """

    function: Callable[..., Attribution]
    config: type
    passes: Callable[[Any, int, int, int], Passes]
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    needs: tuple[Need, ...] = ()
    order: int = LAST
    variants: Callable[[Maps], dict[str, Any]] = no_variants

    def __post_init__(self):
        if unknown := set(self.needs) - set(get_args(Need)):
            raise ValueError(f"needs={sorted(unknown)}: of {', '.join(get_args(Need))}")
        object.__setattr__(self, "presets", {"default": {}, **self.presets})

    @property
    def name(self) -> str:
        """The function's name."""
        return self.function.__name__


METHOD_ENTRIES: Registry[Method] = Registry(
    Method, "method", ["fgjax.attribution"], "fgjax.methods", lambda entry: entry.function
)
"""Name -> all that is known of a method."""

METHODS: Column[Callable[..., Attribution]] = Column(METHOD_ENTRIES, lambda entry: entry.function)
"""Name -> method."""

CONFIGS: Column[type] = Column(METHOD_ENTRIES, lambda entry: entry.config)
"""Name -> its settings."""

PRESETS: Column[Mapping[str, Mapping[str, Any]]] = Column(
    METHOD_ENTRIES, lambda entry: entry.presets
)
"""Name -> published settings by name, each a dict of changes to the defaults."""


def needs(method: str) -> tuple[Need, ...]:
    """Return what a method wants of a model, see `Need`."""
    return METHOD_ENTRIES.find(method).needs


def that_need(*wants: Need) -> list[str]:
    """Return the names of the methods that want at least one of these of a model."""
    return [name for name, entry in METHOD_ENTRIES.items() if set(wants) & set(entry.needs)]


def count_passes(method: str, config: Any, height: int, width: int, channels: int = 0) -> Passes:
    """Return the model passes of `METHODS[method]` for one image; see `Method.passes`."""
    return METHOD_ENTRIES.find(method).passes(config, height, width, channels)
