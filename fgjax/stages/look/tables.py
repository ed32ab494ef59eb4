"""field.csv and megadetector.json: what was seen in each file, as field work reads it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from fgjax.core.tables import to_csv
from fgjax.data.exif import Taken
from fgjax.data.megadetector import Detection, detection, to_megadetector

TOP = 3
COLUMNS = ["path", "class", "predicted", "p",
           *(f"{what}_{i}" for i in range(2, TOP + 1) for what in ("predicted", "p")),
           "x", "y", "width", "height", "reasons", "like", "likeness", "failure"]  # fmt: skip
PLACE = ["date", "latitude", "longitude"]


@dataclass(frozen=True)
class Line:
    """What is written of an image.

    Attributes:
      name: of the file, below the folder of the data set.
      label: its class; "": not known.
      p: probability of each output.
      region: x0, y0, x1, y1 of what lies above the threshold, as shares of the file's image. None:
        nothing does.
      found: the detector's box that it was cut to.
      reasons: to look at it.
      twin, likeness: the training image that is most alike, and how much.
      taken: when and where.
    """

    name: str
    label: str
    p: Float[np.ndarray, "k"]
    region: Float[np.ndarray, "4"] | None
    found: Detection | None = None
    reasons: tuple[str, ...] = ()
    twin: str = ""
    likeness: float = np.nan
    taken: Taken | None = None


def field_csv(lines: Sequence[Line], outputs: Sequence[str], failures: Mapping[str, str]) -> str:
    """Return the table: a row per file, those that failed at the end."""
    dated = any(line.taken is not None for line in lines)
    rows: list[dict] = []
    for line in lines:
        row = {"path": line.name, "class": line.label, "reasons": "; ".join(line.reasons)}
        for place, index in enumerate(best(line.p), start=1):
            number = "" if place == 1 else f"_{place}"
            row |= {f"predicted{number}": outputs[index], f"p{number}": f"{line.p[index]:.4f}"}
        if line.region is not None:
            x0, y0, x1, y1 = line.region
            values = dict(x=x0, y=y0, width=x1 - x0, height=y1 - y0)
            row |= {name: f"{value:.5f}" for name, value in values.items()}
        if np.isfinite(line.likeness):
            row |= {"like": line.twin, "likeness": f"{line.likeness:.4f}"}
        if line.taken is not None:
            row |= dict(zip(PLACE, line.taken, strict=True))
        rows.append(row)
    rows += [{"path": name, "failure": why} for name, why in failures.items()]
    return to_csv(rows, [*COLUMNS, *PLACE] if dated else COLUMNS)


def detections_json(
    lines: Sequence[Line], outputs: Sequence[str], failures: Mapping[str, str], about: str
) -> str:
    """Return the file in MegaDetector's format: a detector's box with its confidence where the
    image was cut to one, else the region that the decision rests on with the class's p.

    Args:
      about: what classified, such as "fgjax, fido".
    """
    detections = {}
    for line in lines:
        top = [(index, float(line.p[index])) for index in best(line.p)]
        box = line.region if line.found is None else line.found.box
        score = top[0][1] if line.found is None else line.found.score
        detections[line.name] = [] if box is None else [detection(box, score, top)]
    boxed = any(line.found is not None for line in lines)
    info = {"detector": "data.boxes" if boxed else f"{about}: the regions", "classifier": about}
    return to_megadetector(detections, failures, outputs, info)


def best(p: Float[np.ndarray, "k"]) -> list[int]:
    """Return the likeliest outputs, the likeliest first."""
    return [int(i) for i in np.argsort(-p, kind="stable")[:TOP]]
