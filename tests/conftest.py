"""The rules every test runs under.

Strict dtype promotion and no silent rank promotion: a float64 or a wrong
broadcast is an error here, not a surprise on an accelerator.

Most of a test's time is compiling. So a program is compiled once for all tests, for both workers
and for the processes that tests start; and XLA does not polish it (`POLISHED` says where it does).
"""

import gc
import os
import shutil
import tempfile
from pathlib import Path

import jax
import pytest

from fgjax.devices.compiler import use_onednn

SETTINGS = {
    "jax_platforms": "cpu",
    "jax_traceback_filtering": "off",  # filtering takes a twentieth of the time
    "jax_persistent_cache_min_compile_time_secs": 0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
    "jax_disable_most_optimizations": os.environ.get("FGJAX_POLISHED") is None,
    "jax_compilation_cache_dir": os.environ.get("JAX_COMPILATION_CACHE_DIR"),
}
OWN_CACHE = not SETTINGS["jax_compilation_cache_dir"]  # else a worker's, or one that is kept
if OWN_CACHE:
    SETTINGS["jax_compilation_cache_dir"] = tempfile.mkdtemp(prefix="fgjax-tests-")
for name, value in SETTINGS.items():
    os.environ[name.upper()] = str(value)  # of the workers and of the processes that tests start
    jax.config.update(name, value)
if jax.__version_info__ < (0, 11) and "XLA_FLAGS" not in os.environ:
    # It compiles in half the time without its fusion emitters and in one piece. A newer JAX has no
    # such flags, and tests them: CI runs both.
    os.environ["XLA_FLAGS"] = (
        "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    )
# What is kept for a user over all runs is kept here for a suite: nothing of it is left behind.
OWN_HOME = "FGJAX_TESTS_CACHE" not in os.environ
if OWN_HOME:
    os.environ["FGJAX_TESTS_CACHE"] = tempfile.mkdtemp(prefix="fgjax-tests-")
os.environ["XDG_CACHE_HOME"] = os.environ["FGJAX_TESTS_CACHE"]
gc.set_threshold(50_000, 20, 50)  # tracing makes many small objects, and few of them are garbage
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

POLISHED = ("parity", "real")
"""Folders of tests whose programs are compiled as a user's are: real networks on real images."""


use_onednn(os.environ.get("FGJAX_ONEDNN", "off"))  # or auto, on: slower, no cache takes them


WEEKLY = [
    line
    for line in Path(__file__).with_name("weekly.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]


def pytest_configure(config):
    """In CI the slow tests run too, but for those of every week: they guard promises."""
    if os.environ.get("CI") and config.option.markexpr == "not slow":
        config.option.markexpr = "not weekly"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark what `weekly.txt` names, a test or one case of it; the longest files come first."""
    items.sort(key=lambda item: item.path.parent.name not in ("stages", "sweeps"))
    for item in items:
        name = item.nodeid.removeprefix("tests/")
        if name in WEEKLY or name.split("[")[0] in WEEKLY:
            item.add_marker("slow")
            item.add_marker("weekly")


def pytest_unconfigure(config):
    if OWN_HOME:
        shutil.rmtree(os.environ["FGJAX_TESTS_CACHE"], ignore_errors=True)
    if OWN_CACHE:
        shutil.rmtree(SETTINGS["jax_compilation_cache_dir"], ignore_errors=True)


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
def compilation(request):
    """Programs that were not polished round otherwise: none is left for the tests elsewhere."""
    if request.path.parent.name not in POLISHED:
        yield
        return
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()
    yield
    jax.config.update("jax_disable_most_optimizations", SETTINGS["jax_disable_most_optimizations"])
    jax.clear_caches()
