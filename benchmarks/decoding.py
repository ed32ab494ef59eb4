"""Images a second from JPEG files to the network's input, beside Grain; and one large photograph.

    python benchmarks/decoding.py --images DIR --out FILE     # beside Grain: pip install grain

Both sides call the same function for an image (decode, resize, crop, by Pillow) and stack batches
of 32; ours loads in threads, Grain in threads or in processes. They take turns.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from side_by_side import machine

from fgjax.data.fit import Fit
from fgjax.data.images import read_fitted, read_image
from fgjax.data.pipeline import load_examples, stack
from fgjax.data.sets.folder import FolderSource

try:
    import grain
except ImportError:
    grain = None

BATCH = 32


def ours(source: FolderSource, workers: int) -> int:
    """Load all images as a training does; return how many."""
    loaded = load_examples(source, source.records, workers=workers, ahead=2 * BATCH)
    count, batch = 0, []
    for _, example in loaded:
        batch.append(example)
        count += 1
        if len(batch) == BATCH:
            stack(batch)
            batch = []
    return count


def by_grain(source: FolderSource, workers: int, processes: bool) -> int:
    """Load all images by Grain; return how many."""
    count = 0
    data = grain.MapDataset.source(source.records).map(lambda r: source.load(r).image)
    options = grain.ReadOptions(num_threads=workers, prefetch_buffer_size=2 * BATCH)
    if processes:
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=BATCH)
    batches = data.to_iter_dataset(options).batch(BATCH, drop_remainder=False)
    if processes:
        batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    for batch in batches:
        count += len(batch)
    return count


def rates(source: FolderSource, workers: int, rounds: int) -> dict[str, list[float]]:
    """Return images a second of each side, a number a round."""
    sides = {"fgjax, threads": lambda: ours(source, workers)}
    if grain is not None:
        sides["grain, threads"] = lambda: by_grain(source, workers, False)
        sides["grain, processes"] = lambda: by_grain(source, workers, True)
    found: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):  # the first reads the files from the disk, and is not counted
        for name, side in sides.items():
            began = time.perf_counter()
            count = side()
            if turn:
                found[name].append(count / (time.perf_counter() - began))
    return found


def large(path: Path, rounds: int) -> dict[str, float]:
    """Return seconds for one photograph, decoded whole and at a part of its size, and how far the
    pixels are apart, of 255."""
    fit, times = Fit(224, 0.875), {"whole": [], "part": []}
    for _ in range(rounds):
        for name, read in (
            ("whole", lambda: fit.image(read_image(path))),
            ("part", lambda: read_fitted(path, fit)[0]),
        ):
            began = time.process_time()
            pixels = read().astype(int)
            times[name].append(time.process_time() - began)
            if name == "whole":
                whole = pixels
    apart = np.abs(pixels - whole)
    return {
        "seconds_whole": min(times["whole"]),
        "seconds_part": min(times["part"]),
        "part": fit.part(read_image(path).shape[:2]),
        "largest_difference": int(apart.max()),
        "mean_difference": float(apart.mean()),
    }


def enlarged(path: Path, folder: Path) -> Path:
    """Return a picture of 12 megapixels made of a smaller one, with grain as a sensor has it."""
    image = Image.open(path).convert("RGB").resize((4000, 3000), Image.Resampling.BICUBIC)
    noise = np.random.default_rng(0).normal(0, 4, (3000, 4000, 1))
    pixels = np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(folder / "large.jpg", quality=92)
    return folder / "large.jpg"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True, help="a folder of JPEG files")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if grain is not None:
        from absl import flags

        flags.FLAGS(["decoding"])  # Grain's processes look at flags of its own
    report = {"machine": machine(), "images": args.count, "workers": args.workers}
    source = FolderSource(args.images, size=224, crop=0.875, test_share=1.0)
    source.records = source.records[: args.count]
    report["grain"] = grain and grain.__version__
    report["images_per_second"] = rates(source, args.workers, args.rounds)
    with tempfile.TemporaryDirectory() as folder:
        first = source.file(source.records[0])
        report["large"] = large(enlarged(first, Path(folder)), args.rounds)
    print("| loader | images a second, median (range) |\n| --- | --- |")
    for name, values in report["images_per_second"].items():
        print(f"| {name} | {statistics.median(values):.0f} ({min(values):.0f} to "
              f"{max(values):.0f}) |")  # fmt: skip
    print(report["large"])
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
