"""Which settings fine-tune best on 10 to 30 photographs a class? Birds, butterflies.

    python benchmarks/train_folder.py --birds CUB_200_2011 --butterflies DIR --weights FILE \
        --out benchmarks/results/train_folder.csv

Settings are chosen on ten species of birds and reported on others: the other ten species, and
butterflies. Each training is a run of config=train_folder, judged once, after it, by test images:

  rates    how fast weights and the new last layer learn, around `BEFORE`, which train_folder was
  rest     one setting after the other, around `RATED`, which the step before has chosen
  uneven   what to do where some species have five times as many images
  report   `CHOSEN`, what train_folder is now, beside `BEFORE` and networks that do not learn
  more     the same on 30 images a class

Rule, fixed before any training: a setting replaces another where it is right on a point more of
the images in the mean of the seeds, and on no fewer for any seed. Which images of a class are
trained on, their order, the new layer and what is set aside for validation follow the seed. What
is compared shares all of these. Finished rows are kept in --out; the same command goes on.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from tables.files import append_row, rows_so_far

import fgjax
from fgjax.core.progress import hushed
from fgjax.data.pipeline import load_examples
from fgjax.data.sets.cub import CubSource
from fgjax.data.sets.folder import FolderSource
from fgjax.models.classifier import Classifier
from fgjax.models.pretrained import load_pretrained
from fgjax.run import main as run
from fgjax.training.classifier import logits_of

Settings = dict[str, Any]

BEFORE: Settings = {
    "epochs": 15, "batch_size": 32, "optimizer": "adamw", "learning_rate": 1e-3, "adam_eps": 0.1,
    "weight_decay": 0.01, "rates": "[]", "freeze": "[]", "label_smoothing": 0.1, "ema": 0.0,
    "batch_norm": "auto", "crop": 0.35, "shift": 0.0, "light": 0.1, "randaugment": 0.0,
    "mix": "none", "validation": 0.1, "select": "best", "refit": "false", "sampling": "uniform",
    "class_weights": "none",
}  # fmt: skip
"""What train_folder was, with its advice for one CPU (15 epochs instead of 60)."""
HEAD = "[classifier:10]"
RATED: Settings = {**BEFORE, "learning_rate": 3e-4, "adam_eps": 1e-8, "rates": HEAD}
"""What the step "rates" has chosen."""
CHOSEN: Settings = {**RATED, "validation": 0.0}
"""What the step "rest" has chosen."""
UNEVEN = (5, 25)
"""Images of every other species, where classes are uneven."""


@dataclass(frozen=True)
class Arm:
    """What differs from a step's settings.

    Attributes:
      change: of `train.*`.
      start: the weights; the linear probe's, head and all; the weights with statistics in their
        batch normalisation, see `with_statistics`; or fresh ones.
      stage: "train", or "probe": the linear probe alone.
    """

    change: Settings = field(default_factory=dict)
    start: str = "weights"
    stage: str = "train"


AS_IT_IS = "as it is"
RATES = {
    AS_IT_IS: Arm(),
    "rate 0.001, head × 10": Arm({"learning_rate": 1e-3, "rates": HEAD}),
    "rate 0.003, head × 10": Arm({"learning_rate": 3e-3, "rates": HEAD}),
    "rate 0.0003, head × 10, ε 1e-8": Arm({"learning_rate": 3e-4, "rates": HEAD, "adam_eps": 1e-8}),
}
WHOLE = "linear probe"
REST = {
    AS_IT_IS: Arm(),
    WHOLE: Arm(stage="probe"),
    "from the probe": Arm(start="probe"),
    "no validation, last epoch": Arm({"validation": 0.0}),
    "rate 0.001": Arm({"learning_rate": 1e-3}),
    "rate 0.0001": Arm({"learning_rate": 1e-4}),
    "rate of the head × 1": Arm({"rates": "[]"}),
    "30 epochs": Arm({"epochs": 30}),
    "shifts, no crops": Arm({"crop": 1.0, "shift": 0.08}),
    "no smoothing": Arm({"label_smoothing": 0.0}),
    "moving average": Arm({"ema": 0.99}),
    "RandAugment": Arm({"randaugment": 9.0}),
    "statistics of the batch": Arm({"batch_norm": "batch"}, start="live"),
    "statistics fixed": Arm({"batch_norm": "fixed"}, start="live"),
    "batches of 16": Arm({"batch_size": 16}),
    "crops from 0.7": Arm({"crop": 0.7}),
    "lower blocks frozen": Arm({"freeze": "[stem,blocks_0,blocks_1,blocks_2]"}),
}
FRESH = "linear probe, fresh network"
REPORT = {
    "before": Arm(BEFORE),
    "now": Arm(),
    WHOLE: Arm(stage="probe"),
    FRESH: Arm(start="fresh", stage="probe"),
}
MORE = {arm: REPORT[arm] for arm in ("before", "now", WHOLE)}
BALANCE = {
    AS_IT_IS: Arm(),
    "classes alike": Arm({"sampling": "balanced"}),
    "effective weights": Arm({"class_weights": "effective"}),
}


class Job(NamedTuple):
    """A training, and what it is called in the file."""

    step: str
    data: str
    each: str
    arm: str
    seed: int


class Step(NamedTuple):
    """Arms that are compared with each other.

    Attributes:
      data: which sets, with the images a class.
      settings: what arms change.
    """

    data: tuple[tuple[str, str], ...]
    arms: dict[str, Arm]
    settings: Settings


FIRST, LAST, BUTTERFLIES = "first ten birds", "last ten birds", "butterflies"
STEPS = {
    "rates": Step(((FIRST, "10"),), RATES, BEFORE),
    "rest": Step(((FIRST, "10"),), REST, RATED),
    "uneven": Step(((FIRST, "uneven"),), BALANCE, RATED),
    "report": Step(((LAST, "10"), (BUTTERFLIES, "10")), REPORT, CHOSEN),
    "more": Step(((LAST, "30"),), MORE, CHOSEN),
}


class Files(NamedTuple):
    """Image files by class, those that may be trained on and those of the test."""

    train: dict[str, list[Path]]
    test: dict[str, list[Path]]


@lru_cache(maxsize=1)
def find_files(name: str, birds: Path, butterflies: Path) -> Files:
    """Return the files of a data set."""
    source: Any
    if name == BUTTERFLIES:
        source, wanted = FolderSource(butterflies, test_share=0.5), slice(None)
    else:
        source = CubSource(birds)
        half = len(source.classes) // 2
        wanted = slice(half) if name == FIRST else slice(half, None)
    classes = source.classes[wanted]
    found = Files({c: [] for c in classes}, {c: [] for c in classes})
    for record in source.records:
        if (label := source.classes[record.label]) in classes:
            part = found.train if record.split == "train" else found.test
            part[label].append(Path(source.file(record)).resolve())
    return found


def counts(each: str, classes: int) -> list[int]:
    """Return how many images of each class are trained on."""
    return [UNEVEN[i % 2] if each == "uneven" else int(each) for i in range(classes)]


def lay_out(files: Files, each: str, seed: int, folder: Path) -> None:
    """Make train/ and test/ with class folders of links to images.

    Raises:
      ValueError: a class has too few.
    """
    wanted = counts(each, len(files.train))
    for place, (name, every) in enumerate(files.train.items()):
        if len(every) < wanted[place]:
            raise ValueError(f"{name} has {len(every)} training images, not {wanted[place]}")
        order = np.random.default_rng([seed, place]).permutation(len(every))
        some = [sorted(every)[i] for i in order[: wanted[place]]]
        for split, paths in (("train", some), ("test", files.test[name])):
            (folder / split / name).mkdir(parents=True)
            for path in paths:
                (folder / split / name / path.name).symlink_to(path)


def read_split(folder: Path, split: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the images of a split as the network sees them (n h w 3, uint8), and their classes."""
    source = FolderSource(folder, size=size)
    records = [record for record in source.records if record.split == split]
    loaded = load_examples(source, records, on_error="raise")
    images = np.stack([example.image for _, example in loaded])
    return images, np.array([record.label for record in records])


def with_statistics(model: Classifier, images: np.ndarray) -> Classifier:
    """Return the same function, whose batch normalisation has statistics to work with.

    Weights whose normalisation was folded into the convolutions have mean 0 and variance 1 there;
    here they get those of what they see on these images, and scale and bias that undo it.
    """
    flat = traverse_util.flatten_dict(model.variables, sep="/")

    def note(call, args, kwargs, context):
        if isinstance(context.module, nn.BatchNorm):
            path, eps = "/".join(context.module.path), context.module.epsilon
            mean, var = args[0].mean((0, 1, 2)), args[0].var((0, 1, 2))
            scale = flat[f"params/{path}/scale"] / jnp.sqrt(1 + eps)
            flat[f"params/{path}/bias"] += scale * mean
            flat[f"params/{path}/scale"] = scale * jnp.sqrt(var + eps)
            flat[f"batch_stats/{path}/mean"], flat[f"batch_stats/{path}/var"] = mean, var
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        model(jnp.asarray(images, jnp.float32) / 255)
    return model.replace(variables=traverse_util.unflatten_dict(flat, sep="/"))


class Bench:
    """Trains and judges, in a folder of its own."""

    def __init__(self, birds: Path, butterflies: Path, weights: Path, size: int, work: Path):
        self._birds, self._butterflies, self._weights = birds, butterflies, weights
        self._size, self._work = size, work
        self._name = load_pretrained(None, weights, size=size).name

    def row(self, job: Job) -> dict[str, Any]:
        """Return what a training came to, and how."""
        arm = STEPS[job.step].arms[job.arm]
        with tempfile.TemporaryDirectory(dir=self._work) as name:
            folder = Path(name)
            files = find_files(job.data, self._birds, self._butterflies)
            lay_out(files, job.each, job.seed, folder / "images")
            began = time.process_time()
            self._run(job, arm.stage, self._start(job, arm.start, folder), folder / "run")
            seconds = time.process_time() - began
            model, about = fgjax.load_classifier(folder / "run"), facts_of(folder / "run")
            images, labels = read_split(folder / "images", "test", self._size)
        parts = ((images[i : i + 32], labels[i : i + 32]) for i in range(0, len(labels), 32))
        logits, _ = logits_of(model, parts, 32)
        right = logits.argmax(1) == labels
        log_p = np.asarray(jax.nn.log_softmax(logits / model.temperature))
        return {
            **job._asdict(), "accuracy": float(right.mean()),
            "loss": -float(log_p[np.arange(len(labels)), labels].mean()), **about,
            "cpu_seconds": seconds, "settings": told(job, self._size),
            "right": "".join(map(str, right.astype(int))),
        }  # fmt: skip

    def _start(self, job: Job, start: str, folder: Path) -> str:
        """Return the file of the weights that are trained on."""
        if start == "fresh":
            return "null"
        if start == "weights":
            return str(self._weights)
        if start == "probe":
            self._run(job, "probe", str(self._weights), folder / "probe")
            model = fgjax.load_classifier(folder / "probe")
        else:
            images, _ = read_split(folder / "images", "train", self._size)
            model = load_pretrained(None, self._weights, size=self._size)
            model = with_statistics(model, images)
        fgjax.save_pretrained(model, folder / "start.safetensors")
        return str(folder / "start.safetensors")

    def _run(self, job: Job, stage: str, start: str, run_dir: Path) -> None:
        """Run the config.

        Raises:
          RuntimeError: it failed.
        """
        words = [
            f"config={stage}_folder", f"stages=[{stage}]", f"data.path={run_dir.parent / 'images'}",
            f"data.size={self._size}", f"seed={job.seed}", f"run_dir={run_dir}",
            f"model.name={self._name}", f"model.pretrained={start}",
            f"probe.cache={self._work / 'features'}", *(options(job) if stage == "train" else ()),
        ]  # fmt: skip
        with hushed():
            code = run(words)
        if code:
            raise RuntimeError(f"{' '.join(words)} ended with {code}")


def options(job: Job) -> list[str]:
    """Return the options of a training."""
    step = STEPS[job.step]
    return [f"train.{k}={v}" for k, v in {**step.settings, **step.arms[job.arm].change}.items()]


def told(job: Job, size: int) -> str:
    """Return all that a row was made with."""
    arm = STEPS[job.step].arms[job.arm]
    own = options(job) if arm.stage == "train" else ()
    return " ".join([arm.stage, f"data.size={size}", f"start={arm.start}", *own])


def facts_of(folder: Path) -> dict[str, Any]:
    """Return what a run says of its classifier; of a probe also what its neighbours' votes say."""
    facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))["stages"]
    ((stage, facts),) = facts.items()
    neighbours = None
    if stage == "probe":
        probe = json.loads((folder / "probe.json").read_text(encoding="utf-8"))
        neighbours = probe["neighbours"]["test_accuracy"]
    return {
        "images": facts["images"],
        "validation_accuracy": facts["validation_accuracy"],
        "best_epoch": facts.get("best_epoch"),
        "neighbours": neighbours,
    }


def job_of(row: dict[str, str]) -> Job:
    """Return which training a row of the file is of."""
    return Job(*(row[name] for name in Job._fields[:-1]), int(row["seed"]))


def jobs(steps: list[str], seeds: int = 2, arms: list[str] | None = None) -> Iterator[Job]:
    """Yield what is to be trained; all of a seed before the next seed."""
    for seed in range(seeds):
        for name in steps:
            step = STEPS[name]
            for data, each in step.data:
                for arm in step.arms if arms is None else arms:
                    yield Job(name, data, each, arm, seed)


def main(words: list[str] | None = None) -> int:
    """Train and judge what is not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--birds", type=Path, required=True, help="CUB-200-2011, or a part of it")
    parser.add_argument("--butterflies", type=Path, required=True, help="a folder of class folders")
    parser.add_argument("--weights", type=Path, required=True, help="a MobileNetV2 of ImageNet")
    parser.add_argument("--out", type=Path, required=True, help="a CSV with a row per training")
    parser.add_argument("--steps", nargs="+", default=list(STEPS), choices=STEPS)
    parser.add_argument("--arms", nargs="+", help="these alone")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--size", type=int, default=128, help="side of the images")
    given = parser.parse_args(words)
    rows = {job_of(row): row for row in rows_so_far(given.out)}
    same = {(*job[1:3], job.seed, row["settings"]): row for job, row in rows.items()}
    with tempfile.TemporaryDirectory() as work:
        bench = Bench(given.birds, given.butterflies, given.weights, given.size, Path(work))
        for job in jobs(given.steps, given.seeds, given.arms):
            now = told(job, given.size)
            if job in rows:
                if (before := rows[job]["settings"]) != now:
                    parser.error(f"{given.out}: {job} was made with {before}, and is now {now}")
                continue
            known = same.get((job.data, job.each, job.seed, now))
            row = {**known, **job._asdict()} if known else bench.row(job)
            row = {k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()}
            same[job.data, job.each, job.seed, now] = row
            append_row(given.out, row)
            print(
                f"{job.step}, {job.data}, {job.each} a class, seed {job.seed}, {job.arm}: "
                f"{float(row['accuracy']):.1%}, {float(row['cpu_seconds']):.0f} CPU-seconds",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
