"""Times every method, and training steps, beside a plain PyTorch version of the same algorithm.

    python benchmarks/speed.py                                   # all of them, ResNet-18, 224²
    python benchmarks/speed.py rise glas --passes 128 --out FILE
    python benchmarks/speed.py fido --model resnet50 --precision bf16 --compile
    python benchmarks/speed.py --quick                           # a minute: does it all work?

The PyTorch side is in `torch_methods/`, a file per family: eager, channels_last, weights without
gradients, bf16 by autocast; `--compile` times it with a `torch.compile`d network, too. Both sides
have the same weights, images and number of perturbed images per call; ours has its batch
normalisation folded, as the command has it. Before a method is timed both must give the same map,
for the same masks or noise where it draws some. The rounds alternate in one process. A call is
timed as a whole, from the images to the map on the host.

Compilation is told apart: what the first call of ours takes longer than the second. FLOP: XLA's
account of one pass of the model (forward, or with the gradient by the image) as it is before
optimisation, times the passes; of a training step, of the whole step. Share of peak: of the
fastest of a few matrix products in that precision.
"""

import argparse
import json
import os
import sys
import time
from functools import cache, partial
from pathlib import Path
from typing import Any

# Both sides share an accelerator's memory.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import numpy as np
from side_by_side import NO_TORCH, alternate, machine, make_inputs, summarise
from torch_methods import MAKERS, TRAINING
from torch_methods.case import Case, Setup
from torch_resnet import CLASSES, DEPTHS, load_both, torch

import fgjax
from fgjax.attribution.common.streaming import choose_chunk
from fgjax.core.functional import combine, partition
from fgjax.models.folding import fold_batch_norm
from fgjax.models.precision import in_precision

MOST = 128
"""Perturbed images per call at most, where none is said: what PyTorch has memory for, too."""
LIMITS = {"f32": 0.05, "bf16": 0.5}
"""‖ours - theirs‖ / ‖theirs‖ above which nothing is timed. A unit within rounding of 0 changes a
gradient by up to 0.05; bf16, and TF32 on a GPU, round at every layer."""


def on_accelerator() -> bool:
    return jax.default_backend() != "cpu"


def torch_device() -> str | None:
    """Return where PyTorch computes beside ours; None where it cannot be on the same device."""
    if torch is None:
        return None
    if on_accelerator():
        return "cuda" if torch.cuda.is_available() else None
    return "cpu"


@cache
def networks(name: str, size: int) -> tuple[Any, Any]:
    """fgjax's classifier, and PyTorch's where that is to be measured."""
    if torch_device() is None:
        return fgjax.create_model(name, CLASSES, size=size), None
    ours, theirs = load_both(name, size)
    return ours, theirs.to(torch_device())


@cache
def explained(name: str, size: int, images: int) -> tuple[np.ndarray, np.ndarray]:
    """So many images, and the classes that the network predicts, in float32."""
    pictures = np.concatenate([make_inputs(size, seed)[0] for seed in range(images)])
    arrays, static = partition(networks(name, size)[0])
    logits = [_forward(arrays, static, pictures[i : i + 1]) for i in range(images)]
    return pictures, np.concatenate(logits).argmax(1).astype(np.int32)


def make_setup(
    name: str, size: int, images: int, passes: int, precision: str, chunk: int | None = None
) -> Setup:
    """Return weights, images and the predicted classes."""
    plain, theirs = networks(name, size)
    pictures, targets = explained(name, size, images)
    model = in_precision(fold_batch_norm(plain), precision)
    arrays, static = partition(model)
    chunk = chunk or min(MOST, choose_chunk(arrays, static, pictures, backward=True))
    device = torch_device() or "cpu"
    return Setup(name, model, plain, theirs, pictures, targets, passes, chunk, precision, device)


@partial(jax.jit, static_argnames="static")
def _forward(arrays, static, images):
    return combine(arrays, static)(images)


@partial(jax.jit, static_argnames="static")
def _gradient(arrays, static, images):
    return jax.grad(lambda images: combine(arrays, static)(images)[:, 0].sum())(images)


def program_flops(function: Any, *args: Any) -> float:
    """FLOP of a jitted function for these arguments: XLA's account, before optimisation."""
    return float(function.lower(*args).cost_analysis()["flops"])


def case_flops(setup: Setup, case: Case) -> float:
    """FLOP of a call for all images."""
    if case.flops is not None:
        return float(case.flops())
    arrays, static = partition(setup.model)
    programs = {"forward": _forward, "gradient": _gradient}
    image = setup.images[:1]
    each = {kind: program_flops(programs[kind], arrays, static, image) for kind in case.passes}
    return len(setup.images) * sum(each[kind] * count for kind, count in case.passes.items())


@cache
def measured_peak(precision: str, rounds: int = 5) -> float:
    """FLOP a second: the fastest of a few square matrix products."""
    dtype = jnp.bfloat16 if precision == "bf16" else jnp.float32
    best = 0.0
    for side in (4096, 8192) if on_accelerator() else (1024, 2048):
        a = jax.random.normal(jax.random.key(0), (side, side), dtype)
        multiply = jax.jit(jnp.matmul)
        jax.block_until_ready(multiply(a, a))
        for _ in range(rounds):
            began = time.perf_counter()
            jax.block_until_ready(multiply(a, a))
            best = max(best, 2 * side**3 / (time.perf_counter() - began))
    return best


class Compiled:
    """A network whose calls `torch.compile` has compiled."""

    def __init__(self, network):
        self.call = torch.compile(network, dynamic=False)
        self.features = torch.compile(network.features, dynamic=False)
        self.head, self.parameters = network.head, network.parameters

    def __call__(self, x):
        return self.call(x)


@cache
def compiled(network: Any) -> Any:
    """Once for each network: its programs serve all methods."""
    torch._dynamo.config.recompile_limit = 64
    return Compiled(network) if hasattr(network, "features") else torch.compile(network)


def their_call(setup: Setup, function: Any, network: Any, draw: Any):
    """Return a call of the PyTorch side, its map on the host."""
    dtype = torch.bfloat16 if setup.precision == "bf16" else None

    def call():
        with torch.autocast(setup.device, dtype, enabled=dtype is not None):
            found = function(network, draw)
        return found.float().cpu().numpy()

    return call


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """‖ours - theirs‖ / ‖theirs‖."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    return float(np.linalg.norm(ours - theirs) / max(np.linalg.norm(theirs), 1e-12))


def timed(call: Any) -> tuple[Any, float]:
    began = time.perf_counter()
    return call(), time.perf_counter() - began


def run_case(
    method: str,
    setup: Setup,
    *,
    rounds: int = 5,
    compile: bool = False,
    seconds: float = 1.0,
    budget: float = float("inf"),
    **changes: Any,
) -> dict[str, Any]:
    """Check, then times, one method; a dictionary of numbers.

    Args:
      rounds: so many; three where they would take more than `budget` seconds.
      compile: time PyTorch with a compiled network, too.
      seconds: what a round repeats its calls for.
      changes: of the method's settings, on our side only.

    Raises:
      AssertionError: the two sides do not give the same map.
    """
    case = MAKERS[method](setup, **changes)
    check_ours, check_theirs = case.check or (case.ours, case.theirs)
    jax.clear_caches()
    # A training changes what it is called on: there the check comes first.
    ours_map, first = timed(check_ours if method in TRAINING else case.ours)
    if case.check and method not in TRAINING:
        ours_map = check_ours()
    count = len(setup.images)
    out = {
        "method": method,
        "model": setup.name,
        "size": setup.images.shape[1],
        "images": count,
        "precision": setup.precision,
        "chunk": setup.chunk,
        "passes": case.passes,
        "unit": case.unit,
        "settings": changes,
    }
    sides, note = {"fgjax": case.ours}, {}
    if setup.theirs is not None:
        theirs_map = their_call(setup, check_theirs, case.network, case.same)()
        found = difference(ours_map, theirs_map)
        limit = LIMITS["bf16" if on_accelerator() else setup.precision]
        assert found < limit, f"{method}: the sides differ by {found:.1e} of their norm"
        out["sides_differ_by"] = found
        sides["torch"] = their_call(setup, case.theirs, case.network, case.draw)
        if compile:
            try:
                call = their_call(setup, case.theirs, compiled(case.network), case.draw)
                _, note["first_s"] = timed(call)
                sides["torch.compile"] = call
            except Exception as error:  # whatever it fails with is what is to be told
                note["failed"] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    once = {name: timed(call)[1] for name, call in sides.items()}
    if sum(once.values()) * rounds > budget:
        rounds = min(rounds, 3)
    again = once["fgjax"] * (len(ours_map) if method in TRAINING else 1)
    times = alternate(sides, rounds, min(seconds, budget / rounds / len(sides)))
    out |= summary(times)
    out["fgjax"] |= {"first_s": first, "compile_s": max(0.0, first - again)}
    if note:
        out["torch.compile"] = out.get("torch.compile", {}) | note
    flops, rate = case_flops(setup, case), measured_peak(setup.precision)
    out |= {
        "flops": flops,
        "flops_of": "the whole step" if case.flops else "a pass of the model × passes",
        "peak_flops_per_s": rate,
        "share_of_peak": flops / out["fgjax"]["median_s"] / rate,
        "seconds_per_image": out["fgjax"]["median_s"] / count,
    }
    return out


def summary(times: dict[str, list[float]]) -> dict[str, Any]:
    """Medians and ranges of the sides, and the ratios of PyTorch's to ours."""
    out = {}
    for name in ("torch.compile", "torch"):
        if name in times:
            pair = summarise({"fgjax": times["fgjax"], "torch": times[name]})
            out["ratio" if name == "torch" else "ratio_compiled"] = pair["ratio"]
            out[name] = pair["torch"]
    alone = summarise({"fgjax": times["fgjax"], "torch": times["fgjax"]})
    return out | {"fgjax": alone["fgjax"]}


def markdown(cases: list[dict[str, Any]]) -> str:
    """Return a row per case."""
    lines = [
        "| method | images | precision | fgjax, s an image | PyTorch / fgjax (range) "
        "| compiled PyTorch / fgjax | share of peak | compilation, s | differ by |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for case in cases:
        name = f"{case['method']}, {case['model']}, {case['size']}²"
        if "failed" in case:
            lines.append(f"| {name} | failed: {case['failed']} | | | | | | | |")
            continue
        options = "".join(f", {k}={v}" for k, v in case["settings"].items())
        ratio = case.get("ratio")
        fast = case.get("ratio_compiled")
        failed = case.get("torch.compile", {}).get("failed", "–")
        cells = [
            f"{name}, {case['unit']}{options}".removesuffix(", "),
            case["images"],
            case["precision"],
            f"{case['seconds_per_image']:.4g}",
            f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})" if ratio else "–",
            f"{fast['median']:.2f}" if fast else failed,
            f"{100 * case['share_of_peak']:.0f} %",
            f"{case['fgjax']['compile_s']:.1f}",
            f"{case['sides_differ_by']:.0e}" if "sides_differ_by" in case else "–",
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def start_report() -> dict[str, Any]:
    """Return what the numbers were measured on; begins the list of cases."""
    about = machine()
    if on_accelerator():
        about["device"] = jax.devices()[0].device_kind
    return {"machine": about, "load_before": os.getloadavg()[0], "cases": []}


def write(report: dict[str, Any], path: Path | None) -> None:
    """After every case, so that a run that is stopped leaves what it has."""
    if path:
        report["load_after"] = os.getloadavg()[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def choose_device(device: str) -> None:
    """To be called before anything is computed.

    Raises:
      SystemExit: a GPU is wanted, and JAX finds none.
    """
    if device != "auto":
        jax.config.update("jax_platforms", {"cpu": "cpu", "gpu": "cuda"}[device])
    try:
        jax.devices()
    except RuntimeError:
        sys.exit(
            f"--device {device}: JAX finds no such device here; --device cpu, or install "
            '"jax[cuda12]" where there is a GPU'
        )
    if torch is None:
        return
    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    # As JAX has it: TF32 in float32 convolutions and products, and the fastest algorithm.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True


QUICK = {"model": "resnet_tiny", "size": 64, "passes": 16, "rounds": 2, "batch": 4}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="*", metavar="METHOD", help=f"of {', '.join(MAKERS)}")
    parser.add_argument("--model", choices=list(DEPTHS), default="resnet18")
    parser.add_argument("--size", type=int, default=224, help="side of the images in pixels")
    parser.add_argument("--images", type=int, default=1, help="explained in one call")
    parser.add_argument("--batch", type=int, default=16, help="images of a training step")
    parser.add_argument(
        "--passes", type=int, default=96, help="of the model for an image, about: masks, points …"
    )
    parser.add_argument("--chunk", type=int, help="perturbed images per model call")
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--device", choices=["auto", "cpu", "gpu"], default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="PyTorch compiled, too (slow)")
    parser.add_argument("--quick", action="store_true", help=f"tiny: {QUICK}")
    parser.add_argument("--out", type=Path, help="write all numbers here as JSON")
    args = parser.parse_args(argv)
    unknown = [name for name in args.methods if name not in MAKERS]
    if unknown:
        parser.error(f"no method {unknown[0]!r}: one of {', '.join(MAKERS)}")
    for name in ("size", "images", "batch", "passes", "rounds", "chunk"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name} {getattr(args, name)}: must be at least 1")
    if torch is None:
        print(NO_TORCH, file=sys.stderr)
        return 2
    if args.quick:
        vars(args).update(QUICK)
    choose_device(args.device)
    if torch_device() is None:
        print(
            "JAX has a GPU and this PyTorch has none: install PyTorch for CUDA, or --device cpu",
            file=sys.stderr,
        )
        return 2
    report = start_report()
    for method in args.methods or MAKERS:
        images = args.batch if method in TRAINING else args.images
        try:
            setup = make_setup(
                args.model, args.size, images, args.passes, args.precision, args.chunk
            )
            seconds = 0.1 if args.quick else 1.0
            case = run_case(
                method, setup, rounds=args.rounds, compile=args.compile, seconds=seconds
            )
        except (AssertionError, RuntimeError, ValueError) as error:  # the others go on
            case = {"method": method, "model": args.model, "size": args.size}
            case["failed"] = str(error).splitlines()[0]
        print(markdown([case]).splitlines()[-1], flush=True)
        report["cases"].append(case)
        write(report, args.out)
    print(f"\n{markdown(report['cases'])}")
    return int(any("failed" in case for case in report["cases"]))


if __name__ == "__main__":
    sys.exit(main())
