import jax
import pytest


@pytest.fixture(autouse=True, scope="package")
def quick_compilation():
    """The programs here are compiled once and run a few times: XLA need not polish them."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
