"""What a run can be told: every option with its meaning, type and default.

The docstrings are the help text: `config.describe` reads them.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

STAGES = ("train", "explain", "evaluate", "report")
PATHS = {"data": ("path", "masks"), "model": ("weights", "labels", "checkpoint")}
"""The options that are paths."""


class ConfigError(ValueError):
    """A wrong option. The message says which, what it was given, and what it takes."""


@dataclass(frozen=True)
class DataConfig:
    """Which images.

    Attributes:
      source: species (drawn by fgjax), folder (class folders, or a flat folder of images), tfds
        (TensorFlow Datasets), or a set as its authors ship it, cub, dogs, cars, aircraft, celeba.
      path: the folder of the data set; for tfds, where prepared sets lie.
      name: the name of a tfds set.
      level: of the classes of aircraft.
      attribute: the one of celeba that makes the two classes.
      masks: folder of object masks, for a folder source.
      size: side of the square images the model sees, in pixels.
      crop: share of the shorter side that the centre crop keeps.
      limit: explain and evaluate at most so many test images, spread over the classes.
      test_share: share of each class that is test, for a folder without a split.
      train_images: how many to draw, for the species source.
      test_images: how many to draw, for the species source.
      shortcut: species: in training, the background goes with the class.
      workers: threads that decode.
    """

    source: Literal["species", "folder", "cub", "dogs", "cars", "aircraft", "celeba", "tfds"] = (
        "species"
    )
    path: str | None = None
    name: str | None = None
    level: Literal["variant", "family", "manufacturer"] = "variant"
    attribute: str | None = None
    masks: str | None = None
    size: int = 224
    crop: float = 0.875
    limit: int | None = None
    test_share: float = 0.5
    train_images: int = 3000
    test_images: int = 500
    shortcut: bool = False
    workers: int = 4


@dataclass(frozen=True)
class ModelConfig:
    """Which classifier.

    Attributes:
      name: architecture; left out with weights, the file says it.
      weights: a .safetensors file of a trained classifier, with torchvision's or timm's names.
      labels: which output is which class: a text file with a line per output, or a CSV
        with the columns class_name,model_index.
      checkpoint: a finished run's checkpoint folder, used instead of training.
    """

    name: str | None = None
    weights: str | None = None
    labels: str | None = None
    checkpoint: str | None = None


@dataclass(frozen=True)
class TrainConfig:
    """How a classifier is trained when none is given.

    Attributes:
      epochs: passes over the training part.
      batch_size: images per step.
      learning_rate: the highest, after the warm-up; cosine from there to 0.
      warmup: share of the steps over which the rate rises.
      weight_decay: of AdamW, on kernels only.
      adam_eps: ε of AdamW.
      label_smoothing: share of the target spread over the other classes.
      validation: share of the training images that picks the best epoch.
      shift: random shifts by at most this share of the side.
      light: random brightness and contrast by at most this factor.
    """

    epochs: int = 60
    batch_size: int = 32
    learning_rate: float = 1e-3
    warmup: float = 0.1
    weight_decay: float = 0.01
    adam_eps: float = 1e-8
    label_smoothing: float = 0.1
    validation: float = 0.1
    shift: float = 0.08
    light: float = 0.1


@dataclass(frozen=True)
class EvaluateConfig:
    """How maps are judged.

    Attributes:
      threshold: a pixel is in the mask when its importance is above this.
    """

    threshold: float = 0.5


@dataclass(frozen=True)
class ReportConfig:
    """What the page shows.

    Attributes:
      images: at most so many in the gallery.
      figures: at most so many pictures in figures/.
    """

    images: int = 300
    figures: int = 32


@dataclass(frozen=True)
class ExplainConfig:
    """Which attribution method, on which class.

    Attributes:
      method: name of the method.
      preset: published settings of the method; what you set yourself goes on top.
      target: explain the labelled class (predicted where there is none), or the predicted.
    """

    method: str = "fido"
    preset: str = "default"
    target: Literal["label", "predicted"] = "label"
    settings: Any = None


@dataclass(frozen=True)
class Config:
    """Everything a run can be told.

    Attributes:
      run_dir: where results go; runs/NAME when left out.
      seed: of every random choice.
      stages: which of train, explain, evaluate, report to do.
      dry_run: only say what would be done, and about how long it takes.
      parallel: auto (all devices), none (one), or jit (one program over a mesh).
    """

    run_dir: str | None = None
    seed: int = 0
    stages: tuple[str, ...] = STAGES
    dry_run: bool = False
    parallel: Literal["auto", "none", "jit"] = "auto"
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    explain: ExplainConfig = field(default_factory=ExplainConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
