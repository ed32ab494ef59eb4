"""Here PyTorch is needed: a laptop without it skips. CI fails, but where its set-up has said
(`FGJAX_PARITY=skip`) that there is none to be had."""

import importlib.util
import os

import pytest

if os.environ.get("CI") and os.environ.get("FGJAX_PARITY") != "skip":
    if importlib.util.find_spec("torch") is None:
        pytest.exit("CI must run tests/parity, and PyTorch is not installed: see .ci/run", 1)

if importlib.util.find_spec("torch") is not None:
    import torch

    # torchvision imports without its compiled operators once these two are declared.
    operators = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
