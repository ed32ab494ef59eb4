"""What the model makes of every drawing of a bird: asked once, looked up by every method."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from fgjax.data.types import Record
from fgjax.evaluation.funnybirds import (
    background_independence,
    irrelevant_parts,
    rival_classes,
    rivals_behave,
    sufficient_sets,
)
from fgjax.evaluation.part_swaps import flipping_parts
from fgjax.stages.classifier import Explained

CHUNK = 32
"""Drawings that the model is asked about at a time: those of a bird."""


class LookUp(NamedTuple):
    """Everything that the numbers of all methods are looked up in.

    Attributes:
      images: the whole birds.
      logits: of every drawing without a subset of the parts.
      masks: of the parts, then of the things; nothing where there is no such thing.
      irrelevant: of the parts, then of the things.
      rivals: two other classes, and `shared` the parts the bird has in common with each.
      sufficient: the smallest sets of parts that tell each bird's class.
      correct: the whole bird is classified right.
      background: BI, of the model.
      behaves: the model does with the rivals what target sensitivity takes for granted.
      flips: the parts of which a swap changes the prediction; None: they cannot be swapped.
      swaps: every swap, and what the model says of it.
    """

    images: Float[np.ndarray, "n h w 3"]
    logits: Float[np.ndarray, "n subsets k"]
    masks: Bool[np.ndarray, "n q h w"]
    irrelevant: Bool[np.ndarray, "n q"]
    labels: Int[np.ndarray, "n"]
    rivals: Int[np.ndarray, "n 2"]
    shared: Bool[np.ndarray, "n 2 p"]
    sufficient: list[Bool[np.ndarray, "s p"]]
    correct: Bool[np.ndarray, "n"]
    background: Float[np.ndarray, "n"]
    behaves: Bool[np.ndarray, "n"]
    flips: Bool[np.ndarray, "n p"] | None = None
    swaps: tuple[dict[str, Any], ...] = ()


def look_up(source: Any, explained: Explained, records: tuple[Record, ...]) -> LookUp:
    """Draw every bird without every subset of its parts, and ask the model about each drawing.

    Args:
      source: one with `subsets(record)`, `kinds` and `parts`, and `swaps(record)` where parts can
        be swapped; the model's outputs are its classes.
    """
    kinds = source.kinds
    labels = np.array([record.label for record in records])
    output = np.array([explained.index[label] for label in range(len(kinds))])
    images, logits, scores, without, masks = [], [], [], [], []
    for record, label in zip(
        records, labels.tolist(), strict=True
    ):  # one bird's drawings at a time
        birds = source.subsets(record)
        found = _ask(explained, birds.images)[:, output]
        fewer = np.zeros(0)
        if len(birds.things):
            fewer = _ask(explained, birds.without_things)[:, output[label]]
        alone = found[2 ** np.arange(len(birds.masks)), label]
        images.append(birds.images[0])
        logits.append(found)
        scores.append(found[0, label])
        without.append(np.concatenate([alone, fewer]))
        masks.append(np.concatenate([birds.masks, birds.things]))
    most = max(len(own) for own in masks)
    filled = [np.append(own, np.full(most - len(own), np.nan)) for own in without]
    none = np.zeros((most, *masks[0].shape[1:]), bool)
    every_mask = np.stack([np.concatenate([own, none[len(own) :]]) for own in masks])
    score, fewer, seen = np.array(scores), np.array(filled), np.any(every_mask, axis=(2, 3))
    irrelevant = irrelevant_parts(score, np.where(seen, fewer, score[:, None]), seen)
    rivals = np.array([_rivals(kinds, label) for label in labels.tolist()])
    shared = (kinds[rivals] == kinds[labels][:, None]) & (rivals != labels[:, None])[..., None]
    every, parts = np.stack(logits), kinds.shape[1]
    flips, swaps = _swaps(source, explained, records, every[:, 0].argmax(1), output)
    return LookUp(
        images=np.stack(images).astype(np.float32) / 255,
        logits=every,
        masks=every_mask,
        irrelevant=irrelevant,
        labels=labels,
        rivals=rivals,
        shared=shared,
        sufficient=[sufficient_sets(kinds, label) for label in labels.tolist()],
        correct=every[:, 0].argmax(1) == labels,
        background=background_independence(irrelevant[:, parts:], seen[:, parts:]),
        behaves=rivals_behave(every, rivals, shared),
        flips=flips,
        swaps=swaps,
    )


def _rivals(kinds: Int[np.ndarray, "k p"], label: int) -> tuple[int, int]:
    """Return two rival classes; the class itself where there are none, which behave as no rival."""
    try:
        return rival_classes(kinds, label)
    except ValueError:
        return label, label


def _swaps(source, explained, records, before, output):
    """Return which parts' swaps change each bird's prediction, and a row of each swap."""
    if not hasattr(source, "swaps"):
        return None, ()
    flips, rows = [], []
    for record, own in zip(records, before.tolist(), strict=True):
        drawn = source.swaps(record)
        after = _ask(explained, drawn.images)[:, output].argmax(1)
        flips.append(flipping_parts(own, after, drawn.parts, len(source.parts)))
        for part, donors, said in zip(drawn.parts, drawn.donors, after.tolist(), strict=True):
            rows.append({
                "name": record.name,
                "part": source.parts[part],
                "of": "; ".join(source.classes[k] for k in np.flatnonzero(donors)),
                "class": source.classes[record.label],
                "before": source.classes[own],
                "after": source.classes[said],
                "flips": int(said != own),
                "as_the_part_says": int(said != own and donors[said]),
            })  # fmt: skip
    return np.stack(flips), tuple(rows)


def _ask(explained: Explained, images: np.ndarray) -> np.ndarray:
    """Return the logits, `CHUNK` drawings at a time, the last repeated: one program."""
    found = []
    for start in range(0, len(images), CHUNK):
        some = images[start : start + CHUNK].astype(np.float32) / 255
        filled = np.concatenate([some, np.repeat(some[-1:], CHUNK - len(some), axis=0)])
        found.append(np.asarray(explained.predict(filled))[: len(some)])
    return np.concatenate(found)
