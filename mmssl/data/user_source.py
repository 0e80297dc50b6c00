"""A user's own files read as samples where they lie: a folder, or a table that names files and texts."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmssl.data.fields import KEYS, decode_all, find, key_of, split_path
from mmssl.data.rows import Row, UserRows, read_row, rows_of_folder, rows_of_manifest
from mmssl.data.rows_of_shards import has_shards
from mmssl.data.shards import Source
from mmssl.data.table import MANIFESTS
from mmssl.data.tar import Entry
from mmssl.data.user_files import is_file
from mmssl.errors import DamagedError, UserError

STREAMED = ("audio", "video")  # opened where they lie, for a film need not fit into memory


def open_data(
    data: str | Path, *, columns: Mapping[str, str] | None = None, fields: Mapping[str, str | list[str]] | None = None
) -> Source:
    """Opens a folder of files, one file, a table (CSV, TSV, Parquet, JSONL) or shards; UserError where nothing is.

    columns: sample key -> column of a table. fields: sample key -> field, as of `Source`.
    """
    path, found = Path(data), dict(fields or {})
    if columns and path.suffix.lower() not in MANIFESTS:
        raise UserError(f"columns are those of a table ({', '.join(MANIFESTS)}), and {data} is none; leave them out")
    rows = user_rows(path, columns)
    return Source(shards=str(data), fields=found) if rows is None else UserFiles(path, rows, found)


def user_rows(path: Path, columns: Mapping[str, str] | None = None) -> UserRows | None:
    """Returns the rows of a table, a folder of files or one file; None for what is none of these, such as shards."""
    if path.suffix.lower() in MANIFESTS:
        return rows_of_manifest(path, dict(columns or {}))
    if path.is_dir() and not has_shards(path):
        return rows_of_folder(path)
    extension = path.suffix[1:].lower()
    if extension in KEYS and is_file(path):
        return UserRows([Row("0", {extension: (str(path.absolute()), 0, None)}, where=path.name)])
    return None


class UserFiles(Source):
    """The rows of a folder or a table as samples; each is read when it is opened.

    `__key__` is the path of its first file from the folder, or the table, on; of a row without files its line.
    """

    def __init__(self, path: Path, found: UserRows, fields: dict[str, str | list[str]]) -> None:
        self.path, self.rows, self.passed_over = path, found.rows, found.passed_over
        self.fields, self.damaged, self.shards = fields, Counter(), [str(path)]
        if not self.rows:
            passed = ", ".join(f"{kind}: {count}" for kind, count in self.passed_over.most_common())
            raise UserError(f"{path} holds no files that can be read{f'; passed over {passed}' if passed else ''}")

    @property
    def _held(self) -> list[tuple[int, int]]:
        return [(len(self.rows), len(self.rows))]

    def pass_over_others(self, key: str) -> None:
        """Passes over the files of a folder that cannot fill a key, as those of unknown kinds; a table's rows stay."""
        if self.path.is_dir():
            others = [row for row in self.rows if not self._fills(row, key)]
            self.passed_over.update(f".{name}" for row in others for name in row.files)
            self.rows = [row for row in self.rows if self._fills(row, key)]

    def filled(self, key: str) -> int:
        """Returns how many rows can fill a key."""
        return sum(self._fills(row, key) for row in self.rows)

    def _fills(self, row: Row, key: str) -> bool:
        return find(key, {**row.files, **row.texts}, self.fields) is not None

    def entries(self, shard: int, *, start: int = 0, stop: int | None = None, step: int = 1) -> Iterator[Entry]:
        """Yields an entry without fields for each row."""
        for number in itertools.islice(range(len(self.rows)), start, stop, step):
            yield Entry(self.name(self.rows[number]), self.shards[0], {}, number=number)

    def name(self, row: Row) -> str:
        """Returns what a row is called."""
        first = next(iter(row.files.values()), None)
        return row.where if first is None or self.path.is_dir() else os.path.relpath(first[0], self.path.parent)

    def open(self, entry: Entry, wanted: Collection[str]) -> dict[str, Any]:
        """Opens the wanted keys of a row; DamagedError where a file cannot be read, and for a row without them."""
        row = self.rows[entry.number]
        needed = {find(key, {**row.files, **row.texts}, self.fields) for key in wanted}
        streamed: dict[str, Any] = {
            name: Path(spot[0]) for name, spot in row.files.items() if name in needed and _is_streamed(name)
        }
        for path in streamed.values():
            if not is_file(path):  # a pipe in place of a file would be waited for
                raise DamagedError("a file that cannot be read")
        read = {name: spot for name, spot in row.files.items() if name in needed and name not in streamed}
        raw: dict[str, Any] = read_row(replace(row, files=read, check=False))
        raw.pop("__key__")
        sample = decode_all(wanted, {**raw, **streamed}, self.fields)  # a film's handle takes a path as well as bytes
        return {**sample, "__key__": entry.key, "__shard__": entry.shard, "__number__": entry.number}

    def check(self, wanted: Collection[str]) -> None:
        """Raises UserError for a key that no row can fill."""
        seen = Counter(field for row in self.rows for field in (*row.files, *row.texts))
        for key in sorted(wanted):
            if find(key, seen, self.fields) is None:
                keys = sorted({name for name in map(key_of, seen) if name})
                asked = self.fields.get(key, key)
                names = ", ".join(split_path(name)[0] for name in ([asked] if isinstance(asked, str) else asked))
                raise UserError(f"{self.path} has nothing for {names!r}; it holds {', '.join(keys) or 'nothing'}")


def _is_streamed(field: str) -> bool:
    return KEYS.get(field.rpartition(".")[2]) in STREAMED
