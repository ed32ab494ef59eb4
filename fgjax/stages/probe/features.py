"""What a network's last linear layer reads of each image, computed once and kept on disk.

A file for each network and way to fit images: rows by a hash of what the image is.
"""

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fgjax.core.files import write_bytes
from fgjax.data.types import Record, Source
from fgjax.devices.jit import program
from fgjax.models.classifier import Classifier
from fgjax.stages.frozen.cache import each_answer, keys_of
from fgjax.training.optimizer import HEAD


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
    keys, failed = keys_of(source, records)
    missing = [r for r in records if r.name in keys and keys[r.name] not in held.rows]
    before = len(held.rows)
    ask = lambda images: np.asarray(_read(model, images))
    for record, found in each_answer(ask, source, missing, workers, "features"):
        if isinstance(found, str):
            failed[record.name] = found
        else:
            held.rows[keys[record.name]] = found
    computed = len(held.rows) - before
    if computed:
        held.save()
    known = {name: held.rows[key] for name, key in keys.items() if key in held.rows}
    return known, failed, computed
