"""Maps on disk: each image whole or not there, in the order of the records."""

import json

import numpy as np
import pytest

from fgjax.data.types import DataError
from fgjax.runs.maps import MapStore, _told, load_maps, map_names, read_maps, read_traces


def fill(folder, images, order, seed=0):
    """Writes random maps in an order; returns what was written."""
    rng = np.random.default_rng(seed)
    heat, ssr = rng.random((2, images, 5, 7), np.float32)
    trace = rng.random((images, 4), np.float32)
    store = MapStore(folder, images)
    for i in order:
        store.write(i, 10 + i, {"heatmap": heat[i], "ssr": ssr[i]}, {"p": trace[i]})
    return heat, ssr, trace


def test_what_is_written_is_read_back_in_any_order(tmp_path):
    heat, ssr, trace = fill(tmp_path / "maps.zarr", 3, [2, 0, 1])
    maps = load_maps(tmp_path)
    assert list(maps) == ["heatmap", "ssr"]
    np.testing.assert_array_equal(maps["heatmap"], heat.astype(np.float16))
    np.testing.assert_array_equal(maps["ssr"], ssr.astype(np.float16))
    np.testing.assert_array_equal(read_traces(tmp_path / "maps.zarr")["p"], trace)
    one = read_maps(tmp_path / "maps.zarr", 1)
    np.testing.assert_array_equal(one["ssr"], maps["ssr"][1])
    np.testing.assert_array_equal(MapStore(tmp_path / "maps.zarr", 3).targets(), [10, 11, 12])


def test_images_that_are_not_done_are_told(tmp_path):
    fill(tmp_path / "maps.zarr", 4, [1])
    store = MapStore(tmp_path / "maps.zarr", 4)
    np.testing.assert_array_equal(store.targets(), [-1, 11, -1, -1])
    heat = load_maps(tmp_path)["heatmap"]
    np.testing.assert_array_equal(np.isnan(heat).all((1, 2)), [True, False, True, True])


def test_another_process_goes_on(tmp_path):
    first = fill(tmp_path / "maps.zarr", 3, [0])
    fill(tmp_path / "maps.zarr", 3, [1, 2], seed=1)
    np.testing.assert_array_equal(load_maps(tmp_path)["heatmap"][0], first[0][0].astype(np.float16))
    assert (MapStore(tmp_path / "maps.zarr", 3).targets() >= 0).all()


def test_it_is_zarr_v3_with_a_chunk_per_image(tmp_path):
    fill(tmp_path / "maps.zarr", 3, [0, 1, 2])
    about = json.loads((tmp_path / "maps.zarr" / "heatmap" / "zarr.json").read_text())
    assert about["zarr_format"] == 3 and about["data_type"] == "float16"
    assert about["shape"] == [3, 5, 7]
    assert about["chunk_grid"]["configuration"]["chunk_shape"] == [1, 5, 7]
    assert map_names(tmp_path / "maps.zarr") == ["heatmap", "ssr"]


def test_no_maps(tmp_path):
    with pytest.raises(ValueError, match="no maps here"):
        load_maps(tmp_path)


def test_another_number_of_images_is_refused(tmp_path):
    fill(tmp_path / "maps.zarr", 3, [0])
    with pytest.raises(DataError, match="target.*explain again"):
        MapStore(tmp_path / "maps.zarr", 4)


def test_damaged_maps_are_named(tmp_path):
    fill(tmp_path / "maps.zarr", 3, [0])
    (tmp_path / "maps.zarr" / "ssr" / "zarr.json").write_text("{")
    with pytest.raises(DataError, match="ssr.*explain again"):
        load_maps(tmp_path)


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), ValueError("x: No space left on device [y]")]
)
def test_a_full_disk_says_so(tmp_path, error):
    with pytest.raises(DataError, match="the disk is full.*the same command goes on"):
        with _told(tmp_path):
            raise error
