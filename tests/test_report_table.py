"""The README's table of speed is what `benchmarks/report.py` makes of the JSON files."""

import pytest
from test_benchmarks import load

report = load("report")


def test_the_readme_shows_what_was_measured():
    readme = (report.ROOT / "README.md").read_text(encoding="utf-8")
    assert report.insert(readme, report.table()) == readme
    assert report.table().count("\n") >= 6


def test_a_readme_without_a_place_is_told():
    with pytest.raises(ValueError, match="no place for the table"):
        report.insert("# fgjax", "| |")
