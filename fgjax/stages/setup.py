"""From a config to a data set and a classifier: what every stage starts from."""

from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from fgjax.config import Config, ConfigError
from fgjax.data.cub import CubSource
from fgjax.data.folder import FolderSource
from fgjax.data.labels import read_labels
from fgjax.data.pipeline import take
from fgjax.data.species import SpeciesSource
from fgjax.data.types import Record, Source
from fgjax.functional import compiled
from fgjax.models.classifier import Classifier
from fgjax.models.pretrained import load_pretrained
from fgjax.training.checkpoints import load_classifier

WANTED = {
    "cub": (
        "data.path is missing: it wants the folder CUB_200_2011 with images.txt in it; get the "
        "set at https://www.vision.caltech.edu/datasets/cub_200_2011/"
    ),
    "folder": (
        "data.path is missing: it wants a folder of class folders of images, "
        "or a flat folder of images"
    ),
}


def make_source(config: Config) -> Source:
    """The data set of `data.*`.

    Raises:
      ConfigError: no path where one is needed.
      DataError: the path does not hold what it should.
    """
    data = config.data
    if data.source == "species":
        return SpeciesSource(
            size=data.size,
            train=data.train_images,
            test=data.test_images,
            seed=config.seed,
            background_follows_class=data.shortcut,
        )
    if data.path is None:
        raise ConfigError(WANTED[data.source])
    if data.source == "cub":
        return CubSource(data.path, size=data.size, crop=data.crop)
    return FolderSource(
        data.path,
        size=data.size,
        crop=data.crop,
        masks=data.masks,
        test_share=data.test_share,
        seed=config.seed,
    )


def explained_records(source: Source, config: Config) -> tuple[Record, ...]:
    """The test images that are explained: at most `data.limit`, spread over the classes.

    Raises:
      ConfigError: there are none.
    """
    records = take([r for r in source.records if r.split == "test"], config.data.limit)
    if not records:
        raise ConfigError(
            f"data.path={config.data.path}: no test image to explain"
            + (" (data.test_share is 0)" if config.data.test_share == 0 else "")
        )
    return records


def trains(config: Config) -> bool:
    """Whether this run trains its own classifier."""
    return not (config.model.weights or config.model.checkpoint)


@dataclass(frozen=True)
class Explained:
    """A classifier in use: which output is which class of the data.

    Attributes:
      model: images -> logits.
      outputs: a name for each model output, "" where unknown.
      index: for each class of the data, the model's output; None: the model does not know it.
    """

    model: Classifier
    outputs: tuple[str, ...]
    index: tuple[int | None, ...]

    def output_name(self, output: int) -> str:
        """The name of an output, or its number."""
        return self.outputs[output] or f"output {output}"

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Logits of images in [0, 1]."""
        return np.asarray(compiled(self.model)(images))


def load_model(config: Config, source: Source, run: Path) -> Explained:
    """The classifier to explain: from weights, from another run, or this run's own.

    Raises:
      ConfigError: it cannot be read, or its outputs cannot be told apart.
      DataError: the label file does not fit.
    """
    settings = config.model
    try:
        if settings.weights:
            model = load_pretrained(settings.name, settings.weights, size=config.data.size)
        else:
            model = load_classifier(settings.checkpoint or run / "checkpoint")
    except ValueError as error:
        raise ConfigError(str(error)) from None
    count = model.network.num_classes
    if settings.labels:
        labels = read_labels(Path(settings.labels), source.classes, count)
        return Explained(model, labels.output_names, labels.index)
    names = model.classes or (source.classes if len(source.classes) == count else ("",) * count)
    if model.classes and source.classes:
        known = {name: i for i, name in enumerate(model.classes)}
        return Explained(model, names, tuple(known.get(name) for name in source.classes))
    if source.classes and len(source.classes) != count:
        raise ConfigError(
            f"model.weights={settings.weights} has {count} outputs, the data "
            f"{len(source.classes)} classes: model.labels must say which output is which class"
        )
    return Explained(model, names, tuple(range(len(source.classes))))


def base_key(config: Config) -> jax.Array:
    """The key all randomness of a run comes from."""
    return jax.random.key(config.seed)
