"""What can be read off frozen features: a linear classifier, and the votes of neighbours.

References:
  Alain, Bengio, Understanding Intermediate Layers Using Linear Classifier Probes, 2017.
  Wu et al., Unsupervised Feature Learning via Non-parametric Instance Discrimination, 2018,
    section 3.4 (the weighted vote, with the temperature 0.07 that DINO uses, too).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import minimize
from scipy.special import log_softmax

Features = Float[np.ndarray, "n d"]


class Linear(NamedTuple):
    """Logits are features @ kernel + bias."""

    kernel: Float[np.ndarray, "d k"]
    bias: Float[np.ndarray, "k"]

    def __call__(self, features: Features) -> Float[np.ndarray, "n k"]:
        """Return the logits."""
        return features @ self.kernel + self.bias


def fit_linear(
    features: Features,
    labels: Int[np.ndarray, "n"],
    classes: int,
    penalty: float,
    start: Linear | None = None,
) -> Linear:
    """Return the linear classifier with the smallest mean cross-entropy + penalty/2 · ‖W‖².

    W are the weights of standardised features: of each the mean is taken away, and it is divided
    by its standard deviation. What is returned takes the features as they are.

    Args:
      penalty: of all weights but the biases.
      start: where the search begins, such as another penalty's; the result does not depend on it.
    """
    mean, std = features.mean(0), features.std(0)
    std = np.where(std > 1e-6 * (1 + np.abs(mean)), std, 1)  # a feature that never changes
    x = (features - mean).astype(np.float64) / std
    n, d = x.shape
    target = np.eye(classes)[labels]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(d + 1, classes)
        log_p = log_softmax(x @ weights[:-1] + weights[-1], axis=1)
        error = (np.exp(log_p) - target) / n
        value = -(target * log_p).sum() / n + penalty / 2 * (weights[:-1] ** 2).sum()
        slope = np.concatenate([x.T @ error + penalty * weights[:-1], error.sum(0)[None]])
        return value, slope.reshape(-1)

    first = np.zeros((d + 1, classes))
    if start is not None:
        first[:-1] = start.kernel * std[:, None]
        first[-1] = start.bias + mean @ start.kernel
    found = minimize(
        loss, first.reshape(-1), jac=True, method="L-BFGS-B", options={"maxiter": 1000}
    ).x.reshape(d + 1, classes)
    kernel = found[:-1] / std[:, None]
    return Linear(kernel.astype(np.float32), (found[-1] - mean @ kernel).astype(np.float32))


def neighbour_votes(
    features: Features,
    known: Float[np.ndarray, "m d"],
    labels: Int[np.ndarray, "m"],
    classes: int,
    neighbours: int = 20,
    temperature: float = 0.07,
) -> Float[np.ndarray, "n k"]:
    """Return each class's votes: of the nearest known images each gives exp(cosine / τ) to its own.

    Args:
      known, labels: of the images whose class is known.
      neighbours: how many vote; at most all.
    """
    unit = lambda v: v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12)
    cosine = unit(features) @ unit(known).T
    count = min(neighbours, len(known))
    nearest = np.argsort(-cosine, axis=1, kind="stable")[:, :count]
    weight = np.exp(np.take_along_axis(cosine, nearest, axis=1) / temperature)
    votes = np.zeros((len(features), classes))
    np.add.at(votes, (np.arange(len(features))[:, None], labels[nearest]), weight)
    return votes
