"""FIDO's settings on real birds: what is kept, what is deleted, how large, how well placed.

    python benchmarks/fido_birds.py --birds CUB_200_2011 --weights birds.safetensors \
        --labels model_classes.csv [--rows default "from 0.5" …] [--out results.json]

Protocol: 12 test images (every 49th of the test split for the 588 images of the 20-species
subset, spread likewise otherwise), explained for their labelled class, blur infill. p kept and
p deleted: mean class probability over the masks sampled in the last 3 steps. Area and share
inside the annotated box: of the joint mask above 0.5. "hard": the class probability when the
SSR mask above 0.5 alone is kept, and when the SDR mask above 0.5 is replaced.
"""

import argparse
import json
import os
import platform
import time
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import fgjax
from fgjax.attribution.common.infill import blur
from fgjax.core.functional import compiled
from fgjax.data.labels import read_labels
from fgjax.data.pipeline import load_batch
from fgjax.data.sets.cub import CubSource
from fgjax.evaluation import box_mask, kept_and_deleted, share_inside

HALF = fgjax.FidoConfig(initial=0.5)
ROWS = {
    "default": fgjax.FidoConfig(),
    "from 0.5": HALF,
    "default, seed 1": fgjax.FidoConfig(),
    "from 0.5, 100 steps": replace(HALF, steps=100),
    "from 0.5, antithetic": replace(HALF, antithetic=True),
    "released, Eq. 4, twice λ": fgjax.fido_preset("fido-pytorch", score="log_odds", l1=1e-3),
    "fido-pytorch": fgjax.fido_preset("fido-pytorch"),
    "korsch-2023, 30 steps": fgjax.fido_preset("korsch-2023", steps=30),
    "from 0.5, lr 10": replace(HALF, learning_rate=10.0),
    "from 0.5, lr 20, λ 1.5e-3": replace(HALF, learning_rate=20.0, l1=1.5e-3),
    "from 0.5, lr 30, λ 1.5e-3, tv 0.03": replace(HALF, learning_rate=30.0, l1=1.5e-3, tv=0.03),
}
COLUMNS = ("p kept", "p deleted", "area %", "in box %", "hard kept", "hard deleted")


def measure(model, images, targets, boxes, config: fgjax.FidoConfig, seed: int) -> dict:
    """Per-image values of every column, and seconds per image."""
    began = time.monotonic()
    result = fgjax.fido(model, images, targets, key=jax.random.key(seed), config=config)
    result = jax.block_until_ready(result)
    seconds = (time.monotonic() - began) / len(images)
    joint = result.heatmap > 0.5
    truth = box_mask(boxes, *joint.shape[1:])
    predict, infill = compiled(model), blur(images)
    kept = kept_and_deleted(predict, images, targets, result.maps["ssr"] > 0.5, infill).p_kept
    deleted = kept_and_deleted(predict, images, targets, result.maps["sdr"] > 0.5, infill)
    values = {
        "p kept": result.traces["p_kept"][:, -3:].mean(1),
        "p deleted": result.traces["p_deleted"][:, -3:].mean(1),
        "area %": 100 * joint.mean((1, 2)),
        "in box %": 100 * share_inside(joint, truth),
        "hard kept": kept,
        "hard deleted": deleted.p_deleted,
    }
    return {"seconds_per_image": seconds} | {k: np.asarray(v).tolist() for k, v in values.items()}


def table(rows: dict[str, dict]) -> str:
    """Return means and standard errors over the images, as Markdown."""
    lines = ["| settings | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, row in rows.items():
        cells = []
        for column in COLUMNS:
            values = np.array(row[column])
            digits = 1 if "%" in column else 3
            error = np.nanstd(values, ddof=1) / np.sqrt(np.isfinite(values).sum())
            cells.append(f"{np.nanmean(values):.{digits}f} ± {error:.{digits}f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def birds(args: argparse.Namespace) -> tuple:
    """Return the classifier, and images, targets and boxes of `args.images` test images."""
    source = CubSource(args.birds)
    model = fgjax.load_pretrained(None, args.weights)
    index = read_labels(Path(args.labels), source.classes, model.network.num_classes).index
    test = [r for r in source.records if r.split == "test" and index[r.label] is not None]
    batch = load_batch(source, test[:: len(test) // args.images][: args.images])
    images = jnp.asarray(batch.images.astype(np.float32) / 255)
    targets = jnp.asarray([index[label] for label in batch.labels], jnp.int32)
    return model, images, targets, jnp.asarray(batch.boxes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--birds", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--labels", required=True)
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--rows", nargs="*", default=list(ROWS), help=f"of {', '.join(ROWS)}")
    parser.add_argument("--out", help="JSON file; rows measured before are kept in it")
    args = parser.parse_args()
    model, images, targets, boxes = birds(args)
    out = Path(args.out) if args.out else None
    rows = json.loads(out.read_text())["rows"] if out and out.is_file() else {}
    for name in args.rows:
        seed = 1 if name.endswith("seed 1") else 0
        rows[name] = measure(model, images, targets, boxes, ROWS[name], seed)
        rows[name]["config"] = str(ROWS[name])
        print(table({name: rows[name]}).splitlines()[-1], flush=True)
        if out:
            about = {"images": len(images), "jax": jax.__version__, "load": os.getloadavg()[0]}
            about["machine"] = f"{platform.machine()}, {os.cpu_count()} cores"
            out.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
