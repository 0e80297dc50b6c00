"""Imports run one way between the rooms, and nothing heavy is imported before it is needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mmssl"
LEVELS = [
    {
        "errors",
        "console",
        "limits",
        "schema",
        "files",
        "lock",
        "types",
        "peers",
        "dist",
        "stopping",
        "options",
        "names",
        "own",
        "trial",
    },
    {"modalities", "numerics", "optim"},
    {"nn", "losses"},
    {"transforms"},
    {"encoders", "objectives", "views", "data"},
    {"methods", "evals"},
    {"recipe", "checkpoint", "state", "log", "multitask", "parallel", "prepare", "plots", "run_folder", "weights"},
    {"judge", "loading", "classify", "captioning", "assembly", "features", "starting"},
    {"trainer", "plot", "explain", "exports"},
    {"loop"},
    {"demo", "doctor"},
    {"verbs"},
    {"cli", "__main__"},
]
# Inside a level these may see each other, in this direction only.
ALLOWED = {
    ("__main__", "cli"),
    ("types", "errors"),
    ("dist", "errors"),
    ("dist", "peers"),
    ("peers", "errors"),
    ("stopping", "dist"),
    ("names", "errors"),
    ("names", "options"),
    ("names", "own"),
    ("own", "errors"),
    ("own", "schema"),
    ("names", "schema"),
    ("options", "errors"),
    ("options", "schema"),
    ("options", "types"),
    ("names", "types"),
    ("console", "types"),
    ("schema", "errors"),
    ("schema", "limits"),
    ("limits", "errors"),
    ("lock", "errors"),
    ("lock", "files"),
    ("recipe", "log"),
    ("run_folder", "checkpoint"),
    ("run_folder", "state"),
    ("trial", "errors"),
    ("trial", "limits"),
    ("captioning", "loading"),
    ("classify", "loading"),
    ("judge", "loading"),
    ("features", "loading"),
    ("loading", "assembly"),
    ("weights", "multitask"),
    ("assembly", "starting"),
}


def level(room: str) -> int:
    return next(number for number, rooms in enumerate(LEVELS) if room in rooms)


def room_of(file: Path) -> str:
    first = file.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports(file: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


FILES = sorted(
    file for file in PACKAGE.rglob("*.py") if file != PACKAGE / "__init__.py" and "_assets" not in file.parts
)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_run_one_way(file: Path) -> None:
    mine = room_of(file)
    for name in imports(file):
        parts = name.split(".")
        if parts[0] != "mmssl" or len(parts) < 2 or parts[1] == mine:
            continue
        theirs = parts[1]
        down = level(theirs) < level(mine) or (mine, theirs) in ALLOWED
        assert down, f"{file.relative_to(PACKAGE)} ({mine}) imports {name} ({theirs}), which stands no lower"


@pytest.mark.parametrize("file", sorted((PACKAGE / "methods").glob("*.py")), ids=lambda file: file.stem)
def test_methods_see_contracts_only(file: Path) -> None:
    for name in imports(file):
        other = name.startswith("mmssl.methods") or name.split(".")[1:2] in (["encoders"], ["data"], ["evals"])
        assert not (name.startswith("mmssl") and other), f"{file.stem} imports {name}"


def test_files_of_the_package_have_a_room() -> None:
    for file in FILES:
        level(room_of(file))


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, check=True)
    return done.stdout


def imported_by(code: str) -> set[str]:
    """Returns what running code imports beside the standard library, mmssl, and what Python itself starts with."""
    report = "\nimport sys; print(*{name.partition('.')[0] for name in sys.modules} - sys.stdlib_module_names)"
    return set(python(code + report).split()) - set(python(report).split()) - {"mmssl"}


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert imported_by("import mmssl") == set()


@pytest.mark.parametrize(
    "call", ["main(['--help'])", "main(['list', 'methods'])", "main(['list', 'encoders'])", "main(['list', 'configs'])"]
)
def test_help_and_lists_import_nothing_heavy(call: str) -> None:
    quiet = "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):"
    found = imported_by(f"import contextlib, io\nfrom mmssl.cli import main\n{quiet}\n    {call}")
    assert not found if "configs" not in call else "yaml" in found and not found & {"torch", "numpy", "PIL"}
