"""The notebooks: what they say can be run, top to bottom, at tiny settings.

Where Jupyter is missing the running is skipped, but with FGJAX_NOTEBOOKS=1 it fails.
"""

import ast
import importlib.util
import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(path for path in (ROOT / "notebooks").glob("*.py") if path.stem != "build")
HERE = all(importlib.util.find_spec(name) for name in ("jupytext", "nbclient", "ipykernel"))
if not HERE and os.environ.get("FGJAX_NOTEBOOKS") == "1":
    pytest.fail("FGJAX_NOTEBOOKS=1, and Jupyter is missing: pip install -e '.[notebooks]'")


def build():
    spec = importlib.util.spec_from_file_location("notebooks_build", ROOT / "notebooks/build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cells(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"(?m)^# %%", text)[1:]]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_each_says_what_it_is_and_installs_first(file):
    first, install, *rest = cells(file.read_text("utf-8"))
    assert first.startswith("[markdown]\n# # ")
    assert "pip" in install and "install -q fgjax" in install and "restart" in install
    ast.parse("\n".join(part for part in rest if not part.startswith("[markdown]")))
    assert f"notebooks/{file.stem}.md" in (ROOT / "mkdocs.yml").read_text("utf-8")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_page_of_the_docs_has_the_same_cells(file):
    page = (ROOT / "docs" / "notebooks" / f"{file.stem}.md").read_text("utf-8")
    for cell in cells(file.read_text("utf-8")):
        if not cell.startswith("[markdown]"):
            assert f"```python\n{cell}\n```" in page, "python notebooks/build.py writes the pages"


def test_colabs_button_is_there_once_the_repository_is_known(monkeypatch):
    builder = build()
    assert builder.with_badge("# A\n\nb", "a") == "# A\n\nb"
    monkeypatch.setattr(builder, "REPOSITORY", "someone/birds")
    title, empty, button, _, text = builder.with_badge("# A\n\nb", "a").split("\n")
    assert (title, empty, text) == ("# A", "", "b")
    assert button.endswith("/github/someone/birds/blob/notebooks/notebooks/a.ipynb)")


@pytest.mark.slow
@pytest.mark.skipif(not HERE, reason="needs jupytext, nbclient and ipykernel")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_all_run_from_top_to_bottom(tmp_path, monkeypatch):
    """In one folder, as the later ones find the classifier of the first."""
    monkeypatch.setenv("FGJAX_TINY", "1")
    monkeypatch.delenv("JAX_DISABLE_MOST_OPTIMIZATIONS", raising=False)
    builder = build()
    first = ["quick_start", "find_mistakes"]
    for name in [*first, *(file.stem for file in FILES if file.stem not in first)]:
        notebook = builder.run(name, tmp_path, seconds=300)
        text = builder.to_markdown(notebook, name, tmp_path / "pictures")
        assert "Traceback" not in text and "WARNING" not in text
        shown = len(list((tmp_path / "pictures").glob(f"{name}_*.png")))
        assert shown == (1 if name in ("quick_start", "compare_methods") else 0)
    assert (tmp_path / "runs/photos/look.html").is_file()
    assert (tmp_path / "runs/birds/report.html").is_file()
    assert (tmp_path / "birds_fido/attribution.npz").is_file()
