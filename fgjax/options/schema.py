"""What a run can be told: every option with its meaning, type and default.

The docstrings are the help text: `option_help.describe` reads them.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from fgjax.options.training import FocusConfig, PartsConfig, ProxyConfig, TrainConfig

STAGES = ("train", "test", "explain", "evaluate", "report", "compare", "tta", "parts")
PATHS = {
    "data": ("path", "masks"),
    "model": ("weights", "labels", "checkpoint", "pretrained"),
    "tta": ("boxes",),
    "focus": ("file", "folder"),
}
"""The options that are paths."""


BASELINES = ("center", "random")
"""Maps that know nothing of the image; compare.methods takes them, too."""


CROPS = ("box", "random", "center", "gradient", "detector", "fido_original", "fido_simplified",
         "fido_original_cleaned", "fido_simplified_cleaned", "glas")  # fmt: skip
"""The crops of test-time augmentation."""


class ConfigError(ValueError):
    """A wrong option. The message says which, what it was given, and what it takes."""


@dataclass(frozen=True)
class DataConfig:
    """Which images.

    Attributes:
      source: species (drawn by fgjax), folder (class folders, or a flat folder of images), tfds
        (TensorFlow Datasets), or a set as its authors ship it: cub, dogs, cars, aircraft, celeba,
        inat2017, cifar100, food101, imagenette, asl, plantvillage.
      path: the folder of the data set; for tfds, where prepared sets lie.
      name: the name of a tfds set.
      level: of the classes of aircraft.
      attribute: the one of celeba that makes the two classes; all: each is an output of its own,
        for region grouping.
      aligned: celeba: the aligned faces, or the original photographs with their boxes.
      masks: folder of object masks, for a folder source.
      size: side of the square images the model sees, in pixels.
      crop: share of the shorter side that the centre crop keeps.
      limit: explain and evaluate at most so many test images, spread over the classes.
      test_share: share of each class that is test, for plantvillage and a folder without a split.
      train_images: how many to draw, for the species source.
      test_images: how many to draw, for the species source.
      shortcut: species: in training, the background goes with the class.
      shortcut_share: of the training images that it goes with, by data.shortcut=true.
      workers: threads that decode.
    """

    source: str = "species"
    path: str | None = None
    name: str | None = None
    level: Literal["variant", "family", "manufacturer"] = "variant"
    attribute: str | None = None
    aligned: bool = True
    masks: str | None = None
    size: int = 224
    crop: float = 0.875
    limit: int | None = None
    test_share: float = 0.5
    train_images: int = 3000
    test_images: int = 500
    shortcut: bool = False
    shortcut_share: float = 1.0
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
      pretrained: what training starts from: a .safetensors file, or a Hugging Face hub id such
        as timm/resnet50.tv_in1k; null: from scratch. Other classes get a fresh classifier.
    """

    name: str | None = None
    weights: str | None = None
    labels: str | None = None
    checkpoint: str | None = None
    pretrained: str | None = None


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
class CompareConfig:
    """Many methods on the same images and model. A method's own settings are compare.METHOD.FIELD,
    such as compare.rise.masks=500.

    Attributes:
      methods: which; all when left out. center and random are maps to be better than.
      steps: of the insertion and deletion curves.
      road: whether ROAD is measured (about 18 forward passes and as many imputations a map).
      sensitivity: nearby images that max-sensitivity explains again; 0: not measured.
      randomised: images that are explained again with randomised layers; 0: not measured.
      again: methods with more model passes per image than this are not run again for those two.
      gallery: at most so many images on the page.
    """

    methods: tuple[str, ...] = ()
    steps: int = 50
    road: bool = True
    sensitivity: int = 3
    randomised: int = 0
    again: int = 600
    gallery: int = 12
    settings: Any = None


@dataclass(frozen=True)
class TtaConfig:
    """Test-time augmentation: a crop of each test image that the classifier sees as well.

    Attributes:
      crops: which: box (the annotated one), random, center, gradient, detector, fido_original,
        fido_simplified, glas. FIDO's settings are those of explain.*; fido_original_cleaned
        and fido_simplified_cleaned leave specks of the same mask out of the box.
      boxes: for detector: a CSV with the columns name,x0,y0,x1,y1[,score], in pixels of the
        image file; of several boxes of an image the one with the highest score counts.
      threshold: a map's box is around its values above this.
      padding: added to a map's box on every side, as a share of its side.
      share: side of the random and center crops, as a share of the image's.
    """

    crops: tuple[str, ...] = (
        "box", "random", "center", "gradient", "fido_original", "fido_simplified", "glas",
    )  # fmt: skip
    boxes: str | None = None
    threshold: float = 0.5
    padding: float = 0.1
    share: float = 0.75


@dataclass(frozen=True)
class ExplainConfig:
    """Which attribution method, on which class.

    Attributes:
      method: name of the method.
      preset: published settings of the method; what you set yourself goes on top.
      target: explain the labelled class (predicted where there is none), or the predicted.
      precision: of the network's layers while it is explained: f32, or bf16, which is faster on
        accelerators and slower on a CPU. What it predicts is computed in f32.
    """

    method: str = "fido"
    preset: str = "default"
    target: Literal["label", "predicted"] = "label"
    precision: Literal["f32", "bf16"] = "f32"
    settings: Any = None


@dataclass(frozen=True)
class DistributedConfig:
    """Several processes on one run, each on devices of its own. All are given the same options
    but for process_id; each explains its share of the images, process 0 does all the rest. With
    a coordinator all of them train together.

    Attributes:
      processes: how many.
      process_id: which of them this is, from 0.
      find: ask Slurm or MPI, which started the processes, for both.
      coordinator: HOST:PORT, the machine of process 0 and a free port there, connects the
        processes: training goes over the devices of all. auto: JAX finds it, processes and
        process_id (TPU pods, Slurm, Open MPI).
      timeout: seconds until all must be connected.
    """

    processes: int = 1
    process_id: int | None = None
    find: bool = False
    coordinator: str | None = None
    timeout: int = 300


@dataclass(frozen=True)
class Config:
    """Everything a run can be told.

    Attributes:
      run_dir: where results go; runs/NAME when left out.
      seed: of every random choice.
      stages: which of train, test (the accuracy on all test images), explain, evaluate, report,
        compare (many methods), tta (test-time augmentation), parts (region grouping) to do.
      dry_run: only say what would be done, and about how long it takes.
      parallel: auto (all devices), none (one), jit (one program over a mesh), or pmap (explaining
        goes through jax.pmap; training and testing as with jit).
    """

    run_dir: str | None = None
    seed: int = 0
    stages: tuple[str, ...] = ("train", "explain", "evaluate", "report")
    dry_run: bool = False
    parallel: Literal["auto", "none", "jit", "pmap"] = "auto"
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    proxy: ProxyConfig = field(default_factory=ProxyConfig)
    explain: ExplainConfig = field(default_factory=ExplainConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    compare: CompareConfig = field(default_factory=CompareConfig)
    tta: TtaConfig = field(default_factory=TtaConfig)
    parts: PartsConfig = field(default_factory=PartsConfig)
    focus: FocusConfig = field(default_factory=FocusConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
