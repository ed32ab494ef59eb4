"""Which methods are compared, and the walk through them."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

from fgjax.attribution import METHODS
from fgjax.attribution.registry import needs
from fgjax.core.progress import say
from fgjax.options.judging import CONTROLS
from fgjax.options.schema import Config, ConfigError
from fgjax.stages.compare.comparison import Comparison, passes


def methods_of(config: Config, model: Any) -> tuple[str, ...]:
    """Return compare.methods; where none are named, all that the model has steps, attention
    and prompts for, and the controls."""
    lacks = {"steps"} if not getattr(model, "looks_again", False) else set()
    lacks |= {"attention"} if not hasattr(model, "attend") else set()
    lacks |= {"prompts"} if not hasattr(model, "ask") else set()
    every = [method for method in METHODS if not lacks & set(needs(method))]
    return config.compare.methods or (*every, *CONTROLS)


def each_method(
    comparison: Comparison,
    methods: tuple[str, ...],
    work: Callable[[Comparison, str], Any],
    stage: str,
) -> tuple[Comparison, dict[str, str]]:
    """Do `work` for every method, the controls last.

    Returns:
      the comparison, which knows now what the control "flipped" turns around; and why methods are
      left out.

    Raises:
      ConfigError: what is wrong is not the method's.
    """
    refused: dict[str, str] = {}
    for method in sorted(methods, key=lambda m: m in CONTROLS):  # "flipped" needs a method's maps
        if method == "flipped":
            comparison = _with_flipped(comparison, methods, refused)
        try:
            work(comparison, method)
        except (ValueError, TypeError) as error:
            if isinstance(error, ConfigError):
                raise
            refused[method] = str(error).splitlines()[0]
            say(f"{stage}: {method} is left out: {refused[method]}")
    return comparison, refused


def _with_flipped(
    comparison: Comparison, methods: tuple[str, ...], refused: dict[str, str]
) -> Comparison:
    """Return it with the method whose map the control turns around: that of the fewest passes, or
    the one whose turned maps are there already."""
    done = [m for m in methods if m not in CONTROLS and m not in refused]
    if not done:
        return comparison
    settings = comparison.folder / "flipped" / "settings.json"
    if settings.is_file():
        earlier = json.loads(settings.read_text(encoding="utf-8"))["settings"]["of"]
        return dataclasses.replace(comparison, flipped=earlier)
    fewest = min(done, key=lambda m: sum(passes(comparison, m)))
    return dataclasses.replace(comparison, flipped=fewest)
