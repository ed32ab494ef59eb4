"""What validation images say of a classifier in the making, and which of several is the best."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from fgjax.core.scores import predicted
from fgjax.core.tables import finite


def accuracy(logits: Float[np.ndarray, "n k"], labels: Int[np.ndarray, "n"]) -> float | None:
    """Return the share of images whose highest logit is the label's; None of no images."""
    return float((np.asarray(predicted(logits)) == labels).mean()) if len(labels) else None


def validated(
    logits: Float[np.ndarray, "n k"], labels: Int[np.ndarray, "n"]
) -> dict[str, float | None]:
    """Return "validation_loss", the mean cross entropy in nats, and "validation_accuracy"; None of
    no images."""
    loss = None
    if len(labels):
        log_p = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        loss = finite(-log_p[np.arange(len(labels)), labels].mean())
    return {"validation_loss": loss, "validation_accuracy": accuracy(logits, labels)}


def best_row(rows: Sequence[dict[str, Any]]) -> int:
    """Return the place of the row with the best validation accuracy, of the lowest loss among
    equals; where nothing was validated, of the last.

    Example:
      >>> rows = [{"validation_accuracy": 0.8, "validation_loss": x} for x in (2.0, 1.0, 3.0)]
      >>> best_row(rows)
      1
    """
    if not rows or rows[-1]["validation_accuracy"] is None:
        return len(rows) - 1
    return max(range(len(rows)), key=lambda i: _rank(rows[i]))


def _rank(row: dict[str, Any]) -> tuple[float, float]:
    loss = row["validation_loss"]
    return row["validation_accuracy"], -np.inf if loss is None else -loss
