"""Maps on disk: a zarr v3 folder, one chunk per image, so that each image is written once.

    run/maps.zarr/heatmap   n h w   float16
    run/maps.zarr/ssr …     n h w   float16   what else the method made
    run/maps.zarr/trace/…   n steps float32
    run/maps.zarr/target    n       int32     the explained output; -1: not done yet

`target` is written last: an image whose target stands there is whole.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

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
        raise DataError(
            f"{path}: these maps cannot be read or written ({first}); if they are damaged, "
            "delete that run's maps.zarr and explain again"
        ) from error


def _open(path: Path, shape: tuple[int, ...], dtype: str, fill: float | int) -> ts.TensorStore:
    chunk = (1, *shape[1:])
    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": str(path)},
        "metadata": {
            "shape": list(shape),
            "data_type": dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
            "fill_value": "NaN" if np.isnan(fill) else fill,
        },
    }
    with _told(path):
        return ts.open(spec, open=True, create=True).result()


def _read(path: Path, index: int | slice = slice(None)) -> np.ndarray:
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}
    with _told(path):
        return ts.open(spec, open=True).result()[index].read().result()


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
        with _told(self.folder / "target"):
            return self._target.read().result()

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
