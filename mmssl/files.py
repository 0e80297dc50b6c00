"""Files that are whole or absent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file that is either the old one or the whole new one, whatever happens meanwhile."""
    with replacing(path) as temporary, temporary.open("xb") as file:
        file.write(data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields where to write what takes a file's place once it is whole and on the disk; if that fails, nothing does.

    Raises OSError with the file's name.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)  # what a killed process left; and a link would be written through
        try:
            yield temporary
            sync(temporary)
            later = _LATER.get()
            if later is None:
                temporary.replace(path)
                sync_folder(path.parent)
            else:
                later.append((temporary, path))
        except BaseException:
            _remove(temporary)
            raise


_LATER: ContextVar[list[tuple[Path, Path]] | None] = ContextVar("later", default=None)


@contextmanager
def together() -> Iterator[None]:
    """Lets the files that are written meanwhile take their places one right after the other, or none of them."""
    written: list[tuple[Path, Path]] = []
    token = _LATER.set(written)
    try:
        yield
        for temporary, path in written:
            with naming(path):
                temporary.replace(path)
        for folder in {path.parent for _, path in written}:
            sync_folder(folder)
    except BaseException:
        for temporary, _ in written:
            _remove(temporary)
        raise
    finally:
        _LATER.reset(token)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Makes an error of the system name a file, also where a library has wrapped it."""
    try:
        yield
    except Exception as error:
        found = _of_the_system(error)
        if found is None:
            raise
        raise OSError(found, os.strerror(found), str(path)) from error


def _of_the_system(error: BaseException | None) -> int | None:
    """Finds the system's number of an error that torch, say, has chained to its own."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return error.errno if error else None


def _remove(temporary: Path) -> None:
    with suppress(OSError):
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Waits until a file's content is on the disk."""
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Makes renames in a folder last through a power cut, where the system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
