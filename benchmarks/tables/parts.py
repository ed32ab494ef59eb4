"""What the prior on part occurrence does to the parts of region grouping."""

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from scipy.stats import t

from tables.files import RESULTS, read_rows, to_markdown

FILE = "parts_close_up.csv"
CONTROLS = {
    "untrained": "the network before training",
    "dff": "DFF of the features, no prior",
    "k-means": "k-means of the features, no prior",
    "colours": "k-means of colours",
    "rings": "rings round the middle",
    "places": "regions of the image",
    "random": "at random",
    "known": "the known parts, merged",
}
NUMBERS = ("nmi_object", "ari_object", "nmi_image", "on_bird", "rarest", "landmark_error",
           "accuracy")  # fmt: skip
Row = dict[str, str]


def _mean(rows: Sequence[Row], column: str, digits: int) -> str:
    return f"{statistics.mean(float(row[column]) for row in rows):.{digits}f}"


def _gain(rows: Iterable[Row], plain: Iterable[Row], column: str, digits: int) -> str:
    """Return the mean difference of the same seeds, and its 95 % interval by Student's t."""
    other = {row["seed"]: float(row[column]) for row in plain}
    gaps = [float(row[column]) - other[row["seed"]] for row in rows if row["seed"] in other]
    if len(gaps) < 2:
        return ""
    mean = statistics.mean(gaps)
    half = t.ppf(0.975, len(gaps) - 1) * statistics.stdev(gaps) / len(gaps) ** 0.5
    low, high = (f"{v:+.{digits}f}" for v in (mean - half, mean + half))
    return f"{mean:+.{digits}f} ({low} to {high})"


def _groups(rows: Iterable[Row], *columns: str) -> dict[tuple[str, ...], list[Row]]:
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[column] for column in columns), []).append(row)
    return found


def _mean_over_numbers(rows: Sequence[Row]) -> list[Row]:
    """Return a row for a seed and a prior: the means over 3, 5 and 8 parts, where all are there."""
    several = len({row["number"] for row in rows})
    found = []
    for (epochs, beta, weight, seed), own in _groups(
        rows, "epochs", "beta", "weight", "seed"
    ).items():
        if len(own) == several:
            about = {"number": "all", "epochs": epochs, "beta": beta, "weight": weight}
            means = {c: str(statistics.mean(float(row[c]) for row in own)) for c in NUMBERS}
            found.append({**about, "seed": seed, **means})
    return found


def prior_table(folder: Path = RESULTS) -> str:
    """Return how good the parts are, a row for a number of parts and a prior."""
    head = ["parts", "epochs", "weight", "β", "seeds", "NMI on the bird", "minus weight 0",
            "ARI on the bird", "NMI, whole image", "parts on the bird", "rarest part",
            "landmark error", "minus weight 0", "accuracy"]  # fmt: skip
    rows = [row for row in read_rows(folder / FILE) if row["parts"] == "region grouping"]
    groups = _groups([*rows, *_mean_over_numbers(rows)], "number", "epochs", "beta", "weight")
    place = lambda number: 99 if number == "all" else int(number)
    order = sorted(groups, key=lambda g: (place(g[0]), int(g[1]), float(g[2] or 0), float(g[3])))
    cells = []
    for number, epochs, beta, weight in order:
        own = groups[number, epochs, beta, weight]
        plain = groups.get((number, epochs, "", "0.0"), [])
        gains = [
            "" if own is plain else _gain(own, plain, column, digits)
            for column, digits in (("nmi_object", 3), ("landmark_error", 1))
        ]
        cells.append(
            [
                number,
                epochs,
                f"{float(weight):g}",
                beta,
                str(len(own)),
                _mean(own, "nmi_object", 3),
                gains[0],
                _mean(own, "ari_object", 3),
                _mean(own, "nmi_image", 3),
                _mean(own, "on_bird", 1),
                _mean(own, "rarest", 2),
                _mean(own, "landmark_error", 1),
                gains[1],
                _mean(own, "accuracy", 1),
            ]
        )
    return to_markdown(head, cells)


def part_controls_table(folder: Path = RESULTS) -> str:
    """Return what else groups pixels, judged alike."""
    rows = read_rows(folder / FILE)
    least = min((row["epochs"] for row in rows), key=int)
    rows = [row for row in rows if row["epochs"] == least]
    groups = _groups(rows, "parts", "number", "weight", "beta")
    numbers = sorted({group[1] for group in groups}, key=int)
    columns = (("nmi_object", 3), ("nmi_image", 3), ("landmark_error", 1))
    names = {"nmi_object": "NMI on the bird", "nmi_image": "NMI, whole image",
             "landmark_error": "landmark error"}  # fmt: skip
    head = ["", *(f"{names[column]}, {n} parts" for column, _ in columns for n in numbers)]
    kinds = {
        "region grouping, no prior": ("region grouping", "0.0", ""),
        "region grouping, weight 0.5, β 0.001": ("region grouping", "0.5", "0.001"),
        **{words: (kind, "", "") for kind, words in CONTROLS.items()},
    }
    cells = []
    for words, (kind, weight, beta) in kinds.items():
        found = [
            _mean(groups[kind, n, weight, beta], column, digits)
            if (kind, n, weight, beta) in groups
            else ""
            for column, digits in columns
            for n in numbers
        ]
        cells.append([words, *found])
    return to_markdown(head, cells)
