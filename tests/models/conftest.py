import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    """The programs here are compiled once and run a few times: XLA need not polish them.

    They round otherwise than polished ones, so none may be left for the tests elsewhere.
    """
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()
