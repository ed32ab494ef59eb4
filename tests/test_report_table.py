"""The tables of the README and of docs/results are what `benchmarks/report.py` makes."""

import pytest
from test_benchmarks import load

report = load("report")


@pytest.mark.parametrize("name", report.TABLES)
def test_a_page_shows_what_was_measured(name):
    page, table = report.TABLES[name]
    text, made = (report.ROOT / page).read_text(encoding="utf-8"), table()
    assert report.insert(text, name, made, page) == text
    assert made.count("\n") >= 5


def test_a_page_without_a_place_is_told():
    with pytest.raises(ValueError, match="README.md has no place for the table: <!-- speed"):
        report.insert("# fgjax", "speed", "| |", "README.md")
