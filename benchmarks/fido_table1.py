"""Fig. 3 and Table 1 of Korsch et al. 2023 on drawn birds: overlap and coherency of FIDO's masks.

    python -m fgjax.run config=fido_demo
    python benchmarks/fido_table1.py --run runs/fido_demo --out results/fido_table1_cpu.json

For batch sizes at 30 steps, and for numbers of steps at batch size 8: the IoU of the SSR, the SDR
and the joint mask, each cut at 0.5, with the part that tells the species (known to the pixel),
their total variation (Eq. 10) and their areas. Rows: Chang et al. (the original sampler, t = 0.1, a
mask of 56 x 56, Adam at 0.05), Korsch et al. (the simplified sampler, every pixel), and ours, the
default. At equal temperature both samplers are the same function of the same noise, so what
differs between the rows is the whole setting, not the sampler.
"""

import argparse
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from side_by_side import machine

import fgjax
from fgjax.core.filters import total_variation
from fgjax.data.pipeline import load_examples, stack, take
from fgjax.data.species.source import SpeciesSource
from fgjax.devices.forward import compiled

BATCHES, STEPS = (2, 4, 8, 16, 32), (10, 30, 100)
AT_STEPS, AT_BATCH = 30, 8
KINDS = ("chang-2019", "korsch-2023", "default")
MASKS = ("ssr", "sdr", "joint")


def drawn(model: fgjax.Classifier, images: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the first test images that the model is right on with p of at least 0.5, with their
    classes and deciding parts."""
    source = SpeciesSource(size=model.size)
    records = take([r for r in source.records if r.split == "test"], 8 * images)
    batch = stack([example for _, example in load_examples(source, records)])
    pixels = batch.images.astype(np.float32) / 255
    labels = np.array([r.label for r in records], np.int32)
    p = np.asarray(jax.nn.softmax(compiled(model)(jnp.asarray(pixels))))[range(len(labels)), labels]
    sure = np.flatnonzero((p >= 0.5) & batch.cues.any((1, 2)))[:images]
    return pixels[sure], labels[sure], batch.cues[sure]


def measure(model, images, targets, cues, config: fgjax.FidoConfig) -> dict[str, list[float]]:
    """Return every number of every mask, a value per image."""
    row: dict[str, list[float]] = {}
    for i in range(len(images)):
        result = fgjax.fido(
            model, images[i : i + 1], targets[i : i + 1], key=jax.random.key(i), config=config
        )
        for name in MASKS:
            mask = np.asarray(result.heatmap if name == "joint" else result.maps[name])[0]
            cut = mask > 0.5
            union = (cut | cues[i]).sum()
            values = {
                "iou": float((cut & cues[i]).sum() / union),
                "tv": float(total_variation(jnp.asarray(mask))),
                "area": float(cut.mean()),
            }
            for what, value in values.items():
                row.setdefault(f"{what} {name}", []).append(value)
    return row


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", required=True, help="a finished run of fido_demo")
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--batches", type=int, nargs="*", default=list(BATCHES))
    parser.add_argument("--steps", type=int, nargs="*", default=list(STEPS))
    parser.add_argument("--out", type=Path, help="JSON; rows measured before are kept in it")
    args = parser.parse_args(argv)
    model = fgjax.load_classifier(args.run)
    images, targets, cues = drawn(model, args.images)
    report = {"rows": {}}
    if args.out and args.out.is_file():
        report = json.loads(args.out.read_text(encoding="utf-8"))
    report |= {"machine": machine(), "images": len(images), "cue_area": float(cues.mean())}
    cells = [(batch, AT_STEPS) for batch in args.batches]
    cells += [(AT_BATCH, steps) for steps in args.steps if (AT_BATCH, steps) not in cells]
    for kind in KINDS:
        for batch, steps in cells:
            name = f"{kind}, batch {batch}, {steps} steps"
            if name in report["rows"]:
                continue
            config = fgjax.fido_preset(kind, batch_size=batch, steps=steps)
            row = measure(model, images, targets, cues, config)
            report["rows"][name] = {"kind": kind, "batch": batch, "steps": steps, "values": row}
            means = {what: round(float(np.mean(values)), 4) for what, values in row.items()}
            print(name, means, flush=True)
            if args.out:
                args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
