"""A shard set's index.json: how many samples, bytes and fields each shard has, and its checksum."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, Literal, TypedDict

from mmssl.errors import UserError
from mmssl.files import write_atomically
from mmssl.limits import refuse
from mmssl.schema import Count, FileName, fit, read_json

INDEX = "index.json"
JOURNAL = "build.journal"  # a folder that has one is still being written
FORMAT = "mmssl-shards-1"


class _OfShard(TypedDict, total=False):
    bytes: Count
    fields: dict[str, Count]
    sha256: str


class Shard(_OfShard):
    """What an index says of one shard, a file beside it."""

    name: FileName
    samples: Count


class _OfSet(TypedDict, total=False):
    samples: Count
    description: str
    classes: list[str]
    empty_classes: list[str]
    damaged: dict[str, Count]
    examples: dict[str, list[str]]
    passed_over: dict[str, Count]


class Index(_OfSet):
    """What an index.json holds, the counts of a build and, in the order of their numbers, the names of `cls`."""

    format: Literal["mmssl-shards-1"]
    shards: list[Shard]


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file that is either there whole or not there."""
    write_atomically(path, as_bytes(json.dumps(value, indent=1, ensure_ascii=False)))


def as_bytes(text: str) -> bytes:
    """Writes text in UTF-8; what that cannot hold, bytes of file names in another encoding, is spelt as in JSON."""
    return text.encode("utf-8", "backslashreplace")


def read_index(folder: Path) -> Index | None:
    """Returns the folder's index, or None where there is none of ours; raises UserError if it is garbled."""
    path = folder / INDEX
    if not path.is_file():
        return None
    try:
        return checked(read_json(path), str(path))
    except UserError as error:
        raise UserError(f"{error}; remove it, or build the set again") from None


def parts_hint(folder: Path) -> str:
    """Returns what to say of a folder without shards whose folders are shard sets, such as train and test; else ""."""
    parts = sorted(str(file.parent) for file in folder.glob(f"*/{INDEX}"))
    return f"name one of its parts: {', '.join(parts[:5])}{', ...' if len(parts) > 5 else ''}" if parts else ""


def checked(found: Any, where: str) -> Index | None:
    """Returns what a JSON document holds as an index, None for one that is none of ours; UserError if it is garbled."""
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        return None
    index: Index = fit(found, Index, where)
    for name, times in Counter(shard["name"] for shard in index["shards"]).most_common(1):
        if times > 1:
            raise UserError(f"{where} lists {name!r} {times} times")
    most = max((shard["samples"] for shard in index["shards"]), default=0)
    refuse("shard_samples", most, f"{where} promises {most:,} samples of one shard")
    return index
