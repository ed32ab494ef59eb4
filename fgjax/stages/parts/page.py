"""From the figures of the stage "parts" to its page."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from fgjax.core.scores import predicted
from fgjax.data.pipeline import load_examples, take
from fgjax.data.types import DataError, Source
from fgjax.devices.jit import program
from fgjax.options.schema import Config
from fgjax.report.parts import Fact, LandmarkRow, PartPicture, PartsPage
from fgjax.stages.classifier import Explained
from fgjax.stages.parts.look import PartLook


def part_pages(
    config: Config,
    source: Source,
    explained: Explained,
    test: list[PartLook],
    found: dict[str, Any],
) -> PartsPage:
    """Return the page of these figures, with pictures of images spread over the classes."""
    error = found["landmark_error"] or {}
    steadiness, occurrence = found["steadiness"], found["occurrence"]
    about_parts = {"occurrence": occurrence["parts"]}
    if steadiness["spread"]:
        about_parts["spread, % of the box"] = steadiness["spread"]["parts"]
    if steadiness["consistency"]:
        about_parts["consistency"] = steadiness["consistency"]["parts"]
    return PartsPage(
        title=f"{len(occurrence['parts'])} parts of {found['images']} test images",
        parts=len(occurrence["parts"]),
        facts=tuple(_facts(found)),
        pictures=tuple(_pictures(config, source, explained, test)),
        attention=found["attention"],
        about_parts=about_parts,
        landmarks=_rows(error.get("landmarks", {}), "visible"),
        classes=_rows(error.get("classes", {}), "fitted_on"),
    )


def _facts(found: dict[str, Any]):
    view = f"; shown: {found['view']}"
    if accuracy := found["accuracy"]:
        yield Fact("accuracy", _interval(accuracy, 100.0, "%"), accuracy["protocol"] + view)
    if error := found["landmark_error"]:
        value = f"{_interval(error, 1.0, '%')}, without parts {error['without']:.2f} %"
        yield Fact("landmark error", value, error["protocol"] + view)
    for name in ("consistency", "spread"):
        if about := found["steadiness"][name]:
            beside = f" (centre {about['centre']:.2f})" if "centre" in about else " %"
            yield Fact(name, f"{about['mean']:.2f}{beside}", about["protocol"])
    if pointing := found["pointing_error"]:
        value = f"{_interval(pointing, 100.0, '%')}, the middle {100 * pointing['middle']:.1f} %"
        yield Fact("pointing error", value, pointing["protocol"] + view)
    if about := found["agreement"]:
        yield Fact("agreement with the known parts", _agreement(about), about["protocol"])
    if about := found["factorisation"]:
        if error := about["landmark_error"]:
            yield Fact("landmark error of DFF", _interval(error, 1.0, "%"), about["protocol"])
        if of_factors := about["agreement"]:
            yield Fact("agreement of DFF", _agreement(of_factors), of_factors["protocol"])
    yield Fact("images", f"{found['images']}, fitted on {found['fitted_on']}", found["view"])


def _agreement(about: dict[str, Any]) -> str:
    numbers = {
        name: ", ".join(f"{kind} {about[f'{kind}_{name}']:.2f}" for kind in ("nmi", "ari"))
        for name in ("object", "image")
        if about[f"nmi_{name}"] is not None and about[f"ari_{name}"] is not None
    }
    words = {"object": "on the animal", "image": "in the whole image"}
    return "; ".join(f"{words[name]}: {value}" for name, value in numbers.items())


def _interval(about: dict[str, Any], scale: float, unit: str) -> str:
    low, high = (scale * v for v in about["interval_95"])
    return f"{scale * about['mean']:.2f} {unit} ({low:.2f} to {high:.2f})"


def _rows(table: dict[str, dict[str, Any]], count: str) -> tuple[LandmarkRow, ...]:
    return tuple(
        LandmarkRow(name, row["error"], row["without"], row[count]) for name, row in table.items()
    )


@program("explain")
def _maps(model, images):
    found = model.regions(images)
    attribution, attention = found.attribution, found.attention
    if attention.ndim == 3:  # of attributes: the mean head
        attribution, attention = attribution.mean(1), attention.mean(1)
    return found.assignment, attribution, attention


def _pictures(config, source, explained, test):
    names = {own.name: own for own in test}
    records = take([r for r in source.records if r.name in names], config.parts.gallery or 1)
    records = records[: config.parts.gallery]
    for place, example in load_examples(source, records, workers=config.data.workers):
        if isinstance(example, DataError):
            continue  # it was there when it was judged; failures.csv will say so next time
        own = names[records[place].name]
        image = jnp.asarray(example.image.astype(np.float32) / 255)[None]
        assignment, attribution, attention = (
            np.asarray(v)[0] for v in _maps(explained.model, image)
        )
        yield PartPicture(
            name=own.name,
            label="" if own.label is None else source.classes[own.label],
            predicted=explained.output_name(int(predicted(own.logits))),
            image=example.image,
            assignment=assignment,
            attribution=attribution,
            attention=attention,
        )
