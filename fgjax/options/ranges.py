"""Whether the options can be meant: each by itself, as its field says, and with the others."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fgjax.core.spelling import did_you_mean
from fgjax.data.registry import SOURCES
from fgjax.options.judging import CROPS
from fgjax.options.schema import OPTIONS, STAGES, Config, ConfigError, DistributedConfig

LARGEST = 2**31 - 1
"""Of whole numbers but the seed: what devices count with."""


def check_sizes(flat: dict[str, Any]) -> None:
    """Raise ConfigError for the first number that is larger than anything that can be meant.

    Args:
      flat: option -> value.
    """
    for name, value in flat.items():
        for number in value if isinstance(value, list | tuple) else [value]:
            whole = isinstance(number, int) and not isinstance(number, bool)
            if whole and abs(number) > LARGEST and name != "seed":
                raise ConfigError(f"{name}={_short(number)}: at most {LARGEST} can be meant")


def _short(number: int) -> str:
    return str(number) if abs(number) < 10**40 else "a number of more than 40 digits"


def check_ranges(config: Config, flat: dict[str, Any]) -> None:
    """Raise ConfigError for the first option whose value cannot be meant.

    Args:
      config: the options.
      flat: the same, option -> value.
    """
    for name, value in flat.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{name}={value}: must be finite")
    for name, about in OPTIONS.items():
        value = flat[name]
        if about.within and value is not None and not about.within.holds(value):
            raise ConfigError(f"{name}={value}: {about.within.words}")
        if about.names:
            _check_names(name, value, about.names(), about.also)
    if not config.stages:
        raise ConfigError(f"stages: none given; {', '.join(STAGES)}")
    if "tta" in config.stages and not config.tta.crops:
        raise ConfigError(f"tta.crops: none given; {', '.join(CROPS)}")
    if config.data.attribute == "all":
        able = [name for name, set in SOURCES.items() if "data.attribute" in set.options.values()]
        if config.data.source not in able:
            raise ConfigError(
                f"data.attribute=all: only data.source={' or '.join(able)} has attributes"
            )
        if "test" in config.stages:
            raise ConfigError("stages: test judges classes; attributes are judged by parts")
    given = config.model.checkpoint or config.model.weights
    if "parts" in config.stages and config.model.name != "region_grouping" and not given:
        raise ConfigError(
            f"stages: parts: {config.model.name or 'resnet18'} groups no pixels into parts; "
            "model.name=region_grouping does"
        )
    for share in config.train.drops:
        if not 0 < share < 1:
            raise ConfigError(f"train.drops: {share} is not a share of the training, in (0, 1)")
    if not config.probe.penalties or not min(config.probe.penalties) > 0:
        raise ConfigError("probe.penalties: one or more numbers above 0, such as [1,0.1,0.01]")
    read_rates(config.train.rates)
    focus, model = config.focus, config.model
    if focus.readout == "sum" and not focus.first <= focus.last <= focus.steps:
        raise ConfigError(
            f"focus.last={focus.last}: from focus.first={focus.first} to focus.steps={focus.steps}"
        )
    count, own = config.distributed.processes, config.distributed.process_id
    _check_coordinator(config.distributed)
    if count > 1 and own is None:
        raise ConfigError(
            f"distributed.processes={count}: each process must be told which it is, by "
            f"distributed.process_id=0 to {count - 1}"
        )
    if own is not None and not 0 <= own < count:
        raise ConfigError(f"distributed.process_id={own}: from 0 to {count - 1}")
    for name, values in (("mean", model.mean), ("std", model.std)):
        if values and (len(values) != 3 or (name == "std" and min(values) <= 0)):
            listed = ",".join(map(str, values))
            raise ConfigError(
                f"model.{name}={listed}: wants three numbers, of red, green and blue in [0, 1]"
                + (", above 0" if name == "std" else "")
            )
    if model.weights and model.checkpoint:
        raise ConfigError("model.weights and model.checkpoint: give one of them, not both")
    if model.texts and not model.weights:
        raise ConfigError("model.texts belongs to model.weights, the file of a CLIP")
    if model.labels and not (model.weights or model.checkpoint):
        raise ConfigError("model.labels belongs to model.weights: it names that file's outputs")


def _check_names(
    option: str, value: str | Sequence[str], known: Iterable[str], also: tuple[str, ...]
) -> None:
    """Raise ConfigError where a name, or one of a list, is none of those there are."""
    for name in [value] if isinstance(value, str) else value:
        if name in also or name in known:  # package.module:name, too, where it is found
            continue
        if ":" in name and isinstance(known, Mapping):
            try:
                known[name]
            except KeyError as error:
                raise ConfigError(f"{option}={name}: {error.args[0]}") from None
        names = (*also, *known)
        hint, every = did_you_mean(name, names), ", ".join(names)
        if isinstance(value, str):
            raise ConfigError(f"{option}={name}: one of {every}.{hint}")
        raise ConfigError(f"{option}: {name!r} is none of {every}.{hint}")


def _check_coordinator(given: DistributedConfig) -> None:
    if given.coordinator is None:
        return
    told = given.processes > 1 or given.process_id is not None or given.find
    if given.coordinator == "auto":
        if told:
            raise ConfigError(
                "distributed.coordinator=auto: it finds the processes, too; leave out "
                "distributed.processes, distributed.process_id and distributed.find"
            )
        return
    host, _, port = given.coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ConfigError(
            f"distributed.coordinator={given.coordinator}: HOST:PORT of process 0, such as "
            "10.0.0.1:8476, or auto"
        )
    if given.processes == 1 and not given.find:
        raise ConfigError(
            f"distributed.coordinator={given.coordinator}: it connects several processes; give "
            "distributed.processes=N distributed.process_id=K, or distributed.find=true"
        )


def read_rates(rates: tuple[str, ...]) -> tuple[tuple[str, float], ...]:
    """("classifier:10",) -> (("classifier", 10.0),).

    Raises:
      ConfigError: a word that is not MODULE:FACTOR with a factor of 0 or more.
    """
    pairs = []
    for word in rates:
        name, colon, factor = word.rpartition(":")
        try:
            value = float(factor)
        except ValueError:
            value = math.nan
        if not (colon and name and 0 <= value < math.inf):
            raise ConfigError(f"train.rates: {word!r} is not MODULE:FACTOR, such as classifier:10")
        pairs.append((name, value))
    return tuple(pairs)
