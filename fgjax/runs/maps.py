"""Maps on disk: a zarr v3 folder, one chunk per image, so that each image is written once.

    run/maps.zarr/heatmap   n h w   float16
    run/maps.zarr/ssr …     n h w   float16   what else the method made
    run/maps.zarr/trace/…   n steps float32
    run/maps.zarr/target    n       int32     the explained output; -1: not done yet
    run/maps.zarr/images.json                 whose the rows are, see `fgjax.runs.arrange`

`target` is written last: an image whose target stands there is whole. Chunks carry checksums.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
from jaxtyping import Int

from fgjax.data.types import DataError


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn tensorstore's errors into one that names the folder and says what to do."""
    try:
        yield
    except (ValueError, OSError) as error:
        first = str(error).splitlines()[0]
        if "No space left" in str(error) or "quota" in str(error).lower():
            raise DataError(
                f"{path}: the disk is full. What is done is kept: make room, and the same command "
                "goes on"
            ) from error
        raise DataError(
            f"{path}: these maps cannot be read or written ({first}); explain again: images whose "
            "maps are damaged are done anew. If that does not help, delete that run's maps.zarr"
        ) from error


def _open(path: Path, shape: tuple[int, ...], dtype: str, fill: float | int) -> ts.TensorStore:
    chunk = (1, *shape[1:])
    metadata: dict[str, Any] = {
        "shape": list(shape),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
        "fill_value": "NaN" if np.isnan(fill) else fill,
    }
    if not (path / "zarr.json").is_file():  # those of runs of before have no checksums
        little = {"name": "bytes", "configuration": {"endian": "little"}}
        metadata["codecs"] = [little, {"name": "crc32c"}]
    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": str(path)},
        "metadata": metadata,
        # What is not there is then missing, never a map of NaN.
        "store_data_equal_to_fill_value": True,
    }
    with _told(path):
        return ts.open(spec, open=True, create=True).result()


def _open_read(path: Path) -> ts.TensorStore:
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}
    with _told(path):
        return ts.open(spec, open=True).result()


def _read(path: Path, index: int | slice = slice(None)) -> np.ndarray:
    array = _open_read(path)
    with _told(path):
        return array[index].read().result()


class MapStore:
    """The maps of one run, written an image at a time, in any order, by any process.

    Args:
      folder: the `maps.zarr`.
      images: how many there are.
      dtype: of the maps that are written: "float16", or "float32" for maps made elsewhere, which
        are judged as they are.
    """

    def __init__(self, folder: Path, images: int, dtype: str = "float16"):
        self.folder, self.images, self._dtype = Path(folder), images, dtype
        self._arrays: dict[str, ts.TensorStore] = {}
        self._target = _open(self.folder / "target", (images,), "int32", -1)

    def _array(self, name: str, shape: tuple[int, ...], dtype: str) -> ts.TensorStore:
        if name not in self._arrays:
            path = self.folder.joinpath(*name.split("/"))
            self._arrays[name] = _open(path, (self.images, *shape), dtype, np.nan)
        return self._arrays[name]

    def targets(self) -> Int[np.ndarray, "n"]:
        """Return the explained model output of each image; -1 where there are no maps yet."""
        try:
            return self._target.read().result()
        except (ValueError, OSError):  # one of them is damaged
            reads = [self._target[i].read() for i in range(self.images)]
            return np.array([-1 if r.exception() else r.result() for r in reads], np.int32)

    def forget(self, places: Iterable[int]) -> None:
        """Take back that some images are done."""
        with _told(self.folder / "target"):
            for write in [self._target[int(i)].write(-1) for i in places]:
                write.result()

    def damaged(self) -> Int[np.ndarray, "m"]:
        """Return the places of images that count as done and whose maps are not all whole."""
        done = np.flatnonzero(self.targets() >= 0)
        found = set()
        for about in self.folder.rglob("zarr.json"):
            array, path = _open_read(about.parent), about.parent / "c"
            rest = ["0"] * (array.ndim - 1)  # a chunk is one image's
            for chunk in np.array_split(done, -(-len(done) // 64) or 1):  # not all in memory
                reads = {int(i): array[int(i)].read() for i in chunk}
                for i, read in reads.items():
                    if read.exception() or not path.joinpath(str(i), *rest).is_file():
                        found.add(i)
        return np.array(sorted(found), np.int64)

    def write(
        self,
        index: int,
        target: int,
        maps: Mapping[str, np.ndarray],
        traces: Mapping[str, np.ndarray],
    ) -> None:
        """Write one image's maps (`h w`) and traces (`steps`), and marks it as done."""
        writes = [
            self._array(name, m.shape, self._dtype)[index].write(m.astype(self._dtype))
            for name, m in maps.items()
        ]
        writes += [
            self._array(f"trace/{name}", t.shape, "float32")[index].write(t.astype(np.float32))
            for name, t in traces.items()
        ]
        with _told(self.folder):
            for write in writes:
                write.result()
            self._target[index].write(target).result()


def map_names(folder: Path) -> list[str]:
    """Return the maps in a `maps.zarr`, the heat map first."""
    names = [p.parent.name for p in Path(folder).glob("*/zarr.json") if p.parent.name != "target"]
    return sorted(names, key=lambda name: (name != "heatmap", name))


def read_maps(folder: Path, index: int | slice = slice(None)) -> dict[str, np.ndarray]:
    """Return the maps of one image (`h w`) or of a slice of them (`n h w`), by name."""
    return {name: _read(Path(folder) / name, index) for name in map_names(folder)}


def read_traces(folder: Path) -> dict[str, np.ndarray]:
    """Return all traces, `n steps`, by name."""
    paths = sorted((Path(folder) / "trace").glob("*/zarr.json"))
    return {path.parent.name: _read(path.parent) for path in paths}


def load_maps(run_dir: str | Path) -> dict[str, np.ndarray]:
    """Return all maps of a run, `n h w` float16, by name: "heatmap" and what else the method made.
    (Maps made elsewhere are float32.)

    Rows are in the order of results.csv's `index` column; images without maps are NaN.

    Raises:
      ValueError: the folder holds no maps.
    """
    folder = Path(run_dir) / "maps.zarr"
    if not (folder / "target").is_dir():
        raise ValueError(f"{run_dir}: no maps here (no maps.zarr): is this the folder of a run?")
    return read_maps(folder)
