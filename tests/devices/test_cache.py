"""Compiled programs on disk: a second start compiles nothing."""

import json
import os
import subprocess
import sys

import pytest

from fgjax.devices import cache

EXPLAIN = """
import collections, json
import jax, jax.numpy as jnp
import fgjax
from fgjax.devices.cache import use_cache
from fgjax.devices.compiler import use_onednn

use_cache()
use_onednn("off")  # a program with oneDNN's convolutions cannot be put on disk
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # of these, all are quick
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
counts = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **about: counts.update([event]))

def model(weights, images):
    return jnp.einsum("nhwc,hwk->nk", images, weights)

weights = jax.random.normal(jax.random.key(0), (16, 16, 4))
config = fgjax.OcclusionConfig(window=8, stride=8)
images, targets = jnp.full((1, 16, 16, 3), 0.5), jnp.array([0])
model = jax.tree_util.Partial(model, weights)
fgjax.occlusion(model, images, targets, config=config).heatmap.block_until_ready()
fgjax.gradient(model, images, targets).heatmap.block_until_ready()
print(json.dumps({name.rpartition("/")[2]: count for name, count in counts.items()}))
"""


def start(folder):
    """Explain in a fresh process; return how often the cache had a program, and had it not."""
    left_out = ("JAX_COMPILATION_CACHE_DIR", "JAX_DISABLE_MOST_OPTIMIZATIONS")
    env = {k: v for k, v in os.environ.items() if k not in left_out}
    done = subprocess.run(
        [sys.executable, "-c", EXPLAIN],
        env=env | {"XDG_CACHE_HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    return counts.get("cache_hits", 0), counts.get("cache_misses", 0)


@pytest.mark.slow
def test_a_second_start_compiles_nothing(tmp_path):
    hits, misses = start(tmp_path)
    assert misses > 3 and hits < misses
    assert oct((tmp_path / "fgjax" / "jax").stat().st_mode)[-3:] == "700"
    assert start(tmp_path) == (hits + misses, 0)


def test_a_folder_that_others_may_write_to_is_not_used(tmp_path, monkeypatch):
    folder = tmp_path / "fgjax" / "jax"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    told = []
    monkeypatch.setattr(cache.jax.config, "update", lambda name, value: told.append(name))
    cache.use_cache()
    assert not told
    folder.chmod(0o700)
    cache.use_cache()
    assert "jax_compilation_cache_dir" in told
