"""Maps go with their images: rows are moved, added and taken away, and a kill loses none."""

import json
import os
import shutil

import numpy as np
import pytest

from fgjax.runs import arrange as arranging
from fgjax.runs.arrange import arrange, read_names, write_names
from fgjax.runs.maps import MapStore, read_maps, read_traces


@pytest.fixture
def maps(tmp_path):
    """Maps of a, b and c; c is not done. The value says whose a map is."""
    folder = tmp_path / "maps.zarr"
    write_names(folder, ["a", "b", "c"])
    store = MapStore(folder, 3)
    for i in range(2):
        store.write(i, 10 + i, {"heatmap": np.full((4, 5), i + 1.0)}, {"p": np.full(3, i + 1.0)})
    return folder


def held(folder, names) -> dict[str, tuple]:
    """Target, map and trace of each image; NaN where there is none."""
    targets = MapStore(folder, len(names)).targets()
    heat, trace = read_maps(folder)["heatmap"], read_traces(folder)["p"]
    assert heat.shape[1:] == (4, 5) and (np.ptp(np.nan_to_num(heat), axis=(1, 2)) == 0).all()
    return {n: (int(targets[i]), heat[i, 0, 0], trace[i, 0]) for i, n in enumerate(names)}


def assert_own(folder, names, changed=()):
    own = {"a": (10, 1.0, 1.0), "b": (11, 2.0, 2.0)}
    for name, found in held(folder, names).items():
        wanted = own.get(name) if name not in changed else None
        np.testing.assert_array_equal(found, wanted or (-1, np.nan, np.nan))


@pytest.mark.parametrize(
    "names, changed",
    [
        (["a", "b", "c"], []),
        (["c", "b", "a"], []),
        (["_", "a", "aa", "b"], []),
        (["b"], []),
        (["a", "b", "c"], ["a"]),
        (["b", "x", "a"], ["b", "x"]),
        (["x", "y"], []),
    ],
)
def test_every_image_takes_its_maps_along(maps, names, changed):
    arrange(maps, names, changed)
    assert read_names(maps) == names
    assert_own(maps, names, changed)
    store = MapStore(maps, len(names))
    store.write(len(names) - 1, 12, {"heatmap": np.full((4, 5), 7.0)}, {"p": np.full(3, 7.0)})
    assert held(maps, names)[names[-1]] == (12, 7.0, 7.0)
    assert {p.name for p in maps.parent.iterdir()} == {"maps.zarr"}


def test_maps_of_before_say_not_whose_they_are(maps):
    (maps / "images.json").unlink()
    arrange(maps, ["b", "a"], before=["a", "b", "c"])
    assert_own(maps, ["b", "a"])


def test_without_maps_nothing_is_made(tmp_path):
    arrange(tmp_path / "maps.zarr", ["a"])
    assert not list(tmp_path.iterdir())


class Killed(BaseException):
    pass


@pytest.mark.parametrize("call", range(1, 9))
def test_a_kill_at_any_step_loses_nothing(maps, monkeypatch, call):
    calls = []

    def dies(real):
        def step(*args, **options):
            calls.append(1)
            if len(calls) == call:
                raise Killed
            return real(*args, **options)

        return step

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", dies(os.rename))
        patch.setattr(arranging, "_link", dies(arranging._link))
        patch.setattr(arranging, "_move_array", dies(arranging._move_array))
        try:
            arrange(maps, ["b", "n", "a"])
        except Killed:
            pass
    arrange(maps, ["b", "n", "a"])
    assert_own(maps, ["b", "n", "a"])
    assert {p.name for p in maps.parent.iterdir()} == {"maps.zarr"}


def test_a_file_system_without_links(maps, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *args: (_ for _ in ()).throw(OSError(1, "no links")))
    arrange(maps, ["b", "a"])
    assert_own(maps, ["b", "a"])


def garbage(path):
    path.write_bytes(b"garbage" * 5)


def zeros(path):  # what a power cut leaves of a file
    path.write_bytes(b"\0" * path.stat().st_size)


DAMAGE = {
    "a chunk of the heat map is garbage": ("heatmap/c/1/0/0", garbage),
    "it is all zeros": ("heatmap/c/1/0/0", zeros),
    "it is cut off": ("heatmap/c/1/0/0", lambda path: path.write_bytes(path.read_bytes()[:9])),
    "it is gone": ("heatmap/c/1/0/0", os.remove),
    "a trace is gone": ("trace/p/c/1", shutil.rmtree),
    "a trace is garbage": ("trace/p/c/1/0", garbage),
    "the target is garbage": ("target/c/1", garbage),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_maps_are_found(maps, kind):
    name, damage = DAMAGE[kind]
    damage(maps / name)
    store = MapStore(maps, 3)
    lost = set(store.damaged().tolist()) | set(np.flatnonzero(store.targets() < 0).tolist())
    assert lost == {1, 2}
    store.forget([1])
    assert store.targets().tolist() == [10, -1, -1] and store.damaged().tolist() == []


def test_a_map_of_nan_is_whole(tmp_path):
    store = MapStore(tmp_path / "maps.zarr", 1)
    store.write(0, 1, {"heatmap": np.ones((4, 5)), "other": np.full((4, 5), np.nan)}, {})
    assert store.damaged().tolist() == []


def test_maps_without_checksums_are_read_on(tmp_path):
    folder = tmp_path / "maps.zarr"
    MapStore(folder, 2).write(0, 1, {"heatmap": np.ones((4, 5))}, {})
    for about in folder.rglob("zarr.json"):  # as they were written before
        metadata = json.loads(about.read_text())
        metadata["codecs"] = metadata["codecs"][:1]
        about.write_text(json.dumps(metadata))
    for chunk in (folder / "target/c/0", folder / "heatmap/c/0/0/0"):
        chunk.write_bytes(chunk.read_bytes()[:-4])
    store = MapStore(folder, 2)
    store.write(1, 2, {"heatmap": np.full((4, 5), 2.0)}, {})
    assert store.targets().tolist() == [1, 2] and store.damaged().tolist() == []
    assert read_maps(folder)["heatmap"][:, 0, 0].tolist() == [1.0, 2.0]
