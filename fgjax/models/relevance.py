"""Layers with rules of relevance in place of their gradients.

A network's input times its gradient shares a score out over the input, but for what biases,
normalisations, gates and attention add of their own. Each rule here changes a layer's gradient, and
nothing else, so that input times gradient is layer-wise relevance propagation. With x a layer's
input, z its output, R the relevance that comes back and g = R / z what stands for the gradient:

- a linear layer, ε:    R_i = Σ_j x_i w_ij R_j / (z_j + ε sign z_j)
- a linear layer, γ:    the same with w + γ w⁺ where x_i w_ij favours z_j's sign, in place of w
- an activation:        R passes as it is: g · f(x) / x
- a normalisation:      its deviation is a constant; so are a gate of squeeze and excitation, and
                        the norms of a response normalisation and of a cosine
- a product a · b:      half of R to each (attention's two matrix products, SwiGLU)
- softmax, sums, ReLU, pooling: the gradient is the rule.

References:
  Bach et al., On Pixel-Wise Explanations for Non-Linear Classifier Decisions by Layer-Wise
    Relevance Propagation, 2015 (ε).
  Montavon et al., Layer-Wise Relevance Propagation: An Overview, 2019 (γ, composites).
  Arras et al., Explaining and Interpreting LSTMs, 2019 (gates take none).
  Achtibat et al., AttnLRP: Attention-Aware Layer-Wise Relevance Propagation for Transformers, 2024
    (Propositions 3.1 softmax, 3.3 products, 3.4 normalisations; section 3.2.1 activations).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from fgjax.models.classifier import Classifier
from fgjax.models.folding import fold_batch_norm
from fgjax.models.networks.layers import Conv, DepthwiseConv
from fgjax.models.networks.tokens import Activation, Attend, Fixed, Patchify, Product

stop = jax.lax.stop_gradient
CONVOLUTIONS = (Conv, DepthwiseConv, Patchify)
LINEAR = (*CONVOLUTIONS, nn.Dense)


@dataclass(frozen=True)
class Rules:
    """How linear layers share out their relevance.

    Attributes:
      epsilon: what is added to a denominator, in the direction of its sign.
      conv_gamma, dense_gamma: how much more what favours an output's sign counts, in convolutions
        and in dense layers; 0: not more.
    """

    epsilon: float = 1e-6
    conv_gamma: float = 0.0
    dense_gamma: float = 0.0


@struct.dataclass
class Ruled:
    """A classifier of the same logits, whose gradients follow rules of relevance."""

    model: Classifier
    rules: Rules = struct.field(pytree_node=False)

    def __call__(self, images: Float[Array | np.ndarray, "n h w 3"]) -> Float[Array, "n k"]:
        """Return logits."""
        with nn.intercept_methods(partial(_by_rule, self.rules)):
            return self.model(images)


def with_rules(model: Classifier, rules: Rules) -> Ruled:
    """Return a classifier whose image, from the mean colour on, times gradient is its relevance.

    Batch normalisation is folded into the convolutions before it.
    """
    return Ruled(fold_batch_norm(model), rules)


def _by_rule(rules: Rules, call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
    module = context.module
    if context.method_name != "__call__" or not isinstance(module.parent, nn.Module):
        return call(*args, **kwargs)  # no layer of the network: the whole, or one a rule calls
    if isinstance(module, LINEAR):
        gamma = rules.conv_gamma if isinstance(module, CONVOLUTIONS) else rules.dense_gamma
        return _linear(module, args[0], call(*args, **kwargs), rules.epsilon, gamma)
    if isinstance(module, Fixed):
        return stop(call(*args, **kwargs))
    if isinstance(module, Activation):
        x, y = args[0], call(*args, **kwargs)
        zero = x == 0
        # At 0 the ratio's limit is the derivative, and every such x has relevance 0.
        return _towards(x * stop(jnp.where(zero, 1, y / jnp.where(zero, 1, x))), y)
    if isinstance(module, Product):
        return halved(jnp.multiply, *args)
    if isinstance(module, Attend):
        return module.clone(parent=None, product=halved)(*args, **kwargs)
    return call(*args, **kwargs)


def _towards(way: Array, value: Array) -> Array:
    """Return `value`, with the gradient of `way`."""
    return way + stop(value - way)


def halved(product: Callable, a: Array, b: Array) -> Array:
    """Return a product whose two factors are given half of the gradient each."""
    return (product(a, stop(b)) + product(stop(a), b)) / 2


def _away_from_zero(z: Array, epsilon: float) -> Array:
    z = z + jnp.where(z >= 0, epsilon, -epsilon).astype(z.dtype)
    return jnp.where(z == 0, 1, z)


def _linear(module: nn.Module, x: Array, z: Array, epsilon: float, gamma: float) -> Array:
    """Return the layer's output z, with the gradient that shares out its relevance."""
    params = module.variables["params"]
    bare = module.clone(parent=None)

    def layer(x, change):
        changed = {name: change(leaf) for name, leaf in params.items()}
        return bare.apply({"params": changed}, x)

    if gamma == 0:
        way = layer(x, lambda leaf: leaf)
        return _towards(way * stop(z / _away_from_zero(z, epsilon)), z)
    more = lambda leaf: leaf + gamma * jnp.maximum(leaf, 0)
    less = lambda leaf: leaf + gamma * jnp.minimum(leaf, 0)
    nothing = {name: jnp.zeros_like(leaf) for name, leaf in params.items() if name == "bias"}

    def both(for_positive, for_negative):
        """Of positive and negative inputs; the bias is counted with the first."""
        negative = bare.apply(
            {"params": {n: nothing.get(n, for_negative(leaf)) for n, leaf in params.items()}},
            jnp.minimum(x, 0),
        )
        return layer(jnp.maximum(x, 0), for_positive) + negative

    up, down = both(more, less), both(less, more)
    share = lambda way: way * stop(z / _away_from_zero(way, epsilon))
    return _towards(jnp.where(z >= 0, share(up), share(down)), z)
