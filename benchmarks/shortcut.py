"""What does a training do about a shortcut that holds most of the time? Drawn birds.

    python benchmarks/shortcut.py --out benchmarks/results/shortcut.csv

On a share of the training images the background tells the class, on the others it tells a wrong
one; on the test images it is independent of the class. Arms, all with the same images, order,
start and number of steps for a seed, judged after the last epoch, no setting chosen by their
numbers:

  as they are        the images
  proxy attention    misclassified images with what Grad-CAM shows for the wrong class dimmed
  random places      the same, each heat map moved to a random place: equal area, equal dimming
  true background    the same images with their background dimmed, which the drawing knows
  JTT                a short training first; then what it gets wrong is half of what is shown
  cutout             a square taken out of every image

A share of 0.1 tells nothing: the images "as they are" are then the control without a shortcut.
Finished rows are kept in --out; the same command goes on.

Reference of JTT: Liu et al., Just Train Twice, 2021. It tunes by the worst group how long the first
training is and how often its mistakes are shown; here that is --first and a half.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tables.files import append_row, rows_so_far

import fgjax
from fgjax.data.pipeline import epoch_order
from fgjax.data.species.scenes import BACKGROUNDS
from fgjax.data.species.source import CLASSES, SpeciesSource, draw
from fgjax.evaluation.localization import energy_inside
from fgjax.models.classifier import Classifier, create_model
from fgjax.training.augment.erasing import Erasing
from fgjax.training.augment.geometry_and_light import Augmentation
from fgjax.training.classifier import Recipe, logits_of, train
from fgjax.training.optimizer import make_optimizer
from fgjax.training.proxies.keep import NONE, Proxies, proxy_epochs
from fgjax.training.proxies.proxy_attention import ProxySettings, predictions, proxy_step

PLAIN = "as they are"
ARMS = (PLAIN, "proxy attention", "random places", "true background", "JTT", "cutout")
DIMMED = ARMS[1:4]
FACTS = ("replaced", "dimmed", "replaced_contradict")
NOTHING = 0.1
"""The share at which backgrounds tell nothing of ten classes."""


@dataclass(frozen=True)
class Settings:
    """What all arms share."""

    model: str = "resnet_tiny"
    size: int = 64
    images: int = 2000
    test: int = 1000
    explained: int = 200
    epochs: int = 8
    first: int = 2
    batch: int = 32
    rate: float = 5e-3


class Part(NamedTuple):
    """Drawings of a split (n h w 3, uint8), their classes, where bird and deciding part are seen
    (n h w), and whether each stands before its own class's background (n)."""

    pixels: np.ndarray
    labels: np.ndarray
    birds: np.ndarray
    cues: np.ndarray
    agrees: np.ndarray


@lru_cache(maxsize=2)  # the training images of now, and the test images
def draw_part(source: SpeciesSource, split: str) -> Part:
    """Draw a split of the data set."""
    pixels, labels, birds, cues, agrees = [], [], [], [], []
    for record in source.records:
        if record.split == split:
            scene = source.scene(record)
            drawing = draw(scene, source.size)
            pixels.append(drawing.image)
            labels.append(drawing.label)
            birds.append(drawing.mask)
            cues.append(drawing.cue)
            agrees.append(scene.background == BACKGROUNDS[drawing.label])
    return Part(
        np.stack(pixels), np.array(labels, np.int32), np.stack(birds), np.stack(cues),
        np.array(agrees),
    )  # fmt: skip


def half_wrong(wrong: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Return n places, about half of them of images that are wrong, each as often as the next.

    As JTT: mistakes are repeated, and an epoch is as long as it was.
    """
    count = int(wrong.sum())
    times = max(1, round((len(wrong) - count) / count)) if count else 1
    places = np.repeat(np.arange(len(wrong)), np.where(wrong, times, 1))
    return places[epoch_order(seed, epoch, len(places))[: len(wrong)]]


def group_figures(right: np.ndarray, labels: np.ndarray, agrees: np.ndarray) -> dict[str, float]:
    """Return the accuracy on all images, on those whose background agrees with the class and on
    those whose does not, the lower of these two, and the lowest of a class among the latter."""
    groups = [float(right[agrees].mean()), float(right[~agrees].mean())]
    classes = [right[~agrees & (labels == label)].mean() for label in np.unique(labels)]
    return {
        "accuracy": float(right.mean()),
        "agrees": groups[0],
        "contradicts": groups[1],
        "worst_group": min(groups),
        "worst_class": float(min(classes)),
    }


class Dimmer:
    """Makes the proxies of an arm before the epochs of their schedule, and counts them."""

    def __init__(self, arm: str, part: Part, seed: int, settings: Settings):
        self.now: Proxies = NONE
        self._part, self._seed, self._batch = part, seed, settings.batch
        self._steps = proxy_epochs(settings.epochs, 0.2, 1.0, 2) if arm in DIMMED else ()
        self._settings = ProxySettings(place="random" if arm == "random places" else "heat")
        self._known = arm == "true background"
        self._shares: list[tuple[float, float, float]] = []

    def begin(self, epoch: int, model: Classifier) -> None:
        """Make proxies, where the schedule says so."""
        if epoch not in self._steps:
            return
        part = self._part
        self.now, _ = proxy_step(
            model,
            lambda places: batches(part, places, self._batch),
            np.arange(len(part.labels)),
            part.labels,
            batch_size=self._batch,
            settings=self._settings,
            seed=self._seed,
            epoch=epoch,
            key=jax.random.key(self._seed),
            maps=(lambda places: ~part.birds[places]) if self._known else None,
        )
        if len(places := self.now.places):
            changed = (np.asarray(self.now.pixels) != part.pixels[places]).any(-1)
            contradict = ~part.agrees[places]
            self._shares.append((len(places) / len(part.labels), changed.mean(), contradict.mean()))

    def facts(self) -> dict[str, float]:
        """Return means over the steps: the share of the images that were replaced, of their pixels
        that were dimmed, and of them whose background contradicts the class."""
        means = np.mean(self._shares, axis=0) if self._shares else (np.nan,) * len(FACTS)
        return dict(zip(FACTS, map(float, means), strict=True))


def batches(part: Part, order: np.ndarray, size: int) -> Iterator:
    """Yield images and labels in this order; the last batch may be shorter."""
    for i in range(0, len(order), size):
        places = order[i : i + size]
        yield part.pixels[places], part.labels[places]


def fit(arm: str, part: Part, seed: int, settings: Settings) -> tuple[Classifier, dict[str, float]]:
    """Return the classifier of an arm after its last epoch, and how it came to be."""
    model = create_model(settings.model, len(CLASSES), size=settings.size, key=jax.random.key(seed))
    count, dimmer, batch = len(part.labels), Dimmer(arm, part, seed, settings), settings.batch
    steps = count // batch
    recipe = Recipe(
        make_optimizer(steps * settings.epochs, settings.rate, warmup=0.1, weight_decay=0.01),
        Augmentation(
            shift=0.08, light=0.1,
            erase=Erasing("cutout" if arm == "cutout" else "none", fill=tuple(model.mean)),
        ),
        smoothing=0.1,
    )  # fmt: skip

    def run(epochs, order=lambda epoch: epoch_order(seed, epoch, count)):
        def shown(epoch):
            places = order(epoch)[: steps * batch]
            for number, (images, labels) in enumerate(batches(part, places, batch)):
                yield dimmer.now.put(images, places[number * batch :][:batch]), labels

        state = train(
            model, shown, lambda: iter(()), key=jax.random.key(seed), epochs=epochs,
            batch_size=batch, recipe=recipe, before_epoch=dimmer.begin,
        )  # fmt: skip
        return model.replace(variables=state.variables)

    if arm != "JTT":
        return run(settings.epochs), dimmer.facts()
    wrong = wrongly(run(settings.first), part, settings)
    facts = (wrong.mean(), np.nan, (~part.agrees[wrong]).mean())
    fitted = run(settings.epochs, lambda epoch: half_wrong(wrong, seed, epoch))
    return fitted, dict(zip(FACTS, map(float, facts), strict=True))


def wrongly(model: Classifier, part: Part, settings: Settings) -> np.ndarray:
    """Return which images of a part are misclassified."""
    places = np.arange(len(part.labels))
    found = predictions(model, lambda p: batches(part, p, settings.batch), places, settings.batch)
    return found != part.labels


def judge(model: Classifier, test: Part, settings: Settings) -> dict[str, float]:
    """Return accuracies on the test images, and where Grad-CAM of the right class lies."""
    logits, _ = logits_of(
        model, batches(test, np.arange(len(test.labels)), settings.batch), settings.batch
    )
    figures = group_figures(logits.argmax(1) == test.labels, test.labels, test.agrees)
    some = slice(0, settings.explained)
    seen = test.pixels[some].astype(np.float32) / 255
    heat = fgjax.grad_cam(model, seen, test.labels[some]).heatmap
    for name, truth in (("bird", test.birds), ("part", test.cues)):
        figures[f"energy_{name}"] = float(np.nanmean(energy_inside(heat, jnp.asarray(truth[some]))))
        area = truth[some].mean((1, 2))
        figures[f"area_{name}"] = float(area[area > 0].mean())  # a constant map's energy
    return figures


def data(share: float, seed: int, settings: Settings) -> SpeciesSource:
    """Return a data set; its test images, and all but the backgrounds of the others, are the same
    for every share."""
    return SpeciesSource(
        size=settings.size, train=settings.images, test=settings.test, seed=seed,
        background_follows_class=True, follow_share=share,
    )  # fmt: skip


def jobs(shares: list[float], seeds: int, arms: list[str]) -> Iterator[tuple[float, int, str]]:
    """Yield (share, seed, arm), the controls last."""
    for share in (*shares, NOTHING):
        for seed in range(seeds):
            for arm in ARMS if share != NOTHING else (PLAIN,):
                if arm in arms:
                    yield share, seed, arm


def main(words: list[str] | None = None) -> int:
    """Train and judge what is not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="a CSV with a row per training")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.8, 0.9, 0.95])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    for name, default in asdict(Settings()).items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    given = parser.parse_args(words)
    settings = Settings(**{name: getattr(given, name) for name in asdict(Settings())})
    rows = rows_so_far(given.out)
    for name, value in asdict(settings).items():
        if rows and type(value)(rows[0][name]) != value:
            parser.error(f"--{name} {value}: {given.out} was made with {rows[0][name]}")
    done = {(float(row["share"]), int(row["seed"]), row["arm"]) for row in rows}
    for share, seed, arm in jobs(given.shares, given.seeds, given.arms):
        if (share, seed, arm) in done:
            continue
        began = time.monotonic()
        part = draw_part(data(share, seed, settings), "train")
        model, facts = fit(arm, part, seed, settings)
        wrong = float(wrongly(model, part, settings).mean())
        figures = judge(model, draw_part(data(NOTHING, seed, settings), "test"), settings)
        row = {
            "share": share, "arm": arm, "seed": seed, **figures, "train_accuracy": 1 - wrong,
            **facts, **asdict(settings), "seconds": time.monotonic() - began,
        }  # fmt: skip
        append_row(given.out, row)
        print(
            f"share {share}, seed {seed}, {arm}: {figures['accuracy']:.1%}, contradicting "
            f"{figures['contradicts']:.1%}, on the bird {figures['energy_bird']:.1%}, "
            f"{row['seconds']:.0f} s",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
