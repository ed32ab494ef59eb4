"""Which values the options may take; what is out of its range is told by name."""

import math
from collections.abc import Callable
from typing import Any

from fgjax.attribution import METHODS
from fgjax.attribution.registry import that_need
from fgjax.core.spelling import did_you_mean
from fgjax.data.registry import SOURCES
from fgjax.options.schema import BASELINES, CROPS, STAGES, Config, ConfigError, DistributedConfig

ABOVE_ZERO = (
    "data.limit", "data.workers", "data.train_images", "data.test_images",
    "distributed.processes", "distributed.timeout",
    "train.epochs", "train.learning_rate", "train.adam_eps",
    "compare.steps",
    "parts.number", "parts.alpha", "parts.beta", "parts.std",
    "proxy.every", "proxy.clear", "train.mix_alpha",
    "focus.first", "focus.steps", "focus.hidden", "focus.patches", "focus.extractor_epochs",
    "focus.prototypes", "focus.channels",
)  # fmt: skip
NOT_NEGATIVE = (
    "train.batch_size", "train.weight_decay", "train.light", "train.color",
    "compare.sensitivity", "compare.randomised", "compare.again", "compare.gallery",
    "report.images", "report.figures",
    "tta.padding",
    "parts.weight", "parts.radius", "parts.gallery",
    "proxy.smooth",
    "focus.local_weight", "focus.ranking", "focus.cluster", "focus.separation",
)  # fmt: skip
ZERO_TO_ONE = (
    "data.test_share", "data.shortcut_share",
    "train.warmup", "train.label_smoothing", "train.shift", "train.momentum",
    "train.mix_probability", "proxy.threshold", "proxy.weight", "proxy.start", "proxy.stop",
)  # fmt: skip
BETWEEN_ZERO_AND_ONE = ("train.validation", "evaluate.threshold", "tta.threshold")
SHARES = ("data.crop", "train.crop", "tta.share", "proxy.subset", "train.erase_side",
          "focus.patch_side")  # fmt: skip

RANGES: tuple[tuple[tuple[str, ...], str, Callable[[float], bool]], ...] = (
    (ABOVE_ZERO, "must be above 0", lambda value: value > 0),
    (NOT_NEGATIVE, "must not be negative", lambda value: value >= 0),
    (ZERO_TO_ONE, "from 0 to 1", lambda value: 0 <= value <= 1),
    (BETWEEN_ZERO_AND_ONE, "between 0 and 1", lambda value: 0 < value < 1),
    (SHARES, "above 0 and at most 1", lambda value: 0 < value <= 1),
    (("data.size", "focus.patch_size"), "at least 32 pixels", lambda value: value >= 32),
    (("focus.margin",), "from -1 to 1", lambda value: -1 <= value <= 1),
    (("focus.percentile",), "from 0 to below 100", lambda value: 0 <= value < 100),
    (("seed",), "a whole number from 0 to 2**32 - 1", lambda value: 0 <= value < 2**32),
)
"""Options, what their values must be, and whether one is; null is always in range."""

NAMES = {
    "stages": STAGES,
    "tta.crops": CROPS,
    "compare.methods": (*METHODS, *BASELINES),
}
"""Lists of names, and the names there are."""


def check_ranges(config: Config, flat: dict[str, Any]) -> None:
    """Raise ConfigError for the first option whose value cannot be meant.

    Args:
      config: the options.
      flat: the same, option -> value.
    """
    for name, value in flat.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{name}={value}: must be finite")
    for names, wants, holds in RANGES:
        for name in names:
            if flat[name] is not None and not holds(flat[name]):
                raise ConfigError(f"{name}={flat[name]}: {wants}")
    for option, known in NAMES.items():
        for name in flat[option]:
            if name not in known:
                hint = did_you_mean(name, known)
                raise ConfigError(f"{option}: {name!r} is none of {', '.join(known)}.{hint}")
    proxies = ("none", *that_need("features", "gradient"))
    if config.proxy.method not in proxies:
        hint = did_you_mean(config.proxy.method, proxies)
        raise ConfigError(f"proxy.method={config.proxy.method}: one of {', '.join(proxies)}.{hint}")
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
    try:
        SOURCES.find(config.data.source)
    except ValueError as error:
        raise ConfigError(f"data.source={config.data.source}: {error}") from None
    for share in config.train.drops:
        if not 0 < share < 1:
            raise ConfigError(f"train.drops: {share} is not a share of the training, in (0, 1)")
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
    if model.weights and model.checkpoint:
        raise ConfigError("model.weights and model.checkpoint: give one of them, not both")
    if model.labels and not (model.weights or model.checkpoint):
        raise ConfigError("model.labels belongs to model.weights: it names that file's outputs")


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
