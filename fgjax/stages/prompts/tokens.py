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
from jaxtyping import Float, Int

from fgjax.core.batching import fill_up
from fgjax.core.features import Features
from fgjax.core.files import write_bytes
from fgjax.core.progress import progress
from fgjax.data.pipeline import load_examples
from fgjax.data.types import DataError, Record, Source
from fgjax.devices.jit import program
from fgjax.models.classifier import Classifier
from fgjax.models.pretrained_trunk import TRUNK
from fgjax.stages.probe.features import BATCH, image_key, network_key


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
        failed: dict[str, str] = {}
        for record in records:
            try:
                self._paths[record.name] = self.folder / f"{image_key(source, record).hex()}.npy"
            except DataError as error:
                failed[record.name] = str(error)
        missing = [r for r in records if r.name in self._paths and self._read(r.name) is None]
        self.folder.mkdir(parents=True, exist_ok=True)
        size = BATCH.get(jax.default_backend(), 128)
        chunk: list[tuple[Record, np.ndarray]] = []
        computed = 0

        def run() -> int:
            filled = np.stack([image for _, image in fill_up(chunk, size)])
            found = Features(*_features(self.model, jnp.asarray(filled.astype(np.float32) / 255)))
            grid, beside = (np.asarray(part, np.float32) for part in found)
            rows = np.concatenate([beside, grid.reshape(size, -1, grid.shape[-1])], axis=1)
            good = np.isfinite(rows).all((1, 2))[: len(chunk)]
            for (record, _), row, fine in zip(chunk, rows, good):
                if fine:
                    stream = io.BytesIO()
                    np.save(stream, row)
                    write_bytes(self._paths[record.name], stream.getvalue())
                else:
                    failed[record.name] = "the network returns no finite features for it"
            chunk.clear()
            return int(good.sum())

        loaded = load_examples(source, missing, workers=workers, ahead=2 * size)
        with progress("tokens", len(missing)) as counter:
            for place, example in loaded:
                counter.advance()
                if isinstance(example, DataError):
                    failed[missing[place].name] = str(example)
                    continue
                chunk.append((missing[place], example.image))
                if len(chunk) == size:
                    computed += run()
            if chunk:
                computed += run()
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
