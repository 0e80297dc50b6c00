"""Arrays of numpy: npy and npz, never unpickled, and not larger than the limit array_bytes."""

from __future__ import annotations

import io
import math
import zipfile
from typing import IO, Any

import numpy as np
from numpy.lib import format

from mmssl.errors import DamagedError
from mmssl.limits import check

TOO_LARGE = "arrays too large to unpack"
ENTRY = b"PK\1\2"  # begins each entry of a zip's directory
HEADERS: dict[tuple[int, int], Any] = {(1, 0): format.read_array_header_1_0, (2, 0): format.read_array_header_2_0}
MEMBERS = 10_000  # of an npz; reading the directory takes much more memory than it has bytes


def read(data: bytes) -> Any:
    """Reads npy as an array, npz as a dict, name -> array. Raises DamagedError for anything else."""
    try:
        return _zipped(data) if data.startswith(b"PK") else _plain(data)
    except DamagedError:
        raise
    except Exception as error:  # numpy and zipfile raise whatever their parsers trip over
        raise DamagedError("damaged array file", " ".join(str(error).split())) from None


def _plain(data: bytes) -> Any:
    check("array_bytes", _claimed(io.BytesIO(data)), TOO_LARGE)
    return np.load(io.BytesIO(data), allow_pickle=False)


def _zipped(data: bytes) -> dict[str, Any]:
    if data.count(ENTRY) > MEMBERS:
        raise DamagedError("an npz of too many arrays", f"more than {MEMBERS}")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members, claimed = archive.infolist(), 0
        check("array_bytes", sum(member.file_size for member in members), TOO_LARGE)  # no more than this is unpacked
        for member in members:
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise DamagedError("an npz in a compression that numpy does not write")
            with archive.open(member) as file:
                claimed += _claimed(file)
    check("array_bytes", claimed, TOO_LARGE)
    with np.load(io.BytesIO(data), allow_pickle=False) as loaded:
        return {name: loaded[name] for name in loaded.files}


def _claimed(file: IO[bytes]) -> int:
    """Returns how many bytes an npy has by its header; DamagedError for what is no npy, or has items of no bytes."""
    version = format.read_magic(file)
    if version not in HEADERS:
        raise DamagedError("an npy of an unknown version", str(version))
    shape, _, kind = HEADERS[version](file)
    if not kind.itemsize:
        raise DamagedError("an array of nothing", f"{kind}")
    return math.prod(shape) * kind.itemsize
