"""A network together with its weights and its idea of a normalised image."""

from typing import TYPE_CHECKING, Any, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Key

from fgjax.core.features import Features
from fgjax.devices.jit import outermost
from fgjax.devices.placed import on_cpu
from fgjax.models.registry import IMAGENET_MEAN, IMAGENET_STD, NETWORKS
from fgjax.models.turned import with_turned_kernels


@struct.dataclass
class Classifier:
    """Images in [0, 1] -> logits. A pytree: its weights are arguments of every compiled step.

    What only some networks offer (parts, prototypes, patches) is offered by a subclass that
    stands with the network.

    Attributes:
      variables: Flax variables (params and batch statistics).
      network: the Linen module.
      mean, std: what normalises an image, per channel.
      classes: the name of each output; empty when unknown.
      size: side of the square images it was made for.
      name: of the architecture, a key of `NETWORKS`; empty for a network of another kind.
      options: what else `make_network` was given to make it, in plain values.
      temperature: T of its probabilities, softmax(logits / T); found on images that did not train
        it. It changes no logit, and so no heat map.
    """

    variables: Any
    network: nn.Module = struct.field(pytree_node=False)
    mean: tuple[float, float, float] = struct.field(pytree_node=False, default=IMAGENET_MEAN)
    std: tuple[float, float, float] = struct.field(pytree_node=False, default=IMAGENET_STD)
    classes: tuple[str, ...] = struct.field(pytree_node=False, default=())
    size: int = struct.field(pytree_node=False, default=224)
    name: str = struct.field(pytree_node=False, default="")
    options: tuple[tuple[str, Any], ...] = struct.field(pytree_node=False, default=())
    temperature: float = struct.field(pytree_node=False, default=1.0)

    if TYPE_CHECKING:  # what `struct.dataclass` adds

        def replace(self, **changes: Any) -> Self:
            """Return the same with other fields."""
            ...

    def _apply(self, *args: Any, method: str | None = None) -> Any:
        return self.network.apply(self.variables, *args, method=method)

    def normalise(self, images: Float[Array | np.ndarray, "n h w 3"]) -> Float[Array, "n h w 3"]:
        """Return (image - mean) / std."""
        mean = jnp.asarray(self.mean, images.dtype)[None, None, None]
        std = jnp.asarray(self.std, images.dtype)[None, None, None]
        return (jnp.asarray(images) - mean) / std

    def __call__(self, images: Float[Array | np.ndarray, "n h w 3"]) -> Float[Array, "n k"]:
        """Return logits, float32."""
        return self._apply(self.normalise(images))

    def probabilities(self, images: Float[Array | np.ndarray, "n h w 3"]) -> Float[Array, "n k"]:
        """Return how sure it is of each class, with its temperature."""
        return jax.nn.softmax(self(images) / self.temperature)

    def features(
        self, images: Float[Array | np.ndarray, "n h w 3"]
    ) -> Float[Array, "n H W d"] | Features:
        """Return the last grid that is mixed with what the head reads: the last map, and of a
        transformer the other tokens too. `head(features(images))` equals the logits."""
        return self._apply(self.normalise(images), method="features")

    def head(self, features: Float[Array, "n H W d"] | Features) -> Float[Array, "n k"]:
        """Return logits of what `features` gave."""
        return self._apply(features, method="head")

    def for_gradients(self) -> "Classifier":
        """Return the classifier as it is faster to take many gradients by the image of: the same
        logits and gradients. Its weights must not be changed."""
        return self.replace(variables=with_turned_kernels(self.variables))

    def with_rules(
        self, epsilon: float = 1e-6, conv_gamma: float = 0.0, dense_gamma: float = 0.0
    ) -> Any:
        """Return a model of the same logits whose gradients follow rules of relevance, see
        `fgjax.models.relevance`."""
        from fgjax.models.relevance import Rules, with_rules  # that knows this class

        return with_rules(self, Rules(epsilon, conv_gamma, dense_gamma))

    def intermediates(
        self, images: Float[Array | np.ndarray, "n h w 3"]
    ) -> dict[str, Float[Array, "n ..."]]:
        """Return every stage's output, by name."""
        return self._apply(self.normalise(images), method="intermediates")


def make_network(name: str, num_classes: int, **options: Any) -> nn.Module:
    """Return the Linen module called `name` (see `NETWORKS`).

    Raises:
      ValueError: an unknown name, with the nearest known one.
    """
    try:
        network = NETWORKS.find(name)
    except ValueError as error:
        raise ValueError(f"no network is called {name!r}: {error}") from None
    return network.make(num_classes=num_classes, **options)


def classifier_of(name: str) -> type[Classifier]:
    """Return the class of a network's classifiers: what offers what only such networks have."""
    return NETWORKS.find(name).classifier or Classifier


def variable_shapes(network: nn.Module) -> Any:
    """Return the shapes of a network's variables, without computing any."""
    return jax.eval_shape(network.init, jax.random.key(0), _any_image(network))


def _any_image(network: nn.Module) -> Array:
    """Return an image that a network can be initialised with: variables do not depend on its size,
    and 96 px, or the next multiple of a patch, is enough for every network here."""
    patch = getattr(network, "patch", 96)
    side = -(-96 // patch) * patch
    return jnp.zeros((1, side, side, 3), jnp.float32)


def check_size(network: nn.Module, size: int, name: str) -> None:
    """Raise ValueError where images of a size are not filled by a network's patches."""
    patch = getattr(network, "patch", 1)
    if size % patch or size < patch:
        near = max(patch, round(size / patch) * patch)
        raise ValueError(
            f"{name} has patches of {patch} px: a size of {size} is no multiple of that; {near} is"
        )


def native_size(network: nn.Module) -> int:
    """Return the side of the images a network's positions were learned for; else 224."""
    return getattr(network, "grid", 0) * getattr(network, "patch", 0) or 224


def create_model(
    name: str,
    num_classes: int,
    *,
    key: Key[Array, ""] | None = None,
    size: int = 224,
    classes: tuple[str, ...] = (),
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    **options: Any,
) -> Classifier:
    """Return a classifier with fresh weights.

    Args:
      name: a key of `NETWORKS`.
      num_classes: outputs.
      key: of the weights; the same key gives the same weights. None: key 0.
      size: side of the images it is meant for; a transformer learns positions for these.
      options: passed to the network: `padding`, `dtype`, and what its kind takes besides.

    Raises:
      ValueError: an unknown name, or a size that the network's patches do not fill.

    Example:
      >>> model = create_model("resnet_tiny", 10, size=32)
      >>> jax.jit(lambda model, images: model(images))(model, jnp.zeros((1, 32, 32, 3))).shape
      (1, 10)
    """
    network = make_network(name, num_classes, **options)
    check_size(network, size, name)
    if getattr(network, "grid", 0) and "grid" not in options:
        options["grid"] = size // network.patch
        network = network.clone(grid=options["grid"])
    key = jax.random.key(0) if key is None else key
    # On a CPU, LLVM optimises the drawing of every kernel by itself: three to nine times the wait
    # (ResNet-18: 11 s for 2), for a program that runs once. Weights differ in the last bit.
    quick = outermost() and on_cpu()
    unpolished = {"xla_backend_optimization_level": 0} if quick else {}
    draw = jax.jit(network.init, compiler_options=unpolished or None)
    variables = draw(key, _any_image(network))
    kept = tuple((k, v) for k, v in options.items() if k != "dtype")
    return classifier_of(name)(variables, network, mean, std, classes, size, name, kept)
