"""What a second look adds to a second network, image by image: rows of `two_streams.py`."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

from tables.files import RESULTS, read_rows, to_markdown
from tables.training import paired, spread

PLAIN, SECOND, MLP, MAIN = "global only", "second global network", "MLP", "LSTM and attention"
RECURRENT = ("LSTM, last step", MAIN, "self-attention", "patches as a sequence")
AGAINST = {
    PLAIN: lambda arm: arm != PLAIN,
    SECOND: lambda arm: arm not in (PLAIN, SECOND),
    MLP: lambda arm: arm in RECURRENT,
    MAIN: lambda arm: arm in ("random patches", "reference moves"),
}
"""What arms are compared with, and which."""
Arms = dict[tuple[str, str], dict[str, dict[str, str]]]
"""Epochs and arm -> seed -> its row."""


def from_hex(row: dict[str, str]) -> np.ndarray:
    """Return of every test image whether it was right."""
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(row["right"]), np.uint8))
    return bits[: int(row["test"])].astype(bool)


class Gain(NamedTuple):
    """By how much one is right more often than another, on the same images.

    Attributes:
      mean, low, high: the difference as a share, and its 95 % bootstrap interval.
      p: of McNemar's exact test: were both equally good, how likely would a difference so large be?
    """

    mean: float
    low: float
    high: float
    p: float


def gain(first: np.ndarray, second: np.ndarray, draws: int = 100_000) -> Gain:
    """Return the gain of the first over the second.

    Images drawn again with replacement differ only in how many there are of each kind, right in
    one alone, in the other alone, or alike: one multinomial draw.
    """
    n = len(first)
    better, worse = int((first & ~second).sum()), int((~first & second).sum())
    shares = np.array([better, worse, n - better - worse]) / n
    counts = np.random.default_rng(0).multinomial(n, shares, size=draws)
    low, high = np.percentile((counts[:, 0] - counts[:, 1]) / n, [2.5, 97.5])
    p = stats.binomtest(better, better + worse).pvalue if better + worse else 1.0
    return Gain((better - worse) / n, float(low), float(high), float(p))


def read_arms(folder: Path) -> Arms:
    """Return the rows, by epochs, arm and seed; longer trainings last."""
    arms: Arms = {}
    for row in read_rows(folder / "two_streams.csv"):
        arms.setdefault((row["epochs"], row["arm"]), {})[row["seed"]] = row
    return dict(sorted(arms.items(), key=lambda item: int(item[0][0])))


def two_streams_table(folder: Path = RESULTS) -> str:
    """Return accuracies in percent, a row per arm."""
    cells = []
    for (epochs, arm), seeds in read_arms(folder).items():
        of = lambda column: [100 * float(row[column]) for row in seeds.values()]  # noqa: B023
        told = [
            "" if np.isnan(of(column)).any() else spread(of(column), 1)
            for column in ("joint", "global", "local", "cue_in_a_patch")
        ]
        weights = next(iter(seeds.values()))["weights"]
        cells.append([arm, epochs, *told, f"{int(weights) / 1000:.0f}", str(len(seeds))])
    head = ["arm", "epochs", "joint", "global stream alone", "local stream alone",
            "the cue lies in a patch", "thousand weights", "seeds"]  # fmt: skip
    return to_markdown(head, cells)


def _tell(first: dict[str, dict[str, str]], second: dict[str, dict[str, str]]) -> str:
    """Return the gain over all images of the seeds that both have, and over the seeds."""
    both = sorted(first.keys() & second.keys(), key=int)
    if not both:
        return ""
    right = [[from_hex(arm[seed]) for seed in both] for arm in (first, second)]
    found = gain(*(np.concatenate(images) for images in right))
    mean, low, high = (f"{100 * value:+.1f}" for value in found[:3])
    p = "p < .001" if found.p < 0.001 else f"p = {found.p:.3f}".replace("0.", ".")
    gaps: Sequence[float] = [100 * float(a.mean() - b.mean()) for a, b in zip(*right, strict=True)]
    return f"{mean} ({low} to {high}), {p}<br>seeds: {paired(gaps)}"


def two_streams_gains_table(folder: Path = RESULTS) -> str:
    """Return differences in points, arm by arm: over images with McNemar's p, and over seeds."""
    arms = read_arms(folder)
    cells = [
        [arm, epochs, *(_tell(seeds, arms.get((epochs, other), {})) if wanted(arm) else ""
                        for other, wanted in AGAINST.items())]
        for (epochs, arm), seeds in arms.items() if arm != PLAIN
    ]  # fmt: skip
    return to_markdown(["arm", "epochs", *(f"minus {other}" for other in AGAINST)], cells)
