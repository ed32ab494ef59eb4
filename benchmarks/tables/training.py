"""What two streams add, what proxy attention does, and how folders are trained on."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scipy import stats

from tables.files import RESULTS, read_json, read_rows, rows_so_far, to_markdown

HEADS = {
    "cnn": "+ local CNN",
    "lstm": "+ LSTM, last step",
    "attention": "+ LSTM and attention",
    "self-attention": "+ self-attention",
}


def spread(values: Sequence[float], digits: int) -> str:
    """Return mean ± standard deviation (n − 1); of one value, that."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def _focus(about: dict[str, Any]) -> list[list[str]]:
    """Return per head: joint accuracy, its gain, and that of the local stream alone."""
    rows = [[f"{about['global']:.1f}", "", ""]]
    for head in HEADS:
        seeds = about["heads"][head].values()
        mean, low, high = about["gains"][head]
        gain = f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"
        joint, local = ([seed[kind] for seed in seeds] for kind in ("joint", "local"))
        rows.append([spread(joint, 1), gain, spread(local, 1)])
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


SHORTCUT = {
    "accuracy": "test accuracy",
    "contradicts": "background contradicts",
    "agrees": "background agrees",
    "worst_class": "worst class, contradicting",
    "energy_bird": "energy on the bird",
    "energy_part": "energy in the part",
}
"""Columns of `shortcut.csv`, shares, and what the table calls them."""


def paired(gaps: Sequence[float]) -> str:
    """Return the mean of differences between pairs and its 95 % t-interval, which wants two."""
    mean = statistics.mean(gaps)
    if len(gaps) < 2:
        return f"{mean:+.1f}"
    half = stats.t.ppf(0.975, len(gaps) - 1) * statistics.stdev(gaps) / len(gaps) ** 0.5
    return f"{mean:+.1f} ({mean - half:+.1f} to {mean + half:+.1f})"


def shortcut_table(folder: Path = RESULTS) -> str:
    """Return accuracies and where Grad-CAM looks after trainings with a shortcut, in percent, and
    the difference of each arm's accuracy to the plain one's, seed by seed."""
    groups: dict[tuple[int, str, str], dict[str, dict[str, str]]] = {}
    rows = read_rows(folder / "shortcut.csv") + rows_so_far(folder / "shortcut_longer.csv")
    for row in rows:
        group = int(row["epochs"]), row["share"], row["arm"]
        groups.setdefault(group, {})[row["seed"]] = row
    cells = []
    order = lambda group: (group[0], float(group[1]))  # arms as they come
    for epochs, share, arm in sorted(groups, key=order):
        seeds, plain = groups[epochs, share, arm], groups.get((epochs, share, "as they are"), {})
        both = sorted(seeds.keys() & plain.keys())
        gaps = [100 * (float(seeds[s]["accuracy"]) - float(plain[s]["accuracy"])) for s in both]
        numbers = [
            spread([100 * float(row[column]) for row in seeds.values()], 1) for column in SHORTCUT
        ]
        gain = paired(gaps) if gaps and arm != "as they are" else ""
        told = "nothing" if share == "0.1" else f"{100 * float(share):.0f} %"
        cells.append([told, str(epochs), arm, numbers[0], gain, *numbers[1:], str(len(seeds))])
    first, *others = SHORTCUT.values()
    about = ["the background tells", "epochs", "training"]
    head = [*about, first, "minus as they are", *others, "seeds"]
    return to_markdown(head, cells)


def proxy_birds_table(folder: Path = RESULTS) -> str:
    """Return accuracies and where Grad-CAM looks, on photographs of birds."""
    columns = {
        "accuracy": "test accuracy",
        "validation_accuracy": "validation",
        "grad_cam.energy_in_box": "energy in the box",
        "grad_cam.insertion": "insertion",
        "grad_cam.deletion": "deletion",
    }
    rows = read_rows(folder / "proxy_birds.csv")
    names = {"cutmix": "CutMix"}
    cells = [
        [
            names.get(images, images),
            *(spread([float(r[c]) for r in rows if r["images"] == images], 3) for c in columns),
        ]
        for images in ("as they are", "proxy attention", "cutout", "cutmix")
    ]
    return to_markdown(["training images", *columns.values()], cells)


REPORTED = ("report", "more")
"""Steps of `train_folder.csv` on images that had no part in any choice."""
Seeds = dict[str, dict[str, str]]


def _folder_groups(folder: Path) -> dict[tuple[str, ...], Seeds]:
    """Return the rows of `train_folder.csv`: (step, data, images a class, arm) -> seed -> row."""
    groups: dict[tuple[str, ...], Seeds] = {}
    for row in read_rows(folder / "train_folder.csv"):
        of = row["step"], row["data"], row["each"], row["arm"]
        groups.setdefault(of, {})[row["seed"]] = row
    return groups


def over_images(arm: Seeds, base: Seeds) -> str:
    """Return how many more of a hundred test images are right, in the mean of the seeds that both
    have, and the 95 % t-interval of that over the images."""
    both = sorted(arm.keys() & base.keys())
    right = [
        [statistics.mean(int(seed["right"][i]) for seed in map(rows.get, both) if seed)
         for i in range(len(rows[both[0]]["right"]))]
        for rows in (arm, base)
    ]  # fmt: skip
    return paired([100 * (a - b) for a, b in zip(*right, strict=True)])


def folder_choice_table(folder: Path = RESULTS) -> str:
    """Return accuracies in percent on the images that settings are chosen by, and the difference
    to what each setting is compared with."""
    groups, cells = _folder_groups(folder), []
    for (step, data, each, arm), seeds in groups.items():
        if step in REPORTED:
            continue
        base = "as it is"
        gain = over_images(seeds, groups[step, data, each, base]) if arm != base else ""
        rows = seeds.values()
        right = spread([100 * float(row["accuracy"]) for row in rows], 1)
        seconds = statistics.mean(float(row["cpu_seconds"]) for row in rows)
        cells.append([step, each, arm, right, gain, f"{seconds:.0f}", str(len(seeds))])
    head = ["step", "images a class", "setting", "right", "minus what it changes", "CPU-seconds",
            "seeds"]  # fmt: skip
    return to_markdown(head, cells)


def folder_table(folder: Path = RESULTS) -> str:
    """Return accuracies in percent on images of other species, and differences to the settings of
    before."""
    groups = {of[1:]: seeds for of, seeds in _folder_groups(folder).items() if of[0] in REPORTED}
    parts = list(dict.fromkeys(of[:2] for of in groups))
    cells = []
    for arm in dict.fromkeys(of[2] for of in groups):
        row = [arm]
        for part in parts:
            seeds, base = groups.get((*part, arm), {}), groups.get((*part, "before"), {})
            right = [100 * float(r["accuracy"]) for r in seeds.values()]
            gains = arm != "before" and bool(seeds.keys() & base.keys())
            row += [spread(right, 1) if right else "", over_images(seeds, base) if gains else ""]
        cells.append(row)
    heads = [[f"{data}, {each} a class", "minus before"] for data, each in parts]
    return to_markdown(["", *(head for two in heads for head in two)], cells)
