"""How good is an attribution map: where it lies, what the model does without it, its shape."""

from fgjax.evaluation.baselines import (
    center_box,
    center_box_of_area,
    constant,
    random_box_of_area,
    random_maps,
    top_share,
    whole_object,
)
from fgjax.evaluation.faithfulness import (
    KeptAndDeleted,
    curve_protocol,
    deletion,
    insertion,
    kept_and_deleted,
)
from fgjax.evaluation.localization import (
    area,
    box_iou,
    box_mask,
    box_of,
    covered,
    energy_inside,
    false_detection_rate,
    iou,
    point_of,
    pointing_game,
    share_inside,
    threshold,
)
from fgjax.evaluation.summary import (
    Summary,
    difference_interval,
    evaluate_maps,
    protocols,
    summarise,
)
from fgjax.filters import total_variation

__all__ = [
    "KeptAndDeleted",
    "Summary",
    "area",
    "box_iou",
    "box_mask",
    "box_of",
    "center_box",
    "center_box_of_area",
    "constant",
    "covered",
    "curve_protocol",
    "deletion",
    "difference_interval",
    "energy_inside",
    "evaluate_maps",
    "false_detection_rate",
    "insertion",
    "iou",
    "kept_and_deleted",
    "point_of",
    "pointing_game",
    "protocols",
    "random_box_of_area",
    "random_maps",
    "share_inside",
    "summarise",
    "threshold",
    "top_share",
    "total_variation",
    "whole_object",
]
