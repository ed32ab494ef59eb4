"""What a frozen network makes of each image: computed in batches, and kept under hashes of the
network and of the image."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fgjax.core.batching import fill_up
from fgjax.core.files import user_cache
from fgjax.core.progress import progress
from fgjax.data.pipeline import load_examples
from fgjax.data.types import DataError, Record, Source
from fgjax.models.classifier import Classifier
from fgjax.training.optimizer import HEAD

BATCH = {"cpu": 16}
"""Images per forward pass, by backend."""
OF_NO_FEATURE = ("num_classes", "drop_path", "checkpointing", "parent", "name")
"""Fields of a network that its features do not depend on."""


def default_folder() -> Path | None:
    """Return where a user's features are kept; None for a user without a home."""
    base = user_cache()
    return None if base is None else base / "features"


def network_key(model: Classifier) -> str:
    """Return a hash of all that features depend on beside the image: every weight but the head's,
    and how the network is made."""
    network = model.network
    made = {
        f.name: getattr(network, f.name) for f in fields(network) if f.name not in OF_NO_FEATURE
    }
    kind = (type(network).__name__, made, model.mean, model.std)
    digest = hashlib.sha256(repr(kind).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(model.variables):
        name = jax.tree_util.keystr(path)
        if f"['{HEAD}']" not in name:
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:32]


def image_key(source: Source, record: Record) -> bytes:
    """Return a hash of an image and of how it becomes a square: of its file where that is all,
    else of its pixels.

    Raises:
      DataError: it cannot be read.
    """
    whole = hasattr(source, "file") and hasattr(source, "fit") and not hasattr(source, "boxes")
    if whole:
        folder: Any = source
        digest = hashlib.sha256(repr(folder.fit).encode())
        try:
            digest.update(folder.file(record).read_bytes())
        except OSError as error:
            raise DataError(f"{error.filename}: {error.strerror}") from None
    else:
        image = source.load(record).image
        digest = hashlib.sha256(repr(image.shape).encode())
        digest.update(image.tobytes())
    return digest.digest()[:16]


def keys_of(source: Source, records: Sequence[Record]) -> tuple[dict[str, bytes], dict[str, str]]:
    """Return `image_key` by the image's name, and why some have none."""
    keys: dict[str, bytes] = {}
    failed: dict[str, str] = {}
    for record in records:
        try:
            keys[record.name] = image_key(source, record)
        except DataError as error:
            failed[record.name] = str(error)
    return keys, failed


def each_answer(
    ask: Callable[[Float[Array, "n h w 3"]], Float[np.ndarray, "n *d"]],
    source: Source,
    records: Sequence[Record],
    workers: int | None,
    what: str,
) -> Iterator[tuple[Record, np.ndarray | str]]:
    """Yield for every image what the network makes of it, or why there is nothing.

    Args:
      ask: from images in [0, 1], always as many, to a row for each.
      what: is computed, in a word.
    """
    size = BATCH.get(jax.default_backend(), 128)
    chunk: list[tuple[Record, np.ndarray]] = []

    def answers() -> Iterator[tuple[Record, np.ndarray | str]]:
        filled = np.stack([image for _, image in fill_up(chunk, size)])
        rows = ask(jnp.asarray(filled.astype(np.float32) / 255))
        for (record, _), row in zip(chunk, rows):
            broken = "the network returns no finite features for it"
            yield record, row if np.isfinite(row).all() else broken
        chunk.clear()

    loaded = load_examples(source, records, workers=workers, ahead=2 * size)
    with progress(what, len(records)) as counter:
        for place, example in loaded:
            counter.advance()
            if isinstance(example, DataError):
                yield records[place], str(example)
                continue
            chunk.append((records[place], example.image))
            if len(chunk) == size:
                yield from answers()
        if chunk:
            yield from answers()
