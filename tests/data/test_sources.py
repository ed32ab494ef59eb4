import inspect

import pytest

from fgjax.data.sources import HOMES, SOURCES
from fgjax.data.types import DataError, Source


def test_every_source_has_a_home():
    assert set(SOURCES) == set(HOMES)
    for home in HOMES.values():
        assert home.startswith("wanted: ") and "\n" not in home


@pytest.mark.parametrize("name", [name for name in SOURCES if name not in ("species", "tfds")])
def test_a_missing_folder_tells_what_data_path_wants(name, tmp_path):
    with pytest.raises(DataError, match=r"nowhere: no such folder; .*wanted:") as caught:
        SOURCES[name](path=tmp_path / "nowhere", size=32, crop=1.0)
    if name != "folder":
        assert HOMES[name] in str(caught.value) and "://" in HOMES[name]


@pytest.mark.parametrize("name", [name for name in SOURCES if name not in ("species", "tfds")])
def test_what_reads_files_starts_alike(name):
    options = inspect.signature(SOURCES[name]).parameters
    assert list(options)[:3] == ["path", "size", "crop"]


def test_what_is_made_is_a_source():
    source = SOURCES["species"](size=32, train=1, test=1)
    assert isinstance(source, Source)
