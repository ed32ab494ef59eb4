"""Times RISE and GLAS beside a plain batched PyTorch loop of the same forward passes, on the CPU.

    python benchmarks/perturbation.py                            # ResNet-18, 224²
    python benchmarks/perturbation.py --model resnet50 --masks 64 --out FILE

RISE: low-resolution masks, enlarged, shifted and multiplied with the image, 8 at a time, the class
probabilities averaged over them. GLAS: lights and shadows at the points of a grid, 8 at a time.
The PyTorch side makes its masks as it goes, as ours does, without gradients and in channels_last.
Both sides must give the same GLAS map before anything is timed, and RISE maps that agree as two
draws of masks can. The rounds alternate.
"""

import argparse
import json
import math
import os
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from side_by_side import NO_TORCH, alternate, machine, make_inputs, summarise
from torch_resnet import load_both, torch

import fgjax
from fgjax.functional import compiled

CHUNK = 8


def torch_rise(model, image, target, masks, cells=7, keep=0.5):
    """One image's RISE map, `h w`."""
    size = image.shape[-1]
    cell = math.ceil(size / cells)
    total = torch.zeros(size, size)
    with torch.no_grad():
        for _ in range(0, masks, CHUNK):
            grid = (torch.rand(CHUNK, 1, cells, cells) < keep).float()
            side = (cells + 1) * cell
            large = torch.nn.functional.interpolate(
                grid, (side, side), mode="bilinear", align_corners=False
            )
            corner = torch.randint(0, cell, (CHUNK, 2)).tolist()
            mask = torch.stack(
                [m[:, y : y + size, x : x + size] for m, (y, x) in zip(large, corner, strict=True)]
            )
            masked = (image * mask).contiguous(memory_format=torch.channels_last)
            p = model(masked).softmax(1)[:, target]
            total += (p[:, None, None] * mask[:, 0]).sum(0)
    return total / masks / keep


def torch_glas(model, image, target, config):
    """One image's scores at the search points: light, shadow."""
    size = image.shape[-1]
    centre = (torch.arange(config.grid) + 0.5) * size / config.grid
    pixel = torch.arange(size) + 0.5
    scale = size / 224

    def bells(sigma):
        line = torch.exp(-((pixel[None] - centre[:, None]) ** 2) / (2 * (sigma * scale) ** 2))
        return (line[:, None, :, None] * line[None, :, None, :]).reshape(-1, 1, size, size)

    with torch.no_grad():
        whole = model(image[None]).softmax(1)[0, target]
        found = []
        for bell in (bells(config.sigma_light), 1 - bells(config.sigma_shadow)):
            scores = []
            for start in range(0, len(bell), CHUNK):
                lit = (image * bell[start : start + CHUNK]).contiguous(
                    memory_format=torch.channels_last
                )
                scores.append(model(lit).softmax(1)[:, target])
            found.append(torch.cat(scores))
    return found[0], (whole - found[1]).abs() + 1e-5


def glas_map(light, shadow, config, size):
    """The scaled fusion map of scores, in NumPy."""
    centre = (np.arange(config.grid) + 0.5) * size / config.grid
    pixel = np.arange(size) + 0.5
    sigma = config.sigma_spatial * size / 224
    line = np.exp(-((pixel[None] - centre[:, None]) ** 2) / sigma**2)
    values = (light * shadow).reshape(config.grid, config.grid)
    heat = np.einsum("ab,ay,bx->yx", values, line, line)
    return (heat - heat.min()) / (heat.max() - heat.min())


def run_case(name, size, masks, rounds):
    """Both methods of one network; a dictionary of numbers."""
    ours, theirs = load_both(name, size)
    image, _, target = make_inputs(size)
    x = torch.from_numpy(np.ascontiguousarray(image[0].transpose(2, 0, 1)))
    images, targets = jnp.asarray(image), jnp.asarray(target)
    rise = fgjax.RiseConfig(masks=masks, chunk_size=CHUNK)
    glas = fgjax.GlasConfig(chunk_size=CHUNK)

    def our_rise():
        result = fgjax.rise(ours, images, targets, key=jax.random.key(0), config=rise)
        return np.asarray(result.maps["raw"])[0]

    def our_glas():
        return np.asarray(fgjax.glas(ours, images, targets, config=glas).heatmap)[0]

    forward = compiled(ours)
    batch = jnp.broadcast_to(images, (CHUNK, *images.shape[1:]))
    xs = x.expand(CHUNK, -1, -1, -1).contiguous(memory_format=torch.channels_last)

    def torch_forward():
        with torch.no_grad():
            theirs(xs)

    light, shadow = (np.asarray(s) for s in torch_glas(theirs, x, int(target[0]), glas))
    gap = float(np.abs(our_glas() - glas_map(light, shadow, glas, size)).max())
    assert gap < 1e-2, f"the GLAS maps differ by {gap}"
    means = [float(m.mean()) for m in (our_rise(), torch_rise(theirs, x, int(target[0]), masks))]
    pairs = {
        "rise": (our_rise, lambda: torch_rise(theirs, x, int(target[0]), masks)),
        "glas": (our_glas, lambda: torch_glas(theirs, x, int(target[0]), glas)),
        "forward": (lambda: forward(batch).block_until_ready(), torch_forward),
    }
    passes = {"rise": masks, "glas": 1 + 2 * glas.grid**2, "forward": CHUNK}
    out = {"glas_maps_differ_by": gap, "rise_means": means}
    for part, (mine, other) in pairs.items():
        mine(), other()
        times = summarise(alternate({"fgjax": mine, "torch": other}, rounds))
        out[part] = {"passes": passes[part], **times}
    return out


def markdown(report):
    """A row per case and method."""
    lines = ["| method | passes | PyTorch time / fgjax time, median (range) | fgjax, ms / pass |",
             "|---|---|---|---|"]  # fmt: skip
    for case in report["cases"]:
        for part in ("rise", "glas", "forward"):
            row = case[part]
            ratio = row["ratio"]
            lines.append(
                f"| {part}, {case['model']}, {case['size']}² | {row['passes']} | "
                f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f}) | "
                f"{1e3 * row['fgjax']['median_s'] / row['passes']:.1f} |"
            )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--masks", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="write all numbers here as JSON")
    args = parser.parse_args()
    if torch is None:
        sys.exit(NO_TORCH)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    report = {"machine": machine(), "load_before": os.getloadavg()[0]}
    case = run_case(args.model, args.size, args.masks, args.rounds)
    report["cases"] = [{"model": args.model, "size": args.size, **case}]
    report["load_after"] = os.getloadavg()[0]
    print(markdown(report))
    print(f"GLAS maps differ by {case['glas_maps_differ_by']:.1e}; RISE means {case['rise_means']}")
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
