"""`jax.jit` for programs that call a network: compiled with what is best for their kind of work."""

import functools
import threading
from collections.abc import Callable
from typing import Any

import jax

from fgjax.devices.compiler import Work, compiler_options

try:
    from jax.extend.core import get_opaque_trace_state
except ImportError:  # before jax 0.8
    from jax.core import get_opaque_trace_state


def program(work: Work = "explain", **how: Any) -> Callable[[Callable], "Program"]:
    """Return a decorator that compiles a function as `jax.jit(function, **how)` does, with
    `compiler_options(work)`.

    The options are asked for at each call, never at import. Called while something else is traced,
    the function becomes part of that: there the outermost `jit` decides.

    Args:
      work: what the function does, see `compiler_options`.
      how: as for `jax.jit`: static_argnames, donate_argnames, …
    """
    return lambda function: Program(function, work, how)


class Program:
    """A jitted function; see `program`. Has the methods of what `jax.jit` returns."""

    def __init__(self, function: Callable, work: Work, how: dict[str, Any]):
        functools.update_wrapper(self, function)
        self._function, self._work, self._how = function, work, how
        self._jitted: dict[tuple, Any] = {(): jax.jit(function, **how)}

    def _now(self) -> Any:
        """Return the function, jitted with the options of now."""
        options = compiler_options(self._work) if outermost() else {}
        key = tuple(options.items())
        if key not in self._jitted:
            self._jitted[key] = jax.jit(self._function, compiler_options=options, **self._how)
        return self._jitted[key]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the function returns."""
        return self._now()(*args, **kwargs)

    def lower(self, *args: Any, **kwargs: Any) -> Any:
        """Return the program for such arguments, not yet compiled."""
        return self._now().lower(*args, **kwargs)

    def trace(self, *args: Any, **kwargs: Any) -> Any:
        """Return the program for such arguments, not yet lowered."""
        return self._now().trace(*args, **kwargs)

    def eval_shape(self, *args: Any, **kwargs: Any) -> Any:
        """Return the shapes of what the function returns; nothing is computed."""
        return self._now().eval_shape(*args, **kwargs)

    def clear_cache(self) -> None:
        """Forget what was compiled."""
        for jitted in self._jitted.values():
            jitted.clear_cache()

    def _cache_size(self) -> int:
        return sum(jitted._cache_size() for jitted in self._jitted.values())


@functools.cache
def _untraced() -> Any:
    """Return the state of a thread in which nothing is traced."""
    found: list[Any] = []
    look = lambda: found.append(get_opaque_trace_state(convention="fgjax"))
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    return found[0]


def outermost() -> bool:
    """Return whether nothing is being traced: JAX takes compiler options nowhere else."""
    return get_opaque_trace_state(convention="fgjax") == _untraced()
