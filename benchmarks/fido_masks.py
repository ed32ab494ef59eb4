"""FIDO's masks made hard: do they suffice, do they destroy, under which infill, in how many pieces?

    python benchmarks/fido_masks.py --birds CUB_200_2011 --weights birds.safetensors \
        --labels model_classes.csv --set held_out --out results/fido_masks_cpu.json

Images, by rule: of each species in alphabetical order the first test image (of the first eight)
that the model gives at least 0.7 for its label, short side 256 cut to 224 px. The first, third,
fifth … species are the development set, on which settings are chosen; the others are held out.

Of each image and setting, with the infill that every setting was optimised on (blur, σ 11.6 px):

- p(full); cut: p with only SSR > 0.5 shown (kept), with SDR > 0.5 replaced (deleted); the areas;
- Bernoulli: the mean of 16 masks drawn pixel by pixel with the map's own probabilities;
- the share of the cut mask in its five largest pieces (8-connected), how many pieces there are, the
  total variation of the map, the share of the cut mask in the annotated box;
- the same cut masks under infills that nobody optimised on, or not in this draw: blur of half and
  twice the σ, the mean colour, grey with noise, patches of the image in another order, ROAD's noisy
  linear imputation;
- controls: the same mask with its pixels shuffled; turned by 180°; a disc of the same area in the
  middle; and of the whole image, what an empty mask keeps and deletes;
- what the whole image replaced by each infill leaves: less no mask can leave under it;
- CPU-seconds, the median (the first image's hold the compilation): pin the process to one core.

"kept" beside "p(full)" tells sufficiency; the table's "kept" is a share of p(full), of each image
at most 1, so that an image whose mask is surer than the image does not pay for another.
"""

import argparse
import json
import sys
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage
from side_by_side import machine

import fgjax
from fgjax.attribution.common.infill import make_infill
from fgjax.core.filters import total_variation
from fgjax.data.labels import read_labels
from fgjax.data.pipeline import load_batch
from fgjax.data.sets.cub import CubSource
from fgjax.devices.forward import compiled
from fgjax.evaluation import box_mask, impute
from fgjax.evaluation.hard_masks import largest_pieces

SURE, LOOKED_AT, SIZE = 0.7, 8, 224
DRAWS = 16
DRAW = 7
"""The key of the infills that are drawn."""
SIGMA = 11.6
SETS = ("development", "held_out")
DEFAULT = fgjax.FidoConfig()
SETTINGS = {
    "default": DEFAULT,
    "robust": fgjax.fido_preset("robust"),
    "one infill": fgjax.fido_preset("one-infill"),
    "soft (the first default)": fgjax.fido_preset("soft"),
    "fido-pytorch": fgjax.fido_preset("fido-pytorch"),
    "korsch-2023, 30 steps": fgjax.fido_preset("korsch-2023", steps=30),
    "chang-2019, 30 steps": fgjax.fido_preset("chang-2019", steps=30),
    "soft, t falls to 0.1, from 0.5": fgjax.fido_preset("soft", temperature_end=0.1, initial=0.5),
}
OTHER = ("blur σ/2", "blur 2σ", "mean", "grey", "patches", "ROAD")
"""Infills of the transfer columns."""


def birds(args: argparse.Namespace) -> tuple:
    """Return the classifier, and images, targets, boxes and p(full) of the set, by the rule."""
    source = CubSource(args.birds)
    model = fgjax.load_pretrained(None, args.weights)
    index = read_labels(Path(args.labels), source.classes, model.network.num_classes).index
    predict, found = compiled(model), []
    labels = sorted({r.label for r in source.records if index[r.label] is not None})
    for label in labels[SETS.index(args.set) :: 2]:
        test = [r for r in source.records if r.split == "test" and r.label == label][:LOOKED_AT]
        batch = load_batch(source, test)
        images = batch.images.astype(np.float32) / 255
        p = np.asarray(jax.nn.softmax(predict(jnp.asarray(images)))[:, index[label]])
        if (p >= SURE).any():
            first = int(np.argmax(p >= SURE))
            name = source.classes[label]
            found.append((images[first], index[label], batch.boxes[first], p[first], name))
    found = found[: args.images]
    images, targets, boxes, p, names = (list(column) for column in zip(*found, strict=True))
    return model, np.stack(images), np.array(targets), np.stack(boxes), np.array(p), names


def pieces(mask: np.ndarray) -> tuple[float, int]:
    """Return the share of the mask in its five largest 8-connected pieces (NaN for an empty one),
    and how many there are."""
    return largest_pieces(mask, 5), ndimage.label(mask, np.ones((3, 3)))[1]


def infills(image: np.ndarray, key: jax.Array) -> dict[str, np.ndarray]:
    """Return the infills that do not depend on the mask, the optimised one first."""
    sigmas = {"blur": SIGMA, "blur σ/2": SIGMA / 2, "blur 2σ": 2 * SIGMA}
    made = {
        name: make_infill("blur", image[None], key[None], blur_sigma=sigma)
        for name, sigma in sigmas.items()
    }
    for name in ("mean", "grey", "patches"):
        made[name] = make_infill(name, image[None], key[None])
    return {name: np.asarray(picture[0]) for name, picture in made.items()}


def disc(area: int, side: int) -> np.ndarray:
    """Return the `area` pixels nearest to the middle."""
    away = np.square(np.arange(side) - side / 2 + 0.5)
    order = np.argsort(np.add.outer(away, away).ravel(), kind="stable")
    mask = np.zeros(side * side, bool)
    mask[order[:area]] = True
    return mask.reshape(side, side)


def judge(predict, image, target, box, maps: dict[str, np.ndarray]) -> dict[str, float]:
    """Return every number of one image's maps "ssr" and "sdr"."""
    rng, key = np.random.default_rng(0), jax.random.key(DRAW)
    cut = {name: maps[name] > 0.5 for name in ("ssr", "sdr")}
    fill = infills(image, key)
    shown: list[np.ndarray] = []

    def ask(mask, how, other="blur"):
        """Line up the image with only the mask kept, or with the mask deleted."""
        replaced = ~mask if how == "kept" else mask
        if other == "ROAD":
            shown.append(np.asarray(impute(image[None], replaced[None], key[None])[0]))
        else:
            shown.append(np.where(replaced[..., None], fill[other], image))

    asked = {"p(full)": 1, "infill alone": 1}
    ask(np.ones_like(cut["ssr"]), "kept")
    ask(np.zeros_like(cut["ssr"]), "kept")
    for how, mask in zip(("kept", "deleted"), (cut["ssr"], cut["sdr"]), strict=True):
        soft = maps["ssr" if how == "kept" else "sdr"]
        for other in ("blur", *OTHER):
            ask(mask, how, other)
            asked[f"{how}, {other}"] = 1
        for _ in range(DRAWS):
            ask(rng.random(mask.shape) < soft, how)
        asked[f"{how}, Bernoulli"] = DRAWS
        controls = {
            "shuffled": rng.permutation(mask.ravel()).reshape(mask.shape),
            "turned": mask[::-1, ::-1],
            "disc": disc(int(mask.sum()), len(mask)),
        }
        for name, control in controls.items():
            ask(control, how)
            asked[f"{how}, {name}"] = 1
    p, place, row = predict(np.stack(shown), target), 0, {}
    for name, count in asked.items():
        row[name] = float(p[place : place + count].mean())
        place += count
    inside = np.asarray(box_mask(jnp.asarray(box)[None], *image.shape[:2]))[0]
    for name, mask in cut.items():
        row[f"area {name}"] = float(mask.mean())
        row[f"five pieces {name}"], row[f"pieces {name}"] = pieces(mask)
        row[f"in box {name}"] = float(inside[mask].mean()) if mask.any() else float("nan")
        row[f"tv {name}"] = float(total_variation(jnp.asarray(maps[name])))
    return row


def whole_replaced(predict, images, targets) -> dict[str, list[float]]:
    """Return p(target) of each image wholly replaced, by infill."""
    found: dict[str, list[float]] = {}
    for image, target in zip(images, targets, strict=True):
        for name, picture in infills(image, jax.random.key(DRAW)).items():
            found.setdefault(name, []).append(float(predict(picture[None], target)[0]))
    return found


def predictor(model, batch: int = 16):
    """Return `(images, target) -> p(target)`, one compiled shape for any number of images."""
    call = compiled(model)

    def predict(images, target):
        padded = np.concatenate([images, np.zeros((-len(images) % batch, *images.shape[1:]))])
        chunks = padded.astype(np.float32).reshape(-1, batch, *images.shape[1:])
        p = [np.asarray(jax.nn.softmax(call(jnp.asarray(c)))[:, target]) for c in chunks]
        return np.concatenate(p)[: len(images)]

    return predict


def explain(model, image, target, config: fgjax.FidoConfig) -> tuple[dict, float]:
    """Return both maps of one image and the CPU-seconds they took."""
    began = time.process_time()
    result = fgjax.fido(
        model, image[None], np.array([target]), key=jax.random.key(0), config=config
    )
    maps = {name: np.asarray(map_[0]) for name, map_ in result.maps.items()}
    return maps, time.process_time() - began


def mean(rows: list[dict], column: str) -> float:
    return float(np.nanmean([row[column] for row in rows]))


def kept(rows: list[dict], column: str) -> float:
    """Return the mean share of p(full), of each image at most 1."""
    return float(np.mean([min(1.0, row[column] / row["p(full)"]) for row in rows]))


def _both(rows: list[dict], column: str) -> str:
    return f"{kept(rows, f'kept, {column}'):.2f} / {mean(rows, f'deleted, {column}'):.2f}"


def _pair(rows: list[dict], what: str, factor: float = 100, digits: int = 1) -> str:
    ssr, sdr = (factor * mean(rows, f"{what} {which}") for which in ("ssr", "sdr"))
    return f"{ssr:.{digits}f} / {sdr:.{digits}f}"


def tables(rows: dict[str, list[dict]]) -> str:
    """Return what the masks show, and how they transfer, as Markdown."""
    first = ["| settings | cut kept / deleted | Bernoulli kept / deleted | area SSR / SDR % "
             "| five pieces SSR / SDR % | in box SSR / SDR % | TV SSR / SDR | CPU-s |",
             "|---" * 8 + "|"]  # fmt: skip
    second = [f"| settings, kept / deleted | {' | '.join(OTHER)} | shuffled | turned | disc |",
              "|---" * (len(OTHER) + 4) + "|"]  # fmt: skip
    for name, images in rows.items():
        both, pair = partial(_both, images), partial(_pair, images)
        seconds = float(np.median([row["seconds"] for row in images]))
        cells = [name, both("blur"), both("Bernoulli"), pair("area"), pair("five pieces", digits=0),
                 pair("in box", digits=0), pair("tv", 1, 0), f"{seconds:.1f}"]  # fmt: skip
        first.append("| " + " | ".join(cells) + " |")
        cells = [name, *map(both, (*OTHER, "shuffled", "turned", "disc"))]
        second.append("| " + " | ".join(cells) + " |")
    images = next(iter(rows.values()))
    told = f"{len(images)} images, p(full) {mean(images, 'p(full)'):.3f}; the infill alone "
    told += f"{mean(images, 'infill alone'):.3f}; kept: share of p(full), at most 1 an image"
    return "\n".join([told, "", *first, "", *second])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--birds", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--labels", required=True)
    parser.add_argument("--set", choices=SETS, default="held_out")
    parser.add_argument("--images", type=int, default=10, help="at most so many")
    parser.add_argument("--rows", nargs="*", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--out", type=Path, help="JSON; rows measured before are kept in it")
    args = parser.parse_args(argv)
    model, images, targets, boxes, _, names = birds(args)
    predict = predictor(model)
    report = {"rows": {}}
    if args.out and args.out.is_file():
        report = json.loads(args.out.read_text(encoding="utf-8"))
    report |= {"machine": machine(), "set": args.set, "species": names}
    report["whole image replaced"] = whole_replaced(predict, images, targets)
    settings = report.setdefault("settings", {})
    write = lambda: args.out and args.out.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    write()
    for name in args.rows:
        config = SETTINGS[name]
        rows = []
        for image, target, box in zip(images, targets, boxes, strict=True):
            maps, seconds = explain(model, image, target, config)
            rows.append({**judge(predict, image, target, box, maps), "seconds": seconds})
            print(".", end="", flush=True)
        report["rows"][name], settings[name] = rows, str(config)
        print("\n" + tables({name: rows}), flush=True)
        write()
    print("\n" + tables(report["rows"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
