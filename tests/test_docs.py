"""What the pages say is so: a page for each method, and an example of a method that runs."""

import re
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest

import fgjax
from fgjax.attribution.registry import METHOD_ENTRIES

DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.mark.parametrize("name", fgjax.METHODS)
def test_every_method_has_a_page_and_a_picture(name):
    page = (DOCS / "methods" / f"{name}.md").read_text(encoding="utf-8")
    assert f"<!-- settings: {name} -->" in page and f"`fgjax.{name}`" in page
    # The network in the pictures has no attention to show, and no prompts.
    if not {"attention", "prompts"} & set(METHOD_ENTRIES[name].needs):
        assert (DOCS / "pictures" / "methods" / f"{name}.png").is_file()
    assert f"methods/{name}.md" in (DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8")
    assert f"({name}.md)" in (DOCS / "methods" / "index.md").read_text(encoding="utf-8")


def test_the_method_that_is_shown_can_be_added(tmp_path, monkeypatch):
    text = (DOCS / "adding.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)\n    ```", text, re.S)[1]
    (tmp_path / "shown_method.py").write_text(re.sub(r"(?m)^    ", "", code), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    entry = METHOD_ENTRIES.find("shown_method:flat")
    result = entry.function(lambda x: x.mean((1, 2)), jnp.zeros((2, 8, 8, 3)), jnp.zeros(2, int))
    assert result.heatmap.shape == (2, 8, 8) and float(result.heatmap.max()) == 0.5
    assert entry.passes(entry.config(), 8, 8, 3) == (0, 0)
    sys.modules.pop("shown_method")


def test_links_of_the_readme_lead_somewhere():
    for name in ("README.md", "CONTRIBUTING.md"):
        text = (DOCS.parent / name).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (DOCS.parent / target).exists(), f"{name}: {target}"


def test_the_readme_is_short():
    assert len((DOCS.parent / "README.md").read_text("utf-8").splitlines()) <= 150
