"""What goes into a frozen transformer's last block, computed once and kept on disk.

A folder for each network, and in it a file for each image, under a hash of what the image is: of
CUB-200-2011 by DINOv2-S at 224 px (257 tokens of 384) 0.4 MB an image. What a run that was stopped
has computed is there for the next one.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from fgjax.core.features import Features
from fgjax.core.files import write_bytes
from fgjax.data.types import DataError, Record, Source
from fgjax.devices.jit import program
from fgjax.models.classifier import Classifier
from fgjax.models.pretrained_trunk import TRUNK
from fgjax.stages.frozen.cache import each_answer, keys_of, network_key


def tokens_key(model: Classifier) -> str:
    """Return a hash of all that tokens depend on beside the image: the frozen network."""
    trunk = {TRUNK: model.variables["params"][TRUNK]}
    return network_key(model.replace(variables={"params": trunk}))


@program("explain")
def _features(model: Any, images: Any) -> Any:
    return model.features(images)


class Tokens:
    """The tokens of images, in files.

    Args:
      model: a classifier with prompts.
      folder: where the network's folder lies.
    """

    def __init__(self, model: Classifier, folder: Path):
        self.model = model
        self.folder = folder / tokens_key(model)
        image = jax.ShapeDtypeStruct((1, model.size, model.size, 3), jnp.float32)
        shapes = Features(*jax.eval_shape(lambda m, x: m.features(x), model, image))
        self._grid = shapes.grid.shape[1:]
        self._beside = shapes.tokens.shape[1]
        self._paths: dict[str, Path] = {}

    @property
    def shape(self) -> tuple[int, int]:
        """How many tokens an image has, and their width."""
        height, width, d = self._grid
        return self._beside + height * width, d

    def find(
        self, source: Source, records: Sequence[Record], workers: int | None = None
    ) -> tuple[dict[str, str], int]:
        """Compute the tokens of images that have no file; return why some have none, and how many
        were computed."""
        keys, failed = keys_of(source, records)
        self._paths = {name: self.folder / f"{key.hex()}.npy" for name, key in keys.items()}
        missing = [r for r in records if r.name in keys and self._read(r.name) is None]
        self.folder.mkdir(parents=True, exist_ok=True)
        computed = 0

        def ask(images: Float[Array, "n h w 3"]) -> Float[np.ndarray, "n t d"]:
            grid, beside = (np.asarray(part, np.float32) for part in _features(self.model, images))
            return np.concatenate([beside, grid.reshape(len(grid), -1, grid.shape[-1])], axis=1)

        for record, found in each_answer(ask, source, missing, workers, "tokens"):
            if isinstance(found, str):
                failed[record.name] = found
                continue
            stream = io.BytesIO()
            np.save(stream, found)
            write_bytes(self._paths[record.name], stream.getvalue())
            computed += 1
        return failed, computed

    def _read(self, name: str) -> Float[np.ndarray, "t d"] | None:
        """Return an image's tokens; None where there are none, or damaged ones."""
        try:
            with self._paths[name].open("rb") as file:
                found = np.load(file, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return found if found.shape == self.shape and found.dtype == np.float32 else None

    def read(self, names: Sequence[str], places: Int[np.ndarray, "n"]) -> Features:
        """Return the tokens of some of the named images, all of which were found.

        Raises:
          DataError: a file is gone, or damaged since.
        """
        rows = []
        for place in places:
            row = self._read(names[place])
            if row is None:
                path = self._paths[names[place]]
                raise DataError(f"{path}: the tokens kept there are gone; the same command again")
            rows.append(row)
        both = jnp.asarray(np.stack(rows))
        grid = both[:, self._beside :].reshape(len(rows), *self._grid)
        return Features(grid, both[:, : self._beside])
