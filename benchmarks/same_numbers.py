"""Whether two versions of fgjax compute the same: small runs of every family of configs.

    cd BEFORE && python benchmarks/same_numbers.py run /tmp/before
    cd AFTER && python benchmarks/same_numbers.py run /tmp/after
    python benchmarks/same_numbers.py compare /tmp/before /tmp/after

`run` uses the fgjax of the folder it is called in, so this file may lie elsewhere. `compare` reads
maps, weights, tables and metrics of both, bit for bit but for times and versions, prints what
differs, and returns 1 if anything does. Both must be run with the same jax on the same machine.
"""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

SMALL = ("data.size=32", "data.train_images=48", "data.test_images=12", "data.limit=3")
QUICK = ("explain.steps=3", "explain.batch_size=2", "explain.initial=0.5", "report.figures=2")
ONCE = ("train.epochs=2", "train.batch_size=16")
FOLDER = ("data.path={folder}", "data.size=32", "model.pretrained=null", "model.name=resnet_tiny")
FOCUS = ("focus.backbone=resnet_tiny", "focus.hidden=8", "focus.patch_size=32",
         "focus.extractor_epochs=1", "focus.steps=2", "focus.patches=2")  # fmt: skip
FEW = ("compare.fido.steps=2", "compare.fido.batch_size=2", "compare.rise.masks=32",
       "compare.glas.grid=3", "compare.recursive_glas.grid=3", "compare.recursive_glas.rounds=2",
       "compare.mask_perturbation.steps=3",
       "compare.extremal_perturbation.steps=3", "compare.lime.samples=32", "compare.steps=5",
       "compare.smooth_gradient.samples=2", "compare.integrated_gradients.steps=3",
       "compare.score_cam.channels=4", "compare.sensitivity=1", "compare.randomised=1")  # fmt: skip
RUNS: dict[str, tuple[str, ...]] = {
    "fido": ("config=fido_demo", *SMALL, *QUICK, *ONCE),
    "rise": ("config=fido_demo", *SMALL, *ONCE, "explain.method=rise", "explain.masks=32"),
    "guided": ("config=fido_demo", *SMALL, *ONCE, "explain.method=guided_grad_cam"),
    "folder": ("config=fido_folder", *FOLDER, *QUICK, *ONCE, "data.limit=3"),
    "train": ("config=train_species", *SMALL, *ONCE, "train.mix=cutmix", "train.erase=cutout"),
    "train_folder": ("config=train_folder", *FOLDER, *ONCE, "train.optimizer=sgd"),
    "compare": ("config=compare_species", *SMALL, *ONCE, *FEW, "data.limit=2"),
    "parts": ("config=parts_species", *SMALL, "data.size=64", *ONCE, "parts.number=3"),
    "focus": ("config=focus_species", *SMALL, *ONCE, *FOCUS),
    "prototypes": ("config=focus_species", *SMALL, *ONCE, *FOCUS, "focus.extractor=prototypes",
                   "focus.prototypes=2", "focus.channels=8"),
    "proxy": ("config=proxy_species", *SMALL, "train.epochs=3", "train.batch_size=16",
              "proxy.every=1", "proxy.start=0.1", "compare.steps=5"),
    "tta": ("config=tta_cub", "data.source=species", *SMALL, *QUICK, *ONCE, "train.crop=1.0",
            "model.pretrained=null", "model.name=resnet_tiny"),
    "sweep": ("config=proxy_grid", *SMALL, *ONCE, "compare.steps=5", "grid.proxy.method=grad_cam",
              "grid.proxy.threshold=0.5", "grid.proxy.weight=0.3", "grid.schedule=often",
              "grid.proxy.subset=0.5,1.0", "grid.network=resnet_tiny"),
}  # fmt: skip
"""A small run of every family of configs."""
TIMES = ("seconds", "first", "peak_bytes", "time", "peak_mib", "seconds_first", "per_second")
"""Columns and keys that no two runs share."""


def draw_folder(folder: Path) -> None:
    """Draw a folder of class folders: ten discs and ten squares on noise."""
    for label, name in enumerate(("disc", "square")):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(10):
            rng = np.random.default_rng(100 * label + i)
            image = Image.fromarray(rng.integers(90, 160, (48, 64, 3)).astype(np.uint8))
            x, y = (int(v) for v in rng.integers(8, 24, 2))
            shape = (x, y, x + 20, y + 16)
            draw = ImageDraw.Draw(image)
            (draw.ellipse if label == 0 else draw.rectangle)(shape, fill=(220, 40, 40))
            image.save(folder / name / f"{name}_{i}.png")


def run(out: Path, only: list[str]) -> int:
    """Run the small runs with the fgjax of the current folder."""
    out.mkdir(parents=True, exist_ok=True)
    folder = out.parent / "same_numbers_folder"
    draw_folder(folder)
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    failed = 0
    for name in only or RUNS:
        words = [word.format(folder=folder) for word in RUNS[name]]
        command = [sys.executable, "-m", "fgjax.run", *words, f"run_dir={out / name}"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        print(f"{name}: {done.returncode}", flush=True)
        if done.returncode:
            failed = 1
            print(done.stdout[-1500:], done.stderr[-1500:])
    return failed


def tables(run_dir: Path) -> Iterator[tuple[str, Any]]:
    """Yield every number of a run: (where it stands, a value or an array)."""
    for path in sorted(run_dir.rglob("*")):
        where = str(path.relative_to(run_dir))
        if path.suffix == ".csv":
            with path.open(encoding="utf-8", newline="") as file:
                for i, row in enumerate(csv.DictReader(file)):
                    yield from ((f"{where}:{i}:{k}", v) for k, v in row.items() if timeless(k))
        elif path.name in ("metrics.json", "test.json", "parts.json", "tta.json", "compare.json"):
            yield from leaves(where, json.loads(path.read_text(encoding="utf-8")))
        elif path.name == "metrics.jsonl":
            for i, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
                yield from leaves(f"{where}:{i}", json.loads(line))
        elif path.name == "zarr.json" and json.loads(path.read_text())["node_type"] == "array":
            import tensorstore as ts

            store = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path.parent)}}
            yield where, np.asarray(ts.open(store).result().read().result())
        elif path.name == "classifier.json":
            from fgjax import load_classifier

            for i, leaf in enumerate(_leaves(load_classifier(path.parent).variables)):
                yield f"{where}:{i}", np.asarray(leaf)


def _leaves(tree: Any) -> list[Any]:
    import jax

    return jax.tree.leaves(tree)


def timeless(name: str) -> bool:
    """Return whether a column means the same in every run."""
    return not any(word in str(name) for word in TIMES)


def leaves(where: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the values of a JSON tree that are no times."""
    if isinstance(value, dict):
        for key, item in value.items():
            if timeless(key):
                yield from leaves(f"{where}.{key}", item)
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from leaves(f"{where}.{i}", item)
    else:
        yield where, value


def compare(old: Path, new: Path) -> int:
    """Print what differs between two folders of runs; return 1 if anything does."""
    bad = 0
    for name in sorted({path.name for path in old.iterdir()} | {p.name for p in new.iterdir()}):
        before, after = dict(tables(old / name)), dict(tables(new / name))
        differ = [key for key in before.keys() | after.keys() if not _same(key, before, after)]
        arrays = sum(isinstance(value, np.ndarray) for value in before.values())
        print(f"{name}: {len(before)} values and arrays ({arrays} arrays), {len(differ)} differ")
        for key in sorted(differ)[:8]:
            print(f"  {key}: {_short(before.get(key))} -> {_short(after.get(key))}")
        bad += len(differ)
    return 1 if bad else 0


def _same(key: str, before: dict[str, Any], after: dict[str, Any]) -> bool:
    if key not in before or key not in after:
        return False
    return np.array_equal(np.asarray(before[key]), np.asarray(after[key]), equal_nan=False) or (
        str(before[key]) == str(after[key])
    ) or _equal_nan(before[key], after[key])  # fmt: skip


def _equal_nan(a: Any, b: Any) -> bool:
    a, b = np.asarray(a), np.asarray(b)
    return a.shape == b.shape and a.dtype.kind == b.dtype.kind == "f" and bool(
        ((a == b) | (np.isnan(a) & np.isnan(b))).all()
    )  # fmt: skip


def _short(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.shape} sum {value.astype(np.float64).sum():.9g}"
    return str(value)[:60]


if __name__ == "__main__":
    what, *rest = sys.argv[1:] or [""]
    if what == "run" and rest:
        sys.exit(run(Path(rest[0]).resolve(), rest[1:]))
    if what == "compare" and len(rest) == 2:
        sys.exit(compare(Path(rest[0]), Path(rest[1])))
    sys.exit(__doc__)
