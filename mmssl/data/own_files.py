"""The files of a tar or a folder, by name: what prepare scripts begin with."""

from __future__ import annotations

import tarfile
from pathlib import Path

from mmssl.errors import UserError


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
