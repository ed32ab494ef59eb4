"""Can a map be trusted? What its own numbers say against it."""

import math
from collections.abc import Mapping

UNSURE, SHARE, ALIKE = 0.5, 0.5, 0.5

BLANK = "blank map"
KEEPS_ITS_MAP = "map does not need the weights"
CHANGES_LITTLE = "removing it changes little"
NOT_SUFFICIENT = "not enough by itself"
INFILL_KEEPS = "infill keeps the class"
NOT_SURE = "classifier unsure"

DOUBTS = {
    BLANK: "the values differ by no more than rounding",
    KEEPS_ITS_MAP: f"|ρ| with the map of the network with a fresh last layer is {ALIKE} or more",
    CHANGES_LITTLE: f"replacing the mask takes less than {SHARE} of what replacing all takes",
    NOT_SUFFICIENT: f"less than {SHARE} p_full is left when only the mask is shown",
    INFILL_KEEPS: "p stays above 0.1 p_full with the whole image replaced: the infill's fault",
    NOT_SURE: f"p_full is below {UNSURE}",
}
"""What may be said, the gravest first, and when."""


def doubts(numbers: Mapping[str, float]) -> tuple[str, ...]:
    """Return what speaks against trusting a map, of `DOUBTS`, the gravest first.

    Args:
      numbers: of one image, by the names of results.csv: blank, randomisation_rank_correlation,
        p_full, p_kept, p_deleted, smallest_deleted, smallest_deleted_p. What is missing or NaN
        raises no doubt, but for smallest_deleted: NaN says that no region was found, for the whole
        image replaced has still smallest_deleted_p. Elsewhere that is taken for 0.

    Example:
      >>> doubts({"p_full": 0.9, "p_kept": 0.8, "p_deleted": 0.7})
      ('removing it changes little',)
    """
    known = {name: value for name, value in numbers.items() if math.isfinite(value)}
    full = known.get("p_full", math.nan)
    keeps = math.isnan(numbers.get("smallest_deleted", 0))
    floor = known.get("smallest_deleted_p", 0) if keeps else 0
    raised = {
        BLANK: known.get("blank", 0) > 0,
        KEEPS_ITS_MAP: known.get("randomisation_rank_correlation", 0) >= ALIKE,
        CHANGES_LITTLE: full - known.get("p_deleted", 0) < SHARE * (full - floor),
        NOT_SUFFICIENT: known.get("p_kept", math.inf) < SHARE * full,
        INFILL_KEEPS: keeps,
        NOT_SURE: full < UNSURE,
    }
    return tuple(doubt for doubt in DOUBTS if raised[doubt])
