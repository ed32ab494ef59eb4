"""An image is known by its name, its content and its class."""

import os

import pytest

from fgjax.data.types import Record
from fgjax.runs.images import changed_images, look_at, read_images, write_images


@pytest.fixture
def folder(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    return tmp_path


def look(folder, names="ab", before=None, classes=None):
    records = [Record(name, None, "test") for name in names]
    return look_at(records, classes or [None] * len(names), lambda r: folder / r.name, before or {})


def test_another_content_is_another_image(folder):
    before = look(folder)
    (folder / "b").write_text("B")
    os.utime(folder / "b", ns=(0, 1))
    assert changed_images(before, look(folder, before=before)) == {"b"}


def test_a_copy_of_another_time_is_the_same(folder):
    before = look(folder)
    os.utime(folder / "a", ns=(0, 1))
    assert changed_images(before, look(folder, before=before)) == set()


def test_of_the_same_size_and_time_nothing_is_read(folder, monkeypatch):
    before = look(folder)
    monkeypatch.setattr("hashlib.file_digest", lambda *args: pytest.fail("was read"))
    assert look(folder, before=before) == before


def test_one_that_came_or_went_or_is_of_another_class(folder):
    before = look(folder, classes=["x", "y"])
    (folder / "a").unlink()
    (folder / "c").write_text("c")
    now = look(folder, "abc", before, ["x", "z", None])
    assert changed_images(before, now) == {"a", "b", "c"}


def test_what_is_drawn_is_known_by_its_name(folder):
    records = [Record("drawn", 0, "test")]
    assert look_at(records, ["x"], None, {}) == {"drawn": {"class": "x"}}


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}', "3"])
def test_a_damaged_file_says_nothing(tmp_path, text):
    (tmp_path / "images.json").write_text(text)
    assert read_images(tmp_path) is None
    seen = {"bad \udcff": {"class": None}}
    write_images(tmp_path, seen)
    assert read_images(tmp_path) == seen
