"""Times a training step, and depthwise convolutions, beside eager PyTorch, on the CPU.

    python benchmarks/train_step.py                              # ResNet-18, 96², batch 32
    python benchmarks/train_step.py --model resnet50 --size 224 --batch 8
    python benchmarks/train_step.py --model vit_small_patch16_224 --size 224 --batch 8 --forward
    python benchmarks/train_step.py --model convnext_tiny --size 224 --batch 8 --forward
    python benchmarks/train_step.py --depthwise --out FILE       # MobileNetV2's layers, too
    python benchmarks/train_step.py --quick --model convnext_tiny  # seconds: does it all work?

ResNet-18, -50 and resnet_tiny are compared with PyTorch's of `torch_resnet.py`, other networks
with timm's. `--forward` times the prediction of such a batch, too.
One step: images from 8 bits, the forward pass with the batch's statistics, cross-entropy, the
gradient of all weights, SGD with momentum. Both sides start from the same weights; before
anything is timed their losses over three steps must agree. The rounds alternate.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from side_by_side import NO_TORCH, alternate, machine, summarise
from torch_methods.case import Setup
from torch_methods.training import make
from torch_resnet import CLASSES, load_both, torch

from fgjax.devices.jit import program
from fgjax.models.networks.layers import DepthwiseConv

LAYERS = ((112, 32, 1), (112, 96, 2), (56, 144, 1), (56, 144, 2), (28, 192, 1), (28, 192, 2),
          (14, 384, 1), (14, 576, 1), (14, 576, 2), (7, 960, 1))  # fmt: skip
"""Side, channels and stride of MobileNetV2's depthwise convolutions at 224²."""


def make_steps(ours, theirs, name, size, batch):
    """Return both sides' steps: each call makes one and returns its loss."""
    rng = np.random.default_rng(0)
    images = rng.random((batch, size, size, 3), np.float32)
    labels = rng.integers(0, CLASSES, batch).astype(np.int32)
    case = make(Setup(name, ours, ours, theirs, images, labels, passes=1, chunk=batch))
    return case.ours, lambda: case.theirs(case.network, None).numpy()


def time_forward(model, network, size, batch, rounds):
    """Parity of the logits, then the times of a prediction."""
    images = np.random.default_rng(1).random((batch, size, size, 3), np.float32)
    predict, ready = program("explain")(lambda model, x: model(x)), jnp.asarray(images)
    x = torch.from_numpy(images).permute(0, 3, 1, 2)  # channels last, as the network is

    def theirs():
        with torch.no_grad():
            return network(x).numpy()

    def ours():
        return np.asarray(predict(model, ready))

    expected = theirs()
    gap = float(np.abs(ours() - expected).max() / np.abs(expected).max())
    assert gap < 1e-3, f"the logits differ by {gap} of their largest"
    return {
        "logits_differ_by": gap,
        **summarise(alternate({"fgjax": ours, "torch": theirs}, rounds)),
    }


def time_step(model, network, name, size, batch, rounds):
    """Parity of the losses, then the times."""
    ours, theirs = make_steps(model, network, name, size, batch)
    began = time.perf_counter()
    losses = [[ours() for _ in range(3)], [theirs() for _ in range(3)]]
    compile_s = time.perf_counter() - began
    gap = float(np.abs(np.subtract(*losses)).max())
    assert gap < 5e-3, f"the losses differ: {losses}"
    times = summarise(alternate({"fgjax": ours, "torch": theirs}, rounds))
    return {"losses_differ_by": gap, "first_three_steps_s": compile_s, **times}


def make_depthwise(side, channels, stride, batch):
    """Return forward, and forward with both gradients, on either side; and their largest
    difference."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch, side, side, channels)).astype(np.float32)
    k = rng.normal(size=(3, 3, 1, channels)).astype(np.float32)
    layer = DepthwiseConv(stride=stride)
    forward = jax.jit(lambda k, x: layer.apply({"params": {"kernel": k}}, x))
    both = jax.jit(jax.grad(lambda k, x: (forward(k, x) ** 2).sum(), (0, 1)))
    xt = torch.from_numpy(x).permute(0, 3, 1, 2)
    kt = torch.from_numpy(k).permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
    xj, kj = jnp.asarray(x), jnp.asarray(k)

    def torch_forward():
        with torch.no_grad():
            return torch.nn.functional.conv2d(xt, kt, stride=stride, padding=1, groups=channels)

    def torch_both():
        leaves = [t.detach().requires_grad_() for t in (kt, xt)]
        y = torch.nn.functional.conv2d(
            leaves[1], leaves[0], stride=stride, padding=1, groups=channels
        )
        (y**2).sum().backward()
        return [leaf.grad for leaf in leaves]

    d_k, d_x = both(kj, xj)
    t_k, t_x = torch_both()
    gaps = [
        np.abs(np.asarray(a) - b.numpy()).max() / np.abs(b.numpy()).max()
        for a, b in ((d_x.transpose(0, 3, 1, 2), t_x), (d_k.transpose(3, 2, 0, 1), t_k))
    ]
    assert max(gaps) < 1e-3, f"depthwise {side}² {channels}: gradients differ by {gaps}"
    return {
        "forward": (lambda: forward(kj, xj).block_until_ready(), torch_forward),
        "with both gradients": (lambda: jax.block_until_ready(both(kj, xj)), torch_both),
    }


def time_depthwise(batch, rounds):
    """Return every layer by itself."""
    rows = []
    for side, channels, stride in LAYERS:
        for part, (ours, theirs) in make_depthwise(side, channels, stride, batch).items():
            times = alternate({"fgjax": ours, "torch": theirs}, rounds, seconds=0.3)
            about = {"side": side, "channels": channels, "stride": stride, "part": part}
            rows.append({**about, **summarise(times)})
    return rows


def total_ratio(rows, part):
    """PyTorch's time for all layers over ours, of medians."""
    chosen = [row for row in rows if row["part"] == part]
    theirs, ours = (sum(row[s]["median_s"] for row in chosen) for s in ("torch", "fgjax"))
    return theirs / ours


def markdown(report):
    """Return the report as Markdown tables."""
    lines = ["| step | PyTorch time / fgjax time, median (range) |", "|---|---|"]
    for case in report["cases"]:
        ratio = case["step"]["ratio"]
        name = f"training step, {case['model']}, {case['size']}², batch {case['batch']}"
        lines.append(
            f"| {name} | {ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f}) |"
        )
        if "forward" in case:
            ratio, name = case["forward"]["ratio"], name.replace("training step", "forward")
            lines.append(
                f"| {name} | {ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f}) |"
            )
    for part in ("forward", "with both gradients") if report["depthwise"] else ():
        value = total_ratio(report["depthwise"], part)
        lines.append(
            f"| MobileNetV2's depthwise convolutions, {part} | {value:.2f} (sum of medians) |"
        )
    lines.append("")
    for row in report["depthwise"]:
        ratio = row["ratio"]
        lines.append(
            f"    {row['side']}² x {row['channels']}, stride {row['stride']}, {row['part']}: "
            f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f}), "
            f"fgjax {1e3 * row['fgjax']['median_s']:.1f} ms"
        )
    return "\n".join(lines)


QUICK = {"size": 64, "batch": 2, "rounds": 2, "forward": True}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--depthwise", action="store_true", help="time depthwise layers, too")
    parser.add_argument("--forward", action="store_true", help="time the prediction, too")
    parser.add_argument("--quick", action="store_true", help=f"tiny: {QUICK}")
    parser.add_argument("--out", type=Path, help="write all numbers here as JSON")
    args = parser.parse_args()
    if args.quick:
        vars(args).update(QUICK)
    if torch is None:
        sys.exit(NO_TORCH)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    report = {"machine": machine(), "load_before": os.getloadavg()[0]}
    model, network = load_both(args.model, args.size)
    about = {"model": args.model, "size": args.size, "batch": args.batch}
    case = about | {"step": time_step(model, network, *about.values(), args.rounds)}
    if args.forward:
        case["forward"] = time_forward(model, network, args.size, args.batch, args.rounds)
    report |= {"cases": [case], "depthwise": []}
    if args.depthwise:
        report["depthwise"] = time_depthwise(16, args.rounds)
    report["load_after"] = os.getloadavg()[0]
    print(markdown(report))
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
