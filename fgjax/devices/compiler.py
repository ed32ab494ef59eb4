"""Compiler options that make a kind of work faster on the backend that is there.

Stock jaxlib has oneDNN's convolutions for the CPU from 0.11 on, and leaves them off. A program asks
for them by `jax.jit(compiler_options=…)`, on the outermost `jit` alone; see `fgjax.devices.jit`.
"""

import warnings
from functools import cache
from typing import Any, Literal

import jax
import jax.numpy as jnp
import jaxlib

from fgjax.devices.measured import CPU, NEWER

Work = Literal["explain", "train"]

_mode = "auto"

UNCACHED = "Error writing persistent compilation cache entry"
"""How JAX begins to tell that a program could not be put into its cache on disk."""


def use_onednn(mode: str) -> None:
    """Say whether programs ask for oneDNN's convolutions, from their next call on.

    Args:
      mode: "auto": on a CPU, where it measured faster; "on": wherever the compiler has them;
        "off": nowhere.

    Raises:
      ValueError: another mode.
    """
    global _mode
    if mode not in ("auto", "on", "off"):
        raise ValueError(f"oneDNN can be auto, on or off, not {mode!r}")
    _mode = mode


def compiler_options(work: str = "explain") -> dict[str, Any]:
    """Return what is best for a kind of work, for `jax.jit(…, compiler_options=…)`.

    The compiler is asked whether it has what it would be told to use: a small convolution is
    compiled, once. Empty where nothing helps: on an accelerator, on jax 0.10, or switched off by
    `use_onednn`.

    Args:
      work: "explain": forward passes, or with the gradient by the images; "train": with that by
        the weights, and batch statistics.

    Raises:
      ValueError: another kind of work.

    Example:
      >>> options = fgjax.compiler_options("explain")
      >>> predict = jax.jit(lambda images: model(images), compiler_options=options)
    """
    if work not in CPU:
        raise ValueError(f"work={work!r}: one of {', '.join(CPU)}")
    if _mode == "off" or jax.default_backend() != "cpu":
        return {}
    measured = CPU[work]
    if _mode == "auto" and _version() < measured.since:
        return {}
    return dict(measured.options) if has_onednn(work) else {}


@cache
def has_onednn(work: str = "explain") -> bool:
    """Return whether the CPU's compiler, told so, makes a convolution one of oneDNN's."""
    # These programs cannot be put on disk (jaxlib 0.12: MemoryError), and JAX warns of each.
    warnings.filterwarnings("ignore", UNCACHED)
    image = jax.ShapeDtypeStruct((1, 16, 16, 16), jnp.float32)
    kernel = jax.ShapeDtypeStruct((3, 3, 16, 16), jnp.float32)

    def convolve(image, kernel):
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(image, kernel, (1, 1), "SAME", dimension_numbers=layout)

    try:
        program = jax.jit(convolve, compiler_options=CPU[work].options)
        text = program.trace(image, kernel).lower(lowering_platforms=("cpu",)).compile().as_text()
    except (jax.errors.JaxRuntimeError, ValueError):  # it does not know such options
        return False
    return "__onednn$convolution" in (text or "")


def onednn_in_use() -> dict[str, bool]:
    """Return, for every kind of work, whether its programs ask for oneDNN's convolutions."""
    return {work: bool(compiler_options(work)) for work in CPU}


def newer_jax_is_faster() -> str | None:
    """Return what to tell a user whose jax computes on a CPU without oneDNN's convolutions, though
    a newer one has them; None where there is nothing to tell."""
    if _mode == "off" or jax.default_backend() != "cpu" or _version() >= (0, 11):
        return None
    return (
        f"jax {jax.__version__} computes convolutions on the CPU without oneDNN: with jax 0.12 "
        f"(Python 3.12 or newer) ResNet-18 is explained {NEWER[1]} to {NEWER[0]} times as fast, "
        f"and trained {NEWER[2]} times as fast"
    )


def _version() -> tuple[int, ...]:
    return tuple(int(part) for part in jaxlib.__version__.split(".")[:2])
