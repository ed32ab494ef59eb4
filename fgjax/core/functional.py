"""Calling any model as a pure function, compiled once.

A model is any callable pytree `images -> logits`. Its arrays travel through `jit` as
arguments; whatever else hangs on it (functions, numbers, strings) is static. So a
Linen `Partial`, an Equinox module, an `fgjax` classifier and a plain function are
all called the same way, and the same model object compiles once.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np


@dataclass(frozen=True)
class Static:
    """What is left of a model when its arrays are taken out: hashable, so `jit` can key on it.

    Attributes:
      treedef: the model's structure.
      leaves: what is no array; None where an array was.
      kinds: the classes of its nodes. A tree's structure does not tell them apart, and two
        classes may compute other things from the same arrays.
    """

    treedef: Any
    leaves: tuple[Any, ...]
    kinds: tuple[type, ...] = ()


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, (jax.Array, np.ndarray, np.generic))


def partition(model: Any) -> tuple[tuple[Any, ...], Static]:
    """Split a model into its arrays and the rest.

    Returns:
      arrays: the array leaves, None where a leaf is not an array.
      static: the rest; hashable. `combine(arrays, static)` gives the model back.

    Raises:
      TypeError: the model cannot be called, or a part of it that is not an array
        cannot be hashed.
    """
    if not callable(model):
        raise TypeError(
            f"a model must be callable as images -> logits; got {type(model).__name__}. "
            "Wrap it: jax.tree_util.Partial(net.apply, variables)"
        )
    leaves, treedef = jax.tree.flatten(model)
    arrays = tuple(leaf if _is_array(leaf) else None for leaf in leaves)
    rest = tuple(None if _is_array(leaf) else leaf for leaf in leaves)
    static = Static(treedef, rest, tuple(_kinds(treedef)))
    try:
        hash(static)
    except TypeError as error:
        raise TypeError(
            f"the model holds something that is neither an array nor hashable ({error}); "
            "jit needs one or the other"
        ) from None
    return arrays, static


def _kinds(treedef: Any) -> Iterator[type]:
    node = treedef.node_data()
    if node is not None:
        yield node[0]
        for child in treedef.children():
            yield from _kinds(child)


def combine(arrays: tuple[Any, ...], static: Static) -> Any:
    """Put a model together again. See `partition`."""
    leaves = [a if a is not None else s for a, s in zip(arrays, static.leaves, strict=True)]
    return jax.tree.unflatten(static.treedef, leaves)
