"""`explain.against`: the classes that the explained class is told from."""

from collections.abc import Callable
from typing import Any

import numpy as np
from flax import traverse_util
from jaxtyping import Float

from fgjax.attribution.contrast import Contrast, contrast, similar_classes
from fgjax.core.progress import say
from fgjax.core.spelling import did_you_mean
from fgjax.options.schema import ConfigError
from fgjax.stages.job import Job

SECOND, SIBLINGS = "second", "siblings"
SIMILAR = 3
"""So many classes are siblings where no tree of classes says which."""

Rivals = Callable[[int, Float[np.ndarray, "k"]], tuple[int, ...]]
"""(The explained output, the image's logits) -> the outputs that it is told from."""


def find_rivals(job: Job) -> Rivals | None:
    """Return how an image's rivals are found; None where a class is explained by itself.

    Raises:
      ConfigError: no output has that name, or the classifier's last layer cannot be found.
    """
    against = job.config.explain.against
    if against is None:
        return None
    if against == SECOND:
        return _second
    if against == SIBLINGS:
        return _siblings(job)
    names = list(job.explained.outputs)
    if against not in names:
        hint = did_you_mean(against, [SECOND, SIBLINGS, *names])
        raise ConfigError(
            f"explain.against={against}: second, siblings, or the name of one of the "
            f"classifier's {len(names)} outputs.{hint}"
        )
    named = names.index(against)
    # An image of that class itself is told from the class that comes nearest.
    return lambda target, logits: _second(target, logits) if target == named else (named,)


def question(rivals: Rivals, model: Any, target: int, logits: Float[np.ndarray, "k"]) -> Contrast:
    """Return the model that answers for one image: `target`, and not its rivals?"""
    return contrast(model, target, rivals(target, logits))


def _second(target: int, logits: Float[np.ndarray, "k"]) -> tuple[int, ...]:
    order = np.argsort(-logits, kind="stable")
    return (int(order[order != target][0]),)


def _siblings(job: Job) -> Rivals:
    families = getattr(job.source, "families", ())
    known = {out: c for c, out in enumerate(job.explained.index) if out is not None}
    if families:
        say("explain: told from the siblings of its family")

        def of_family(target: int, logits: Float[np.ndarray, "k"]) -> tuple[int, ...]:
            own = families[known[target]] if target in known else None
            found = [o for o, c in known.items() if families[c] == own and o != target]
            return tuple(sorted(found)) or _second(target, logits)

        return of_family
    weights = _last_layer(job.explained.model)
    say(f"explain: told from the {SIMILAR} classes with the most similar weights in the last layer")
    return lambda target, logits: similar_classes(weights, target, SIMILAR)


def _last_layer(model: Any) -> Float[np.ndarray, "d k"]:
    """Return the weights of a classifier's last layer, a column for each output.

    Raises:
      ConfigError: there is no such layer, or more than one.
    """
    count = model.network.num_classes
    flat = traverse_util.flatten_dict(model.variables["params"], sep="/")
    found = {
        path: np.asarray(leaf).reshape(-1, count)
        for path, leaf in flat.items()
        if path.endswith("kernel") and leaf.shape[-1] == count and "classifier" in path
    }
    if len(found) != 1:
        raise ConfigError(
            f"explain.against=siblings: {model.name} has no single last layer whose weights say "
            "which classes are similar; give explain.against=second, or a class"
        )
    return next(iter(found.values()))
