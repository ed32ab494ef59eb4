"""What a network's last linear layer reads of each image, computed once and kept on disk.

A file for each network and way to fit images: rows by a hash of what the image is.
"""

import hashlib
import io
import os
import zipfile
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fgjax.core.batching import fill_up
from fgjax.core.files import write_bytes
from fgjax.core.progress import progress
from fgjax.data.pipeline import load_examples
from fgjax.data.types import DataError, Record, Source
from fgjax.devices.jit import program
from fgjax.models.classifier import Classifier
from fgjax.training.optimizer import HEAD

BATCH = {"cpu": 16}
"""Images per forward pass, by backend."""


OF_NO_FEATURE = ("num_classes", "drop_path", "checkpointing", "parent", "name")
"""Fields of a network that its features do not depend on."""


def default_folder() -> Path | None:
    """Return where a user's features are kept; None for a user without a home."""
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return None
    return base / "fgjax" / "features"


def what_the_head_reads(model: Classifier, images: Float[Array, "n h w 3"]) -> Array:
    """Return the input of the network's last linear layer."""
    seen = []

    def note(call, args, kwargs, context):
        if context.module.path == (HEAD,) and context.method_name == "__call__":
            seen.append(args[0])
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        model(images)
    return seen[-1]


@program("explain")
def _read(model: Any, images: Any) -> Any:
    return what_the_head_reads(model, images).astype(jnp.float32)


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


class FeatureFile:
    """Rows of features by the image's hash; a damaged file counts as empty.

    Args:
      path: the file; None: nothing is kept.
    """

    def __init__(self, path: Path | None):
        self.path = path
        self.rows: dict[bytes, np.ndarray] = {}
        try:
            if path is not None:
                with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
                    keys, rows = held["keys"], held["rows"]
                if keys.shape == (len(rows), 16) and rows.ndim == 2 and np.isfinite(rows).all():
                    self.rows = {key.tobytes(): row for key, row in zip(keys, rows, strict=True)}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            self.rows = {}

    def save(self) -> None:
        """Write all rows, whole or not at all."""
        if self.path is None or not self.rows:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        stream = io.BytesIO()
        keys = np.frombuffer(b"".join(self.rows), np.uint8).reshape(-1, 16)
        np.savez(stream, keys=keys, rows=np.stack(list(self.rows.values())))
        write_bytes(self.path, stream.getvalue())


def features_of(
    model: Classifier,
    source: Source,
    records: Sequence[Record],
    held: FeatureFile,
    workers: int | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, str], int]:
    """Return features by the image's name, why some have none, and how many were computed."""
    keys: dict[str, bytes] = {}
    failed: dict[str, str] = {}
    for record in records:
        try:
            keys[record.name] = image_key(source, record)
        except DataError as error:
            failed[record.name] = str(error)
    missing = [r for r in records if r.name in keys and keys[r.name] not in held.rows]
    size = BATCH.get(jax.default_backend(), 128)
    chunk: list[tuple[Record, np.ndarray]] = []

    def run() -> None:
        filled = np.stack([image for _, image in fill_up(chunk, size)])
        rows = np.asarray(_read(model, jnp.asarray(filled.astype(np.float32) / 255)))
        for (record, _), row in zip(chunk, rows):
            if np.isfinite(row).all():
                held.rows[keys[record.name]] = row
            else:
                failed[record.name] = "the network returns no finite features for it"
        chunk.clear()

    before = len(held.rows)
    loaded = load_examples(source, missing, workers=workers, ahead=2 * size)
    with progress("features", len(missing)) as counter:
        for place, example in loaded:
            counter.advance()
            if isinstance(example, DataError):
                failed[missing[place].name] = str(example)
                continue
            chunk.append((missing[place], example.image))
            if len(chunk) == size:
                run()
        if chunk:
            run()
    computed = len(held.rows) - before
    if computed:
        held.save()
    found = {name: held.rows[key] for name, key in keys.items() if key in held.rows}
    return found, failed, computed
