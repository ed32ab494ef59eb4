"""A grid of runs: every combination of some options' values, each a run in a folder of its own.

A config file with a `grid` is a sweep:

    base: train_species            # the config that every trial starts from
    train: {epochs: 4}             # options of all trials, as in any config
    grid:
      train.learning_rate: [1.0e-3, 5.0e-3]        # an option, and its values
      recipe:                                      # a name of yours, and bundles of options
        plain: {}
        cutout: {train.erase: cutout}
      seed: [0, 1, 2]
"""

import hashlib
import itertools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fgjax.core.spelling import did_you_mean
from fgjax.options.resolve import config_folder, flatten
from fgjax.options.schema import ConfigError

LONGEST = 120
"""Characters of a trial's name, which is its folder's, too."""

Axis = dict[str, dict[str, Any]]
"""Label of each value -> the options it sets."""


@dataclass(frozen=True)
class Trial:
    """One run of a sweep.

    Attributes:
      name: of its folder: `threshold=0.5,seed=0`.
      settings: axis -> label of its value.
      words: what the run is told, `run_dir` apart.
    """

    name: str
    settings: dict[str, str]
    words: tuple[str, ...]


def find_grid(words: list[str]) -> tuple[str, dict[str, Any]] | None:
    """Return the name and contents of the config in `config=…`, when it is a sweep; else None.

    Whatever else is wrong with the words is left to `fgjax.options.resolve.resolve`.
    """
    names = [word.removeprefix("config=") for word in words if word.startswith("config=")]
    if not names:
        return None
    path = Path(names[-1])
    if not (path.suffix in (".yaml", ".yml") or path.is_file()):
        path = config_folder() / f"{names[-1]}.yaml"
    try:
        held = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    return (path.stem, held) if isinstance(held, dict) and "grid" in held else None


def make_trials(name: str, held: dict[str, Any], words: list[str]) -> tuple[Trial, ...]:
    """Return every combination of the grid's values, the last axis changing fastest.

    Args:
      name: of the sweep's config, for messages.
      held: what its file holds.
      words: the command line, which counts for every trial; `grid.AXIS=a,b` replaces the values
        of an axis (of a named one: picks them), or adds an axis, and `grid.AXIS=null` drops it.

    Raises:
      ConfigError: the file has no `base`, or its grid is not one.
    """
    where = f"config={name}: "
    held = dict(held)
    base, grid = held.pop("base", None), held.pop("grid")
    if not isinstance(base, str):
        raise ConfigError(f"{where}a sweep names the config its trials start from: base: NAME")
    if not isinstance(grid, dict) or not grid:
        raise ConfigError(f"{where}grid must hold `option: [values]` lines")
    axes = {str(key): _axis(f"{where}grid: {key}", str(key), v) for key, v in grid.items()}
    common = {word.partition("=")[0]: word for word in _words(flatten(held))}
    for word in words:
        key, equals, value = word.partition("=")
        if key.startswith("grid.") and equals:
            _change(axes, key.removeprefix("grid."), value)
        elif key not in ("config", "run_dir"):
            common[key] = word
    trials = []
    for labels in itertools.product(*(axis for axis in axes.values())):
        settings = dict(zip(axes, labels, strict=True))
        options: dict[str, Any] = {}
        for axis, label in settings.items():
            options |= axes[axis][label]
        # What the command line says of an option of the grid would make trials the same.
        for option in options:
            if option in common and option in {w.partition("=")[0] for w in words}:
                raise ConfigError(
                    f"{common[option]}: the grid gives {option} its values; "
                    f"grid.{option}=… changes them"
                )
        own = {word.partition("=")[0]: word for word in _words(options)}
        told = (f"config={base}", *(common | own).values())
        trials.append(Trial(_name(settings), settings, told))
    return tuple(trials)


def _axis(where: str, key: str, values: Any) -> Axis:
    if isinstance(values, dict) and values:
        wrong = [label for label, bundle in values.items() if not isinstance(bundle, dict)]
        if wrong:
            raise ConfigError(
                f"{where}: {wrong[0]}: wants the options it sets, such as "
                f"{wrong[0]}: {{train.epochs: 3}}"
            )
        return {str(label): flatten(bundle) for label, bundle in values.items()}
    if not isinstance(values, list) or not values:
        raise ConfigError(f"{where}: wants a list of values, or names with the options they set")
    return {_text(value): {key: value} for value in values}


def _change(axes: dict[str, Axis], key: str, value: str) -> None:
    """Return one word `grid.KEY=VALUE` of the command line."""
    try:
        given = yaml.safe_load(value if value.startswith("[") else f"[{value}]")
    except yaml.YAMLError:
        raise ConfigError(f"grid.{key}={value}: wants values, such as grid.{key}=a,b") from None
    if given in ([None], []):
        if key not in axes:
            raise ConfigError(f"grid.{key}: no such axis.{did_you_mean(key, axes)}")
        del axes[key]
        return
    named = key in axes and any(set(bundle) != {key} for bundle in axes[key].values())
    if not named:
        axes[key] = _axis(f"grid.{key}={value}", key, given)
        return
    labels = [_text(label) for label in given]
    for label in labels:
        if label not in axes[key]:
            hint = did_you_mean(label, axes[key])
            raise ConfigError(
                f"grid.{key}={value}: {key} has {', '.join(axes[key])}, not {label}.{hint}"
            )
    axes[key] = {label: axes[key][label] for label in labels}


def _text(value: Any) -> str:
    """Return a value as it is written in a word."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _words(options: dict[str, Any]) -> list[str]:
    return [f"{key}={_text(value)}" for key, value in options.items()]


def short_names(axes: list[str]) -> dict[str, str]:
    """Axis -> the last part of its name, or all of it where two axes share that."""
    last = [axis.rpartition(".")[2] for axis in axes]
    return {a: s if last.count(s) == 1 else a for a, s in zip(axes, last, strict=True)}


def _name(settings: dict[str, str]) -> str:
    """Return a folder's name that says the settings; a long one ends in a hash of them."""
    short = short_names(list(settings))
    whole = ",".join(f"{short[axis]}={label}" for axis, label in settings.items())
    safe = re.sub(r"[^\w=.,+-]+", "_", whole)
    if safe == whole and len(safe) <= LONGEST:
        return safe
    return f"{safe[: LONGEST - 9]}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"
