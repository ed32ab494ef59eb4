"""Files in MegaDetector's format: what a detector found, read; what a classifier says, written.

The format (version 1.6, https://lila.science/megadetector-output-format) is that of MegaDetector,
AddaxAI and Timelapse: boxes are x, y, width and height as shares of the image's width and height,
as it is seen (EXIF orientation applied); an image has its detections, or a reason why it failed.
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from fgjax.data.index import some
from fgjax.data.labels import read_text
from fgjax.data.types import DataError

VERSION = "1.6"
ANIMAL = "1"
CATEGORIES = {ANIMAL: "animal", "2": "person", "3": "vehicle"}


@dataclass(frozen=True)
class Detection:
    """A box that a detector found.

    Attributes:
      box: x0, y0, x1, y1 as shares of the image's width and height.
      score: how sure the detector is, in [0, 1].
    """

    box: Float[np.ndarray, "4"]
    score: float


def read_megadetector(
    path: str | Path, names: Iterable[str], least: float = 0.2
) -> dict[str, Detection]:
    """Return the surest animal of each image, from a JSON file in MegaDetector's format.

    An image is found by its path: that of the file and the data set's name are the same, or one
    ends in the other (`D:\\cards\\a\\1.jpg` is `a/1.jpg`).

    Args:
      path: the file.
      names: of the data set's images.
      least: detections less sure than this count as none.

    Returns:
      image name -> detection; images without an animal are not in it.

    Raises:
      DataError: the file is missing, no JSON, or not in the format; no image is one of the data
        set's; one of them stands for two.
    """
    path = Path(path)
    document = _parse(path)
    check(document, str(path))
    animals = {k for k, v in document["detection_categories"].items() if v.lower() == "animal"}
    by_last: dict[str, list[str]] = defaultdict(list)
    for name in names:
        by_last[name.rsplit("/", 1)[-1]].append(name)
    found: dict[str, Detection] = {}
    seen: dict[str, str] = {}
    for image in document["images"]:
        file = image["file"].replace("\\", "/")
        fits = [n for n in by_last[file.rsplit("/", 1)[-1]] if _same(n, file)]
        exact = [n for n in fits if n == file]
        for name in exact or fits:
            if len(exact or fits) > 1 or name in seen:
                other = seen.get(name, fits[-1])
                raise DataError(
                    f"{path}: {image['file']!r} can be more than one image ({name}, {other}): give "
                    "the folder that the detector was given as data.path"
                )
            seen[name] = image["file"]
            best = max(
                (d for d in image.get("detections") or () if d["category"] in animals),
                key=lambda d: d["conf"],
                default=None,
            )
            if best is not None and best["conf"] >= least:
                x, y, width, height = best["bbox"]
                box = np.clip(np.array([x, y, x + width, y + height], np.float64), 0, 1)
                if (box[2:] > box[:2]).all():
                    found[name] = Detection(box, float(best["conf"]))
    if not seen:
        listed = [image["file"] for image in document["images"]]
        raise DataError(
            f"{path}: no image of the data set; it has "
            f"{some(listed) if listed else 'no images'}, the images are called "
            f"{some(list(names)[:2])}"
        )
    return found


def check(document: Any, where: str) -> None:
    """Raise a DataError unless a document is in the format, version 1.3 to 1.6.

    Args:
      where: what messages begin with.
    """

    def wrong(what: str) -> DataError:
        return DataError(f"{where}: not in MegaDetector's format: {what}")

    if not isinstance(document, dict):
        raise wrong("wanted is an object with info, detection_categories and images")
    for key, kind in (("info", dict), ("detection_categories", dict), ("images", list)):
        if not isinstance(document.get(key), kind):
            raise wrong(f"{key!r} is missing, or no {'list' if kind is list else 'object'}")
    try:
        version = float(document["info"]["format_version"])
    except (KeyError, TypeError, ValueError):
        raise wrong("info.format_version must be a text such as '1.6'") from None
    if not isinstance(document["info"]["format_version"], str) or not 1.3 <= version < 2:
        raise wrong(f"info.format_version is {version:g}; read are '1.3' to '1.6'")
    for key in ("detection_categories", "classification_categories"):
        if not isinstance(document.get(key, {}), dict):
            raise wrong(f"{key!r} is no object")
        for number, name in document.get(key, {}).items():
            if not number.isdecimal() or not isinstance(name, str) or not name.strip():
                raise wrong(f"{key} has {number!r}: {name!r}; wanted are numbers and their names")
    for place, image in enumerate(document["images"]):
        if not isinstance(image, dict) or not isinstance(image.get("file"), str):
            raise wrong(f"images[{place}] has no 'file'")
        try:
            _check_image(image, document)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise wrong(f"images[{place}] ({image['file']}): {error}") from None


def _check_image(image: dict[str, Any], document: dict[str, Any]) -> None:
    failure, detections = image.get("failure"), image.get("detections")
    if failure is not None:
        if not isinstance(failure, str) or detections is not None:
            raise ValueError("'failure' must be a text, with no detections beside it")
        return
    if not isinstance(detections, list):
        raise ValueError("neither a list of detections nor a failure")
    for found in detections:
        if missing := {"category", "conf", "bbox"} - found.keys():
            raise ValueError(f"a detection without {', '.join(sorted(missing))}")
        numbers = [found["conf"], *found["bbox"]]
        if len(numbers) != 5 or not all(math.isfinite(v) and -1e-3 <= v <= 1.001 for v in numbers):
            raise ValueError(
                f"conf {found['conf']} and bbox {found['bbox']}: wanted are shares from 0 to 1, "
                "[x, y, width, height]"
            )
        if not isinstance(found["category"], str):
            raise ValueError(f"category {found['category']!r} must be a text")
        order = [float(p) for _, p in found.get("classifications") or ()]
        known = document.get("classification_categories", {})
        if any(number not in known for number, _ in found.get("classifications") or ()):
            raise ValueError("a classification that is none of classification_categories")
        if order != sorted(order, reverse=True):
            raise ValueError("classifications must be in descending order")


def detection(
    box: Float[np.ndarray, "4"], score: float, classes: Iterable[tuple[int, float]] = ()
) -> dict[str, Any]:
    """Return a detection as the format has it.

    Args:
      box: x0, y0, x1, y1 as shares of the image's width and height.
      score: how sure.
      classes: index and probability of the likeliest, the likeliest first.
    """
    x0, y0, x1, y1 = (round(float(v), 5) for v in np.clip(box, 0, 1))
    return {
        "category": ANIMAL,
        "conf": round(float(score), 4),
        "bbox": [x0, y0, round(x1 - x0, 5), round(y1 - y0, 5)],
        "classifications": [[str(index), round(float(p), 4)] for index, p in classes],
    }


def to_megadetector(
    detections: Mapping[str, list[dict[str, Any]]],
    failures: Mapping[str, str],
    classes: Iterable[str],
    info: Mapping[str, Any],
) -> str:
    """Return the text of a file in MegaDetector's format.

    Args:
      detections: image -> what `detection` returned.
      failures: image -> why there is nothing.
      classes: what each index of a classification is.
      info: what made it: "detector", "classifier", …

    Raises:
      DataError: it would not be in the format.
    """
    images: list[dict[str, Any]]
    images = [{"file": name, "detections": found} for name, found in detections.items()]
    images += [{"file": n, "failure": why, "detections": None} for n, why in failures.items()]
    document = {
        "info": {"format_version": VERSION, **info},
        "detection_categories": CATEGORIES,
        "classification_categories": {
            str(i): name.strip() or f"output {i}" for i, name in enumerate(classes)
        },
        "images": images,
    }
    check(document, "what is to be written")
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _parse(path: Path) -> Any:
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: is no JSON ({str(error)[:80]})") from None


def _same(name: str, file: str) -> bool:
    return name == file or file.endswith(f"/{name}") or name.endswith(f"/{file}")
