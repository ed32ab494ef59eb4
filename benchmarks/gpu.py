"""Everything that is to be known of one GPU: ResNet-50 at 224², beside PyTorch where it is there.

    python benchmarks/gpu.py --out DIR                # every stage, as far as 9 minutes reach
    python benchmarks/gpu.py fido dispatch --out DIR  # one part a call
    python benchmarks/gpu.py --quick --device cpu     # tiny: does it all work?

Stages: fido (100 steps of 8 + 8 masks), dispatch (FIDO with 1, 10 and 25 steps to a dispatch,
where this fgjax has the setting), rise (8000 masks), glas (15 × 15 points), gradients (integrated
gradients, 50 steps), training and region_grouping (a step); float32 (TF32 on a GPU) and bfloat16;
1, 8 and 32 images. Several images take fewer steps or masks each, so that a stage ends: see the
column of milliseconds a pass. What a case measures, and how, is said in `speed.py`. Each stage
writes `DIR/gpu_STAGE.json`, and the table of all comes last.
"""

import argparse
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from speed import choose_device, make_setup, run_case, start_report, torch_device, write

import fgjax

PRECISIONS = ("bf16", "f32")


class Task(NamedTuple):
    """A case for each precision.

    Attributes:
      images: explained together, or the batch of a training step.
      passes: of the model for each image.
      chunk: perturbed images per call; None: 128.
      settings: of the method, on our side only.
      precisions: None: both.
    """

    method: str
    images: int
    passes: int
    chunk: int | None = None
    settings: dict[str, Any] = {}
    precisions: tuple[str, ...] | None = None


STAGES = {
    "fido": [Task("fido", 1, 1600), Task("fido", 8, 400), Task("fido", 32, 160)],
    "dispatch": [
        Task("fido", 1, 1600, settings={"steps_per_dispatch": steps}, precisions=("bf16",))
        for steps in (1, 10, 25)
    ],
    "rise": [Task("rise", 1, 8000, 200), Task("rise", 8, 1000, 200), Task("rise", 32, 400, 200)],
    "glas": [Task("glas", images, 450) for images in (1, 8, 32)],
    "gradients": [Task("integrated_gradients", images, 50, 50) for images in (1, 8, 32)],
    "training": [Task("training", images, 1) for images in (1, 8, 32)],
    "region_grouping": [Task("region_grouping", images, 1) for images in (2, 8, 32)],
}
GOALS = {
    "fido": {"seconds": 0.10, "ratio": 4.0},
    "glas": {"seconds": 0.012},
    "rise": {"seconds": 0.25},
}
"""For one image on an H200: seconds at most, and PyTorch's time over ours at least."""


def missing_settings(task: Task) -> list[str]:
    """Return which of the task's settings this fgjax does not have."""
    known = {field.name for field in fields(fgjax.CONFIGS.get(task.method, fgjax.FidoConfig))}
    return [name for name in task.settings if name not in known]


def markdown(cases: list[dict[str, Any]]) -> str:
    """Return a short row per case, beside its goal."""
    lines = [
        "| case | images | precision | s an image | goal | ms a pass | PyTorch / fgjax | goal "
        "| compiled / fgjax | of peak |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for case in cases:
        if "failed" in case:
            lines.append(f"| {case['method']} | {case['images']} | {case['precision']} "
                         f"| {case['failed']} | | | | | | |")  # fmt: skip
            continue
        goal = GOALS.get(case["method"], {}) if case["images"] == 1 else {}
        settings = "".join(f", {name} {value}" for name, value in case["settings"].items())
        seconds, passes = case["seconds_per_image"], sum(case["passes"].values())
        ratio, compiled = case.get("ratio"), case.get("ratio_compiled")
        cells = [
            f"{case['method']}, {case['unit']}{settings}",
            case["images"],
            case["precision"],
            f"{seconds:.4g}",
            f"≤ {goal['seconds']:g}" if "seconds" in goal else "",
            f"{1e3 * seconds / passes:.3g}",
            f"{ratio['median']:.2f}" if ratio else "–",
            f"≥ {goal['ratio']:g}" if "ratio" in goal else "",
            f"{compiled['median']:.2f}" if compiled else "–",
            f"{100 * case['share_of_peak']:.0f} %",
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def run_task(task: Task, precision: str, args: argparse.Namespace, left: float) -> dict[str, Any]:
    """Return the case's numbers, or what it failed with: the others go on."""
    images, passes, chunk = task.images, task.passes, task.chunk or 128
    about = {"method": task.method, "images": images, "precision": precision}
    if missing := missing_settings(task):
        return about | {"failed": f"this fgjax has no {missing[0]}"}
    if args.quick:
        images, passes, chunk = min(images, 2), min(passes, 16), 16
    try:
        setup = make_setup(args.model, args.size, images, passes, precision, chunk)
        return run_case(
            task.method, setup, rounds=args.rounds, compile=args.compile,
            seconds=0.3, budget=min(20.0, left), **task.settings,
        )  # fmt: skip
    except (AssertionError, RuntimeError, ValueError) as error:
        return about | {"failed": f"{type(error).__name__}: {error}".splitlines()[0][:160]}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"of {', '.join(STAGES)}")
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=8.5, help="no case begins after these")
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, default=True,
        help="time compiled PyTorch, too (a minute a network and shape)",
    )  # fmt: skip
    parser.add_argument("--device", choices=["auto", "cpu", "gpu"], default="auto")
    parser.add_argument("--quick", action="store_true", help="tiny; a case a stage")
    parser.add_argument("--out", type=Path, help="folder for the JSON files")
    args = parser.parse_args(argv)
    unknown = [name for name in args.stages if name not in STAGES]
    if unknown:
        parser.error(f"no stage {unknown[0]!r}: one of {', '.join(STAGES)}")
    if args.quick:
        vars(args).update(model="resnet_tiny", size=64, rounds=2, compile=False)
    choose_device(args.device)
    if torch_device() is None:
        print("PyTorch is not installed for this device: fgjax is measured alone", flush=True)
    began, cases, left_out = time.monotonic(), [], []
    for stage in args.stages or STAGES:
        report = start_report()
        for task in STAGES[stage][: 1 if args.quick else None]:
            for precision in task.precisions or PRECISIONS:
                left = 60 * args.minutes - (time.monotonic() - began)
                if left <= 0:
                    left_out.append(f"{stage}: {task.images} images, {precision}")
                    continue
                report["cases"].append(run_task(task, precision, args, left))
                print(markdown(report["cases"][-1:]).splitlines()[-1], flush=True)
                write(report, args.out and args.out / f"gpu_{stage}.json")
        cases += report["cases"]
    print(
        f"\n{start_report()['machine'].get('device', 'CPU')}; goals: an H200\n\n{markdown(cases)}"
    )
    for what in left_out:
        print(f"left out, {args.minutes:g} minutes were over: {what}")
    return int(not any("failed" not in case for case in cases))


if __name__ == "__main__":
    sys.exit(main())
