"""What a file of weights, or the hub, says of its network: how it wants its images, its classes."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from fgjax.models.registry import IMAGENET_MEAN, IMAGENET_STD, Network

Color = tuple[float, float, float]


def read_metadata(metadata: dict[str, str]) -> dict[str, Any]:
    """Return what a file's metadata says, timm's `pretrained_cfg` as a dict."""
    about: dict[str, Any] = dict(metadata)
    for word in ("pretrained_cfg", "config"):
        try:
            about[word] = json.loads(metadata[word])
        except (KeyError, ValueError):
            about.pop(word, None)
    for word in ("mean", "std"):
        if about.pop(word, None) and (numbers := _numbers(metadata[word])):
            about[word] = numbers
    whole = about.pop("config", None)
    return whole | about if isinstance(whole, dict) else about


def normalisation(
    network: Network, about: dict[str, Any], mean: Sequence[float], std: Sequence[float]
) -> tuple[tuple[Color, Color], list[str]]:
    """Return mean and deviation per channel: what is given, then what the file or the hub says,
    then the custom; and what nobody said."""
    own, said = (_color("mean", mean), _color("std", std)), _said(about)
    usual = "ImageNet's " if (network.mean, network.std) == (IMAGENET_MEAN, IMAGENET_STD) else ""
    pairs = [("mean", own[0], network.mean), ("std", own[1], network.std)]
    unsaid = [f"{usual}{k}={_listed(v)}" for k, given, v in pairs if given is None]
    of_mean, of_std = said or (network.mean, network.std)
    return (own[0] or of_mean, own[1] or of_std), [] if said else unsaid


def _said(about: dict[str, Any]) -> tuple[Color, Color] | None:
    half = (0.5, 0.5, 0.5)
    if "0.5)/0.5" in str(about.get("input", "")):
        return half, half
    for known in (about, about["pretrained_cfg"], about.get("preprocess_cfg") or {}):
        try:
            mean, std = (_color(word, known[word]) for word in ("mean", "std"))
        except (KeyError, TypeError, ValueError):
            continue
        if mean and std:
            return mean, std
    return None


def _color(word: str, values: Sequence[float]) -> Color | None:
    """Return three numbers; None of none.

    Raises:
      ValueError: they are not three finite numbers, or a deviation is not above 0.
    """
    if not len(values):
        return None
    found = tuple(float(value) for value in values)
    if len(found) != 3 or not np.isfinite(found).all() or (word == "std" and min(found) <= 0):
        raise ValueError(f"{word}={_listed(found)}: wants three numbers in [0, 1], as of RGB")
    return found


def _listed(values: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in values)


def _numbers(text: str) -> list[float]:
    """Return the numbers of "0.5, 0.5, 0.5" or "[0.5, 0.5, 0.5]"."""
    try:
        return [float(word) for word in text.strip("[]() ").replace(",", " ").split()]
    except ValueError:
        return []


def stated_options(metadata: dict[str, str]) -> dict[str, Any]:
    """Return what `save_pretrained` wrote of how the network is made."""
    try:
        found = json.loads(metadata.get("options", "{}"))
    except json.JSONDecodeError:
        found = {}
    found = found if isinstance(found, dict) else {}
    return {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}


def stated_classes(metadata: dict[str, str], count: int) -> tuple[str, ...]:
    """Return the names of the outputs that `save_pretrained` wrote, where there are as many."""
    try:
        found = json.loads(metadata.get("classes", "[]"))
    except json.JSONDecodeError:
        return ()
    names = tuple(map(str, found)) if isinstance(found, list) else ()
    return names if len(names) == count else ()
