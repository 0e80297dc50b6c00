"""The files of a tar or a folder, by name, without the hidden ones: what every reader of users' files begins with."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import tarfile
from pathlib import Path
from typing import Any, NoReturn, cast

from mmssl.data.members import BROKEN, LARGE, Member, open_tar
from mmssl.data.unpack import open_to_search
from mmssl.errors import DamagedError, UserError
from mmssl.limits import check
from mmssl.modalities import read_file

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


class Files:
    """The files of a tar or a folder that are not hidden, by their paths, in order of these; `read` opens one.

    Raises UserError for anything else.

    expected: what it should hold, for the message.
    """

    def __init__(self, source: str | Path, *, expected: str) -> None:
        self.source = Path(source)
        self.file: Any = None
        self.members: dict[str, Member] | None = None
        if self.source.is_dir():
            self.names = [name.as_posix() for name in files_of(self.source)[0]]
        elif is_tar(self.source):
            self.members = _members(self.source)
            self.names = sorted(self.members)
        else:
            raise UserError(f"{source} is neither a tar nor a folder; expected one with {expected}")

    def read(self, name: str) -> bytes:
        """Returns a file's bytes; raises UserError where it cannot be read, DamagedError where it exceeds a limit."""
        if self.members is None:
            return read_whole(self.source / name)
        member = self.members[name]
        if member.fault:
            raise DamagedError(member.fault, name)
        if self.file is None:
            self.file = open_to_search(self.source)
        self.file.seek(member.offset)
        return cast("bytes", self.file.read(member.size))

    def close(self) -> None:
        """Closes the tar, if one was opened."""
        if self.file is not None:
            self.file.close()


def read_files(source: str | Path, *, expected: str) -> dict[str, bytes]:
    """Returns the bytes of every file that is not hidden by its path within a tar or folder, as `Files` has them."""
    with contextlib.closing(Files(source, expected=expected)) as files:
        return {name: files.read(name) for name in files.names}


def read_whole(path: Path) -> bytes:
    """Returns the bytes of a file in a folder; raises UserError where it cannot be read, and see `check_file`."""
    with contextlib.suppress(OSError):  # read_file says what is wrong
        check_file(path)
    return read_file(path)


def check_file(path: str | Path) -> None:
    """Raises DamagedError for what is no file, for a device or a named pipe has no end, and for one above the limit."""
    status = os.stat(path)  # noqa: PTH116 - much slower through Path
    if not stat.S_ISREG(status.st_mode):
        raise DamagedError("a device or a pipe in place of a file", str(path))
    check("member_bytes", status.st_size, LARGE, str(path))


def is_file(path: Path) -> bool:
    """Tells whether a path is a file; a name that no file can have is none, where Path.is_file raises."""
    return os.path.isfile(path)  # noqa: PTH113


def is_tar(path: Path) -> bool:
    """Tells whether a path is a tar, compressed or not."""
    if not path.is_file():
        return False
    with contextlib.suppress(*BROKEN, DamagedError), open_tar(path) as tar:
        next(iter(tar), None)
        return True
    return False


def _members(path: Path) -> dict[str, Member]:
    """Returns the files of a tar that are not hidden by their paths; of those that bear one path the last counts."""
    try:
        with open_tar(path) as tar:
            found = {member.name.removeprefix("./"): member for member in tar if not hidden(member.name)}
        if not tar.whole:
            raise tarfile.ReadError("a garbled or cut header")
    except BROKEN as error:
        raise UserError(
            f"{path} cannot be read to its end: {str(error) or 'it is cut'}; fetch or pack it again"
        ) from None
    return found
