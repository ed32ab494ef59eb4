"""From the options to the images of a run: the data set, and which of its images are used."""

from dataclasses import replace

from fgjax.core.progress import say
from fgjax.data.boxed import Boxed, read_detections
from fgjax.data.pipeline import take
from fgjax.data.registry import SOURCES
from fgjax.data.sets.celeba import ALL_ATTRIBUTES
from fgjax.data.sets.folder_tree import count_words
from fgjax.data.types import DataError, Record, Source
from fgjax.options.schema import Config, ConfigError, option_value


def make_source(config: Config, *, margin: bool = False, whole: bool = False) -> Source:
    """Return the data set of `data.*`.

    Args:
      margin: with what the centre crop cuts off: images of side data.size / data.crop, to be
        cropped later.
      whole: no square is cut out; images differ in shape, their shorter side is
        data.size / data.crop. Drawn images are whole as they are.

    Raises:
      ConfigError: an option that the source needs is missing or wrong.
      DataError: the path does not hold what it should.
    """
    data, about = config.data, SOURCES.find(config.data.source)
    for option, wanted in about.wants.items():
        if option_value(config, option) is None:
            raise ConfigError(f"{option} is missing; {wanted}")
    options = {name: option_value(config, option) for name, option in about.options.items()}
    if "test_share" in options and options["test_share"] is None:
        # Nothing is trained with weights that are given; a checkpoint may be of these images.
        options["test_share"] = 1.0 if config.model.weights else 0.5
    options["size"] = round(data.size / data.crop) if margin else data.size
    if about.crops:
        options["crop"] = 1.0 if margin else data.crop
    try:
        source = about.make(**options)
        if data.boxes is not None:
            source = _boxed(source, config)
        if data.fit != "crop" and hasattr(source, "fit"):
            source.fit = replace(source.fit, mode=data.fit)
        if whole and hasattr(source, "fit"):
            source.fit = replace(source.fit, mode="whole")
        return source
    except DataError as error:
        raise DataError(f"data.path: {error}") from None
    except ValueError as error:
        raise ConfigError(f"data.{error}") from None


def _boxed(source: Source, config: Config) -> Source:
    """Return the source, its images cut to the boxes of `data.boxes`."""
    if config.data.source != "folder" or config.data.masks or config.tta.boxes:
        raise ConfigError(
            "data.boxes cuts photographs of data.source=folder, without data.masks and tta.boxes, "
            "which are in pixels of the whole image"
        )
    try:
        found = read_detections(config.data.boxes, source)
    except DataError as error:
        raise ConfigError(f"data.boxes={error}") from None
    say(
        f"data.boxes: an animal in {len(found)} of {len(source.records)} images; "
        "the others are seen whole"
    )
    return Boxed(source, found)


def explained_records(source: Source, config: Config) -> tuple[Record, ...]:
    """Return the test images that are explained: at most `data.limit`, spread over the classes.

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


def say_what_is_left_out(source: Source, explained: int) -> None:
    """Say which files are no images, and that images are left out for a test share."""
    if left_out := getattr(source, "left_out", None):
        many = left_out.total()
        say(f"data.path: {many} {'file is no image' if many == 1 else 'files are no images'} and "
            f"left out: {count_words(left_out)}")  # fmt: skip
    every = len(source.records)
    if getattr(source, "drawn_split", False) and explained < every:
        say(
            f"data.path: {explained} of {every} images are explained, the test share of each class "
            "(data.test_share=1: all of them)"
        )


def untrained_classes(source: Source) -> list[str]:
    """Return the classes that have test images and none to train on: their outputs learn only that
    they are wrong."""
    trained = {r.label for r in source.records if r.split == "train"}
    tested = {r.label for r in source.records if r.split == "test"} - trained
    return [source.classes[label] for label in sorted(t for t in tested if t is not None)]


def training_records(source: Source, config: Config) -> list[Record]:
    """Return the training images with a label, or with attributes where all are wanted.

    Raises:
      ConfigError: there are none, or of one class only.
    """
    attributes = config.data.attribute == ALL_ATTRIBUTES
    records = [
        r for r in source.records if r.split == "train" and (attributes or r.label is not None)
    ]
    if len(source.classes) < 2 or not records:
        raise ConfigError(
            f"data.path={config.data.path}: no labelled training images of two or more classes. "
            "Give a trained classifier: model.weights=FILE.safetensors model.labels=FILE"
        )
    return records
