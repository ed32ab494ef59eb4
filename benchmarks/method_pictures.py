"""Draws the pictures of docs/methods: every method's map of the same three drawn birds.

    python -m fgjax.run config=fido_demo stages=[train]
    python -m fgjax.run config=parts_species stages=[train]
    python -m fgjax.run config=focus_species stages=[train]
    python benchmarks/method_pictures.py                 # or the names of some methods

The network is that of `fido_demo`; region attention and step CAM show networks of their own.
Methods with many samples take fewer than their defaults (`SETTINGS`): minutes on one core.
"""

import argparse
import dataclasses
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from tables.files import ROOT

import fgjax
from fgjax.attribution.registry import needs
from fgjax.data.species.source import SpeciesSource
from fgjax.report.overlay import draw_mask_outline, overlay, resize_map, to_unit

OUT = ROOT / "docs" / "pictures" / "methods"
CELL = 144
"""Side of a picture, in pixels."""
CUE = (120, 240, 90)

SETTINGS = {
    "rise": {"masks": 2000},
    "lime": {"samples": 500},
    "kernel_shap": {"samples": 500},
    "mask_perturbation": {"steps": 150},
    "extremal_perturbation": {"steps": 100, "learning_rate": 0.08, "growth": 1.0282},
}
"""What is not a method's default."""
NETWORKS = {"region_attention": "parts_species", "step_cam": "focus_species"}
"""Method -> the run whose network it shows; the others show that of `fido_demo`."""


def birds(model: fgjax.Classifier, count: int = 3) -> list:
    """Return the first test images of different classes that the network is right about."""
    source, found = SpeciesSource(), {}
    for record in source.records:
        if record.split != "test" or record.label in found:
            continue
        example = source.load(record)
        images = jnp.asarray(example.image[None] / np.float32(255))
        if int(model(images).argmax()) == example.label and example.cue.any():
            found[record.label] = example
        if len(found) == count:
            break
    return list(found.values())


def strip(examples: list, heatmaps: np.ndarray) -> Image.Image:
    """Return each image with the outline of its deciding part, and beside it its map."""
    pictures = []
    for example, heat in zip(examples, heatmaps, strict=True):
        photo = Image.fromarray(example.image).resize((CELL, CELL), Image.Resampling.LANCZOS)
        cue = resize_map(example.cue.astype(np.float32), CELL, CELL) > 0.5
        unit = resize_map(to_unit(heat.astype(np.float32))[0], CELL, CELL)
        pictures += [draw_mask_outline(np.array(photo), cue, CUE)]
        pictures += [overlay(np.array(photo), unit, opacity=0.65)]
    gap = np.full((CELL, 4, 3), 255, np.uint8)
    row = [part for picture in pictures for part in (picture, gap)][:-1]
    return Image.fromarray(np.concatenate(row, axis=1))


def main(words: list[str] | None = None) -> int:
    """Write a picture for each method; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="*", help="some of them; all when left out")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the networks are")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args(words)
    args.out.mkdir(parents=True, exist_ok=True)
    examples = birds(fgjax.load_classifier(args.runs / "fido_demo" / "checkpoint"))
    images = jnp.asarray(np.stack([e.image for e in examples]) / np.float32(255))
    targets = jnp.asarray([e.label for e in examples])
    # The network in the pictures has no attention to show, and no prompts.
    shown = [name for name in fgjax.METHODS if not {"attention", "prompts"} & set(needs(name))]
    for name in args.methods or shown:
        began = time.monotonic()
        run = args.runs / NETWORKS.get(name, "fido_demo")
        model = fgjax.load_classifier(run / "checkpoint")
        config = dataclasses.replace(fgjax.CONFIGS[name](), **SETTINGS.get(name, {}))
        result = fgjax.METHODS[name](model, images, targets, key=jax.random.key(0), config=config)
        picture = strip(examples, np.asarray(result.heatmap))
        # 128 colours are enough for a thumbnail, and a third of the bytes.
        picture.quantize(128).save(args.out / f"{name}.png", optimize=True)
        print(f"{name}: {time.monotonic() - began:.1f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
