"""From records to batches: decoding in threads, stacking, order, fingerprint.

Everywhere here `source` is a `fgjax.data.types.Source`.
"""

import hashlib
import json
import os
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from fgjax.data.types import SPLITS, DataError, Example, Record, Source, Split


@dataclass(frozen=True)
class Batch:
    """Examples stacked into arrays. What an example lacks is filled and marked.

    Attributes:
      images: RGB.
      labels: class indices; -1 where there is none.
      boxes: x0, y0, x1, y1 in pixels; NaN where there is none.
      masks: True on the object; all False where `has_mask` is False.
      has_mask: which examples have a mask.
      cues: True on the part that tells the class; all False where `has_cue` is False.
      has_cue: which examples have a cue.
      landmarks: x, y, visible; zeros (so not visible) where there are none.
    """

    images: UInt8[np.ndarray, "n h w 3"]
    labels: Int[np.ndarray, "n"]
    boxes: Float[np.ndarray, "n 4"]
    masks: Bool[np.ndarray, "n h w"]
    has_mask: Bool[np.ndarray, "n"]
    cues: Bool[np.ndarray, "n h w"]
    has_cue: Bool[np.ndarray, "n"]
    landmarks: Float[np.ndarray, "n parts 3"]


def load_examples(
    source: Source,
    records: Sequence[Record],
    *,
    workers: int | None = None,
    ahead: int | None = None,
    on_error: Literal["yield", "raise"] = "yield",
) -> Iterator[tuple[int, Example | DataError]]:
    """Load records in threads and yields them in their order.

    At most `ahead` examples are loaded ahead, so memory stays bounded however long the
    list is.

    Args:
      source: the data set.
      records: what to load.
      workers: how many threads; None: one per core, at most 8.
      ahead: how many examples may wait to be asked for; None: 4 per worker.
      on_error: what happens to a record that cannot be loaded: its DataError is
        yielded in its place, or raised. An unexpected exception of the source
        becomes a DataError that names the record.

    Yields:
      The position in `records` and the example, or its error.
    """
    if workers is None:
        workers = min(os.cpu_count() or 1, 8)
    if workers < 1:
        raise ValueError(f"workers must be at least 1, not {workers}")
    if on_error not in ("yield", "raise"):
        raise ValueError(f'on_error must be "yield" or "raise", not {on_error!r}')
    return _load_examples(source, records, workers, ahead or 4 * workers, on_error)


def _load_examples(source, records, workers, ahead, on_error):
    pool = ThreadPoolExecutor(workers, thread_name_prefix="fgjax-load")
    waiting: deque[tuple[int, Future]] = deque()
    following = enumerate(records)
    try:
        while True:
            while len(waiting) < ahead and (item := next(following, None)):
                waiting.append((item[0], pool.submit(_load, source, item[1])))
            if not waiting:
                return
            position, future = waiting.popleft()
            outcome = future.result()
            if on_error == "raise" and isinstance(outcome, DataError):
                raise outcome
            yield position, outcome
    finally:
        pool.shutdown(cancel_futures=True)


def _load(source, record: Record) -> Example | DataError:
    try:
        return source.load(record)
    except Exception as error:
        # The traceback's frames hold decoded images: without this, a list of failures
        # would keep them all.
        for cause in (error, error.__cause__):
            traceback.clear_frames(cause.__traceback__ if cause else None)
        if isinstance(error, DataError):
            return error
        wrapped = DataError(f"{record.name}: could not be loaded: {type(error).__name__}: {error}")
        wrapped.__cause__ = error
        return wrapped


def load_batch(source: Source, records: Sequence[Record], *, workers: int | None = None) -> Batch:
    """Load and stacks records; raises the DataError of the first that cannot be."""
    loaded = load_examples(source, records, workers=workers, on_error="raise")
    return stack([example for _, example in loaded if isinstance(example, Example)])


def stack(examples: Sequence[Example]) -> Batch:
    """Stack examples of one image size.

    Raises:
      ValueError: no examples, or they differ in image size or number of landmarks.
    """
    shapes = sorted({example.image.shape for example in examples})
    if len(shapes) != 1:
        raise ValueError(f"a batch needs examples of one image size, not of {shapes}")
    parts = {len(e.landmarks) for e in examples if e.landmarks is not None} or {0}
    if len(parts) != 1:
        raise ValueError(f"a batch needs one number of landmarks, not {sorted(parts)}")

    no_mask = np.zeros(shapes[0][:2], bool)
    no_box = np.full(4, np.nan, np.float32)
    no_landmarks = np.zeros((parts.pop(), 3), np.float32)

    def column(values, default):
        filled = [default if value is None else value for value in values]
        return np.stack(filled).astype(default.dtype, copy=False)

    return Batch(
        images=np.stack([e.image for e in examples]),
        labels=np.array([-1 if e.label is None else e.label for e in examples], np.int32),
        boxes=column([e.box for e in examples], no_box),
        masks=column([e.mask for e in examples], no_mask),
        has_mask=np.array([e.mask is not None for e in examples]),
        cues=column([e.cue for e in examples], no_mask),
        has_cue=np.array([e.cue is not None for e in examples]),
        landmarks=column([e.landmarks for e in examples], no_landmarks),
    )


def epoch_order(seed: int, epoch: int, n: int) -> Int[np.ndarray, "n"]:
    """Return the order of n examples in an epoch: a pure function of its arguments.

    Raw generator output is sorted, because NumPy keeps that the same in all its
    versions, and `permutation` not.
    """
    draws = np.random.PCG64(np.random.SeedSequence([seed, epoch])).random_raw(n)
    return np.argsort(draws, kind="stable")


def balanced_order(seed: int, epoch: int, labels: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    """Return places of n examples, in which every class comes up alike, but for one: those of rare
    classes several times, of frequent ones other examples in every epoch."""
    shuffled = epoch_order(seed, epoch, len(labels))
    classes = np.unique(labels)
    classes = classes[epoch_order(seed, epoch, len(classes))]  # the last round may end early
    rounds = -(-len(labels) // len(classes))
    own = [np.resize(shuffled[labels[shuffled] == one], rounds) for one in classes]
    return np.stack(own, axis=1).ravel()[: len(labels)][shuffled]


def take(records: Sequence[Record], limit: int | None) -> tuple[Record, ...]:
    """At most `limit` records of each split, spread evenly over the classes.

    The first image of every class comes first, then the second of every class, and
    so on until the limit; what is kept stays in its old order. None keeps all.
    """
    if limit is None:
        return tuple(records)
    if limit < 1:
        raise ValueError(f"limit must be at least 1 image, not {limit}")
    kept: set[int] = set()
    for split in SPLITS:
        seen: dict[int | None, int] = {}
        turns = []
        for position, record in enumerate(records):
            if record.split == split:
                turns.append((seen.get(record.label, 0), position))
                seen[record.label] = seen.get(record.label, 0) + 1
        kept.update(position for _, position in sorted(turns)[:limit])
    return tuple(records[position] for position in sorted(kept))


def fingerprint(source: Source, split: Split | None = None) -> str:
    """Return a hash of what the data set is: classes, landmark names, names, labels, splits.

    Of one split only, where it is named. A source that reads files offers
    `file(record) -> Path`; then the sizes of the files count too (a missing file as -1).
    Their contents are not read.
    """
    digest = hashlib.sha256()
    file = getattr(source, "file", None)

    def add(*values):
        digest.update(json.dumps(values).encode() + b"\n")

    add(source.classes, source.landmark_names)
    for record in source.records:
        if split not in (None, record.split):
            continue
        size = None if file is None else _file_size(file(record))
        add(record.name, record.label, record.split, size)
    return digest.hexdigest()


def _file_size(path: os.PathLike) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1
