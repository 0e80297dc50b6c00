"""A user's own files as rows, one for each sample to write: a folder per class, a manifest, or another shard set."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mmssl import modalities
from mmssl.data.fields import KEYS
from mmssl.data.index import as_bytes
from mmssl.data.making import Fields
from mmssl.data.manifest import read_manifest
from mmssl.data.timer import timed
from mmssl.data.user_files import check_file, files_of, is_file
from mmssl.errors import DamagedError

Spot = tuple[str, int, int | None]


@dataclass(slots=True)
class Row:
    """One sample to write: field -> (file, first byte, length or None for all of it), and field -> ready text."""

    key: str
    files: dict[str, Spot] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    check: bool = True  # whether to look at the files' headers: not when they come out of shards
    fault: str = ""  # why there is no such sample
    where: str = ""  # what the source calls it

    def __repr__(self) -> str:
        return json.dumps(asdict(self))

    def size(self) -> int:
        """Returns about how many bytes it takes in a tar; a file that is not there counts as none."""
        total = sum(len(text) for text in self.texts.values())
        for path, _, length in self.files.values():
            file = Path(path)
            total += length if length is not None else file.stat().st_size if is_file(file) else 0
        return total + 1024 * (len(self.files) + len(self.texts))


@dataclass(slots=True)
class UserRows:
    """The rows of a source, its class names, and what of it becomes no row: kind of file -> count, and classes."""

    rows: list[Row]
    classes: list[str] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)
    without: list[str] = field(default_factory=list)  # classes all of whose files are passed over

    def about(self) -> dict[str, Any]:
        """Returns what the index says of the source."""
        told = {"classes": self.classes, "passed_over": dict(self.passed_over), "empty_classes": self.without}
        return {name: value for name, value in told.items() if value}


def read_row(row: Row) -> Fields:
    """Returns the sample that a row stands for; raises DamagedError if a file cannot be read or opened."""
    if row.fault:
        raise DamagedError(row.fault, row.where)
    sample: dict[str, Any] = {"__key__": row.key, **{name: as_bytes(text) for name, text in row.texts.items()}}
    for name, (path, start, length) in row.files.items():
        where = f"{row.where}, its {name}" if len(row.files) > 1 else row.where
        data = read_spot(path, start, length, where)
        try:
            if row.check:
                with timed():
                    modalities.decode(name, data)
        except DamagedError as error:
            raise DamagedError(error.reason, f"{where}: {error.detail}" if error.detail else where) from None
        sample[name] = _merged(data, row.texts["json"]) if name == "json" and "json" in row.texts else data
    return sample


def read_spot(path: str, start: int, length: int | None, where: str) -> bytes:
    """Returns the bytes of a spot in a file; raises DamagedError where they cannot be read."""
    try:
        if length is None:
            check_file(path)
        with open(path, "rb") as file:
            file.seek(start)
            return file.read() if length is None else file.read(length)
    except DamagedError as error:
        raise DamagedError(error.reason, where) from None
    except OSError as error:
        raise DamagedError("a file that cannot be read", f"{where}: {error.strerror}") from None
    except ValueError as error:  # a name that no file can have
        raise DamagedError("a file that cannot be read", f"{where}: {error}") from None


def _merged(data: bytes, ours: str) -> bytes:
    """Adds to a user's own JSON what we know of the sample; what it says itself stays."""
    try:
        theirs = json.loads(data)
        both = {**json.loads(ours), **theirs} if isinstance(theirs, dict) else None
        return data if both is None else as_bytes(json.dumps(both, ensure_ascii=False))
    except RecursionError:  # what could just be read may be too deep to write
        raise DamagedError("damaged json", "nested too deep") from None


def rows_of_folder(root: Path) -> UserRows:
    """Returns a row for each sample of a folder per class; files that differ only in extension are one sample."""
    every, hidden = files_of(root)
    files = [file for file in every if file.suffix[1:].lower() in KEYS]
    others = [file for file in every if file.suffix[1:].lower() not in KEYS]
    classes = sorted({file.parts[0] for file in files if len(file.parts) > 1})
    rows = []
    for number, sample in enumerate(_joined(files)):
        first = next(iter(sample.values()))
        meta, texts = {"file": first.as_posix()}, {}
        if len(first.parts) > 1:
            texts["cls"] = str(classes.index(first.parts[0]))
            meta["class"] = first.parts[0]
        texts["json"] = json.dumps(meta, ensure_ascii=False)
        paths: dict[str, Spot] = {name: (str((root / file).resolve()), 0, None) for name, file in sample.items()}
        rows.append(Row(f"{number:09d}", paths, texts, where=first.as_posix()))
    passed_over = Counter(file.suffix.lower() or "without extension" for file in others)
    passed_over.update({"hidden": len(hidden)} if hidden else {})
    without = {file.parts[0] for file in others if len(file.parts) > 1} - set(classes)
    return UserRows(rows, classes, passed_over, sorted(without))


def _joined(files: list[Path]) -> list[dict[str, Path]]:
    """Returns field -> file of each sample: files that differ only in extension, one of a kind."""
    samples: list[dict[str, Path]] = []
    last: Path | None = None
    for file in sorted(files, key=lambda f: (f.with_suffix(""), f.suffix)):
        name = file.suffix[1:].lower()
        if file.with_suffix("") != last or KEYS[name] in map(KEYS.get, samples[-1]):
            samples.append({})
        samples[-1][name] = file
        last = file.with_suffix("")
    return samples


def rows_of_manifest(path: Path, columns: dict[str, str]) -> UserRows:
    """Returns a row for each row of a table."""
    manifest = read_manifest(path, columns)
    rows = []
    for number, line in enumerate(manifest.rows):
        paths: dict[str, Spot] = {name: (str(file.absolute()), 0, None) for name, file in line.files.items()}
        first = next(iter(line.files.values()), None)
        where = f"{line.where}, {os.path.relpath(first, path.parent)}" if first else line.where
        rows.append(Row(f"{number:09d}", paths, line.texts, fault=line.fault, where=where))
    return UserRows(rows, manifest.classes, manifest.passed_over)
