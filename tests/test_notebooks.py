"""The notebooks: what they say can be run, top to bottom, at tiny settings.

Where Jupyter is missing the running is skipped, but with FGJAX_NOTEBOOKS=1 it fails.
"""

import ast
import base64
import importlib.util
import io
import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

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
    for cell in map(build().with_origin, cells(file.read_text("utf-8"))):
        if not cell.startswith("[markdown]"):
            assert f"```python\n{cell}\n```" in page, "python notebooks/build.py writes the pages"


def test_a_page_has_the_outputs_and_small_pictures(tmp_path):
    drawn = io.BytesIO()
    Image.new("RGBA", (1800, 600), (200, 30, 30, 255)).save(drawn, "PNG")
    shown = {"image/png": base64.b64encode(drawn.getvalue()).decode(), "text/plain": "<Figure>"}
    outputs = [
        SimpleNamespace(output_type="stream", text="\x1b[1mepoch\x1b[0m 1  \n"),
        SimpleNamespace(output_type="display_data", data={"text/plain": "epoch 2\n"}),
        SimpleNamespace(output_type="execute_result", data={"text/plain": "0"}),
        SimpleNamespace(output_type="display_data", data=shown),
    ]
    code = SimpleNamespace(cell_type="code", source="main()", outputs=outputs)
    text = SimpleNamespace(cell_type="markdown", source="# Birds")
    page = build().to_markdown(SimpleNamespace(cells=[text, code]), "birds", tmp_path / "made")
    (picture,) = (tmp_path / "made").iterdir()
    assert page == (
        "# Birds\n\n```python\nmain()\n```\n\n```text\nepoch 1\nepoch 2\n```\n\n"
        f"![What this cell shows](../pictures/notebooks/{picture.name})\n"
    )
    with Image.open(picture) as small:
        assert small.size == (900, 300)


BADGE = (
    "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
    "(https://colab.research.google.com/github/someone/birds/blob/notebooks/notebooks/{}.ipynb)"
)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_colabs_button_once_the_repository_is_known(file, monkeypatch):
    builder = build()
    title, install, *_ = cells(file.read_text("utf-8"))
    text = title.removeprefix("[markdown]\n")
    if not builder.REPOSITORY:  # no button that leads nowhere, no host that is not known
        assert builder.with_badge(text, file.stem) == text
        assert builder.with_origin(install) == install
    monkeypatch.setattr(builder, "REPOSITORY", "someone/birds")
    first, empty, button, rest = builder.with_badge(text, file.stem).split("\n", 3)
    assert f"{first}\n{rest}" == text and empty == "" and button == BADGE.format(file.stem)
    assert 'install -q git+https://github.com/someone/birds")' in builder.with_origin(install)


@pytest.mark.skipif(not HERE, reason="needs jupytext, nbclient and ipykernel")
def test_files_and_pages_have_the_button(tmp_path, monkeypatch):
    builder = build()
    monkeypatch.setattr(builder, "REPOSITORY", "someone/birds")
    monkeypatch.setattr("sys.argv", ["build.py", "--ipynb", str(tmp_path)])
    builder.main()
    assert sorted(tmp_path.glob("*.ipynb")) == [tmp_path / f"{f.stem}.ipynb" for f in FILES]
    for file in FILES:
        made = json.loads((tmp_path / f"{file.stem}.ipynb").read_text("utf-8"))
        first, install, *_ = made["cells"]
        page = builder.to_markdown(builder.read(file.stem), file.stem, tmp_path)
        for text in ("".join(first["source"]), page):
            assert text.count("colab-badge.svg") == 1 and BADGE.format(file.stem) in text
        for text in ("".join(install["source"]), page):
            assert text.count("git+https://github.com/someone/birds") == 1


def run_tiny(names, folder, monkeypatch) -> None:
    """Run notebooks in one folder: later ones find the classifier of the first."""
    monkeypatch.setenv("FGJAX_TINY", "1")
    builder = build()
    for name in names:
        notebook = builder.run(name, folder, seconds=600)
        text = builder.to_markdown(notebook, name, folder / "pictures")
        assert "Traceback" not in text and "WARNING" not in text
        assert str(folder) not in text and "nan%" not in text
        shown = len(list((folder / "pictures").glob(f"{name}_*.jpg")))
        assert shown == (1 if name in ("quick_start", "compare_methods") else 0)
    assert (folder / "runs/birds/report.html").is_file()
    assert (folder / "birds_fido/attribution.npz").is_file()


def runs(test):
    """Mark a test that runs notebooks."""
    for mark in (
        pytest.mark.slow,
        pytest.mark.timeout(1800),
        pytest.mark.skipif(not HERE, reason="needs jupytext, nbclient and ipykernel"),
        pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
        pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    ):
        test = mark(test)
    return test


@runs
def test_the_quick_start_runs_from_top_to_bottom(tmp_path, monkeypatch):
    run_tiny(["quick_start"], tmp_path, monkeypatch)


@runs
def test_all_run_from_top_to_bottom(tmp_path, monkeypatch):
    names = ["quick_start", "find_mistakes"]
    run_tiny(dict.fromkeys([*names, *(f.stem for f in FILES)]), tmp_path, monkeypatch)
    assert (tmp_path / "runs/photos/look.html").is_file()
