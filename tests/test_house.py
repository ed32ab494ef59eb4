"""Who may import whom: the rooms of the package, read from the files themselves."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fgjax

PACKAGE = Path(fgjax.__file__).parent

MAY_IMPORT = {
    "core": "",
    "devices": "core",
    "attribution": "core devices",
    "models": "core devices",
    "data": "core",
    "evaluation": "core devices attribution",
    "report": "core",
    "training": "core devices attribution models data",
    "options": "core attribution models data training",
    "runs": "core devices data options",
    "processes": "core devices data options runs",
    "sweeps": "core evaluation options runs",
    "stages": "core devices attribution models data evaluation report training options runs "
    "processes",
    "run": "core devices attribution models data options runs processes sweeps stages",
}
"""Room -> the rooms that it knows, besides itself. A room stands below those that know it."""

WITHOUT_JAX = ["data", "report"]
"""Rooms no file of which imports JAX."""


def imports(text: str) -> set[str]:
    """Return the modules a file imports, also inside of functions and for type checkers."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def rooms_of(modules: set[str]) -> set[str]:
    return {name.split(".")[1] for name in modules if name.startswith("fgjax.")}


def files(room: str) -> list[Path]:
    folder = PACKAGE / room
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [PACKAGE / f"{room}.py"]


def test_every_room_is_in_the_table():
    found = {p.stem for p in PACKAGE.glob("[!_]*.py")}
    found |= {p.parent.name for p in PACKAGE.glob("*/__init__.py")}
    assert found == set(MAY_IMPORT)


def test_the_table_runs_one_way():
    below: set[str] = set()
    for room, known in MAY_IMPORT.items():
        assert set(known.split()) <= below, f"{room} knows a room that stands above it"
        below.add(room)


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_rooms_below_it(room):
    allowed = {room, *MAY_IMPORT[room].split()}
    wrong = {
        str(path.relative_to(PACKAGE)): sorted(extra)
        for path in files(room)
        if (extra := rooms_of(imports(path.read_text(encoding="utf-8"))) - allowed)
    }
    assert not wrong, f"fgjax/{room} may import {sorted(allowed)} only"


@pytest.mark.parametrize("room", WITHOUT_JAX)
def test_a_room_without_jax(room):
    for path in files(room):
        names = {name.split(".")[0] for name in imports(path.read_text(encoding="utf-8"))}
        assert not names & {"jax", "flax", "optax"}, path


def test_the_report_is_made_without_jax():
    code = "import sys, fgjax.report.page, fgjax.report.comparison; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "jinja2" in done.stdout.split() and "jax" not in done.stdout.split()


def test_the_reader_of_imports_sees_them_all():
    text = """
from fgjax import run
import fgjax.data.images
def f():
    from fgjax.stages.train import stage
if TYPE_CHECKING:
    from fgjax.core.files import write
"""
    assert rooms_of(imports(text)) == {"run", "data", "stages", "core"}


def public_functions(tree: ast.Module):
    """Yield the functions of a module, and the methods of its classes, that begin with no _."""
    held = [("", tree), *((f"{n.name}.", n) for n in tree.body if isinstance(n, ast.ClassDef))]
    for prefix, owner in held:
        for node in owner.body:
            hidden = node.name.startswith("_") if isinstance(node, ast.FunctionDef) else True
            if not prefix.startswith("_") and not hidden:
                yield prefix + node.name, node


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_public_functions_are_annotated(room):
    bare = []
    for path in files(room):
        for name, node in public_functions(ast.parse(path.read_text(encoding="utf-8"))):
            given = node.args
            every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
            missing = [
                a.arg for a in every if a and not a.annotation and a.arg not in ("self", "cls")
            ]
            if missing or node.returns is None:
                bare.append(f"{path.name}: {name} {missing}")
    assert not bare


def test_to_import_the_package_imports_no_other_package():
    code = "import sys, fgjax; dir(fgjax); print(*{name.split('.')[0] for name in sys.modules})"
    packages = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    found = set(packages.stdout.split()) - set(sys.stdlib_module_names)
    heavy = {"jax", "jaxlib", "flax", "optax", "orbax", "scipy", "matplotlib", "numpy",
             "tensorboard", "huggingface_hub", "skimage"}  # fmt: skip
    assert "fgjax" in found and not found & heavy


def test_a_method_imports_nothing_that_it_does_not_need():
    code = "import sys, fgjax; fgjax.fido; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    found = set(done.stdout.split())
    assert "fgjax.attribution.fido.method" in found
    assert not found & {"scipy.stats", "matplotlib", "orbax", "rich", "skimage"}


def test_every_weekly_test_is_there():
    tests = Path(__file__).parent
    lines = (tests / "weekly.txt").read_text(encoding="utf-8").splitlines()
    for line in (line for line in lines if line and not line.startswith("#")):
        file, name = line.split("[")[0].split("::")
        assert f"def {name}(" in (tests / file).read_text(encoding="utf-8"), line
