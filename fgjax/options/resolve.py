"""From a YAML file and `key=value` words to one checked `Config` (its options: `schema.py`).

`resolve` turns words from the command line into one checked `Config`. OmegaConf reads,
merges and checks types; this file says what went wrong in the user's words.
"""

import dataclasses
import difflib
import os
import re
import typing
from dataclasses import field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from omegaconf import ListConfig, OmegaConf
from omegaconf.errors import (
    ConfigKeyError,
    InterpolationResolutionError,
    OmegaConfBaseException,
)
from yaml import YAMLError

from fgjax.attribution import CONFIGS, PRESETS
from fgjax.attribution.registry import METHOD_ENTRIES
from fgjax.core.option import option_of
from fgjax.core.spelling import did_you_mean
from fgjax.options.judging import CompareConfig
from fgjax.options.ranges import check_ranges, check_sizes
from fgjax.options.schema import OPTIONS, Config, ConfigError, ExplainConfig


def config_folder() -> Path:
    """Return where the named configs lie: inside the wheel, or beside the package in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def list_configs() -> dict[str, str]:
    """Return name -> the first comment line of each config."""
    lines = {}
    for path in sorted(config_folder().glob("*.yaml")):
        first = path.read_text(encoding="utf-8").splitlines()[0]
        lines[path.stem] = first.lstrip("# ")
    return lines


def _plain(annotation: Any) -> Any:
    """Return the type OmegaConf checks; what it cannot know (arrays, functions) is text in a
    config."""
    simple = (int, float, bool, str)
    parts = typing.get_args(annotation) or (annotation,)
    whole = typing.get_origin(annotation) in (Literal, tuple)
    if whole or all(part in (*simple, type(None)) for part in parts):
        return annotation
    return str


def _method_fields(method: str, preset: str) -> list[tuple[str, Any, Any]]:
    """Return the fields of a method's settings, at the preset's values."""
    hints = typing.get_type_hints(CONFIGS[method])
    values = PRESETS[method][preset]
    return [
        (f.name, _plain(hints[f.name]), _like(f, values.get(f.name, f.default)))
        for f in dataclasses.fields(CONFIGS[method])
    ]


def _like(of: dataclasses.Field, default: Any) -> Any:
    return field(default=default, metadata=of.metadata)


def _common_fields(group: type) -> list[tuple[str, Any, Any]]:
    return [
        (f.name, f.type, _like(f, f.default))
        for f in dataclasses.fields(group)
        if f.name != "settings"
    ]


def _explain_schema(method: str, preset: str) -> type:
    """`explain.*`: the options of every method and those of this one."""
    try:
        METHOD_ENTRIES.find(method)
    except ValueError as error:
        raise ConfigError(f"explain.method={method}: {error}") from None
    if preset not in PRESETS[method]:
        hint = did_you_mean(preset, PRESETS[method])
        raise ConfigError(f"explain.preset={preset}: one of {', '.join(PRESETS[method])}.{hint}")
    both = _common_fields(ExplainConfig) + _method_fields(method, preset)
    return dataclasses.make_dataclass("Explain", both, frozen=True)


def _compare_schema() -> type:
    """`compare.*`: the common options, and a group of options for every method."""
    groups = []
    for method in CONFIGS:
        group = dataclasses.make_dataclass(method, _method_fields(method, "default"), frozen=True)
        groups.append((method, group, field(default_factory=group)))
    return dataclasses.make_dataclass(
        "Compare", _common_fields(CompareConfig) + groups, frozen=True
    )


def _schema(method: str, preset: str) -> type:
    """Return the dataclass that a config file and the command line are checked against."""
    own = {"explain": _explain_schema(method, preset), "compare": _compare_schema()}
    parts = [
        (f.name, f.type, _like(f, f.default))
        if f.default is not dataclasses.MISSING
        else (f.name, f.type, field(default_factory=f.default_factory))
        for f in dataclasses.fields(Config)
        if f.name not in own
    ]
    parts += [(name, kind, field(default_factory=kind)) for name, kind in own.items()]
    return dataclasses.make_dataclass("Schema", parts, frozen=True)


def _checked(schema: type) -> type:
    """Return the schema as OmegaConf checks it.

    Before 2.4 it knows no choices, here they are text and `_check_choices` looks at them; and it
    merges nothing into what is frozen.
    """
    parts = []
    for f in dataclasses.fields(schema):
        if dataclasses.is_dataclass(f.type):
            group: Any = f.type
            kind: Any = _checked(group)
            parts.append((f.name, kind, field(default_factory=kind)))
            continue
        kind = str if typing.get_origin(f.type) is Literal else f.type
        parts.append((f.name, kind, _like(f, f.default)))
    return dataclasses.make_dataclass(schema.__name__, parts)


def _check_choices(schema: type, merged: Any, part: Any, where: str) -> None:
    """Tell of a value of `part` that is none of its option's choices."""
    for name, f in _fields(schema).items():
        if typing.get_origin(f.type) is Literal and OmegaConf.select(part, name) is not None:
            value = OmegaConf.select(merged, name)
            if value not in typing.get_args(f.type):
                raise _not_taken(f, name, value, where)


@lru_cache(maxsize=64)
def _defaults(method: str, preset: str, known: tuple[type, ...]) -> tuple[type, Any]:
    """Return the schema, and its defaults as OmegaConf has them: half of the time of a `resolve`.

    `known`, the settings of all methods, is what both depend on besides.
    """
    schema = _schema(method, preset)
    return schema, OmegaConf.structured(_checked(schema))


def _fields(schema: Any, prefix: str = "") -> dict[str, dataclasses.Field]:
    """Return option -> its field; a group of options is there too."""
    found = {}
    for f in dataclasses.fields(schema):
        found[f"{prefix}{f.name}"] = f
        if dataclasses.is_dataclass(f.type):
            found |= _fields(f.type, f"{prefix}{f.name}.")
    return found


def _is_list(of: dataclasses.Field) -> bool:
    return typing.get_origin(of.type) is tuple


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Return the leaves by their dotted names, in order: {"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _wants(kind: Any, option: str, example: str) -> str:
    """Return what an option takes, in words; `example` is of a list."""
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    if kind in words:
        return words[kind]
    if dataclasses.is_dataclass(kind):
        first = dataclasses.fields(kind)[0].name
        return f"its options one by one, such as {option}.{first}=…"
    if typing.get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, typing.get_args(kind)))}"
    if typing.get_origin(kind) is tuple:
        return f"a list, such as [{example}]"
    parts = [part for part in typing.get_args(kind) if part is not type(None)]
    return " or ".join([*(_wants(part, option, example) for part in parts), "null"])


def _nearest(option: str, known: list[str], method: str) -> str:
    """Return the nearest option: of the same group first, and of the method that is chosen."""
    group, _, name = option.rpartition(".")
    own = {k.rpartition(".")[2]: k for k in known if k.rpartition(".")[0] == group}
    near = difflib.get_close_matches(name, own, n=1, cutoff=0.7)
    hint = f" Did you mean {own[near[0]]}?" if near else did_you_mean(option, known)
    if group != "explain":
        return hint
    hint = hint if near else ""  # one of another group would mislead
    settings = [f.name for f in dataclasses.fields(CONFIGS[method])] if method in CONFIGS else []
    return f"{hint} {method} has {', '.join(settings)}." if settings and not near else hint


def _in_words(error: Exception, schema: type, part: Any, where: str, method: str) -> ConfigError:
    """OmegaConf's error about the options of `part`, in the user's words."""
    every = _fields(schema)
    types = {name: f.type for name, f in every.items()}
    option = getattr(error, "full_key", None) or ""
    if isinstance(error, ConfigKeyError):
        known = [name for name, kind in types.items() if not dataclasses.is_dataclass(kind)]
        return ConfigError(f"{where}there is no option {option}.{_nearest(option, known, method)}")
    for name in (n for n, f in every.items() if _is_list(f)):  # OmegaConf does not say which
        items = OmegaConf.select(part, name)
        kinds = {int, float} & set(typing.get_args(types.get(name)))
        fits = (int, *kinds)
        if kinds and isinstance(items, ListConfig) and not all(isinstance(i, fits) for i in items):
            listed = ",".join(map(str, items))
            wanted = _wants(types[name], name, option_of(every[name]).example)
            return ConfigError(f"{where}{name}=[{listed}]: wants {wanted}")
    given: Any = OmegaConf.to_container(part)
    if not option:  # OmegaConf does not say which group was given no group, or the reverse
        group = {name: dataclasses.is_dataclass(types.get(name)) for name in given}
        option = next((n for n in given if group[n] != isinstance(given[n], dict)), "")
    if option not in types or isinstance(error, InterpolationResolutionError):
        return ConfigError(f"{where}{option}: {str(error).splitlines()[0]}")
    *parents, last = option.split(".")
    for parent in parents:
        given = given.get(parent, {})
    return _not_taken(every[option], option, given.get(last), where)


def _not_taken(of: dataclasses.Field, option: str, value: Any, where: str) -> ConfigError:
    # A choice is near when it is spelt nearly so: data.source=folders.
    choices = typing.get_args(of.type) if typing.get_origin(of.type) is Literal else ()
    value = "null" if value is None else value
    hint = did_you_mean(str(value), choices)
    wanted = _wants(of.type, option, option_of(of).example)
    return ConfigError(f"{where}{option}={value}: wants {wanted}.{hint}")


def _read(name: str) -> tuple[str, Any]:
    path = Path(name)
    if not (path.suffix in (".yaml", ".yml") or path.is_file()):
        path = config_folder() / f"{name}.yaml"
        if not path.is_file():
            hint = did_you_mean(name, list_configs())
            known = ", ".join(list_configs())
            raise ConfigError(f"config={name}: there is no such config. Known: {known}.{hint}")
    if not path.is_file():
        raise ConfigError(f"config={name}: no such file")
    try:
        loaded = OmegaConf.load(path)
    except (YAMLError, OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config={path}: not readable as YAML: {error}") from None
    if not OmegaConf.is_dict(loaded):
        raise ConfigError(f"config={path}: must hold `option: value` lines")
    return path.stem, loaded


def _take_infills(part: Any) -> None:
    """Move a folder that stands as explain.infill, which takes names, to explain.infills."""
    infill = OmegaConf.select(part, "explain.infill")
    if isinstance(infill, str) and (os.sep in infill or Path(infill).is_dir()):
        part.explain.pop("infill")
        OmegaConf.update(part, "explain.infills", infill)


def resolve(words: list[str]) -> tuple[str, Config, dict[str, Any]]:
    """Read `config=NAME key=value …`.

    Returns:
      the config's name, the checked `Config`, and the same as a plain dict to be stored.

    Raises:
      ConfigError: a word that is not key=value, an unknown config or option (with the
        nearest known one), a value of the wrong type, or a setting out of its range.
    """
    given = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not re.fullmatch(r"[a-z_][a-z0-9_.]*", key):
            raise ConfigError(f"{word!r}: options are written key=value, for example seed=1")
        given[key] = value
    if "config" not in given:
        raise ConfigError(f"config=NAME is missing. Known: {', '.join(list_configs())}")
    name, file = _read(given.pop("config"))
    # A path is text, whatever YAML would make of it; in quotes it is YAML's.
    paths = {
        key: given.pop(key)
        for key in [*(name for name, about in OPTIONS.items() if about.path), "run_dir"]
        if key in given and given[key] not in ("", "null") and given[key][0] not in "'\""
    }
    dots = [f"{key}={value}" for key, value in given.items()]
    try:
        line = OmegaConf.from_dotlist(dots)
        for key, value in paths.items():
            OmegaConf.update(line, key, value)
        for option in ("explain.method", "data.source", "model.name"):
            if ":" in given.get(option, ""):  # module:name, which YAML may read as a group
                OmegaConf.update(line, option, given[option])
        for part in (file, line):
            _take_infills(part)
        both = OmegaConf.merge(file, line)
        method = OmegaConf.select(both, "explain.method", default=ExplainConfig.method)
        preset = OmegaConf.select(both, "explain.preset", default=ExplainConfig.preset)
    except (OmegaConfBaseException, YAMLError, TypeError, RecursionError) as error:
        said = " ".join(f"{dot:.80}" for dot in dots)
        raise ConfigError(f"cannot read {said}: {error}") from None
    except ValueError:  # Python reads no number of more than 4300 digits
        key = next(key for key, value in given.items() if len(value) > 4000)
        raise ConfigError(
            f"{key}={given[key][:10]}…: a number of {len(given[key])} digits"
        ) from None
    schema, merged = _defaults(str(method), str(preset), tuple(CONFIGS.values()))
    # Written as the help shows it: stages=explain,evaluate
    for option in (name for name, f in _fields(schema).items() if _is_list(f)):
        given_list = OmegaConf.select(line, option)
        if isinstance(given_list, str | int | float) and not isinstance(given_list, bool):
            words = [word.strip() for word in str(given_list).split(",") if word.strip()]
            OmegaConf.update(line, option, [_number(word) for word in words])
    for part, where in ((file, f"config={name}: "), (line, "")):
        try:
            merged = OmegaConf.merge(merged, part)
            _check_choices(schema, merged, part, where)
        except (OmegaConfBaseException, TypeError) as error:
            raise _in_words(error, schema, part, where, str(method)) from None
    try:
        plain: Any = OmegaConf.to_container(merged, resolve=True)
    except OmegaConfBaseException as error:
        raise _in_words(error, schema, both, "", str(method)) from None
    plain["run_dir"] = plain["run_dir"] or f"runs/{name}"
    plain["run_dir"] = _home(plain["run_dir"])
    for option in (name for name, about in OPTIONS.items() if about.path):
        *groups, last = option.split(".")
        held = plain[groups[0]] if groups else plain
        held[last] = _home(held[last])
    return name, _build(plain), plain


def _number(word: str) -> str | int | float:
    """Return the word as a number, where it is one."""
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            pass
    return word


def _home(path: str | None) -> str | None:
    """Return a path with its ~ expanded: the shell leaves it alone in key=~/folder."""
    return path and os.path.expanduser(path)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _settings(method: str, own: dict[str, Any], group: str) -> Any:
    try:
        return CONFIGS[method](**{name: _frozen(value) for name, value in own.items()})
    except ValueError as error:
        raise ConfigError(f"{group}.{error}") from None


def _build(plain: dict[str, Any]) -> Config:
    """Return the frozen dataclasses of a checked dict; ranges are checked here."""
    check_sizes(flatten(plain))
    explain, compare = dict(plain["explain"]), dict(plain["compare"])
    method = explain["method"]
    own = {f.name: explain.pop(f.name) for f in dataclasses.fields(CONFIGS[method])}
    settings = {
        "explain": _settings(method, own, "explain"),
        "compare": {
            name: _settings(name, compare.pop(name), f"compare.{name}") for name in CONFIGS
        },
    }
    rest = plain | {"explain": explain, "compare": compare}
    values: dict[str, Any] = {}
    for f in dataclasses.fields(Config):
        value = rest[f.name]
        if dataclasses.is_dataclass(f.type):
            more = {"settings": settings[f.name]} if f.name in settings else {}
            group: Any = f.type
            value = group(**{k: _frozen(v) for k, v in value.items()}, **more)
        values[f.name] = _frozen(value)
    config = Config(**values)
    check_ranges(config, flatten(plain))
    return config
