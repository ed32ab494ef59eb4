"""What the tests of all metrics share."""

import jaxtyping
import pytest


@pytest.fixture
def untyped():
    """As a user calls it: without the tests' type checks, which would be faster to complain."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
