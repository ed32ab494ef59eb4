"""The peak of memory follows what is allocated meanwhile; what is free is what the system says."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from fgjax.devices.memory import (
    _left_of_group,
    bytes_in_use,
    host_free_bytes,
    is_exhausted,
    program_bytes,
)


@pytest.mark.skipif(bytes_in_use() is None, reason="this system does not tell its memory")
def test_the_peak_is_that_of_meanwhile():
    """In a process of its own: what tests before gave back to the system would hide it."""
    program = (
        "import time; import numpy as np;"
        "from fgjax.devices.memory import PeakMemory, bytes_in_use;"
        "before = bytes_in_use(); memory = PeakMemory();"
        "memory.__enter__(); block = np.ones(25_000_000); time.sleep(0.3); del block;"
        "memory.__exit__(); print(memory.peak - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert 150e6 < int(done.stdout) < 400e6


@pytest.mark.skipif(host_free_bytes() is None, reason="this system does not tell its memory")
def test_what_is_free_is_less_than_there_is():
    assert 2**20 < host_free_bytes() < 2**50


def test_a_container_leaves_less(tmp_path):
    """Its limit less what it uses, pages it would give up not counted."""
    assert _left_of_group(tmp_path) is None
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("700000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 200000\nactive_file 7\n")
    assert _left_of_group(tmp_path) == 500_000
    (tmp_path / "memory.max").write_text("max\n")
    assert _left_of_group(tmp_path) is None


def test_a_program_takes_its_arguments_results_and_what_it_needs_between():
    x = jax.ShapeDtypeStruct((1000,), jnp.float32)
    double = jax.jit(lambda x: 2 * x).lower(x).compile()
    assert program_bytes(double) == 8000
    kept = jax.jit(lambda x: 2 * x, donate_argnums=0).lower(x).compile()
    assert program_bytes(kept) == 4000
    product = jax.jit(lambda x: jnp.sort(x[:, None] * x[None], axis=0)[:, 0]).lower(x).compile()
    assert program_bytes(product) >= 8000 + 1000 * 1000 * 4


def test_a_lack_of_memory_is_told_from_other_errors():
    assert is_exhausted(jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"))
    assert not is_exhausted(jax.errors.JaxRuntimeError("INTERNAL: cuDNN"))
    assert not is_exhausted(ValueError("RESOURCE_EXHAUSTED"))
