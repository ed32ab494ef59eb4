"""The rules every test runs under.

Strict dtype promotion and no silent rank promotion: a float64 or a wrong
broadcast is an error here, not a surprise on an accelerator.
"""

import os
from pathlib import Path

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_platforms", "cpu")


def pytest_configure(config):
    """In CI the slow tests run too: they guard promises."""
    if os.environ.get("CI") and config.option.markexpr == "not slow":
        config.option.markexpr = ""


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images and weights (`FGJAX_SHARED`, else `../shared`).

    A laptop without it skips; CI fails, so that a promise is never skipped unseen.
    """
    root = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("FGJAX_SHARED", root.parent / "shared"))
    if not (folder / "data").is_dir():
        message = (
            f"no real images at {folder}: set FGJAX_SHARED to a folder with data/ and weights/"
        )
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return folder


@pytest.fixture(autouse=True, scope="module")
def quick_compilation(request):
    """Tests of single functions compile much and run little: XLA need not polish for them.

    Such programs round otherwise than polished ones, so none is left for the tests elsewhere.
    """
    if request.path.parent.name not in ("attribution", "models", "training"):
        yield
        return
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()
