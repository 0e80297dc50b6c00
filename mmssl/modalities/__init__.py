"""What a sample is made of: image, video, audio, points and text, read from bytes and written to bytes."""

from __future__ import annotations

import ast
import importlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from mmssl.errors import DamagedError, UserError, did_you_mean
from mmssl.limits import check
from mmssl.schema import depth


def _declared() -> dict[str, str]:
    """Reads the EXTENSIONS of each file in this folder without importing it, for decoders are heavy."""
    found: dict[str, str] = {}
    for file in sorted(Path(__file__).parent.glob("[!_]*.py")):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "EXTENSIONS":
                found |= dict.fromkeys(ast.literal_eval(node.value), file.stem)
    return found


EXTENSIONS = _declared()  # extension -> modality
MODALITIES = tuple(dict.fromkeys(EXTENSIONS.values()))


def decode(field: str, data: bytes) -> Any:
    """Opens the bytes of a shard's field by its last extension: a raw handle, a dict (json), an int (cls) or arrays.

    `npz` and `npy` are a Cloud where the role is empty or starts with "points", otherwise plain arrays.
    Raises DamagedError for bytes that cannot be used, UserError for an extension that has no reader.
    """
    role, _, extension = field.lower().rpartition(".")
    if extension == "json":
        return _json(data)
    if extension == "cls":
        return _label(data)
    if extension in ("npz", "npy") and role and not role.startswith("points"):
        return _reader("arrays").read(data)
    if extension not in EXTENSIONS:
        known = [*EXTENSIONS, "json", "cls"]
        raise UserError(f"the field {field!r} has no reader for {extension!r}; {did_you_mean(extension, known)}")
    return _reader(EXTENSIONS[extension]).decode(data, extension)


@cache  # importing what is imported already takes 3 us of the 140 of a small image
def _reader(name: str) -> Any:
    return importlib.import_module(f"mmssl.modalities.{name}")


def read_file(path: str | Path) -> bytes:
    """Reads a file that the user named; raises UserError where it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {str(path)!r}: {error.strerror or error}") from None


def _json(data: bytes) -> Any:
    check("sample_json_bytes", len(data), "json too large to read")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DamagedError("damaged json", str(error)) from None
    check("document_depth", depth(value), "json nested too deep")
    return value


def _label(data: bytes) -> int:
    try:
        label = int(data[:40])  # the bytes of no int64 are more
    except ValueError:
        label = 2**63
    if len(data) > 40 or not -(2**63) <= label < 2**63:
        raise DamagedError("a label that is not a whole number", repr(data[:40]))
    return label
