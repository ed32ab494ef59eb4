"""The peak of memory follows what is allocated meanwhile; what is free is what the system says."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fgjax.devices.memory import (
    PeakMemory,
    _left_of_group,
    bytes_in_use,
    host_free_bytes,
    is_exhausted,
    program_bytes,
)


@pytest.mark.skipif(bytes_in_use() is None, reason="this system does not tell its memory")
def test_the_peak_is_that_of_meanwhile():
    before = bytes_in_use()
    with PeakMemory() as memory:
        block = np.ones(25_000_000)  # 200 MB
        time.sleep(0.1)
        del block
    assert 150e6 < memory.peak - before < 400e6


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
