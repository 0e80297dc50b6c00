"""A shard set's index.json: how many samples, bytes and fields each shard has, and its checksum."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmssl.errors import UserError
from mmssl.files import write_atomically

INDEX = "index.json"
JOURNAL = "build.journal"  # a folder that has one is still being written
FORMAT = "mmssl-shards-1"


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file that is either there whole or not there."""
    write_atomically(path, as_bytes(json.dumps(value, indent=1, ensure_ascii=False)))


def as_bytes(text: str) -> bytes:
    """Writes text in UTF-8; what that cannot hold, bytes of file names in another encoding, is spelt as in JSON."""
    return text.encode("utf-8", "backslashreplace")


def read_index(folder: Path) -> dict[str, Any] | None:
    """Returns the folder's index, or None where there is none of ours; raises UserError if it is garbled."""
    path = folder / INDEX
    if not path.is_file():
        return None
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError):
        raise UserError(f"{path} is not JSON; remove it, or build the set again") from None
    ours = isinstance(index, dict) and index.get("format") == FORMAT
    return index if ours else None
