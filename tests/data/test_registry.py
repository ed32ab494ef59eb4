import inspect

import pytest

from fgjax.data.registry import SOURCES
from fgjax.data.types import DataError, Source

FOLDERS = [name for name, about in SOURCES.items() if "data.path" in about.wants]


def test_every_source_has_a_home():
    assert {"species", "funny_species", "tfds"} == set(SOURCES) - set(FOLDERS)
    for name, about in SOURCES.items():
        assert about.name == name
        assert about.home.startswith("wanted: ") and "\n" not in about.home


def test_every_source_takes_the_options_that_its_entry_names():
    for about in SOURCES.values():
        taken = inspect.signature(about.make).parameters
        assert {*about.options, "size", *(["crop"] if about.crops else [])} <= set(taken)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_missing_folder_tells_what_data_path_wants(name, tmp_path):
    with pytest.raises(DataError, match=r"nowhere: no such folder; .*wanted:") as caught:
        SOURCES[name].make(path=tmp_path / "nowhere", size=32, crop=1.0)
    if name != "folder":
        assert SOURCES[name].home in str(caught.value) and "://" in SOURCES[name].home


@pytest.mark.parametrize("name", FOLDERS)
def test_what_reads_files_starts_alike(name):
    options = inspect.signature(SOURCES[name].make).parameters
    assert list(options)[:3] == ["path", "size", "crop"]


def test_what_is_made_is_a_source():
    source = SOURCES["species"].make(size=32, train=1, test=1)
    assert isinstance(source, Source)
