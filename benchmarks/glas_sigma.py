"""GLAS' widths and their unit, by pointing on the Leeds butterflies.

    python benchmarks/glas_sigma.py --butterflies FOLDER --weights insects.safetensors

Protocol: the first 3 images by name of each species that the model knows, 224 px, explained for
their labelled class. σ_light and σ_shadow each over `--sigmas`, σ_spatial over `--spatial`, all in
pixels of the 224 px image, on grids of `--grids`: the scores of a light do not depend on the
other two widths, so 6 widths need 6 · 2 k² forward passes an image and give 6 · 6 · 5 settings.
pointing: blob centroid at 0.95; argmax: within 15 px; IoU with the butterfly's mask
at the one threshold (0.1 … 0.9) whose mean IoU is highest. Baselines: centre, random, constant.
About 15 minutes on two cores.
"""

import argparse
import itertools
import json
import os
import platform
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import fgjax
from fgjax.attribution.common.perturbation import ask, scale_to_unit
from fgjax.attribution.glas import Sigmas, glas_scores, mixture, search_points
from fgjax.data.labels import read_labels
from fgjax.data.sets.folder import FolderSource
from fgjax.evaluation import center_box, constant, iou, pointing_game, random_maps

OUT = Path(__file__).parent / "results" / "glas_sigma_cpu.json"
THRESHOLDS = np.arange(1, 10) / 10
COLUMNS = ("pointing", "argmax", "IoU", "at")


def measure(maps, masks) -> dict:
    """Return means over the images, and the threshold of the best mean IoU."""
    ious = [float(iou(maps > level, masks).mean()) for level in THRESHOLDS]
    hits = {
        name: round(float(pointing_game(maps, masks, protocol=protocol).mean()), 4)
        for name, protocol in (("pointing", "blob_centroid"), ("argmax", "argmax_15px"))
    }
    return {**hits, "IoU": round(max(ious), 4), "at": float(THRESHOLDS[int(np.argmax(ious))])}


def read(folder: Path, weights: str, each: int, skip: int):
    """Return images, class indices of the model, masks and the model."""
    source = FolderSource(folder, test_share=1.0)
    model = fgjax.load_pretrained(None, weights)
    labels = read_labels(
        folder / "model_classes.csv", source.classes, model.network.num_classes
    ).index
    records = []
    for label in np.flatnonzero([index is not None for index in labels]):
        mine = sorted(r.name for r in source.records if r.label == label)[skip : skip + each]
        records += [r for r in source.records if r.name in mine]
    examples = [source.load(r) for r in records]
    images = np.stack([e.image for e in examples]).astype(np.float32) / 255
    targets = np.array([labels[e.label] for e in examples], np.int32)
    return jnp.asarray(images), targets, jnp.asarray(np.stack([e.mask for e in examples])), model


def score_all(question, sigmas, grid: int) -> dict:
    """σ -> the answers to lights and shadows of that width."""
    points = search_points(question.images.shape[1:-1], grid)
    found = {}
    for sigma in sigmas:
        began = time.monotonic()
        both = np.full(2, sigma, np.float32)
        found[sigma] = jax.block_until_ready(
            glas_scores(question, points, Sigmas(both, both, both))
        )
        passes = len(question.images) * (1 + 2 * grid**2)
        milliseconds = 1e3 * (time.monotonic() - began) / passes
        print(f"grid {grid}, σ {sigma}: {milliseconds:.1f} ms a forward pass", flush=True)
    return found


def sweep(question, masks, sigmas, spatial, grid: int) -> list[dict]:
    """Return one row per setting; a width of None is a map without that factor."""
    sizes = question.images.shape[1:-1]
    points, found = search_points(sizes, grid), score_all(question, sigmas, grid)
    rows = []
    for light, shadow in itertools.product([*sigmas, None], repeat=2):
        if light is None and shadow is None:
            continue
        values = 1.0
        values = values if light is None else values * found[light].light
        values = values if shadow is None else values * found[shadow].shadow
        for wide in spatial:
            maps = scale_to_unit(mixture(values, points, np.full(2, wide, np.float32), sizes))
            setting = {"grid": grid, "light": light, "shadow": shadow, "spatial": wide}
            rows.append(setting | measure(maps, masks))
    return rows


def baselines(masks) -> list[dict]:
    n, height, width = masks.shape
    maps = {
        "centre": center_box(n, height, width),
        "random": random_maps(jax.random.key(0), n, height, width),
        "constant": constant(n, height, width),
    }
    return [{"baseline": name} | measure(m, masks) for name, m in maps.items()]


def table(rows: list[dict]) -> str:
    """Return rows of settings in pixels and in cells, and of baselines, as Markdown."""
    head = ("grid", "σ_light px", "σ_shadow px", "σ_spatial px", "in cells", *COLUMNS)
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in rows:
        if "baseline" in row:
            cells = [row["baseline"], "", "", "", ""]
        else:
            widths = [row[name] for name in ("light", "shadow", "spatial")]
            in_cells = [f"{w * row['grid'] / 224:.2g}" if w else "–" for w in widths]
            cells = [str(row["grid"]), *(f"{w:g}" if w else "–" for w in widths)]
            cells.append(" / ".join(in_cells))
        cells += [f"{row[c]:.2f}" if c != "at" else f"{row[c]:.1f}" for c in COLUMNS]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write(path: Path, about: dict, plain: list[dict], rows: list[dict]) -> None:
    """JSON with one row to a line."""
    lines = lambda rows: ",\n  ".join(json.dumps(row) for row in rows)
    path.write_text(
        f'{{"about": {json.dumps(about)},\n "baselines": [\n  {lines(plain)}],\n'
        f' "rows": [\n  {lines(rows)}]}}\n'
    )


def best(rows: list[dict], count: int) -> list[dict]:
    """Highest mean of pointing, argmax and IoU first."""
    order = lambda row: -(row["pointing"] + row["argmax"] + row["IoU"])
    return sorted(rows, key=order)[:count]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--butterflies", required=True, type=Path)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--each", type=int, default=3, help="images of each species")
    parser.add_argument("--skip", type=int, default=0, help="images of each species left out first")
    parser.add_argument("--grids", type=int, nargs="*", default=[7, 11])
    parser.add_argument(
        "--sigmas", type=float, nargs="*", default=[5.0, 10.0, 20.0, 30.0, 45.0, 65.0]
    )
    parser.add_argument("--spatial", type=float, nargs="*", default=[6.0, 15.0, 30.0, 45.0, 60.0])
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    images, targets, masks, model = read(args.butterflies, args.weights, args.each, args.skip)
    question = ask(model, images, targets, "probability")
    began, rows = time.monotonic(), []
    about = {
        "images": len(images),
        "skip": args.skip,
        "jax": jax.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    for grid in args.grids:
        rows += sweep(question, masks, args.sigmas, args.spatial, grid)
        about["seconds"] = round(time.monotonic() - began)
        plain = baselines(masks)
        write(args.out, about, plain, rows)
        print(table([*best([r for r in rows if r["grid"] == grid], 12), *plain]), flush=True)


if __name__ == "__main__":
    main()
