"""Times the work that convolutions dominate on a CPU, beside eager PyTorch: one run, one table.

    python benchmarks/cpu.py --python OTHER/bin/python --out FILE    # ours with the jax of that one
    python benchmarks/cpu.py --only training glas --threads 1        # some rows, on one core

PyTorch runs here, ours in a process of `--python` (this Python where none is given), once with
oneDNN's convolutions and once without; see `fgjax.compiler_options`. Both processes keep the memory
that they free (`fgjax.keep_freed_memory`), as our command does; with `--give-back` neither. All
have the same weights, images and number of perturbed images per call, and PyTorch's weights ask for
no gradient except in training. Before a row is timed the maps, or the losses of three steps, must
agree. The sides take turns. Told are seconds by the clock, and CPU-seconds of the process: these
are what to compare on a machine that does other things as well, with `--threads 1`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from side_by_side import NO_TORCH, machine, make_inputs
from torch_methods import MAKERS
from torch_methods.case import Setup
from torch_resnet import CLASSES, load_both, saved_weights, torch

import fgjax
from fgjax.devices.compiler import onednn_in_use, use_onednn
from fgjax.models.folding import fold_batch_norm

LIMIT = 0.05
"""‖ours - theirs‖ / ‖theirs‖ above which nothing is timed; see `speed.py`. Logits: 1e-3."""


class Row(NamedTuple):
    """What is timed: `images` is one but in training; `passes` of the model for each, about."""

    method: str
    model: str
    size: int
    images: int = 1
    passes: int = 64
    chunk: int = 8
    limit: float = LIMIT


ROWS = (
    Row("fido", "resnet50", 224, passes=32),
    Row("fido", "resnet18", 96, passes=96),
    # Random weights: its gradient differs by 1e-2 already (ReLU6 has two ends); Adam magnifies it.
    Row("fido", "mobilenet_v2", 224, passes=64, limit=0.5),
    Row("rise", "resnet18", 224),
    Row("glas", "resnet18", 224),
    Row("integrated_gradients", "resnet18", 224),
    Row("training", "resnet18", 224, images=8),
    Row("training", "resnet18", 96, images=32),
    Row("training", "resnet_tiny", 96, images=32),
    Row("training", "vit_small_patch16_224", 224, images=8),
    Row("training", "convnext_tiny", 224, images=8),
)
SIDES = ("on", "off")


def load_mobilenet(size: int) -> tuple[Any, Any]:
    """Return the same random weights as an fgjax classifier and as timm's network."""
    # timm imports torchvision, and that its compiled operators, which are not needed here.
    operators = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        try:
            operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        except RuntimeError:  # they are there
            pass
    import timm

    class Normalised(torch.nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network
            mean, std = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
            self.register_buffer("mean", mean[:, None, None], persistent=False)
            self.register_buffer("std", std[:, None, None], persistent=False)

        def forward(self, x):
            return self.network((x - self.mean) / self.std)

    torch.manual_seed(0)
    network = timm.create_model("mobilenetv2_100", num_classes=CLASSES).eval()
    network = network.requires_grad_(False).to(memory_format=torch.channels_last)
    with saved_weights(network) as path:
        return fgjax.load_pretrained("mobilenet_v2", path, size=size), Normalised(network)


def load(row: Row) -> tuple[Any, Any]:
    """Return ours and theirs."""
    return (
        load_mobilenet(row.size) if row.model == "mobilenet_v2" else load_both(row.model, row.size)
    )


def make_setup(row: Row, ours: Any, theirs: Any, images: np.ndarray, targets: np.ndarray) -> Setup:
    model = fold_batch_norm(ours)
    return Setup(row.model, model, ours, theirs, images, targets, row.passes, row.chunk)


def timed(call: Any) -> tuple[float, float]:
    """Return seconds by the clock, and of this process on all its cores."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu


class Ours:
    """Our side of a row, in a process of another Python."""

    def __init__(
        self, python: str, row: Row, theirs: Any, images: np.ndarray, targets: np.ndarray,
        keep: bool = True,
    ):  # fmt: skip
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        np.savez(folder / "inputs.npz", images=images, targets=targets)
        weights = getattr(theirs, "network", theirs)
        pipe = subprocess.PIPE
        with saved_weights(weights) as path:
            given = json.dumps([str(path), str(folder), row, keep])
            words = [python, __file__, "--worker", given]
            self._process = subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True, bufsize=1)
            self.about = self._answer()
        self.maps = {side: np.load(folder / f"{side}.npy") for side in SIDES}

    def _answer(self) -> Any:
        line = self._process.stdout.readline()
        if not line:
            sys.exit("the process of --python ended: is fgjax installed there?")
        return json.loads(line)

    def time(self, side: str) -> list[float]:
        """Return seconds by the clock and CPU-seconds of a call."""
        self._process.stdin.write(side + "\n")
        return self._answer()

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._folder.cleanup()


def work(words: str) -> None:
    """Be the process that `Ours` talks to."""
    weights, folder, given, keep = json.loads(words)
    if keep:
        fgjax.keep_freed_memory()
    row, folder = Row(*given), Path(folder)
    inputs = np.load(folder / "inputs.npz")
    ours = fgjax.load_pretrained(row.model, weights, size=row.size, say=lambda text: None)
    setup = make_setup(row, ours, None, inputs["images"], inputs["targets"])
    calls, first, used = {}, {}, {}
    for side in SIDES:
        use_onednn(side)
        used[side] = onednn_in_use()
        case = MAKERS[row.method](setup)
        began = time.perf_counter()
        found = case.check[0]() if case.check else case.ours()
        first[side] = time.perf_counter() - began
        np.save(folder / f"{side}.npy", np.asarray(found))
        calls[side] = case.ours
        calls[side]()
    about = {"versions": machine()["versions"], "first_s": first, "onednn": used}
    print(json.dumps(about), flush=True)
    for line in sys.stdin:
        side = line.strip()
        use_onednn(side)
        print(json.dumps(timed(calls[side])), flush=True)


def run_row(row: Row, python: str, rounds: int, keep: bool = True) -> dict[str, Any]:
    """Check, then time, a row.

    Raises:
      AssertionError: the sides do not give the same.
    """
    images = np.concatenate([make_inputs(row.size, seed)[0] for seed in range(row.images)])
    ours, theirs = load(row)
    with torch.no_grad():
        x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
        logits = theirs(x).numpy()
    targets = logits.argmax(1).astype(np.int32)
    gap = np.linalg.norm(np.asarray(ours(images)) - logits) / np.linalg.norm(logits)
    assert gap < 1e-3, f"{row}: the logits differ by {gap:.1e}"
    case = MAKERS[row.method](make_setup(row, ours, theirs, images, targets))
    other = Ours(python, row, theirs, images, targets, keep)
    if case.check:
        expected = case.check[1](case.network, case.same).numpy()
    else:
        expected = case.theirs(case.network, case.same).numpy()
    apart = {}
    for side, found in other.maps.items():
        apart[side] = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
        assert apart[side] < row.limit, f"{row}: {side}: the sides differ by {apart[side]:.1e}"
    calls = {side: lambda side=side: other.time(side) for side in SIDES}
    calls["torch"] = lambda: timed(lambda: case.theirs(case.network, case.draw))
    calls["torch"]()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for i in range(rounds):
        for name in list(calls) if i % 2 == 0 else list(reversed(calls)):
            time.sleep(0.05)  # the other side's worker threads go to sleep
            times[name].append(tuple(calls[name]()))
    other.close()
    out = {**row._asdict(), "unit": case.unit, "sides_differ_by": apart, **other.about}
    for name, pairs in times.items():
        wall, cpu = zip(*pairs, strict=True)
        out[name] = {"wall_s": wall, "cpu_s": cpu}
    for side in SIDES:
        out[f"ratio_{side}"] = {}
        for place, clock in enumerate(("wall", "cpu")):
            each = [b[place] / a[place] for a, b in zip(times[side], times["torch"], strict=True)]
            fastest = min(b[place] for b in times["torch"]) / min(a[place] for a in times[side])
            about = {"median": statistics.median(each), "min": min(each), "max": max(each)}
            out[f"ratio_{side}"][clock] = about | {"fastest": fastest}
    return out


def line_of(row: dict[str, Any]) -> str:
    """Return a row of the table."""
    cells = [f"{row['method']}, {row['model']}, {row['size']}², {row['unit']}"]
    cells += [f"{statistics.median(row[side]['wall_s']):.3f}" for side in (*SIDES, "torch")]
    for side in SIDES:
        wall, cpu = row[f"ratio_{side}"]["wall"], row[f"ratio_{side}"]["cpu"]
        cells.append(f"{wall['median']:.2f} ({wall['min']:.2f} to {wall['max']:.2f})")
        cells.append(f"{cpu['median']:.2f}")
    return "| " + " | ".join(cells) + " |"


HEAD = """\
| work | oneDNN, s | without, s | PyTorch, s | PyTorch / oneDNN | CPU-s | … / without | CPU-s |
|---|---|---|---|---|---|---|---|"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", default=sys.executable, help="ours runs in this Python")
    parser.add_argument("--only", nargs="*", metavar="METHOD", help="rows of these methods")
    parser.add_argument("--model", help="rows of this network")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="of both sides; default: every core")
    parser.add_argument("--out", type=Path, help="write all numbers here as JSON")
    parser.add_argument("--give-back", action="store_true", help="freed memory, as glibc does")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    os.environ["JAX_PLATFORMS"] = "cpu"
    if args.worker:
        work(args.worker)
        return 0
    if torch is None:
        print(NO_TORCH, file=sys.stderr)
        return 2
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[: args.threads or len(cores)])
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    if not args.give_back:
        fgjax.keep_freed_memory()
    report = {"machine": machine(), "load_before": os.getloadavg()[0], "rows": []}
    print(HEAD, flush=True)
    for row in ROWS:
        if args.only and row.method not in args.only or args.model not in (None, row.model):
            continue
        found = run_row(row, args.python, args.rounds, not args.give_back)
        report["rows"].append(found)
        report["machine"]["versions"] |= found.pop("versions")
        report["load_after"] = os.getloadavg()[0]
        print(line_of(found), flush=True)
        if args.out:
            args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
