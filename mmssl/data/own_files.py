"""The files of a tar or a folder, by name, without the hidden ones: what every reader of users' files begins with."""

from __future__ import annotations

import os
import re
import tarfile
from pathlib import Path
from typing import NoReturn

from mmssl.errors import UserError

# What macOS, Windows and editors leave beside a user's files: ._x.jpg, .DS_Store, __MACOSX/, .ipynb_checkpoints/
HIDDEN = re.compile(r"(?:^|/)(?:\.(?!\.?(?:/|$))|__macosx(?:/|$)|(?:thumbs\.db|desktop\.ini)$)", re.IGNORECASE)


def hidden(name: str) -> bool:
    """Tells whether a file, or a folder that it lies in, is hidden; a leading ./ hides nothing."""
    return HIDDEN.search(name) is not None


def files_of(folder: Path) -> tuple[list[Path], list[Path]]:
    """Returns the files below a folder in order, and the hidden files and folders passed over; relative paths.

    Links to folders are followed, but for those that lead back into a folder above them.
    """
    shown: list[Path] = []
    passed: list[Path] = []
    for home, inside, names in os.walk(folder, followlinks=True, onerror=_unreadable):
        here = Path(home).relative_to(folder)
        passed += [here / name for name in (*inside, *names) if hidden(name)]
        shown += [here / name for name in names if not hidden(name)]
        inside[:] = [name for name in inside if not hidden(name) and not _leads_back(Path(home, name))]
    return sorted(shown), sorted(passed)


def _unreadable(error: OSError) -> NoReturn:
    raise UserError(f"cannot read the folder {error.filename!r}: {error.strerror}") from None


def _leads_back(folder: Path) -> bool:
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


def read_files(source: str | Path, *, expected: str) -> dict[str, bytes]:
    """Returns every file's bytes by its path within a tar or folder, in order of the paths.

    Raises UserError for anything else; expected: what it should hold, for the message.
    """
    path = Path(source)
    if path.is_dir():
        return {p.relative_to(path).as_posix(): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}
    if path.is_file() and tarfile.is_tarfile(path):
        found = {}
        with tarfile.open(path) as tar:
            for member in sorted((m for m in tar if m.isreg()), key=lambda m: m.name.removeprefix("./")):
                file = tar.extractfile(member)
                assert file, "a regular member"
                found[member.name.removeprefix("./")] = file.read()
        return found
    raise UserError(f"{source} is neither a tar nor a folder; expected one with {expected}")
