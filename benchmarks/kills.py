"""Whether a run that is killed at any moment comes to the same end: random moments, real kills.

    python benchmarks/kills.py --kills 20 --seed 0 --out FILE.json

A small run on photographs (drawn by a rule) goes through training, test, explain, evaluate, report
and compare. It is done once in one piece; then again and again from nothing, killed by SIGKILL at
a random moment (of the whole run; of its training; of its test; … each in its turn), and finished
by the same command. Everything in its folder must be the same, byte for byte, but for seconds: maps
and weights as arrays, tables, metrics, pictures and report.html. Exit code 1 if anything differs,
and what it is.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

STAGES = "train,test,explain,evaluate,report,compare"
SMALL = (
    "config=fido_folder", f"stages={STAGES}", "model.name=resnet_tiny", "model.pretrained=null",
    "data.size=32", "data.limit=6", "train.epochs=3", "train.batch_size=8", "explain.steps=3",
    "explain.batch_size=2", "explain.initial=0.5", "report.figures=2", "evaluate.regions=false",
    "compare.methods=gradient,rise,center", "compare.rise.masks=32", "compare.steps=4",
    "compare.sensitivity=1",
)  # fmt: skip
SECONDS = re.compile(
    r'("(?:seconds|seconds_per_image|compile_seconds|peak_bytes)": )[^,}\n]+'  # JSON
    r"|(<dt>[a-z]+, seconds</dt>\s*<dd>(?:<bdi>)?)[^<]*"  # the report's facts
)


def draw_photographs(folder: Path) -> Path:
    """Draw two classes of twelve small pictures."""
    y, x = np.mgrid[:48, :48] / 48
    for place, name in enumerate(("striped", "spotted")):
        (folder / name).mkdir(parents=True)
        for i in range(12):
            rng = np.random.default_rng([place, i])
            waves = np.sin(9 * x + i) if place == 0 else np.sin(9 * x + i) * np.sin(9 * y)
            pixels = 127 + 90 * waves[..., None] + rng.normal(0, 9, (48, 48, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{i}.png")
    return folder


def start(data: Path, run: Path, log: Path) -> subprocess.Popen:
    """Start the command; what it says goes to a file."""
    words = [sys.executable, "-m", "fgjax", *SMALL, f"data.path={data}", f"run_dir={run}"]
    with log.open("ab") as out:
        return subprocess.Popen(words, stdout=out, stderr=subprocess.STDOUT)


def contents(run: Path) -> dict[str, Any]:
    """Return everything in a run's folder that must be the same, by path."""
    from fgjax.runs.maps import MapStore, load_maps
    from fgjax.training.checkpoints import load_classifier

    found: dict[str, Any] = {}
    for path in sorted(run.rglob("*")):
        name = path.relative_to(run).as_posix()
        # Arrays are read as arrays; times and prose of the machine are no results.
        hidden = any(part.startswith(".") for part in path.relative_to(run).parts)
        inside = "maps.zarr/" in name or name.startswith(("checkpoint/weights", "tensorboard"))
        if path.is_dir() or hidden or inside or path.name in ("run.json", "calls.jsonl"):
            continue
        text = path.read_bytes()
        if path.suffix in (".json", ".jsonl", ".html", ".csv", ".md", ".yaml"):
            text = without_seconds(name, text.decode(errors="replace"), run)
        found[name] = text
    for maps in sorted(run.rglob("maps.zarr")):
        name = maps.relative_to(run).as_posix()
        held = {k: v.tobytes() for k, v in load_maps(maps.parent).items()}
        rows = len(json.loads((maps / "images.json").read_text()))
        found |= {f"{name}/{k}": v for k, v in held.items()}
        found[f"{name}/target"] = MapStore(maps, rows).targets().tolist()
    import jax

    leaves = jax.tree.leaves(load_classifier(run).variables)
    found["checkpoint/weights"] = b"".join(np.asarray(leaf).tobytes() for leaf in leaves)
    return found


def without_seconds(name: str, text: str, run: Path) -> str:
    """Return a file's text with what is timed, and the run's own path, taken out."""
    text = SECONDS.sub(lambda m: m[1] or m[2] or "", text).replace(str(run), "RUN")
    text = text.replace(run.name, "RUN")
    if name == "compare.md":  # | … | passes | s / image | peak GiB |
        return re.sub(r"\|[^|\n]*\|[^|\n]*\|$", "|", text, flags=re.M)
    if name == "compare.html":
        return re.sub(r"(<td>[^<]*</td>\s*){3}</tr>", "</tr>", text)
    return text


def stage_of(run: Path) -> str:
    """Return what a killed run had not finished yet, by what lies in its folder."""
    try:
        done = json.loads((run / "run.json").read_text())["stages"]
    except (OSError, ValueError, KeyError):
        return "before training"
    return next((stage for stage in STAGES.split(",") if stage not in done), "after all")


def wait_for(stage: str, process: subprocess.Popen, run: Path) -> None:
    """Wait until a run works on a stage, or has ended."""
    first = stage == STAGES.split(",")[0]  # before it nothing is written of stages
    while process.poll() is None:
        if (run / "config.yaml").exists() if first else stage_of(run) == stage:
            return
        time.sleep(0.02)


def seconds_of(stage: str, run: Path) -> float:
    """Return how long a finished run worked on a stage."""
    return float(json.loads((run / "run.json").read_text())["stages"][stage]["seconds"])


def main() -> int:
    """Kill, finish, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--folder", type=Path, help="keep everything there")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="fgjax-kills-"))
    folder.mkdir(parents=True, exist_ok=True)
    data, log, whole = draw_photographs(folder / "data"), folder / "log.txt", folder / "run_whole"
    for path in (folder / "run_first", whole):  # the first compiles into the cache
        began = time.monotonic()
        if start(data, path, log).wait():
            print(log.read_text())
            return 2
    lasts, rng, results = time.monotonic() - began, random.Random(given.seed), []
    wanted = contents(whole)
    print(f"a run in one piece: {lasts:.0f} s, {len(wanted)} files and arrays to compare")
    for number in range(given.kills):
        run, stage = folder / f"run_{number}", ("", *STAGES.split(","))[number % 7]
        after = rng.uniform(0.05, 1.0) * (seconds_of(stage, whole) if stage else lasts)
        process = start(data, run, log)
        if stage:
            wait_for(stage, process, run)
        try:
            process.wait(after)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        stage, killed = stage_of(run), process.returncode == -signal.SIGKILL
        code = start(data, run, log).wait()
        found = contents(run) if code == 0 else {}
        different = [k for k in {**wanted, **found} if wanted.get(k) != found.get(k)]
        results.append(
            {"seconds": round(after, 1), "killed": killed, "in": stage, "different": different}
        )
        print(f"{number + 1}: {'killed' if killed else 'done'} after {after:.1f} s, in {stage}: "
              f"{'the same' if not different else different}", flush=True)  # fmt: skip
        if not different:
            shutil.rmtree(run)
    if given.out:
        about = {"command": " ".join(sys.argv), "one_piece_seconds": round(lasts, 1),
                 "compared": sorted(wanted), "kills": results}  # fmt: skip
        given.out.write_text(json.dumps(about, indent=1) + "\n")
    bad = sum(bool(result["different"]) for result in results)
    print(f"{len(results) - bad} of {len(results)} came to the same end")
    if not bad and not given.folder:
        shutil.rmtree(folder)
    return 1 if bad else 0


if __name__ == "__main__":
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
    sys.exit(main())
