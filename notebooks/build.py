"""Run the notebooks, and write what they show to docs/notebooks.

    python notebooks/build.py              # all of them, as a reader would, into docs/notebooks
    python notebooks/build.py quick_start  # one
    python notebooks/build.py --folder DIR # their runs stay there, and are found the next time
    python notebooks/build.py --dry        # pages without outputs: what to commit in a hurry
    python notebooks/build.py --ipynb DIR  # not run, as files that Jupyter and Colab open

They are kept as text (jupytext's percent format). Needs `pip install -e ".[notebooks]"`.
"""

import argparse
import base64
import io
import re
import tempfile
from pathlib import Path

from PIL import Image

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent / "docs"
REPOSITORY = ""
"""OWNER/NAME on GitHub, the one place that says where this repository is public. Once it is set,
notebooks and pages begin with a button that opens them in Colab, and install from there. The button
wants the files of --ipynb on the branch notebooks, in the folder notebooks."""
INSTALL = "install -q fgjax"
EXIT_CODE = "0"  # of a command in a cell: shown by Jupyter, of no interest on a page
WIDEST = 900  # pixels of a page's picture


def names() -> list[str]:
    """Return the names of the notebooks."""
    return sorted(path.stem for path in HERE.glob("*.py") if path.stem != "build")


def with_badge(text: str, name: str) -> str:
    """Return a notebook's first cell with Colab's button below its title, where one can work."""
    if not REPOSITORY:
        return text
    colab = "https://colab.research.google.com"
    file = f"{colab}/github/{REPOSITORY}/blob/notebooks/notebooks/{name}.ipynb"
    title, rest = text.split("\n", 1)
    return f"{title}\n\n[![Open in Colab]({colab}/assets/colab-badge.svg)]({file})\n{rest}"


def with_origin(text: str) -> str:
    """Return a cell that installs this repository, where it is known, and not a package index's."""
    if not REPOSITORY:
        return text
    return text.replace(INSTALL, f"install -q git+https://github.com/{REPOSITORY}")


def read(name: str):
    """Return a notebook, not run."""
    import jupytext

    notebook = jupytext.read(HERE / f"{name}.py")
    title, install = notebook.cells[:2]
    title.source, install.source = with_badge(title.source, name), with_origin(install.source)
    return notebook


def run(name: str, folder: Path, seconds: int = 1200):
    """Return the notebook with its outputs, run in a folder.

    Raises:
      CellExecutionError: a cell fails; the message is its traceback.
    """
    from nbclient import NotebookClient

    notebook = read(name)
    client = NotebookClient(
        notebook, timeout=seconds, kernel_name="python3", resources={"metadata": {"path": folder}}
    )
    client.execute()
    return notebook


def to_markdown(notebook, name: str, pictures: Path) -> str:
    """Return a notebook as a page of the docs; its pictures are written to a folder."""
    parts = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        text = ""
        for output in cell.outputs:  # none of a notebook that was not run
            if output.output_type == "stream":
                text += output.text
            elif "image/png" not in output.data and output.data.get("text/plain") != EXIT_CODE:
                text += output.data.get("text/plain", "").rstrip("\n") + "\n"
        if text.strip():
            parts.append(f"```text\n{plain(text)}\n```")
        for output in cell.outputs:
            if output.output_type != "stream" and "image/png" in output.data:
                pictures.mkdir(parents=True, exist_ok=True)
                file = pictures / f"{name}_{len(parts)}.jpg"
                with Image.open(io.BytesIO(base64.b64decode(output.data["image/png"]))) as drawn:
                    small = drawn.convert("RGB")
                small.thumbnail((WIDEST, WIDEST))
                small.save(file, quality=85, optimize=True)
                parts.append(f"![What this cell shows](../pictures/notebooks/{file.name})")
    return "\n\n".join(parts) + "\n"


def plain(text: str) -> str:
    """Return text without a terminal's colours, spaces at ends of lines, empty lines around."""
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
    return re.sub(r" +$", "", text, flags=re.M).strip("\n")


def main() -> None:
    """Write the pages, or files that Jupyter opens."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="which; all when left out")
    parser.add_argument("--ipynb", type=Path, help="write them there, not run")
    parser.add_argument("--folder", type=Path, help="where they run; thrown away when left out")
    parser.add_argument("--dry", action="store_true", help="do not run them: no outputs")
    args = parser.parse_args()
    if args.ipynb is not None:
        import jupytext

        args.ipynb.mkdir(parents=True, exist_ok=True)
        for name in args.names or names():
            jupytext.write(read(name), args.ipynb / f"{name}.ipynb")
        return
    with tempfile.TemporaryDirectory() as folder:
        for name in args.names or names():
            print(name, flush=True)
            notebook = read(name) if args.dry else run(name, args.folder or Path(folder))
            page = to_markdown(notebook, name, DOCS / "pictures" / "notebooks")
            (DOCS / "notebooks").mkdir(exist_ok=True)
            (DOCS / "notebooks" / f"{name}.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
