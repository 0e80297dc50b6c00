"""Own code in a file, named as `mine.py` or `./mine.py:Mine`: found, imported, and copied beside what is saved.

A relative name is found beside the document that holds it, a recipe or an encoder's config.json. The module of a file
is `mmssl.own.` and its path, so that a data worker that unpickles something of it imports the same file.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from mmssl.errors import UserError
from mmssl.schema import shortened

__path__: list[str] = []  # modules can lie within this one; _Finder finds them
CODE = "code"  # the folder, beside a document, of the files that it names
KEYS = ("name", "kind")  # under which documents name code
_FILE = re.compile(r"(.+\.py)(?::(\w*))?", re.DOTALL)
_loaded: dict[Path, tuple[bytes, ModuleType]] = {}  # of each file what was read, and what came of it


def is_file(name: str) -> bool:
    """Tells whether a name is that of a file of own code."""
    return _FILE.fullmatch(name) is not None


def split(name: str) -> tuple[str, str]:
    """Splits the name of a file into its path and what of it is named, "" for what its room exports."""
    match = _FILE.fullmatch(name)
    assert match
    return match[1], match[2] or ""


def title(name: str) -> str:
    """Returns what to call the code of a file where its path says too much; other names as they are."""
    return (split(name)[1] or Path(split(name)[0]).stem) if is_file(name) else name


def absolute(name: str, folder: Path = Path()) -> str:
    """Returns the name of a file with its whole path, found from a folder; other names as they are."""
    if not is_file(name):
        return name
    path, tail = split(name)
    return _joined(os.path.abspath(folder / Path(path).expanduser()), tail)  # noqa: PTH100  # links stay


def name_of(kind: type) -> str | None:
    """Returns the name of a class that comes from a file of own code, None for any other."""
    home = kind.__module__
    return _joined(str(_path_of(home)), kind.__name__) if home.startswith(f"{__name__}.") else None


def renamed(tree: Any, rename: Callable[[str], str]) -> Any:
    """Returns plain values with other names for the files of own code that they name, at any depth."""
    if isinstance(tree, Mapping):
        return {
            key: rename(value) if key in KEYS and isinstance(value, str) and is_file(value) else renamed(value, rename)
            for key, value in tree.items()
        }
    return [renamed(value, rename) for value in tree] if isinstance(tree, list | tuple) else tree


def located(tree: Any, folder: Path = Path()) -> Any:
    """Returns plain values that name files of own code by their whole paths, found from a folder."""
    return renamed(tree, lambda name: absolute(name, folder))


def gathered(tree: Any) -> tuple[Any, dict[str, bytes]]:
    """Returns plain values that name copies, `code/mine.py`, of own files, and what these hold.

    A file holds what was imported from it, whatever became of it since.
    """
    copies: dict[str, bytes] = {}

    def copy(name: str) -> str:
        path, tail = split(name)
        data = _source(Path(path))
        stem, number = Path(path).stem, 1
        while copies.setdefault(place := f"{CODE}/{stem}{f'_{number}' if number > 1 else ''}.py", data) != data:
            number += 1
        return _joined(place, tail)

    return renamed(tree, copy), copies


def load(name: str) -> ModuleType:
    """Imports the file of a name, again where it has changed; a copy of one that is imported is the same module.

    Raises UserError for a file that is not there, is no Python, or imports what is not installed.
    """
    file = Path(split(absolute(name))[0])
    if not os.path.isfile(file):  # noqa: PTH113  # Path.is_file raises for odd names
        raise UserError(f"there is no file {shortened(str(file))} of own code; expected it beside what names it")
    data = file.read_bytes()
    if file not in _loaded or _loaded[file][0] != data:
        _loaded[file] = data, _same(data) or _imported(file)
    return _loaded[file][1]


def _same(data: bytes) -> ModuleType | None:
    """Returns the module of another file of this content, which is still as it was."""
    for file, (known, module) in _loaded.items():
        if known == data and Path(str(module.__file__)) == file and file.is_file() and file.read_bytes() == data:
            return module
    return None


def _imported(file: Path) -> ModuleType:
    module = _module_of(file)
    sys.modules.pop(module, None)
    try:
        return importlib.import_module(module)
    except SyntaxError as error:
        raise UserError(f"{error.filename}, line {error.lineno}: {error.msg}") from error
    except ModuleNotFoundError as error:
        missing = str(error.name)
        if (file.parent / f"{missing}.py").is_file():
            raise UserError(
                f"{file} imports {missing}.py beside it, but a file of own code stands alone, since it is copied with "
                f"what is saved; put both into one file, or make a package of them"
            ) from error
        raise UserError(f"{file} needs the package {missing!r}: pip install {missing}") from error


def _source(file: Path) -> bytes:
    return _loaded[file][0] if file in _loaded else file.read_bytes()


def _joined(path: str, tail: str) -> str:
    return f"{path}:{tail}" if tail else path


def _module_of(file: Path) -> str:
    return f"{__name__}.{re.sub(r'[^a-zA-Z0-9]', '_', file.stem)}_{os.fsencode(file).hex()}"


def _path_of(module: str) -> Path:
    return Path(os.fsdecode(bytes.fromhex(module.rpartition("_")[2])))


class _Loader(SourceFileLoader):
    """Compiles a file whenever it is imported: what is cached beside it may be older."""

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = self.source_to_code(self.get_data(self.path), self.path)
        return code


class _Finder(MetaPathFinder):
    """Finds the modules of this one by the paths in their names."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not re.fullmatch(rf"{re.escape(__name__)}\.\w*_(?:[0-9a-f]{{2}})+", fullname):
            return None
        file = str(_path_of(fullname))
        return spec_from_file_location(fullname, file, loader=_Loader(fullname, file))


sys.meta_path.append(_Finder())
