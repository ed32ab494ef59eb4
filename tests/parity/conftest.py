"""Here PyTorch is needed: a laptop without it skips, CI fails."""

import importlib.util
import os

import pytest

if os.environ.get("CI") and importlib.util.find_spec("torch") is None:
    pytest.exit("CI must run tests/parity, and PyTorch is not installed: see .ci/run", 1)
