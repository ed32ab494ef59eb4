"""The README's tables of speed are what `benchmarks/report.py` makes of the JSON files."""

import pytest
from test_benchmarks import load

report = load("report")


@pytest.mark.parametrize("name", report.TABLES)
def test_the_readme_shows_what_was_measured(name):
    readme = (report.ROOT / "README.md").read_text(encoding="utf-8")
    made = report.TABLES[name]()
    assert report.insert(readme, name, made) == readme
    assert made.count("\n") >= 6


def test_a_readme_without_a_place_is_told():
    with pytest.raises(ValueError, match="no place for the table: <!-- speed"):
        report.insert("# fgjax", "speed", "| |")
