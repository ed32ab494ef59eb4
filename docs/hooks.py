"""What the pages ask the package for while the site is built, so that no page repeats a default.

`<!-- settings: METHOD -->` becomes the table of a method's settings, `<!-- presets: METHOD -->` the
published ones, and `<!-- options: GROUP -->` the table of a group of a run's options.
"""

import re
from collections.abc import Iterable
from typing import Any

from fgjax import CONFIGS, PRESETS
from fgjax.options.help import describe


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        f"| {' | '.join(c.replace('|', '&#124;') for c in cells)} |" for cells in lines
    )


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def settings(method: str) -> str:
    """Return the settings of a method: name, default, meaning."""
    shared = {"explain.method", "explain.preset", "explain.target", "explain.precision"}
    rows = [
        (_code(name.removeprefix("explain.")), _code(default), about)
        for name, default, about in describe(method)
        if name.startswith("explain.") and name not in shared
    ]
    name = CONFIGS[method].__name__
    said = f"`fgjax.{name}(…)` in Python, `explain.FIELD=…` in a run.\n\n"
    return said + _table(["field", "default", "what it is"], rows)


def presets(method: str) -> str:
    """Return the published settings of a method, or nothing where there are none."""
    rows = [
        (_code(name), ", ".join(f"{k} {v}" for k, v in changes.items()) or "the defaults")
        for name, changes in PRESETS[method].items()
        if name != "default"
    ]
    if not rows:
        return ""
    return "Published settings, `explain.preset=…`:\n\n" + _table(["preset", "what differs"], rows)


def options(group: str) -> str:
    """Return the options of a group such as "train"; "run" has those of no group."""
    rows = [
        (_code(name), _code(default), about)
        for name, default, about in describe()
        if (name.split(".")[0] if "." in name else "run") == group
    ]
    return _table(["option", "default", "what it is"], rows)


MADE = {"settings": settings, "presets": presets, "options": options}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in what a page asks for."""
    pattern = rf"<!-- ({'|'.join(MADE)}): (\w+) -->"
    return re.sub(pattern, lambda found: MADE[found[1]](found[2]), markdown)
