"""The files of a tar or a folder, by name, without the hidden ones: what every reader of users' files begins with."""

from __future__ import annotations

import lzma
import os
import re
import tarfile
import zlib
from pathlib import Path
from typing import NoReturn

from mmssl.errors import UserError
from mmssl.modalities import read_file

BROKEN = (OSError, EOFError, tarfile.TarError, zlib.error, lzma.LZMAError)
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
    """Returns the bytes of every file that is not hidden by its path within a tar or folder, in order of the paths.

    Raises UserError for anything else and for what cannot be read; expected: what it should hold, for the message.
    """
    path = Path(source)
    if path.is_dir():
        return {name.as_posix(): read_file(path / name) for name in files_of(path)[0]}
    if not is_tar(path):
        raise UserError(f"{source} is neither a tar nor a folder; expected one with {expected}")
    found = {}
    with tarfile.open(path) as tar:
        for name, member in members_of(tar):
            file = tar.extractfile(member)
            assert file, "a regular member"
            found[name] = file.read()
    return found


def is_tar(path: Path) -> bool:
    """Tells whether a path is a tar, compressed or not."""
    return path.is_file() and tarfile.is_tarfile(path)


def members_of(tar: tarfile.TarFile) -> list[tuple[str, tarfile.TarInfo]]:
    """Returns the files of an opened tar that are not hidden, with their paths, in order of the paths.

    Raises UserError for a tar that breaks off.
    """
    try:
        members = [member for member in tar if member.isreg() and not hidden(member.name)]
        assert tar.fileobj, "a tar that is open"
        tar.fileobj.seek(tar.offset)
        while block := tar.fileobj.read(1 << 20):
            if block.strip(b"\0"):  # tarfile takes a garbled or cut header for the end
                raise tarfile.ReadError("a garbled or cut header")
    except BROKEN as error:
        raise UserError(f"{tar.name!s} cannot be read to its end: {error}; fetch or pack it again") from None
    return sorted(((m.name.removeprefix("./"), m) for m in members), key=lambda file: file[0])
