"""A user's own files as rows, one for each sample to write: a folder per class, a manifest, or another shard set."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mmssl import modalities
from mmssl.data.fields import KEYS
from mmssl.data.journal import Fields
from mmssl.data.manifest import read_manifest
from mmssl.data.shards import Source
from mmssl.data.tar import scan_tar
from mmssl.errors import DamagedError, UserError

Spot = tuple[str, int, int | None]


@dataclass(slots=True)
class Row:
    """One sample to write: field -> (file, first byte, length or None for all of it), and field -> ready text."""

    key: str
    files: dict[str, Spot] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    check: bool = True  # whether to look at the files' headers: not when they come out of shards
    fault: str = ""  # why there is no such sample

    def __repr__(self) -> str:
        return json.dumps(asdict(self))

    def size(self) -> int:
        """Returns about how many bytes it takes in a tar; a file that is not there counts as none."""
        total = sum(len(text) for text in self.texts.values())
        for path, _, length in self.files.values():
            file = Path(path)
            total += length if length is not None else file.stat().st_size if file.is_file() else 0
        return total + 1024 * (len(self.files) + len(self.texts))


def read_row(row: Row) -> Fields:
    """Returns the sample that a row stands for; raises DamagedError if a file cannot be read or opened."""
    if row.fault:
        raise DamagedError(row.fault, row.key)
    sample: dict[str, Any] = {"__key__": row.key, **{name: text.encode() for name, text in row.texts.items()}}
    for name, (path, start, length) in row.files.items():
        try:
            with open(path, "rb") as file:
                file.seek(start)
                data = file.read() if length is None else file.read(length)
        except OSError as error:
            raise DamagedError("a file that cannot be read", f"{path}: {error.strerror}") from None
        if row.check:
            modalities.decode(name, data)
        sample[name] = data
    return sample


def rows_of_folder(root: Path) -> tuple[list[Row], list[str]]:
    """Returns a row for each sample of a folder per class; files that differ only in extension are one sample."""
    files = [p.relative_to(root) for p in sorted(root.rglob("*")) if p.suffix[1:].lower() in KEYS and p.is_file()]
    classes = sorted({file.parts[0] for file in files if len(file.parts) > 1})
    samples: list[dict[str, Path]] = []
    last: Path | None = None
    for file in sorted(files, key=lambda f: (f.with_suffix(""), f.suffix)):
        name = file.suffix[1:].lower()
        if file.with_suffix("") != last or KEYS[name] in map(KEYS.get, samples[-1]):
            samples.append({})
        samples[-1][name] = file
        last = file.with_suffix("")
    rows = []
    for number, sample in enumerate(samples):
        first = next(iter(sample.values()))
        texts = {}
        meta = {"file": first.as_posix()}
        if len(first.parts) > 1:
            texts["cls"] = str(classes.index(first.parts[0]))
            meta["class"] = first.parts[0]
        if "json" not in sample:
            texts["json"] = json.dumps(meta, ensure_ascii=False)
        paths: dict[str, Spot] = {name: (str((root / file).resolve()), 0, None) for name, file in sample.items()}
        rows.append(Row(f"{number:09d}", paths, texts))
    return rows, classes


def rows_of_manifest(path: Path, columns: dict[str, str]) -> tuple[list[Row], list[str]]:
    manifest = read_manifest(path, columns)
    rows = []
    for number, (files, texts) in enumerate(manifest.rows):
        paths: dict[str, Spot] = {name: (str((path.parent / file).resolve()), 0, None) for name, file in files.items()}
        rows.append(Row(f"{number:09d}", paths, texts))
    return rows, manifest.classes


def has_shards(folder: Path) -> bool:
    return any(folder.glob("*.tar"))


def rows_of_shards(shards: str) -> list[Row]:
    """Returns a row for each sample of local uncompressed tars; what follows a break in a tar is left out."""
    rows = []
    for shard in Source(shards=shards).shards:
        path = Path(shard)
        if not path.is_file() or path.suffix != ".tar":
            raise UserError(f"{shard} is not a local uncompressed tar; download or unpack it before building from it")
        try:
            for place in scan_tar(path):
                spots: dict[str, Spot] = {name: (str(path.resolve()), *spot) for name, spot in place.fields.items()}
                rows.append(Row(place.key, spots, check=False))
        except DamagedError as error:
            rows.append(Row(path.name, fault=error.reason))
    return rows
