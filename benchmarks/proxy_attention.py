"""Proxy attention beside no augmentation, cutout and CutMix: accuracy, and where Grad-CAM looks.

    python benchmarks/proxy_attention.py species
    python benchmarks/proxy_attention.py birds --birds CUB_200_2011 --weights mobilenet.safetensors

Two sweeps (`proxy_species.yaml`, `proxy_birds.yaml`), each trial a run in its own folder below
--runs; the same command goes on where it stopped. The table has means and standard deviations
over seeds. species: drawn birds whose training backgrounds go with the class, always or in four
images of five; the test's do not. Energy: share of the heat map's sum on the part that tells the
class, and on the bird. birds: photographs, ImageNet weights; energy in the annotated box.
Grad-CAM of the labelled class, on the first test images of every class. Checkpoints are those of
the best validation accuracy, and validation has the shortcut, too.
"""

import argparse
import sys
from pathlib import Path

from fgjax.run import main as run
from fgjax.sweeps.trials import average, read_trials, to_csv, to_markdown

FOLDER = Path(__file__).resolve().parent
COLUMNS = {
    "species": ["accuracy", "validation_accuracy", "grad_cam.energy_in_cue",
                "grad_cam.energy_in_object", "grad_cam.insertion", "grad_cam.deletion", "seconds"],
    "birds": ["accuracy", "validation_accuracy", "grad_cam.energy_in_box", "grad_cam.insertion",
              "grad_cam.deletion", "seconds"],
}  # fmt: skip


def main(words: list[str] | None = None) -> int:
    """Run a sweep and prints its table; 1 when a trial failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("data", choices=list(COLUMNS))
    parser.add_argument("--birds", help="CUB-200-2011 in its official layout, or a part of it")
    parser.add_argument("--weights", help="MobileNetV2 or ResNet trained on ImageNet")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the trials go")
    parser.add_argument("--out", type=Path, help="a CSV with a row per trial")
    parser.add_argument("more", nargs="*", help="options of every trial, or grid.AXIS=…")
    given = parser.parse_intermixed_args(words)
    folder = given.runs / f"proxy_{given.data}"
    config = FOLDER / f"proxy_{given.data}.yaml"
    told = [f"config={config}", f"run_dir={folder}", *given.more]
    if given.data == "birds":
        if not (given.birds and given.weights):
            parser.error("birds wants --birds DIR and --weights FILE")
        told += [f"data.path={given.birds}", f"model.pretrained={given.weights}"]
    code = run(told)
    if code not in (0, 1):
        return code
    rows = read_trials(folder)
    if given.out:
        given.out.write_text(to_csv(rows), encoding="utf-8")
    known = [column for column in COLUMNS[given.data] if column in rows[0]]
    print(to_markdown(average(rows, "seed"), known))
    return code


if __name__ == "__main__":
    sys.exit(main())
