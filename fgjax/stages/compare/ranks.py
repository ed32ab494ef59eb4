"""From the numbers of every image to one rank: which columns may count, and how often.

Four rules, each said below the table:

1. A method's mean is ranked over the images where all ranked methods have a value, so that nobody
   is judged by fewer images than the others. A column in which a method has no value at all ranks
   nothing.
2. A column in which a control (a map that knows nothing, or a method's turned around) beats the
   median method measures something else than explaining. It ranks nothing.
3. Columns that order the methods alike (Spearman's ρ of their places at least `ALIKE`, directly or
   through others) are one question asked several times: their places are averaged, and count once.
4. The rank is the mean place over those questions. Another map of a method, such as GLAS' light, is
   placed where it would stand in its method's stead.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

ALIKE = 0.8
"""Spearman's ρ of the methods' places in two columns, from which on the columns count as one."""

Values = Mapping[str, Mapping[str, Float[np.ndarray, "n"]]]
"""Row -> metric -> a value per image, NaN where it is undefined or was not measured."""


class Ranking(NamedTuple):
    """The ranks, and how they came about.

    Attributes:
      rank: row -> its mean place, 1 the best; NaN where no column ranks it.
      questions: the columns that rank, in groups that count once each.
      unranked: column -> why it ranks nothing.
      images: column -> over how many images the methods are ranked.
    """

    rank: dict[str, float]
    questions: tuple[tuple[str, ...], ...]
    unranked: dict[str, str]
    images: dict[str, int]


def rank(
    values: Values,
    methods: Sequence[str],
    controls: Sequence[str],
    metrics: Iterable[str],
    higher: Callable[[str], bool | None],
    variants: Mapping[str, str] | None = None,
) -> Ranking:
    """Return the ranking of `methods` by the rules above.

    Args:
      values: of methods, controls and variants.
      methods: the rows that are ranked against each other.
      controls: rows that no method should be worse than.
      metrics: the columns of the table.
      higher: metric -> whether higher is better; None: neither, such a column ranks nothing.
      variants: row -> its method.
    """
    unranked, columns, images = {}, {}, {}
    for metric in metrics if methods else ():
        better = higher(metric)
        if better is None:
            continue
        on = common(values, methods, metric)
        images[metric] = int(on.sum())
        if lacking := [m for m in methods if not np.isfinite(_of(values, m, metric)).any()]:
            unranked[metric] = f"not every method has a value: {', '.join(lacking)}"
        elif not on.any():
            unranked[metric] = "on no image has every method a value"
        elif winners := gaming(values, methods, controls, metric, better, on):
            verb = "beats" if len(winners) == 1 else "beat"
            unranked[metric] = f"{' and '.join(winners)} {verb} the median method"
        else:
            columns[metric] = _worth(values, methods, metric, better, on)
    placed = {metric: places(worth) for metric, worth in columns.items()}
    questions = alike(placed)
    found = {}
    for i, method in enumerate(methods):
        found[method] = _mean_place({m: place[i] for m, place in placed.items()}, questions)
    for row, method in (variants or {}).items():
        own = {}
        for metric, worth in columns.items():
            on = common(values, methods, metric)
            mean = _worth(values, [row], metric, bool(higher(metric)), on)[0]
            if np.isfinite(mean):
                instead = np.where(np.array(methods) == method, mean, worth)
                own[metric] = places(instead)[list(methods).index(method)]
        found[row] = _mean_place(own, questions)
    return Ranking(found, questions, unranked, images)


def common(values: Values, methods: Sequence[str], metric: str) -> Bool[np.ndarray, "n"]:
    """Return the images on which every one of these methods has a value."""
    return np.all([np.isfinite(_of(values, m, metric)) for m in methods], axis=0)


def gaming(
    values: Values,
    methods: Sequence[str],
    controls: Sequence[str],
    metric: str,
    higher: bool,
    on: Bool[np.ndarray, "n"],
) -> list[str]:
    """Return the controls whose mean over the images `on` is better than the methods' median.

    A control that is undefined on some of them is not let off: it is held by those it has.
    """
    median = np.median(_worth(values, methods, metric, higher, on))
    worth = _worth(values, controls, metric, higher, on)
    # What is printed alike is alike.
    return [c for c, w in zip(controls, worth, strict=True) if round(w - median, 6) > 0]


def places(worth: Float[np.ndarray, "m"]) -> Float[np.ndarray, "m"]:
    """Return each value's place, 1 for the highest; equal ones share the mean of their places."""
    above = (worth[None] > worth[:, None]).sum(1)
    equal = (worth[None] == worth[:, None]).sum(1)
    return 1 + above + (equal - 1) / 2


def alike(placed: Mapping[str, Float[np.ndarray, "m"]]) -> tuple[tuple[str, ...], ...]:
    """Return the columns in groups that order the methods alike, see the third rule."""
    names = list(placed)
    group = {name: i for i, name in enumerate(names)}
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            if _correlation(placed[one], placed[other]) >= ALIKE:
                old, new = group[other], group[one]
                group = {name: new if g == old else g for name, g in group.items()}
    numbers = dict.fromkeys(group.values())
    return tuple(tuple(n for n in names if group[n] == number) for number in numbers)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return Pearson's of the places, which is Spearman's of the values; 0 where all are equal."""
    a, b = a - a.mean(), b - b.mean()
    across = np.sqrt((a**2).sum() * (b**2).sum())
    return float((a * b).sum() / across) if across > 0 else 0.0


def _mean_place(own: Mapping[str, float], questions: Sequence[Sequence[str]]) -> float:
    means = [np.mean([own[m] for m in group if m in own]) for group in questions
             if any(m in own for m in group)]  # fmt: skip
    return float(np.mean(means)) if means else float("nan")


def _worth(values, rows, metric, higher, on):
    """Return the rows' means over the images `on`, its sign turned where lower is better."""
    means = []
    for row in rows:
        own = _of(values, row, metric)
        own = own[np.isfinite(own) & on] if own.shape == on.shape else own[:0]
        means.append(own.mean() if len(own) else np.nan)
    return np.array(means) * (1 if higher else -1)


def _of(values, row, metric):
    """Return a row's values; of what was never measured, NaN for every image."""
    own = values[row].get(metric)
    if own is None:
        some = next(iter(values[row].values()), np.zeros(0))
        return np.full(len(some), np.nan)
    return np.asarray(own, np.float64)
