"""Which output of a model stands for which class of a data set."""

import csv
import difflib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fgjax.core.sniff import sniff
from fgjax.data.types import DataError

_HEADER = ["class_name", "model_index"]


@dataclass(frozen=True)
class LabelMap:
    """The classes of a data set among the outputs of a model.

    Attributes:
      index: for each class of the data set its model output; None: unknown to it.
      output_names: a name for each model output; "output 17" where none is known.
      unmatched: the classes that the model does not know.
    """

    index: tuple[int | None, ...]
    output_names: tuple[str, ...]
    unmatched: tuple[str, ...]


def read_labels(path: str | Path, classes: Sequence[str], num_outputs: int) -> LabelMap:
    """Read a label file of either kind.

    1. CSV with the header `class_name,model_index`: a line per class of the data set
       with its model output, counted from 0; left empty when the model does not know
       the class. A class without a line counts as unknown to the model.
    2. Plain text: line i names model output i. Names match after case, underscores,
       hyphens, apostrophes and numbering ("010.") are set aside; of "Agelaius
       phoeniceus (Red-winged Blackbird)" either name matches, of "tench, Tinca tinca"
       either side of a comma.

    Args:
      path: the file.
      classes: class names of the data set. When there are none (a flat folder), only
        `output_names` is filled, and a CSV may name any outputs.
      num_outputs: how many outputs the model has.

    Raises:
      DataError: the file is missing, empty or not UTF-8; a line is malformed; an
        output is out of range; a class is unknown or named twice; a text file has
        not one line per output or fits a class at several lines; or no class of the
        data set is known to the model.
    """
    path = Path(path)
    text = read_text(path)
    if not text.strip():
        raise DataError(f"{path}: the label file is empty")
    header = [field.strip().casefold() for field in text.lstrip().split("\n", 1)[0].split(",")]
    if header == _HEADER:
        index, names = _read_csv(path, text, classes, num_outputs)
    elif path.suffix.lower() == ".csv":
        raise DataError(f"{path}, line 1: a CSV label file starts with {','.join(_HEADER)}")
    else:
        index, names = _read_lines(path, text, classes, num_outputs)
    if classes and not index:
        raise DataError(
            f"{path}: the model knows none of the {len(classes)} classes (such as {classes[0]!r}); "
            f"write a CSV with the header {','.join(_HEADER)} that gives the outputs, "
            "or take the label file that belongs to the model"
        )
    return LabelMap(
        index=tuple(index.get(name) for name in classes),
        output_names=tuple(names.get(i) or f"output {i}" for i in range(num_outputs)),
        unmatched=tuple(name for name in classes if name not in index),
    )


def class_key(name: str) -> str:
    """Return what two class names have in common when only case, or how Unicode composes them,
    tells them apart: macOS writes é as two characters, other systems as one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold()).strip()


def read_text(path: Path) -> str:
    """Return the file as text, line ends unified; DataError when it is missing or not UTF-8."""
    if not path.is_file():
        raise DataError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}")
    try:
        text = path.read_text(encoding="utf-8-sig")
        if what := sniff(text[:256].encode()) if text else "":
            raise DataError(f"{path}: {what}")
        return text
    except UnicodeDecodeError as error:
        message = f"{path}: is not UTF-8 text (byte {error.start}); save it as such"
        raise DataError(message) from error
    except OSError as error:
        raise DataError(f"{path}: may not be read ({error.strerror})") from error


def _read_csv(
    path: Path, text: str, classes: Sequence[str], num_outputs: int
) -> tuple[dict[str, int], dict[int, str]]:
    index: dict[str, int] = {}
    lines: dict[str, int] = {}  # class name to line number
    names: dict[int, list[str]] = defaultdict(list)
    rows = csv.reader(text.split("\n"), skipinitialspace=True)
    for row in rows:
        where = f"{path}, line {rows.line_num}"
        fields = [field.strip() for field in row]
        if not any(fields) or [field.casefold() for field in fields] == _HEADER:
            continue
        if len(fields) != 2 or not fields[0]:
            raise DataError(f"{where}: expected class_name,model_index, found {','.join(row)!r}")
        name, output = fields
        if name not in classes:  # the same, composed in another way
            composed = unicodedata.normalize("NFC", name)
            name = composed if composed in classes or not classes else name
        if name in lines:
            raise DataError(f"{where}: class {name!r} is already given in line {lines[name]}")
        if classes and name not in classes:
            raise DataError(f"{where}: the data set has no class {name!r}{_hint(name, classes)}")
        lines[name] = rows.line_num
        if not output:
            continue
        if not re.fullmatch(r"[+-]?[0-9]{1,9}", output):
            some = output if len(output) < 40 else f"{output[:20]}… ({len(output)} characters)"
            raise DataError(f"{where}: model_index must be a whole number or empty, not {some!r}")
        if not 0 <= int(output) < num_outputs:
            raise DataError(
                f"{where}: model_index {output} is out of range; "
                f"the model's outputs are 0 to {num_outputs - 1}"
            )
        index[name] = int(output)
        names[int(output)].append(name)
    return index, {output: " / ".join(found) for output, found in names.items()}


def _read_lines(
    path: Path, text: str, classes: Sequence[str], num_outputs: int
) -> tuple[dict[str, int], dict[int, str]]:
    lines = [line.strip() for line in text.removesuffix("\n").split("\n")]
    while len(lines) > num_outputs and not lines[-1]:
        lines.pop()
    if len(lines) != num_outputs:
        raise DataError(
            f"{path}: has {len(lines)} lines but the model has {num_outputs} outputs; "
            "a label file names one output a line, in the model's order"
        )
    outputs: dict[str, set[int]] = defaultdict(set)
    for output, line in enumerate(lines):
        for key in _keys(line):
            outputs[key].add(output)
    index = {}
    for name in classes:
        # The whole name comes first: its parts are asked only when it is unknown.
        found = next((outputs[key] for key in _keys(name) if key in outputs), set())
        if len(found) > 1:
            where = ", ".join(f"{output + 1} ({lines[output]})" for output in sorted(found))
            raise DataError(
                f"{path}: class {name!r} fits several lines: {where}; "
                f"write a CSV with the header {','.join(_HEADER)} that says which"
            )
        if found:
            index[name] = found.pop()
    return index, dict(enumerate(lines))


def _keys(name: str) -> list[str]:
    """Return what a name may be known by: the whole of it, then its parts."""
    parts = [name]
    if both := re.fullmatch(r"(.+?)\s*\((.+)\)", name):  # scientific (common)
        parts += both.groups()
    parts += name.split(",")
    return [key for key in map(_normal, parts) if key]


def _normal(name: str) -> str:
    name = unicodedata.normalize("NFKC", name).casefold()
    name = re.sub(r"^\s*\d+\.", "", name)  # CUB's numbering
    name = re.sub(r"['’]s\b|['’]", "", name)  # CUB writes Brewer_Blackbird
    return re.sub(r"[\s_-]+", " ", name).strip()


def _hint(name: str, classes: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, classes, n=1)
    if not close:
        normal = {_normal(known): known for known in classes}
        close = [normal[_normal(name)]] if _normal(name) in normal else []
    return f"; did you mean {close[0]!r}?" if close else f" (it has {_some(classes)})"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
