"""Looking longer: stacked LSTMs over one feature vector, and attention over their steps.

The recurrence sees features only. The convolutional network that makes them runs once; no
convolution is repeated (XLA's CPU backend runs one inside a scan many times slower).

References:
  Shroff, Search for Finer Attention Details for Fine-Grained Image Classification, 2020
    (Shroff et al., Focus Longer to See Better, 2020), sections 3.1.3.2, 6 and 7.
  Mott et al., Towards Interpretable Reinforcement Learning Using Attention Augmented Agents,
    2019: the spatial basis of the self-attention.
"""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Readout = Literal["cnn", "last", "sum", "attention"]
"""What of the steps is classified: see `read_out`."""


def attention_weights(
    steps: Float[Array | np.ndarray, "n t d"], weights: Float[Array | np.ndarray, "t d"]
) -> Float[Array, "n t"]:
    """Compute Eq. 3.6: α^t = exp(W^t · φ^t) / Σ_t exp(W^t · φ^t); each image's sum to 1."""
    return jax.nn.softmax(jnp.einsum("ntd,td->nt", steps, weights))


def soft_attention(
    steps: Float[Array | np.ndarray, "n t d"], weights: Float[Array | np.ndarray, "t d"]
) -> Float[Array, "n d"]:
    """Compute Eqs. 3.5 and 3.6: A = Σ_t α^t φ^t, with α the softmax over the steps of W^t · φ^t.

    Args:
      steps: φ^t, the recurrence's output at every time step.
      weights: W^t, a vector of its own for every step.

    Reference: Shroff, Search for Finer Attention Details, 2020, section 3.1.3.2.

    Example:
      >>> soft_attention(jnp.ones((1, 3, 2)), jnp.zeros((3, 2))).tolist()
      [[1.0, 1.0]]
    """
    return jnp.einsum("nt,ntd->nd", attention_weights(steps, weights), steps)


def spatial_basis(height: int, width: int, waves: int) -> Float[np.ndarray, "h w c"]:
    """Return a fixed description of where a cell lies: cosines of 0 to `waves` - 1 half periods.

      S_ij,uv = cos(π u y_i) cos(π v x_j), y and x the cell's centre in (0, 1); c = waves².

    Reference: Mott et al. 2019, section 2.2, which takes products of Fourier waves, too.
    """
    rows, columns = (
        np.cos(np.pi * np.arange(waves)[None] * (np.arange(side)[:, None] + 0.5) / side)
        for side in (height, width)
    )
    basis = np.einsum("iu,jv->ijuv", rows, columns).reshape(height, width, -1)
    return basis.astype(np.float32)


def attend(
    query: Float[Array | np.ndarray, "n q"],
    keys: Float[Array | np.ndarray, "n h w q"],
    values: Float[Array | np.ndarray, "n h w v"],
) -> tuple[Float[Array, "n v"], Float[Array, "n h w"]]:
    """Compute Eq. 7.1: softmax over the places of Q · K / √q, times V; and the softmax itself."""
    scores = jnp.einsum("nq,nhwq->nhw", query, keys) / np.sqrt(query.shape[-1])
    where = jax.nn.softmax(scores.reshape(len(scores), -1)).reshape(scores.shape)
    return jnp.einsum("nhw,nhwv->nv", where, values), where


def split_map(
    features: Float[Array, "n h w c"], key_share: float, waves: int
) -> tuple[Float[Array, "n h w q"], Float[Array, "n h w v"]]:
    """Return keys and values: the map's first and last channels, each with the spatial basis added
    on."""
    n, height, width, channels = features.shape
    basis = jnp.asarray(spatial_basis(height, width, waves), features.dtype)
    basis = jnp.broadcast_to(basis[None], (n, *basis.shape))
    cut = max(1, round(key_share * channels))
    return tuple(
        jnp.concatenate([part, basis], axis=-1)
        for part in (features[..., :cut], features[..., cut:])
    )


class Step(nn.Module):
    """One time step: the stacked cells, the first fed by the feature or by what is attended to.

    With keys and values (chapter 7) the last layer's previous state asks: a query of two hidden
    layers, the answer through two layers into the first cell.
    """

    hidden: int
    layers: int
    attends: bool

    @nn.compact
    def __call__(self, states: Any, features: Any) -> tuple[Any, Array]:
        x = features
        if self.attends:
            keys, values = features
            query = nn.relu(nn.Dense(self.hidden, name="query1")(states[-1][1]))
            query = nn.relu(nn.Dense(self.hidden, name="query2")(query))
            query = nn.Dense(keys.shape[-1], name="query3")(query)
            answer, _ = attend(query, keys, values)
            answer = nn.relu(nn.Dense(self.hidden, name="answer1")(answer))
            x = nn.Dense(self.hidden, name="answer2")(answer)
        after = []
        for layer, state in enumerate(states):
            state, x = nn.OptimizedLSTMCell(self.hidden, name=f"lstm{layer + 1}")(state, x)
            after.append(state)
        return tuple(after), x


class Recurrence(nn.Module):
    """Eq. 3.4: the outputs φ^1 … φ^T of stacked LSTMs that see the same feature at every step.

    Attributes:
      steps: T.
      hidden: units of each layer, D.
      layers: how many are stacked.
      self_attention: chapter 7: the cells see, instead of the pooled feature, what their last
        state picks from the feature map.
      key_share: share of the map's channels that are keys; the others are values.
      waves: of the spatial basis, both ways.
    """

    steps: int = 10
    hidden: int = 512
    layers: int = 2
    self_attention: bool = False
    key_share: float = 0.25
    waves: int = 8

    @nn.compact
    def __call__(self, features: Float[Array | np.ndarray, "n h w c"]) -> Float[Array, "n t d"]:
        features = jnp.asarray(features, jnp.float32)
        n = len(features)
        if self.self_attention:
            x: Any = split_map(features, self.key_share, self.waves)
        else:
            x = features.mean((1, 2))  # GAP: computed once, the same at every step
        nothing = jnp.zeros((n, self.hidden), jnp.float32)
        scan = nn.scan(
            Step,
            variable_broadcast="params",
            split_rngs={"params": False},
            in_axes=nn.broadcast,
            out_axes=1,
            length=self.steps,
        )
        step = scan(self.hidden, self.layers, self.self_attention, name="step")
        _, outputs = step(((nothing, nothing),) * self.layers, x)
        return outputs


class ReadOut(nn.Module):
    """From the steps to the one vector that is classified (section 3.1.3.2; Tables 6.1 and 6.2).

    Attributes:
      readout: "attention" (Eqs. 3.5 and 3.6); "last", the last step; "sum", the plain sum of
        steps `first` to `last`, of which a single step is the case first = last.
      first, last: counted from 1, both included.
    """

    readout: Readout = "attention"
    first: int = 1
    last: int = 10

    @nn.compact
    def __call__(self, steps: Float[Array | np.ndarray, "n t d"]) -> Float[Array, "n d"]:
        steps = jnp.asarray(steps)
        if self.readout == "last":
            return steps[:, -1]
        if self.readout == "sum":
            return steps[:, self.first - 1 : self.last].sum(1)
        # Zeros: at first every step counts the same.
        weights = self.param("weights", nn.initializers.zeros, steps.shape[1:], jnp.float32)
        return soft_attention(steps, weights)
