"""What a run can be told: every option, and all that is known of it, in its field.

The help, the checks, the command line and a run that goes on read it there (see `Option`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from functools import reduce
from typing import Any, Literal

from fgjax.attribution.registry import METHOD_ENTRIES
from fgjax.core.option import (
    ABOVE_ZERO,
    PIXELS,
    SHARE,
    ZERO_TO_ONE,
    Option,
    Range,
    option,
    option_of,
)
from fgjax.data.registry import SOURCES
from fgjax.options.composed import FocusConfig, PartsConfig
from fgjax.options.judging import (
    CompareConfig,
    EvaluateConfig,
    LookConfig,
    ReportConfig,
    TtaConfig,
)
from fgjax.options.training import ProbeConfig, PromptsConfig, ProxyConfig, TrainConfig

STAGES = (
    "train",
    "probe",
    "prompts",
    "test",
    "explain",
    "evaluate",
    "report",
    "look",
    "compare",
    "funnybirds",
    "tta",
    "parts",
)


class ConfigError(ValueError):
    """A wrong option. The message says which, what it was given, and what it takes."""


@dataclass(frozen=True)
class DataConfig:
    """Which images."""

    source: str = option(
        "species",
        "species (drawn by fgjax), folder (class folders, or a flat folder of images), tfds "
        "(TensorFlow Datasets), or a set as its authors ship it: cub, dogs, cars, aircraft, "
        "celeba, funnybirds, inat2017, cifar100, food101, imagenette, asl, plantvillage.",
        names=lambda: SOURCES,
    )
    path: str | None = option(
        None,
        "the folder of the data set, or a single photo; for tfds, where prepared sets lie.",
        path=True,
        free=True,
    )
    name: str | None = option(None, "the name of a tfds set.")
    level: Literal["variant", "family", "manufacturer"] = option(
        "variant",
        "of the classes of aircraft.",
    )
    attribute: str | None = option(
        None,
        "the one of celeba that makes the two classes; all: each is an output of its own, for "
        "region grouping.",
    )
    aligned: bool = option(
        True,
        "celeba: the aligned faces, or the original photographs with their boxes.",
    )
    split: Literal["official", "scops"] = option(
        "official",
        "celeba: the authors' split, or scops, SCOPS' of the original photographs with large faces "
        "(data.aligned=false), for landmarks with parts.fitted_on=validation.",
    )
    masks: str | None = option(
        None, "folder of object masks, for a folder source.", path=True, free=True
    )
    boxes: str | None = option(
        None,
        "for a folder: where the animals are, each image is cut to its box before the model sees "
        "it: MegaDetector's JSON, or a CSV as tta.boxes has it.",
        path=True,
    )
    cues: str | None = option(
        None,
        "folder of masks of the part that tells the class, for a folder source; as data.masks.",
        path=True,
        free=True,
    )
    levels: str | None = option(
        None,
        "a CSV that groups the classes: class_name and, from fine to coarse, a column for each "
        "level, such as genus,family. species, inat2017 and aircraft know their own.",
        path=True,
        free=True,
    )
    size: int = option(224, "side of the square images the model sees, in pixels.", within=PIXELS)
    crop: float = option(
        0.875,
        "share of the shorter side that the centre crop keeps.",
        within=SHARE,
    )
    fit: Literal["crop", "squash"] = option(
        "crop",
        "how an image becomes a square: crop (its middle), or squash (all of it, its aspect "
        "is lost).",
    )
    limit: int | None = option(
        None,
        "explain and evaluate at most so many test images, spread over the classes.",
        within=ABOVE_ZERO,
        free=True,
    )
    test_share: float | None = option(
        None,
        "share of each class that is test, for plantvillage and a folder without a split; null: "
        "0.5, and all of it with model.weights.",
        within=ZERO_TO_ONE,
        free=True,
    )
    train_images: int = option(3000, "how many to draw, for the species source.", within=ABOVE_ZERO)
    test_images: int = option(500, "how many to draw, for the species source.", within=ABOVE_ZERO)
    shortcut: bool = option(False, "species: in training, the background goes with the class.")
    shortcut_share: float = option(
        1.0,
        "of the training images whose background goes with the class, by data.shortcut=true; the "
        "others contradict it. 0.1: it tells nothing.",
        within=ZERO_TO_ONE,
    )
    close_up: bool = option(False, "species: birds fill about a third of the image, not an eighth.")
    workers: int = option(4, "threads that decode.", within=ABOVE_ZERO, free=True)


@dataclass(frozen=True)
class ModelConfig:
    """Which classifier."""

    name: str | None = option(
        None, "architecture; may be left out where the file of model.weights says it."
    )
    weights: str | None = option(
        None,
        "a .safetensors file of a trained classifier, with torchvision's or timm's names.",
        path=True,
    )
    mean: tuple[float, ...] = option(
        (),
        "of the images that model.weights were trained with, per channel of RGB in [0, 1]; left "
        "out, as the file says, else as is usual for the architecture.",
        example="0.485,0.456,0.406",
    )
    std: tuple[float, ...] = option(
        (),
        "the standard deviation, as model.mean.",
        example="0.229,0.224,0.225",
    )
    padding: Literal["auto", "symmetric", "same"] = option(
        "auto",
        "of model.weights: same (TensorFlow's), symmetric (PyTorch's), or auto, as the file says.",
    )
    labels: str | None = option(
        None,
        "which output is which class: a text file with a line per output, or a CSV with the "
        "columns class_name,model_index.",
        path=True,
    )
    texts: str | None = option(
        None,
        "of a CLIP in model.weights: a file with an embedding of each class's text (.npz with "
        "embeddings and classes, .npy, .safetensors); the logits are the cosines to them.",
        path=True,
    )
    checkpoint: str | None = option(
        None,
        "a finished run's checkpoint folder, used instead of training.",
        path=True,
    )
    pretrained: str | None = option(
        None,
        "what training starts from: a .safetensors file, or a Hugging Face hub id such as "
        "timm/resnet50.tv_in1k; null: from scratch. Other classes get a fresh classifier.",
        path=True,
    )


@dataclass(frozen=True)
class ExplainConfig:
    """Which attribution method, on which class."""

    method: str = option("fido", "name of the method.")
    preset: str = option(
        "default",
        "published settings of the method; what you set yourself goes on top.",
    )
    target: Literal["label", "predicted"] = option(
        "label",
        "explain the labelled class (predicted where there is none), or the predicted.",
    )
    against: str | None = option(
        None,
        "why this class and not that one: second (the one that comes nearest), siblings (of its "
        "family, or the 3 classes with the most similar weights), or the name of a class.",
    )
    infills: str | None = option(
        None,
        "a folder with a picture for every image, which is its infill; the same as "
        "explain.infill=FOLDER.",
        path=True,
    )
    precision: Literal["f32", "bf16"] = option(
        "f32",
        "of the network's layers while it is explained, in comparisons and test-time "
        "augmentation too: f32, or bf16, which is faster on accelerators and slower on a CPU. "
        "What it predicts, and how maps are judged, is computed in f32.",
    )
    settings: Any = None


@dataclass(frozen=True)
class DistributedConfig:
    """Several processes on one run, each on devices of its own. All are given the same options
    but for process_id; each explains its share of the images, process 0 does all the rest. With
    a coordinator all of them train together.
    """

    processes: int = option(1, "how many.", within=ABOVE_ZERO)
    process_id: int | None = option(None, "which of them this is, from 0.")
    find: bool = option(False, "ask Slurm or MPI, which started the processes, for both.")
    coordinator: str | None = option(
        None,
        "HOST:PORT, the machine of process 0 and a free port there, connects the processes: "
        "training goes over the devices of all. auto: JAX finds it, processes and process_id "
        "(TPU pods, Slurm, Open MPI).",
    )
    timeout: int = option(300, "seconds until all must be connected.", within=ABOVE_ZERO)


@dataclass(frozen=True)
class DevicesConfig:
    """What the devices compute with."""

    onednn: Literal["auto", "on", "off"] = option(
        "auto",
        "oneDNN's convolutions on a CPU: auto, where they measured faster (jax 0.11 or newer); on, "
        "wherever the compiler has them; off. run.json says what was used.",
    )
    keep_memory: bool = option(
        True,
        "keep about 2 GiB of the host's freed memory for the next call (Linux): 5 to 25 % "
        "faster on a CPU. false: where memory is short.",
        free=True,
    )


@dataclass(frozen=True)
class Config:
    """Everything a run can be told."""

    run_dir: str | None = option(None, "where results go; runs/NAME when left out.", free=True)
    seed: int = option(
        0,
        "of every random choice.",
        within=Range("a whole number from 0 to 2**32 - 1", lambda value: 0 <= value < 2**32),
    )
    stages: tuple[str, ...] = option(
        ("train", "explain", "evaluate", "report"),
        "which of train, probe (a linear classifier on frozen features), "
        "prompts (one for each class, on a frozen transformer), "
        "test (the accuracy on all test images), explain, evaluate, report, "
        "look (what may be wrong, and tables for field work), compare (many methods), "
        "funnybirds (many methods, by drawings without parts), tta (test-time augmentation), "
        "parts (region grouping) to do.",
        example=",".join(STAGES),
        names=lambda: STAGES,
        free=True,
    )
    maps: str | None = option(
        None,
        "maps made elsewhere, judged instead of explaining: a folder with a .npy or .png file for "
        "every image, under its name, or one .npy file of all maps in the images' order.",
        path=True,
    )
    maps_scale: Literal["keep", "positive", "absolute", "unit"] = option(
        "keep",
        "how such a map becomes importance in [0, 1]: keep (it is), positive (its positive part), "
        "absolute, each over the map's maximum, or unit (from its minimum to its maximum).",
    )
    dry_run: bool = option(
        False,
        "only say what would be done, and about how long it takes.",
        free=True,
    )
    parallel: Literal["auto", "none", "jit", "pmap"] = option(
        "auto",
        "auto (all devices), none (one), jit (one program over a mesh), or pmap (explaining "
        "goes through jax.pmap; training and testing as with jit).",
        free=True,
    )
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    prompts: PromptsConfig = field(default_factory=PromptsConfig)
    proxy: ProxyConfig = field(default_factory=ProxyConfig)
    explain: ExplainConfig = field(default_factory=ExplainConfig)
    evaluate: EvaluateConfig = option(EvaluateConfig, "no map depends on it.", free=True)
    report: ReportConfig = option(ReportConfig, "no map depends on it.", free=True)
    look: LookConfig = option(LookConfig, "no map depends on it.", free=True)
    compare: CompareConfig = option(CompareConfig, "no map depends on it.", free=True)
    tta: TtaConfig = field(default_factory=TtaConfig)
    parts: PartsConfig = field(default_factory=PartsConfig)
    focus: FocusConfig = field(default_factory=FocusConfig)
    devices: DevicesConfig = option(DevicesConfig, "how fast a run is.", free=True)
    distributed: DistributedConfig = option(DistributedConfig, "no map depends on it.", free=True)

    @property
    def made_with(self) -> Any:
        """The settings of the method that makes the maps; None of maps made elsewhere."""
        return None if self.maps else self.explain.settings


def options_of(group: Any, prefix: str = "") -> Iterator[tuple[str, Option]]:
    """Yield every option of a group, and of the groups in it, with what its field says."""
    for f in fields(group):
        if is_dataclass(f.type):
            yield from options_of(f.type, f"{prefix}{f.name}.")
        elif f.name != "settings":
            yield f"{prefix}{f.name}", option_of(f, group)


OPTIONS: dict[str, Option] = dict(options_of(Config))
"""Every option but the methods' own settings, explain.* and compare.METHOD.*, see `CONFIGS`."""


def may_change(option: str, method: str) -> bool:
    """Return whether a run that goes on may be given another value of an option.

    Args:
      method: the one of `explain.method`.
    """
    group, _, name = option.partition(".")
    if any(f.name == group and option_of(f).free for f in fields(Config)):
        return True
    if option in OPTIONS:
        return OPTIONS[option].free
    # A setting of a method. A run of before may be of one that is gone.
    configs = [METHOD_ENTRIES[method].config] if method in METHOD_ENTRIES else []
    configs += [entry.config for entry in METHOD_ENTRIES.values()]
    said = [option_of(f, config) for config in configs for f in fields(config) if f.name == name]
    return group == "explain" and bool(said) and said[0].free


def option_value(config: Config, option: str) -> Any:
    """Return the value of an option by its name, such as data.size."""
    return reduce(getattr, option.split("."), config)
