"""Looks into a shard set: whether it is whole, and what is in it."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mmssl.data.fields import decode as open_key
from mmssl.data.fields import key_of
from mmssl.data.index import Shard, parts_hint, read_index
from mmssl.data.members import BROKEN, open_tar
from mmssl.data.patterns import as_file
from mmssl.data.shards import Source
from mmssl.data.summary import account
from mmssl.data.tar import read_tar, scan_tar
from mmssl.data.timer import timed
from mmssl.data.user_files import hidden
from mmssl.errors import DamagedError, UserError


def verify(folder: str | Path, *, decode: bool = False) -> list[str]:
    """Returns what is wrong with a shard set, a line for each problem: against its index.json, and each tar in itself.

    Without an index.json, as sets that others made have none, only each tar in itself. Problems are also an empty
    set, samples whose files do not stand together, and hidden files.
    decode: also decodes all of every field that has a reader, videos and sounds from first to last, and names each
        that is damaged.
    """
    home = Path(folder)
    if not home.is_dir():
        raise UserError(f"there is no folder {home}")
    index = read_index(home)
    listed = {entry["name"]: entry for entry in index["shards"]} if index else {}
    names = sorted(path.name for path in home.glob("*.tar"))
    problems = [f"{name} is not in the index" for name in names if listed and name not in listed]
    for path in tqdm(sorted({*home.glob("*.tar"), *(home / name for name in listed)}), unit=" shards", disable=None):
        problems += [f"{path.name}: {problem}" for problem in _verify_shard(path, listed.get(path.name), decode)]
    if listed and not sum(entry["samples"] for entry in listed.values()):
        problems.append(f"{home} holds no samples")
    if listed or any(home.glob("*.tar")):
        return problems
    hint = parts_hint(home)
    return [f"{home} holds no shards{'; ' if hint else ''}{hint}"]


def _verify_shard(path: Path, entry: Shard | None, decode: bool) -> list[str]:
    if not path.is_file():
        return ["is missing"]
    size = path.stat().st_size
    if entry and entry.get("bytes", size) != size:
        return [f"has {size} bytes; the index says {entry['bytes']}"]
    if entry and "sha256" in entry and _checksum(path) != entry["sha256"]:
        return ["its checksum is not the index's: its content has changed"]
    found = _contents(path)
    if entry and (found["samples"], found["fields"]) != (entry["samples"], entry.get("fields", found["fields"])):
        return [f"has {found['samples']} samples with {found['fields']}; the index says {entry['samples']}"]
    problems = [found["fault"]] if found["fault"] else []
    if entry is None and not found["samples"]:
        problems.append("holds no samples")
    problems += [f"{len(keys)} {reason}; such as {keys[0]}" for reason, keys in found["faults"].items()]
    if odd := _hidden(path):
        problems.append(f"{len(odd)} hidden files, which are passed over; such as {odd[0]}")
    return problems + (_undecodable(path) if decode else [])


def _hidden(path: Path) -> list[str]:
    odd: list[str] = []
    with contextlib.suppress(*BROKEN), open_tar(path) as tar:
        odd.extend(member.name for member in tar if hidden(member.name))
    return odd


def _checksum(path: Path) -> str:
    sha = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()


def _contents(path: Path) -> dict[str, Any]:
    samples, fields, fault = 0, Counter[str](), ""
    faults: dict[str, list[str]] = {}
    try:
        for place in scan_tar(path):
            samples += 1
            fields.update(place.names)
            if place.fault:
                faults.setdefault(place.fault, []).append(place.key)
    except DamagedError as error:
        fault = error.reason
    return {"samples": samples, "fields": dict(sorted(fields.items())), "faults": faults, "fault": fault}


def _undecodable(path: Path) -> list[str]:
    """Returns a line for each field that is damaged, with the sample's key."""
    from mmssl.modalities.whole import check

    problems = []
    for entry in read_tar(as_file(path)):
        for field, data in entry.fields.items():
            if (key := key_of(field)) is None:
                continue
            try:
                with timed():
                    check(field, data)
                    open_key(key, {field: data}, {})
            except DamagedError as error:
                problems.append(f"{entry.key}, {field}: {error}")
    return problems


def show(shards: str | Path) -> str:
    """Returns what a shard set holds, for people: samples, bytes, fields with sizes, classes, and its first samples."""
    return told(look(shards))


def look(shards: str | Path) -> dict[str, Any]:
    """Returns what a shard set holds as plain values; sizes in bytes, samples is None where no index tells it."""
    source = Source(shards=str(shards))
    index: Mapping[str, Any] = read_index(Path(source.shards[0]).parent) or {}
    sizes = [path.stat().st_size for path in map(Path, source.shards) if path.is_file()]
    fields: Counter[str] = Counter()
    for entry in index.get("shards", []):
        fields.update(entry.get("fields", {}))
    first = {
        entry.key: entry.fault or {field: len(data) for field, data in sorted(entry.fields.items())}
        for entry in itertools.islice(source.entries(0), 3)
    }
    return {
        "samples": source.count,
        "shards": len(source.shards),
        "bytes": sum(sizes),
        "description": index.get("description") or None,
        "build": account(index),
        "fields": dict(sorted(fields.items())),
        "classes": index.get("classes") or [],
        "first": first,
    }


def told(found: Mapping[str, Any]) -> str:
    """Says in words what `look` found."""
    count = "an unknown number of" if found["samples"] is None else f"{found['samples']:,}"
    lines = [f"{count} samples in {found['shards']:,} shards, {found['bytes'] / 2**20:,.1f} MiB"]
    if found["description"]:
        lines.append(found["description"])
    lines += [f"when it was built, {line}" for line in found["build"]]
    if found["fields"]:
        lines.append("fields: " + ", ".join(f"{field} in {n:,}" for field, n in found["fields"].items()))
    if names := found["classes"]:
        lines.append(f"{len(names)} classes: {', '.join(names[:10])}{', ...' if len(names) > 10 else ''}")
    for key, has in found["first"].items():
        parts = has if isinstance(has, str) else ", ".join(f"{field} ({size:,} bytes)" for field, size in has.items())
        lines.append(f"  {key}: {parts}")
    return "\n".join(lines)
