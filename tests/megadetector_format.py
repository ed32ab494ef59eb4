"""The rules of MegaDetector's format 1.6, as its page and the validator beside it have them.

Written from https://lila.science/megadetector-output-format and apart from the package's own
reader, so that each is held against the other. Rules that only the page has count, too.
"""

from collections.abc import Iterator
from typing import Any

VIDEOS = (".mp4", ".avi", ".mov", ".mpg", ".mpeg", ".mkv", ".flv", ".m4v")
KNOWN = {"info", "images", "detection_categories", "classification_categories",
         "classification_category_descriptions"}  # fmt: skip


def breaches(document: Any) -> list[str]:
    """Return the rules that a document breaks, each with its place; none: it is in the format."""
    if not isinstance(document, dict):
        return ["document: an object"]
    return [
        *_info(document.get("info")),
        *_categories(document),
        *_images(document),
        *(f"{key}: not of the format" for key in document.keys() - KNOWN),
    ]


def _info(info: Any) -> Iterator[str]:
    version = info.get("format_version") if isinstance(info, dict) else None
    try:
        if not isinstance(version, str) or float(version) < 1.3:
            yield "info.format_version: a text, '1.3' or later"
    except ValueError:
        yield "info.format_version: a number as text"


def _categories(document: dict[str, Any]) -> Iterator[str]:
    if not isinstance(document.get("detection_categories"), dict):
        yield "detection_categories: an object"
    for key in ("detection_categories", "classification_categories"):
        names = document.get(key, {})
        if not isinstance(names, dict):
            yield f"{key}: an object"
            continue
        for number, name in names.items():
            if not _whole(number):
                yield f"{key}: {number!r} is no whole number from 0 as text"
            if not isinstance(name, str) or not name.strip():
                yield f"{key}[{number}]: a name that is not blank"
    descriptions = document.get("classification_category_descriptions")
    if descriptions is not None and set(descriptions) != set(
        document.get("classification_categories", {})
    ):
        yield "classification_category_descriptions: those of classification_categories"


def _images(document: dict[str, Any]) -> Iterator[str]:
    if not isinstance(document.get("images"), list):
        yield "images: a list"
        return
    for place, image in enumerate(document["images"]):
        if not isinstance(image, dict) or not isinstance(image.get("file"), str):
            yield f"images[{place}]: a file"
            continue
        for what in (*_state(image), *_video(image), *_detections(image, document)):
            yield f"images[{place}]: {what}"


def _state(image: dict[str, Any]) -> Iterator[str]:
    """Seen, with a list of what was found, or failed, with a reason and no such list."""
    failure, found = image.get("failure"), image.get("detections")
    if failure is None and not isinstance(found, list):
        yield "a list of detections"
    if failure is not None and not isinstance(failure, str):
        yield "a failure that is a text"
    if failure is not None and found is not None:
        yield "no detections beside a failure"


def _video(image: dict[str, Any]) -> Iterator[str]:
    if not image["file"].lower().endswith(VIDEOS):
        return
    if not image.get("frame_rate", 0) > 0:
        yield "a video's frame_rate"
    if not all(isinstance(frame, int) for frame in image.get("frames_processed", [None])):
        yield "a video's frames_processed"
    for found in image.get("detections") or ():
        if not isinstance(found.get("frame_number"), int) or found["frame_number"] < 0:
            yield "frame_number of a detection in a video"


def _detections(image: dict[str, Any], document: dict[str, Any]) -> Iterator[str]:
    for found in image.get("detections") or ():
        if not isinstance(found, dict):
            yield "a detection that is an object"
            continue
        if found.get("category") not in document.get("detection_categories", {}):
            yield "category: one of detection_categories"
        if not isinstance(found.get("conf"), float) or not 0 <= found["conf"] <= 1:
            yield "conf: with a decimal point, from 0 to 1"
        box = found.get("bbox")
        numbers = isinstance(box, list) and all(isinstance(v, (int, float)) for v in box)
        if not numbers or len(box) != 4 or not all(0 <= v <= 1 for v in box):
            yield "bbox: x, y, width and height as shares of the image"
        elif box[0] + box[2] > 1 + 1e-4 or box[1] + box[3] > 1 + 1e-4:
            yield "bbox: within the image"
        order = []
        for number, p in found.get("classifications") or ():
            if number not in document.get("classification_categories", {}):
                yield "classifications: of classification_categories"
            order.append(p)
        if any(a < b for a, b in zip(order, order[1:])):
            yield "classifications: the likeliest first"


def _whole(text: Any) -> bool:
    return isinstance(text, str) and text.isascii() and text.isdecimal()
