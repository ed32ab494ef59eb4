"""What a comparison asks of every method, and what of it lies on disk."""

import csv
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fgjax.attribution import CONFIGS, METHODS
from fgjax.attribution.registry import count_passes
from fgjax.core.features import grid_of
from fgjax.data.pipeline import Batch
from fgjax.data.types import Record, Source
from fgjax.options.schema import BASELINES, Config
from fgjax.stages.classifier import Explained


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What every method is asked: the images that could be read, and their targets."""

    config: Config
    source: Source
    explained: Explained
    records: tuple[Record, ...]
    batch: Batch
    images: jax.Array
    targets: np.ndarray
    keys: jax.Array
    folder: Path

    def settings(self, method: str) -> Any:
        """Return the method's settings; None of a baseline."""
        if method in BASELINES:
            return None
        return self.config.compare.settings.get(method) or CONFIGS[method]()

    def explain(self, method: str) -> Callable:
        """`(model, images, targets, keys) -> Attribution`; of a baseline, just maps."""
        return lambda model, images, targets, keys: METHODS[method](
            model, images, targets, key=keys, config=self.settings(method)
        )


def read_scores(path: Path) -> dict[int, dict[str, str]]:
    """Return image -> its row of scores.csv, without index and name."""
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        int(row["index"]): {k: v for k, v in row.items() if k not in ("index", "name") and v != ""}
        for row in rows
    }


def passes(comparison: Comparison, method: str) -> tuple[int, int]:
    """Return forward passes, and passes forward and back, per image; none of a baseline."""
    if method in BASELINES:
        return 0, 0
    height, width = comparison.images.shape[1:3]
    model = comparison.explained.model
    channels = 0
    if hasattr(model, "features"):
        channels = grid_of(jax.eval_shape(model.features, comparison.images[:1])).shape[-1]
    return tuple(count_passes(method, comparison.settings(method), height, width, channels))
