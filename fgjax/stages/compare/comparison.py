"""What a comparison asks of every method, and what of it lies on disk."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from fgjax.attribution import CONFIGS, METHODS
from fgjax.attribution.registry import METHOD_ENTRIES, count_passes
from fgjax.core.batching import fill_up
from fgjax.core.features import grid_of
from fgjax.core.files import as_written
from fgjax.core.keys import image_key
from fgjax.core.tables import read_csv
from fgjax.data.pipeline import Batch, load_examples, stack
from fgjax.data.types import DataError, Record, Source
from fgjax.devices.placed import on_cpu
from fgjax.evaluation import center_bell, constant, random_maps, zero
from fgjax.evaluation.faithfulness import target_probability
from fgjax.models.folding import explained_in
from fgjax.options.judging import CONTROLS
from fgjax.options.schema import Config, ConfigError
from fgjax.runs.maps import read_maps
from fgjax.stages.classifier import Explained
from fgjax.stages.job import Job

ON_AN_ACCELERATOR = 16
"""Images that are explained and judged at a time there, where nothing is said."""


class RowOf(NamedTuple):
    """A row of the table: a method's heat map, another map of the same run, or a control."""

    method: str
    variant: str = ""

    @property
    def name(self) -> str:
        """As the table has it."""
        return f"{self.method}: {self.variant}" if self.variant else self.method

    @property
    def is_control(self) -> bool:
        return self.method in CONTROLS


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What every method is asked: the images that could be read, and their targets.

    Attributes:
      p_full: class probability of each image as it is, asked for once.
      parts: where an image's parts are, which are seen, and what the score loses with each, by
        the image's place: found once, for every map.
      flipped: the method whose map the control "flipped" turns around; None: there is none.
    """

    config: Config
    source: Source
    explained: Explained
    records: tuple[Record, ...]
    batch: Batch
    images: jax.Array
    targets: np.ndarray
    keys: jax.Array
    folder: Path
    p_full: Float[np.ndarray, "n"]
    flipped: str | None = None
    parts: dict[int, Any] = dataclasses.field(default_factory=dict)

    @property
    def together(self) -> int:
        """Images that are explained and judged at a time."""
        given = self.config.compare.images_per_call
        if given is None:
            given = 1 if on_cpu(self.images) else ON_AN_ACCELERATOR
        return min(given, len(self.records))

    def calls(self, places: Sequence[int]) -> list[list[int]]:
        """Return the places in calls of at most `together`."""
        size = self.together
        return [list(places[i : i + size]) for i in range(0, len(places), size)]

    def filled(self, places: Sequence[int]) -> np.ndarray:
        """Return the places with the last one repeated: one program serves every call."""
        return np.array(fill_up(list(places), self.together))

    def settings(self, method: str) -> Any:
        """Return the method's settings; None of a control."""
        if method in CONTROLS:
            return None
        return self.config.compare.settings.get(method) or CONFIGS[method]()

    def explain(self, method: str) -> Callable:
        """`(model, images, targets, keys) -> maps by name`, heatmap and traces' spread among
        them."""
        if method in CONTROLS:
            return lambda *asked: {"heatmap": self._control(method, *asked)}

        def run(model, images, targets, keys):
            settings, model = self.settings(method), self.in_precision(model)
            result = METHODS[method](model, images, targets, key=keys, config=settings)
            spread = {k: v for k, v in result.traces.items() if k == "spread"}
            return {"heatmap": result.heatmap, **result.maps, **spread}

        return run

    @functools.cached_property
    def _rounded(self) -> Any:
        return explained_in(self.explained.model, self.config.explain.precision)

    def in_precision(self, model: Any) -> Any:
        """Return a model, the explained one or one with other weights, as explain.precision has
        its layers while methods ask it. Maps are judged by the model as it is."""
        if model is self.explained.model:
            return self._rounded
        return explained_in(model, self.config.explain.precision)

    def _control(
        self, kind: str, model: Any, images: Array, targets: Array, keys: Key[Array, "n"]
    ) -> Float[Array, "n h w"]:
        n, height, width = images.shape[:3]
        if kind == "random":
            return jnp.concatenate([random_maps(key, 1, height, width) for key in keys])
        if kind == "flipped":
            if self.flipped is None:
                raise ValueError("flipped turns a method's map around, and there is no method")
            return 1 - self.explain(self.flipped)(model, images, targets, keys)["heatmap"]
        return {"center": center_bell, "constant": constant, "zero": zero}[kind](n, height, width)

    def variants(self, method: str) -> list[str]:
        """Return the names of the method's other maps that are rows; its maps are there."""
        if method in CONTROLS or not self.config.compare.variants:
            return []
        return list(self._variants(method, 0))

    def _variants(self, method: str, place: int) -> dict[str, np.ndarray]:
        maps = read_maps(self.folder / method / "maps.zarr", place)
        return METHOD_ENTRIES.find(method).variants(maps)

    def heat(self, row: RowOf, places: Sequence[int]) -> Float[np.ndarray, "n h w"]:
        """Return the maps of a row, as they lie on disk."""
        if row.variant:
            found = [self._variants(row.method, place)[row.variant] for place in places]
        else:
            store = self.folder / row.method / "maps.zarr"
            found = [read_maps(store, place)["heatmap"] for place in places]
        return np.stack(found).astype(np.float32)

    def scores_file(self, row: RowOf) -> Path:
        """Return where a row's numbers lie."""
        name = f"scores_{row.variant}.csv" if row.variant else "scores.csv"
        return self.folder / row.method / name


def prepare(job: Job) -> tuple[Comparison, dict[str, str]]:
    """Return what every method is asked, and why images could not be read.

    Raises:
      ConfigError: none can be read.
    """
    config, records, explained = job.config, job.records, job.explained
    failed, good, examples = {}, [], []
    for place, example in load_examples(job.source, records, workers=config.data.workers):
        if isinstance(example, DataError):
            failed[records[place].name] = str(example)
        else:
            good.append(records[place])
            examples.append(example)
    if not examples:
        raise ConfigError(f"data.path={config.data.path}: no image to explain could be read")
    batch = stack(examples)
    images = jnp.asarray(batch.images.astype(np.float32) / 255)
    logits = np.concatenate([explained.predict(np.asarray(image)[None]) for image in images])
    targets = [
        explained.target(example.label, row, config.explain.target)
        for example, row in zip(examples, logits, strict=True)
    ]
    key = jax.random.fold_in(job.key, 5)
    keys = jnp.stack([image_key(key, record.name) for record in good])
    targets = np.array(targets, np.int32)
    p_full = np.asarray(target_probability(jnp.asarray(logits), jnp.asarray(targets)))
    return (
        Comparison(
            config, job.source, explained, tuple(good), batch, images, targets, keys,
            job.run.path / "compare", p_full,
        ),
        failed,
    )  # fmt: skip


def read_scores(path: Path, names: Sequence[str]) -> dict[int, dict[str, str]]:
    """Return image -> its row of scores.csv, without index and name.

    Args:
      names: of the images, in their order of now. A row that is no image's, or that holds
        anything but numbers, does not count.
    """
    places = {as_written(name): place for place, name in enumerate(names)}
    found = {}
    for row in read_csv(path):
        values = {
            k: v for k, v in row.items() if k not in ("index", "name") and v not in ("", None)
        }
        try:
            _ = [float(value) for value in values.values()]
            found[places[row["name"]]] = values
        except (KeyError, ValueError, TypeError):
            continue
    return {place: found[place] for place in sorted(found)}


def passes(comparison: Comparison, method: str) -> tuple[int, int]:
    """Return forward passes, and passes forward and back, per image; none of a control but that
    which turns a method's map around."""
    if method == "flipped" and comparison.flipped is not None:
        method = comparison.flipped
    if method in CONTROLS:
        return 0, 0
    height, width = comparison.images.shape[1:3]
    model = comparison.explained.model
    channels = 0
    if hasattr(model, "features"):
        channels = grid_of(jax.eval_shape(model.features, comparison.images[:1])).shape[-1]
    return tuple(count_passes(method, comparison.settings(method), height, width, channels))
