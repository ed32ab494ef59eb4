"""What a page shows: its metrics, its images with their maps, and what failed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, UInt8

from fgjax.report.pictures import Number


@dataclass(frozen=True)
class Metric:
    """One line of the metrics table.

    Attributes:
      name: what is measured, e.g. "pointing game".
      protocol: exactly how, e.g. "argmax, 15 px".
      value: mean over the images where it is defined. None or NaN: undefined.
      defined: on how many images it is defined.
      images: of how many.
      baselines: the same number for maps that know nothing: "centre box", "random", …
      higher_is_better: True, False, or None where neither is.
      unit: written after each number, e.g. "%".
    """

    name: str
    protocol: str
    value: Number | None
    defined: int
    images: int
    baselines: Mapping[str, Number | None] = field(default_factory=dict)
    higher_is_better: bool | None = None
    unit: str = ""


@dataclass(frozen=True)
class Cutout:
    """A region of an image, cut out; or another picture beside it.

    Attributes:
      title: what the region is, e.g. "suffices".
      mask: True inside. None: there is no such region, and `about` says so.
      about: what the model makes of it, e.g. "p 0.93, 3.2 % of the image".
      image: shown instead of the region, e.g. another image that looks the same.
    """

    title: str
    mask: Bool[np.ndarray, "h w"] | None
    about: str
    image: UInt8[np.ndarray, "_ _ 3"] | None = None


@dataclass(frozen=True)
class Entry:
    """One explained image.

    Attributes:
      name: unique in the data set, e.g. "species/0001.jpg".
      image: RGB, as the model saw it.
      maps: name -> map, in the order they are shown; any resolution. [0, 1] is shown as it is,
        anything else is scaled and the page says so; NaN is undefined and drawn grey.
      label: the true class. None: unknown.
      predicted: the class the model gives. None: unknown.
      target: the class that is explained. None: unknown.
      probability: of the target class.
      score: of the target class, e.g. log odds.
      metrics: name -> number for this image. None or NaN: undefined.
      box, mask, cue: annotation in pixels of `image` (see `fgjax.data.types.Example`).
      notes: name of a map -> a remark on it, such as "right, p 0.91".
      cutouts: regions of the image, shown before everything else.
      traces: name -> value at each step, e.g. {"p kept": [...], "p deleted": [...]}.
      reasons: why it should be looked at, e.g. "sure and wrong". The page can show those alone.
    """

    name: str
    image: UInt8[np.ndarray, "h w 3"]
    maps: Mapping[str, Float[np.ndarray, "_ _"]]
    label: str | None = None
    predicted: str | None = None
    target: str | None = None
    probability: Number | None = None
    score: Number | None = None
    metrics: Mapping[str, Number | None] = field(default_factory=dict)
    box: Float[np.ndarray, "4"] | None = None
    mask: Bool[np.ndarray, "h w"] | None = None
    cue: Bool[np.ndarray, "h w"] | None = None
    traces: Mapping[str, Sequence[Number]] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    cutouts: Sequence[Cutout] = ()
    reasons: Sequence[str] = ()


@dataclass(frozen=True)
class Failure:
    """An image that could not be used: at which stage, and why."""

    name: str
    stage: str
    reason: str


@dataclass(frozen=True)
class Page:
    """What a run's page shows.

    Attributes:
      title: the page's heading, e.g. the run's name.
      summary: a line under it.
      facts: versions, device, seconds, … as they shall be read.
      settings: the resolved config, a line per key.
      metrics, entries, failures: `entries` may be a generator; each is encoded as it comes. A
        page without the part on metrics has None.
      threshold: where the threshold slider starts. 0.5 as in the figures of the FIDO papers.
      opacity: where the opacity slider starts.
      colormap: a name matplotlib knows.
      nothing: what stands there instead of pictures when there are no entries.
    """

    title: str
    summary: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    metrics: Sequence[Metric] | None = ()
    entries: Iterable[Entry] = ()
    failures: Sequence[Failure] = ()
    threshold: float = 0.5
    opacity: float = 0.5
    colormap: str = "magma"
    nothing: str = "No image was explained in this run."
