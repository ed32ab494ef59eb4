"""From the options to the classifier of a run: given, trained before, or to be trained."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from fgjax.core.progress import say
from fgjax.data.labels import read_labels
from fgjax.data.sets.celeba import ALL_ATTRIBUTES
from fgjax.data.types import Source
from fgjax.devices.forward import compiled
from fgjax.models.classifier import Classifier, create_model
from fgjax.models.pretrained import load_pretrained
from fgjax.models.pretrained_trunk import load_trunk
from fgjax.models.registry import NETWORKS, choose
from fgjax.options.schema import Config, ConfigError, option_value
from fgjax.training.checkpoints import load_classifier


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
        """Return the name of an output, or its number; "NaN" of -1, see
        `fgjax.core.scores.predicted`."""
        if output < 0:
            return "NaN"
        return self.outputs[output] or f"output {output}"

    def target(self, label: int | None, logits: Float[np.ndarray, "k"], how: str) -> int:
        """Return the output to explain: the label's where it is wanted and known, else the
        predicted.

        Args:
          label: the image's class; None: not known.
          logits: of the image.
          how: "label" or "predicted", as `explain.target` has it.
        """
        known = self.index[label] if label is not None and how == "label" else None
        return int(logits.argmax()) if known is None else known

    def predict(self, images: np.ndarray | jax.Array, boxes: jax.Array | None = None) -> np.ndarray:
        """Return logits of images in [0, 1]; of a two-stream network, looking at these patches."""
        model = self.model if boxes is None else self.model.replace(boxes=boxes)
        return np.asarray(compiled(model)(images))


MAKERS = ("train", "probe", "prompts")
"""The stages that make a run's own classifier, each in its way."""


def trains(config: Config) -> bool:
    """Return whether this run trains its own classifier."""
    return not (config.model.weights or config.model.checkpoint)


def load_model(config: Config, source: Source, run: Path) -> Explained:
    """Return the classifier to explain: from weights, from another run, or this run's own.

    Raises:
      ConfigError: it cannot be read, or its outputs cannot be told apart.
      DataError: the label file does not fit.
    """
    settings = config.model
    if trains(config) and not (run / "checkpoint" / "classifier.json").is_file():
        raise ConfigError(
            f"{run}: no classifier is trained yet: stages must include train, probe or prompts "
            "(or give model.weights or model.checkpoint)"
        )
    try:
        if settings.weights:
            model = load_pretrained(
                settings.name, settings.weights, size=config.data.size, texts=settings.texts,
                say=say, **wanted_images(config),
            )  # fmt: skip
        else:
            model = load_classifier(settings.checkpoint or run / "checkpoint")
    except ValueError as error:
        if settings.weights:
            raise ConfigError(f"model.weights: {error}") from None
        if settings.checkpoint:
            cure = " (copy it anew, or train it again)" if "cannot be read" in str(error) else ""
            raise ConfigError(f"model.checkpoint: {error}{cure}") from None
        raise ConfigError(
            f"{error}. Delete {run / 'checkpoint'}, and the same command trains it again"
        ) from None
    count = model.network.num_classes
    if settings.labels:
        labels = read_labels(Path(settings.labels), source.classes, count)
        if unknown := labels.unmatched:
            some = ", ".join(unknown[:3]) + (", …" if len(unknown) > 3 else "")
            say(
                f"{settings.labels}: no output is named for {len(unknown)} of "
                f"{len(source.classes)} classes ({some}): for their images the predicted class "
                "is explained"
            )
        return Explained(model, labels.output_names, labels.index)
    names = model.classes or (source.classes if len(source.classes) == count else ("",) * count)
    if model.classes and source.classes:
        known = {name: i for i, name in enumerate(model.classes)}
        if config.explain.target == "label" and not set(known) & set(source.classes):
            raise ConfigError(
                f"the classifier knows none of the data's {len(source.classes)} classes (such as "
                f"{source.classes[0]!r}): give model.labels, or explain.target=predicted"
            )
        return Explained(model, names, tuple(known.get(name) for name in source.classes))
    if source.classes and len(source.classes) != count:
        say(
            f"model.weights={settings.weights} has {count} outputs, the data "
            f"{len(source.classes)} classes: the predicted output is explained, by its number; "
            "model.labels says which output is which class"
        )
        return Explained(model, names, (None,) * len(source.classes))
    if source.classes:
        say(
            f"model.weights={settings.weights} names no classes: its {count} outputs are taken "
            "to be the data's classes in their order; model.labels would say it for sure"
        )
    return Explained(model, names, tuple(range(len(source.classes))))


def wanted_images(config: Config) -> dict[str, Any]:
    """Return what `load_pretrained` is told of the images that the weights want."""
    settings = config.model
    padding = None if settings.padding == "auto" else settings.padding
    return {"mean": settings.mean, "std": settings.std, "padding": padding, "note": say}


def training_model(config: Config, source: Source) -> Classifier:
    """Return what training starts from: `model.pretrained`, or `model.name` with fresh weights.

    Raises:
      ConfigError: there is no such architecture, the weights cannot be read, or blocks are to be
        left out of a network that has no such blocks.
    """
    model, rate = _start(config, source), config.train.drop_path
    # Both of the training alone: a checkpoint does not keep them.
    if config.train.checkpointing:
        if not hasattr(model.network, "checkpointing"):
            raise ConfigError(
                f"train.checkpointing=true: {model.name} has no blocks to compute again; ResNets, "
                "transformers, ConvNeXt and Swin have"
            )
        model = model.replace(network=model.network.clone(checkpointing=True))
    if not rate:
        return model
    if not hasattr(model.network, "drop_path"):
        able = "transformers, ConvNeXt, Swin and EfficientNet have"
        raise ConfigError(f"train.drop_path={rate}: {model.name} has no blocks to drop; {able}")
    return model.replace(network=model.network.clone(drop_path=rate))


def _start(config: Config, source: Source) -> Classifier:
    settings, key = config.model, jax.random.fold_in(jax.random.key(config.seed), 1)
    count = max(2, len(source.classes))
    about = dict(key=key, size=config.data.size, classes=source.classes)
    composed = composed_options(config)
    if config.data.attribute == ALL_ATTRIBUTES and "attributes" not in composed:
        able = " or ".join(name for name, network in NETWORKS.items() if network.attributes)
        raise ConfigError(
            f"data.attribute=all: only model.name={able} has an output for each attribute"
        )
    if settings.pretrained is None:
        try:
            return create_model(settings.name or "resnet18", count, **about, **composed)
        except ValueError as error:
            raise ConfigError(f"model.name: {error}") from None
    try:
        if composed:
            return load_trunk(
                settings.name,
                settings.pretrained,
                count,
                say=say,
                read=wanted_images(config),
                **about,
                **composed,
            )
        return load_pretrained(
            settings.name,
            settings.pretrained,
            num_classes=count,
            say=say,
            **about,
            **wanted_images(config),
        )
    except ValueError as error:
        raise ConfigError(
            f"model.pretrained: {error} (model.pretrained=null trains from scratch)"
        ) from None


def composed_options(config: Config) -> dict[str, Any]:
    """Return what a network that is built on another one takes; nothing for the others.

    Raises:
      ConfigError: an unknown backbone.
    """
    about = NETWORKS.get(config.model.name or "")
    if about is None or about.fits is None:
        return {}
    found = {name: option_value(config, option) for name, option in about.options.items()}
    try:
        choose(found["backbone"], about.fits)
    except ValueError as error:
        raise ConfigError(f"{about.options['backbone']}={found['backbone']}: {error}") from None
    if about.attributes:
        found["attributes"] = config.data.attribute == ALL_ATTRIBUTES
    return found


def model_fingerprint(config: Config) -> str:
    """Return a hash of the files the classifier is read from; of nothing when the run trains its
    own."""
    digest = hashlib.sha256()
    settings = config.model
    checkpoint = sorted(Path(settings.checkpoint).rglob("*")) if settings.checkpoint else []
    files = (
        settings.weights,
        settings.labels,
        settings.pretrained,
        settings.texts,
        config.focus.file,
        config.data.boxes,
    )
    infills = sorted(Path(config.explain.infills).rglob("*")) if config.explain.infills else []
    maps = [Path(config.maps), *sorted(Path(config.maps).rglob("*"))] if config.maps else []
    for path in (*files, *checkpoint, *infills, *maps):
        if path is not None and Path(path).is_file():
            with Path(path).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
