"""Proxy attention beside no augmentation, cutout and CutMix on photographs: accuracy, and where
Grad-CAM looks.

    python benchmarks/proxy_attention.py --birds CUB_200_2011 --weights mobilenet.safetensors

A sweep (`proxy_birds.yaml`), each trial a run in its own folder below --runs; the same command
goes on where it stopped. The table has means and standard deviations over seeds. ImageNet weights;
energy: share of the heat map's sum in the annotated box. Grad-CAM of the labelled class, on the
first test images of every class. Checkpoints are those of the best validation accuracy. What proxy
attention does about a shortcut: `shortcut.py`.
"""

import argparse
import sys
from pathlib import Path

from fgjax.run import main as run
from fgjax.sweeps.trials import average, read_trials, to_csv, to_markdown

CONFIG = Path(__file__).resolve().parent / "proxy_birds.yaml"
COLUMNS = ["accuracy", "validation_accuracy", "grad_cam.energy_in_box", "grad_cam.insertion",
           "grad_cam.deletion", "seconds"]  # fmt: skip


def main(words: list[str] | None = None) -> int:
    """Run the sweep and print its table; 1 when a trial failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--birds", required=True, help="CUB-200-2011's layout, or a part of it")
    parser.add_argument("--weights", required=True, help="MobileNetV2 or ResNet of ImageNet")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the trials go")
    parser.add_argument("--out", type=Path, help="a CSV with a row per trial")
    parser.add_argument("more", nargs="*", help="options of every trial, or grid.AXIS=…")
    given = parser.parse_intermixed_args(words)
    folder = given.runs / "proxy_birds"
    told = [f"config={CONFIG}", f"run_dir={folder}", f"data.path={given.birds}",
            f"model.pretrained={given.weights}", *given.more]  # fmt: skip
    code = run(told)
    if code not in (0, 1):
        return code
    rows = read_trials(folder)
    if given.out:
        given.out.write_text(to_csv(rows), encoding="utf-8")
    known = [column for column in COLUMNS if column in rows[0]]
    print(to_markdown(average(rows, "seed"), known))
    return code


if __name__ == "__main__":
    sys.exit(main())
