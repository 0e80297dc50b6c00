"""Arrays of numpy: npy and npz, never unpickled, and not larger than the limit array_bytes."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import numpy as np

from mmssl.errors import DamagedError
from mmssl.limits import check

TOO_LARGE = "arrays too large to unpack"
ENTRY = b"PK\1\2"  # begins each entry of a zip's directory
MEMBERS = 10_000  # of an npz; reading the directory takes much more memory than it has bytes


def read(data: bytes) -> Any:
    """Reads npy as an array, npz as a dict, name -> array. Raises DamagedError, or what numpy and zipfile raise."""
    if data.startswith(b"PK"):
        return _zipped(data)
    check("array_bytes", len(data), TOO_LARGE)  # what is missing is not read, whatever the header claims
    loaded = np.load(io.BytesIO(data), allow_pickle=False)
    if loaded.size and not loaded.itemsize:
        raise DamagedError("an array of nothing", f"{loaded.dtype} {loaded.shape}")
    return loaded


def _zipped(data: bytes) -> dict[str, Any]:
    if data.count(ENTRY) > MEMBERS:
        raise DamagedError("an npz of too many arrays", f"more than {MEMBERS}")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
    check("array_bytes", sum(member.file_size for member in members), TOO_LARGE)  # no more than this is unpacked
    if any(member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members):
        raise DamagedError("an npz in a compression that numpy does not write")
    with np.load(io.BytesIO(data), allow_pickle=False) as loaded:
        found = {name: loaded[name] for name in loaded.files}
    if odd := [name for name, array in found.items() if not isinstance(array, np.ndarray)]:
        raise DamagedError("an npz with files that are no arrays", f"{odd[0]!r:.60}")
    if empty := [name for name, array in found.items() if array.size and not array.itemsize]:
        raise DamagedError("an array of nothing", f"{empty[0]!r:.60}")
    return found
