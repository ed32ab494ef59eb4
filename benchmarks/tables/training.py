"""What two streams add, and what proxy attention does."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tables.files import RESULTS, read_json, read_rows, to_markdown

HEADS = {
    "cnn": "+ local CNN",
    "lstm": "+ LSTM, last step",
    "attention": "+ LSTM and attention",
    "self-attention": "+ self-attention",
}


def _spread(values: Sequence[float], digits: int) -> str:
    """Return mean ± standard deviation (n − 1)."""
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def _focus(about: dict[str, Any]) -> list[list[str]]:
    """Return per head: joint accuracy, its gain, and that of the local stream alone."""
    rows = [[f"{about['global']:.1f}", "", ""]]
    for head in HEADS:
        seeds = about["heads"][head].values()
        mean, low, high = about["gains"][head]
        gain = f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"
        joint, local = ([seed[kind] for seed in seeds] for kind in ("joint", "local"))
        rows.append([_spread(joint, 1), gain, _spread(local, 1)])
    return rows


def focus_table(folder: Path = RESULTS) -> str:
    """Return accuracies of the two streams, a row per head, on drawn birds and on photographs."""
    drawn, birds = (read_json(folder / f"focus_{kind}.json") for kind in ("species", "birds"))
    head = ["", f"drawn birds ({drawn['images']})", "gain", "local stream alone",
            f"20 species of birds ({birds['images']})", "gain", "local stream alone"]  # fmt: skip
    names = ["global only", *HEADS.values()]
    cells = zip(names, _focus(drawn), _focus(birds), strict=True)
    return to_markdown(head, [[name, *left, *right] for name, left, right in cells])


def steps_table(folder: Path = RESULTS) -> str:
    """Return accuracies of the network with attention, read at one step or at several."""
    rows = []
    for kind, label in (("species", "drawn birds"), ("birds", "birds")):
        heads = read_json(folder / f"focus_{kind}.json")["heads"]["attention"]
        for read, words in (("step", "step t alone"), ("sum", "sum of steps 1 to t")):
            columns = zip(*(seed[read] for seed in heads.values()), strict=True)
            means = [f"{statistics.mean(column):.1f}" for column in columns]
            rows.append([f"{label}, {words}", *means])
    return to_markdown(["t", *(str(t) for t in range(1, len(rows[0])))], rows)


def _proxies(path: Path, columns: dict[str, str], **only: str) -> str:
    rows = [r for r in read_rows(path) if all(r[k] == v for k, v in only.items())]
    names = {"cutmix": "CutMix"}
    cells = [
        [
            names.get(images, images),
            *(_spread([float(r[c]) for r in rows if r["images"] == images], 3) for c in columns),
        ]
        for images in ("as they are", "proxy attention", "cutout", "cutmix")
    ]
    return to_markdown(["training images", *columns.values()], cells)


def proxy_species_table(folder: Path = RESULTS) -> str:
    """Return accuracies and where Grad-CAM looks, on drawn birds with a shortcut."""
    columns = {
        "accuracy": "test accuracy",
        "validation_accuracy": "validation (has the shortcut)",
        "grad_cam.energy_in_cue": "energy in the part",
        "grad_cam.energy_in_object": "energy on the bird",
        "grad_cam.insertion": "insertion",
        "grad_cam.deletion": "deletion",
    }
    return _proxies(folder / "proxy_species.csv", columns, shortcut="always")


def proxy_birds_table(folder: Path = RESULTS) -> str:
    """Return the same on photographs of birds."""
    columns = {
        "accuracy": "test accuracy",
        "validation_accuracy": "validation",
        "grad_cam.energy_in_box": "energy in the box",
        "grad_cam.insertion": "insertion",
        "grad_cam.deletion": "deletion",
    }
    return _proxies(folder / "proxy_birds.csv", columns)
