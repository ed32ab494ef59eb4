"""What does a second look add to a second network? Two streams trained end to end; drawn birds.

    python benchmarks/two_streams.py                       # everything that --out does not have yet
    python benchmarks/two_streams.py --minutes 30          # for so long; the same command goes on
    python benchmarks/two_streams.py --epochs 10 --seeds 0 --arms MLP "LSTM and attention"  # longer

A bird is drawn at 128 px. The global stream sees it at 64 px; patches of 48 px are cut out of the
drawing and seen at 32 px, a third larger than in the global stream, and four of them have as many
pixels as that sees. All networks of an arm are trained together from random weights, with the loss
of Eqs. 3.8 to 3.11; the gradient goes from the head through the recurrence into the local network,
and patches are found anew at every step by the global stream as it is then. Arms:

  global only                 the whole image
  second global network       the local stream's network, which sees the whole image too
  local CNN                   patches around the peaks of the global stream's CAM, a linear head
  MLP                         an MLP with as many weights as the LSTMs between network and head
  LSTM, last step             two LSTMs, ten steps over each patch's feature; loss at every step
  LSTM and attention          the same, attention over the steps (Eqs. 3.5, 3.6)
  self-attention              the same, the LSTMs fed by what their state picks from the map (ch. 7)
  patches as a sequence       the same LSTMs and attention, but one step for each patch
  random patches              "LSTM and attention", patches anywhere
  reference moves             "LSTM and attention", the ranking loss pulls the global stream, too

For a seed all arms have the same images, order, augmentation, start of what they share and number
of steps; another seed has other training and other test images. The last epoch counts. Epochs and
the patches' side were chosen with a global stream alone, on images of another seed (100): by its
accuracy, and by how often the part that tells the class lies in a patch. A row of --out is a
training; `right` says of every test image, a bit each in hexadecimal, whether the joint prediction
is right, so that arms can be compared image by image (tables/streams.py).
"""

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tables.files import RESULTS, append_row, rows_so_far

from fgjax.data.pipeline import epoch_order
from fgjax.data.species.source import CLASSES, PARTS, SPECIES, SpeciesSource, draw
from fgjax.devices.jit import program
from fgjax.models.classifier import Classifier, create_model
from fgjax.training.augment.geometry_and_light import Augmentation
from fgjax.training.classifier import Recipe, train
from fgjax.training.objectives.ranking import StreamLoss
from fgjax.training.optimizer import make_optimizer


@dataclass(frozen=True)
class Settings:
    """What all arms share."""

    model: str = "looks:SMALL"
    size: int = 128
    zoom: int = 2
    patches: int = 4
    patch_side: float = 0.375
    patch_size: int = 32
    steps: int = 10
    hidden: int = 64
    images: int = 2000
    test: int = 3000
    epochs: int = 5
    batch: int = 32
    rate: float = 5e-3


@dataclass(frozen=True)
class Arm:
    """What is an arm's own: of its network, and of its loss."""

    network: dict[str, Any]
    loss: dict[str, Any] = field(default_factory=dict)


ARMS = {
    "global only": Arm({"readout": "none"}),
    "second global network": Arm({"readout": "cnn", "places": "whole"}),
    "local CNN": Arm({"readout": "cnn"}),
    "MLP": Arm({"readout": "cnn", "between": "mlp"}),
    "LSTM, last step": Arm({"readout": "last"}, {"every_step": True}),
    "LSTM and attention": Arm({"readout": "attention"}),
    "self-attention": Arm({"readout": "attention", "self_attention": True}),
    "patches as a sequence": Arm({"readout": "cnn", "between": "sequence"}),
    "random patches": Arm({"readout": "attention", "places": "random"}),
    "reference moves": Arm({"readout": "attention"}, {"moves_reference": True}),
}


class Part(NamedTuple):
    """Drawings of a split (n h w 3, uint8), their classes, and the point of the part that tells
    the class (n 3: x, y in pixels, whether it is seen)."""

    pixels: np.ndarray
    labels: np.ndarray
    cues: np.ndarray


@lru_cache(maxsize=2)  # both splits of the seed of now
def draw_part(settings: Settings, seed: int, split: str) -> Part:
    """Draw a split of a seed's data set."""
    source = SpeciesSource(settings.size, train=settings.images, test=settings.test, seed=seed)
    drawn = [draw(source.scene(r), settings.size) for r in source.records if r.split == split]
    labels = np.array([drawing.label for drawing in drawn], np.int32)
    cues = [d.landmarks[PARTS.index(SPECIES[d.label].cue)] for d in drawn]
    return Part(np.stack([drawing.image for drawing in drawn]), labels, np.stack(cues))


def fresh(arm: str, seed: int, settings: Settings) -> Classifier:
    """Return an arm's network before its first step."""
    return create_model(
        "looks:LOOKS", len(CLASSES), key=jax.random.key(seed), size=settings.size, classes=CLASSES,
        backbone=settings.model, zoom=settings.zoom, patches=settings.patches,
        patch_side=settings.patch_side, patch_size=settings.patch_size,
        steps=settings.steps, last=settings.steps, hidden=settings.hidden, **ARMS[arm].network,
    )  # fmt: skip


def batches(part: Part, seed: int, epoch: int, size: int) -> Iterator:
    """Yield an epoch's images and labels; what is left over has its turn in another epoch."""
    order = epoch_order(seed, epoch, len(part.labels))
    for places in order[: len(order) // size * size].reshape(-1, size):
        yield part.pixels[places], part.labels[places]


def fit(arm: str, part: Part, seed: int, settings: Settings) -> Classifier:
    """Return an arm's network after its last step."""
    model = fresh(arm, seed, settings)
    steps = len(part.labels) // settings.batch * settings.epochs
    recipe = Recipe(
        make_optimizer(steps, settings.rate, warmup=0.1, weight_decay=0.01),
        Augmentation(shift=0.08, light=0.1),
        method="streams",
        objective=StreamLoss(smoothing=0.1, **ARMS[arm].loss),
    )
    state = train(
        model, lambda epoch: batches(part, seed, epoch, settings.batch), lambda: iter(()),
        key=jax.random.key(seed), epochs=settings.epochs, batch_size=settings.batch, recipe=recipe,
    )  # fmt: skip
    return model.replace(variables=state.variables)


@program("explain")
def _look(model, pixels):
    x = model.normalise(pixels.astype(jnp.float32) / 255)
    found = model.network.apply(model.variables, x, method="streams")
    joint = model.network.apply(model.variables, found, method="joint")
    boxes = model.network.apply(model.variables, x, method="boxes")
    return joint, found.global_logits, found.local_logits, boxes


def looks(model: Classifier, pixels: np.ndarray, size: int = 100) -> tuple[np.ndarray | None, ...]:
    """Return joint, global and local logits of images, and boxes of their patches."""
    found = []
    for start in range(0, len(pixels), size):
        places = np.minimum(np.arange(start, start + size), len(pixels) - 1)
        made = _look(model, pixels[places])
        found.append([None if v is None else np.asarray(v)[: len(pixels) - start] for v in made])
    return tuple(None if v[0] is None else np.concatenate(v) for v in zip(*found, strict=True))


def seen_in_a_patch(cues: np.ndarray, boxes: np.ndarray) -> float:
    """Return on how many of the images whose cue is seen its point lies in a patch, as a share."""
    point, seen = cues[:, None, :2], cues[:, 2] > 0
    inside = ((boxes[..., :2] <= point) & (point < boxes[..., 2:])).all(-1).any(-1)
    return float(inside[seen].mean())


def to_hex(right: np.ndarray) -> str:
    """Return a bit for each image; `tables.streams.from_hex` reads it."""
    return np.packbits(right).tobytes().hex()


def judge(model: Classifier, test: Part) -> dict[str, Any]:
    """Return what an arm gets right on the test images."""
    joint, whole, local, boxes = looks(model, test.pixels)
    right = joint.argmax(1) == test.labels
    share = lambda logits: float((logits.argmax(1) == test.labels).mean())
    return {
        "joint": float(right.mean()),
        "global": share(whole),
        "local": np.nan if local is None else share(local),
        "cue_in_a_patch": np.nan if boxes is None else seen_in_a_patch(test.cues, boxes),
        "weights": sum(leaf.size for leaf in jax.tree.leaves(model.variables["params"])),
        "right": to_hex(right),
    }


def main(words: list[str] | None = None) -> int:
    """Train and judge what is not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=RESULTS / "two_streams.csv")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after these")
    for name, default in asdict(Settings()).items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    given = parser.parse_args(words)
    settings = Settings(**{name: getattr(given, name) for name in asdict(Settings())})
    rows = rows_so_far(given.out)
    for name, value in asdict(settings).items():
        if rows and name != "epochs" and type(value)(rows[0][name]) != value:
            parser.error(f"--{name} {value}: {given.out} was made with {rows[0][name]}")
    done = {(row["arm"], int(row["seed"]), int(row["epochs"])) for row in rows}
    begun = time.monotonic()
    for seed in given.seeds:
        for arm in given.arms:
            if (arm, seed, settings.epochs) in done:
                continue
            if time.monotonic() - begun > 60 * given.minutes:
                print(f"{given.minutes:g} minutes are over; the same command goes on")
                return 0
            train_part, test = (draw_part(settings, seed, split) for split in ("train", "test"))
            start, busy = time.monotonic(), time.process_time()
            model = fit(arm, train_part, seed, settings)
            figures = judge(model, test)
            row = {"arm": arm, "seed": seed, **figures, **asdict(settings),
                   "seconds": time.monotonic() - start,
                   "cpu_seconds": time.process_time() - busy}  # fmt: skip
            append_row(given.out, row)
            print(
                f"seed {seed}, {arm}: {figures['joint']:.1%}, local {figures['local']:.1%}, cue in "
                f"a patch {figures['cue_in_a_patch']:.1%}, {row['seconds']:.0f} s, "
                f"{row['cpu_seconds']:.0f} CPU-s",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
