"""The figures of the stage "parts": accuracy, landmark error, consistency, pointing, attention."""

from typing import Any

import numpy as np

from fgjax.core.scores import predicted
from fgjax.core.tables import finite
from fgjax.data.types import Source
from fgjax.evaluation import summarise
from fgjax.evaluation.agreement import PROTOCOLS as AGREEMENT
from fgjax.evaluation.agreement import agreement, parts_on_the_animal
from fgjax.evaluation.landmarks import (
    PROTOCOLS,
    in_box,
    landmark_distances,
    mean_of_defined,
    part_consistency,
    part_spread,
)
from fgjax.options.schema import Config
from fgjax.stages.classifier import Explained
from fgjax.stages.parts.look import PartLook

VIEWS = {
    "crop": "the middle square",
    "whole": "the whole image, its borders cut to multiples of 16 pixels (fully convolutional)",
}


def figures(
    config: Config,
    source: Source,
    explained: Explained,
    train: list[PartLook],
    test: list[PartLook],
) -> dict[str, Any]:
    """Return what parts.json holds; a figure that the data cannot give is null."""
    return {
        "images": len(test),
        "fitted_on": len(train),
        "view": VIEWS[config.parts.view],
        "accuracy": _accuracy(explained, test),
        "attributes": _attributes(explained, test),
        "landmark_error": _landmark_error(config, source, train, test),
        "steadiness": _steadiness(test),
        "pointing_error": _pointing(test),
        "occurrence": {
            "protocol": "mean over test images of the highest smoothed assignment of each part",
            "parts": _list(np.mean([own.occurrence for own in test], axis=0)),
        },
        "attention": _attention(source, explained, test),
        "agreement": _agreement(test),
        "factorisation": _factorisation(config, source, train, test),
    }


def _agreement(test: list[PartLook]) -> dict[str, Any] | None:
    """Return how the parts agree with the known part of every pixel."""
    held = [own.counts for own in test if own.counts is not None]
    if not held:
        return None
    counts = np.sum(held, axis=0)
    return {
        "protocol": f"of every cell the part with the largest share; nmi: {AGREEMENT['nmi']}; ari: "
        f"{AGREEMENT['ari']}; object: {AGREEMENT['object']}; image: {AGREEMENT['image']}",
        **{name: _rounded(value) for name, value in agreement(counts).items()},
        "share_of_pixels": _list(counts.sum(1) / counts.sum()),
        "share_on_the_animal": _list(parts_on_the_animal(counts)),
    }


def _factorisation(config, source, train, test) -> dict[str, Any] | None:
    """Return the same figures of the factors of the features, where they were wanted."""
    if test[0].factored is None:
        return None
    fit, new = ([own.factored for own in looks] for looks in (train, test))
    error = _landmark_error(config, source, fit, new)
    return {
        "protocol": "deep feature factorisation (Collins et al. 2018) of the same network's "
        f"features, as many factors as parts, found on at most {config.parts.factors} images",
        "landmark_error": error and {k: error[k] for k in ("mean", "interval_95", "without")},
        "steadiness": _steadiness(new),
        "agreement": _agreement(new),
    }


def _rounded(value: float | np.floating) -> float | None:
    return finite(value, 6)


def _list(values: np.ndarray) -> list[float | None]:
    return [_rounded(v) for v in values]


def _summary(values: Any, protocol: str) -> dict[str, Any]:
    about = summarise(np.asarray(values, np.float64))
    return {
        "protocol": protocol,
        "mean": _rounded(about.mean),
        "interval_95": [_rounded(about.low), _rounded(about.high)],
        "images": about.n_defined,
    }


def _accuracy(explained, test) -> dict[str, Any] | None:
    if test[0].attributes is not None:
        right = [((own.logits > 0) == (own.attributes > 0)).mean() for own in test]
        return _summary(right, "share of right attributes, mean over images")
    known = [own for own in test if own.label is not None and _output(explained, own) is not None]
    if not known:
        return None
    right = [float(predicted(own.logits) == _output(explained, own)) for own in known]
    labels = np.array([own.label for own in known])
    by_class = [np.mean(np.array(right)[labels == c]) for c in np.unique(labels)]
    about = _summary(right, "share of test images whose highest output is the label's")
    return about | {"class_accuracy": _rounded(np.mean(by_class))}


def _output(explained: Explained, own: PartLook) -> int | None:
    return explained.index[own.label]


def _attributes(explained, test) -> dict[str, Any] | None:
    if test[0].attributes is None:
        return None
    right = np.mean([(own.logits > 0) == (own.attributes > 0) for own in test], axis=0)
    return {explained.output_name(i): _rounded(v) for i, v in enumerate(right)}


def _arrays(looks: list[PartLook], names: tuple[str, ...]) -> tuple[np.ndarray, ...]:
    """Return centres as the protocol has them, landmarks and boxes."""
    nothing = np.zeros((len(names), 3), np.float64)
    nowhere = np.full(4, np.nan)
    # The protocol counts cells from 1 and multiplies by their size: half a cell further than
    # the middles of the cells lie.
    centers = np.array([own.places + own.cell / 2 for own in looks], np.float64)
    marks = [nothing if own.landmarks is None else own.landmarks for own in looks]
    boxes = [nowhere if own.box is None else own.box for own in looks]
    return centers, np.array(marks, np.float64), np.array(boxes, np.float64)


def _landmark_error(config, source, train, test) -> dict[str, Any] | None:
    """In %; `without`: of a regression that is only told where the box is."""
    names, mode = source.landmark_names, config.parts.landmarks
    if not names or not train:
        return None

    def distances(train, test, told):
        fit, new = _arrays(train, names), _arrays(test, names)
        centers = [c if told else np.zeros_like(c[:, :1]) for c in (fit[0], new[0])]
        if mode == "separate" and not told:
            centers = [(b[:, None, :2] + b[:, None, 2:]) / 2 for b in (fit[2], new[2])]
        return 100 * landmark_distances(
            centers[0], fit[1], centers[1], new[1], fit_boxes=fit[2], boxes=new[2], mode=mode
        )

    found, without = (distances(train, test, told) for told in (True, False))
    if np.isnan(found).all():
        return None
    per_image = mean_of_defined(found, axis=1)
    about = _summary(per_image, PROTOCOLS[mode])
    by_landmark = zip(
        names, mean_of_defined(found, 0), mean_of_defined(without, 0), (~np.isnan(found)).sum(0)
    )
    # The mean is over visible landmarks, as in the protocol; the interval over images.
    return about | {
        "mean": _rounded(np.nanmean(found)),
        "without": _rounded(np.nanmean(without)),
        "landmarks": {
            name: {"error": _rounded(a), "without": _rounded(b), "visible": int(count)}
            for name, a, b, count in by_landmark
        },
        "classes": _class_errors(source, train, test, distances),
    }


def _class_errors(source, train, test, distances) -> dict[str, Any]:
    """Return table 4: regressions of one species each, on its own training images."""
    errors = {}
    for label, name in enumerate(source.classes):
        own = [[x for x in looks if x.label == label] for looks in (train, test)]
        if all(own):
            found, without = (distances(*own, told) for told in (True, False))
            if not np.isnan(found).all():
                errors[name] = {
                    "error": _rounded(np.nanmean(found)),
                    "without": _rounded(np.nanmean(without)),
                    "fitted_on": len(own[0]),
                }
    return errors


def _steadiness(test: list[PartLook]) -> dict[str, Any]:
    """Return how steady the parts' places are on the animal."""
    about: dict[str, Any] = {"consistency": None, "spread": None}
    boxed = [own for own in test if own.box is not None]
    if boxed:
        places = in_box(
            np.array([own.places for own in boxed], np.float64),
            np.array([own.box for own in boxed], np.float64),
        )
        spread = 100 * part_spread(places)
        about["spread"] = {
            "protocol": "root mean square distance of a part's centre from its mean place in the "
            "box, in % of the box; mean over the parts",
            "mean": _rounded(np.nanmean(spread)),
            "parts": _list(spread),
        }
    marked = [own for own in test if own.landmarks is not None and (own.landmarks[:, 2] > 0).any()]
    if marked:
        places = np.array([own.places for own in marked], np.float64)
        marks = np.array([own.landmarks for own in marked], np.float64)
        shares = part_consistency(places, marks)
        middle = np.array(
            [(own.landmarks[own.landmarks[:, 2] > 0, :2]).mean(0)[None] for own in marked]
        )
        about["consistency"] = {
            "protocol": "share of images in which the landmark nearest to a part's centre is the "
            "commonest one; mean over the parts (centre: of the visible landmarks' mean place)",
            "mean": _rounded(np.nanmean(shares)),
            "parts": _list(shares),
            "centre": _rounded(part_consistency(middle.astype(np.float64), marks)[0]),
        }
    return about


def _pointing(test: list[PartLook]) -> dict[str, Any] | None:
    misses = 1 - np.array([own.points_in_box for own in test])
    if np.isnan(misses).all():
        return None
    middle = 1 - np.array([own.middle_in_box for own in test])
    protocol = "share of images whose highest pixel attribution lies outside the box"
    return _summary(misses, protocol) | {"middle": _rounded(np.nanmean(middle))}


def _attention(source, explained, test) -> dict[str, list[float | None]]:
    """Return class (or attribute) -> the mean attention of each part in its test images."""
    if test[0].attributes is not None:
        mean = np.mean([own.attention for own in test], axis=0)
        return {explained.output_name(i): _list(row) for i, row in enumerate(mean)}
    table = {}
    for label, name in enumerate(source.classes):
        own = [x.attention for x in test if x.label == label]
        if own:
            table[name] = _list(np.mean(own, axis=0))
    return table or {"all": _list(np.mean([x.attention for x in test], axis=0))}
