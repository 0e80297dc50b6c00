"""Reads a table of samples: columns of files by modality, captions, labels; all other columns become JSON."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from mmssl import modalities
from mmssl.data.table import Record, read_table
from mmssl.data.user_files import is_file
from mmssl.errors import DamagedError, UserError, did_you_mean
from mmssl.modalities import text

FILES = ("file", "path", "filename", "filepath", "file_name")  # columns of files whose extension tells the modality
TEXTS = ("text", "caption", "txt", "title", "description", "name")  # the first that is there, unless it names files
CAPTIONS = TEXTS[:3]  # that may name text files
LABELS = ("label", "class", "cls")
KINDS = {**modalities.EXTENSIONS, "cls": "label", "json": "meta"}  # what a column named as an extension holds
WHOLE = re.compile(r"-?(0|[1-9]\d{0,17})(\.0*)?")  # 007 is a name, and another class than 7; so is what no int64 holds
Roles = dict[str, list[str]]  # column -> keys that it fills; columns without one go into the JSON


@dataclass(slots=True)
class Line:
    """Of one row, field -> file, field -> text, and what becomes JSON; or why it cannot be a sample."""

    where: str
    files: dict[str, Path] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    fault: str = ""
    name: str = ""  # of its first file, as the table has it


@dataclass(slots=True)
class Manifest:
    """The rows, the class names if the labels are names, and how many files of which unknown extensions it names."""

    rows: list[Line]
    classes: list[str]
    passed_over: Counter[str]


def parse_columns(pairs: Sequence[str]) -> dict[str, str]:
    """Reads KEY=COLUMN of a command line; raises UserError for anything else and for a key that comes twice."""
    columns: dict[str, str] = {}
    for pair in pairs:
        key, _, column = pair.partition("=")
        if not key or not column or key in columns:
            raise UserError(f"--columns got {pair!r}; write each key once, as KEY=COLUMN, such as image=path")
        columns[key] = column
    return columns


def read_manifest(path: Path, columns: dict[str, str]) -> Manifest:
    """Reads a CSV, TSV, Parquet or JSONL table; `columns` (key -> column) overrules the columns' names.

    A row is left out, with its place, where a cell is of a wrong type, where it has another number of cells than the
    header, and where it has neither a file nor a caption. Empty, null and NaN cells are missing.
    """
    records = read_table(path)
    names = list(dict.fromkeys(name for record in records for name in record.cells))
    for key, column in columns.items():
        if column not in names:
            raise UserError(f"{path} has no column {column!r} for {key!r}; {did_you_mean(column, names)}")
    roles = _roles(records, names, columns)
    used = {role for found in roles.values() for role in found} - {"label", "meta"}
    idle = [name for name in names if name not in roles and _names_files(records, name)]
    if not used or (used == {"text"} and "text" not in columns and idle):
        raise UserError(
            f"{path} has the columns {', '.join(names)}; expected one of {', '.join(modalities.MODALITIES)} or file,"
            f" or say which is which with columns{f' ({idle[0]} names files)' if idle else ''}"
        )
    classes = _classes(records, roles)
    reader = _Reader(path.parent, roles, {name: str(number) for number, name in enumerate(classes)})
    return Manifest([reader.line(record) for record in records], classes, reader.passed_over)


def missing(value: Any) -> bool:
    """Tells whether a cell holds nothing: null, NaN, empty or blank."""
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def _roles(records: list[Record], names: list[str], columns: dict[str, str]) -> Roles:
    """Returns which keys each column fills: as given, or by its name in small letters."""
    roles: Roles = {}
    for key, column in columns.items():
        roles.setdefault(column, []).append(KINDS.get(key, key))
    own = {name.lower(): name for name in reversed(names) if name not in roles or _is_text_of_label(name, roles[name])}
    for known, key in ((TEXTS, "text"), (LABELS, "label"), (FILES, "file")):
        found = [own.pop(name) for name in known if name in own]
        if key == "text":
            found = [column for column in found if column.lower() in CAPTIONS or not _names_files(records, column)]
        if found and key not in columns:
            roles.setdefault(found[0], []).append(key)
    for name, column in own.items():
        kind = name.partition("_")[0]
        if name in KINDS or name in modalities.MODALITIES:
            roles[column] = [KINDS.get(name, name)]
        elif kind in modalities.MODALITIES and kind != "text" and _names_files(records, column):
            roles[column] = [name]
    return roles


def _is_text_of_label(name: str, keys: list[str]) -> bool:
    """Tells whether a column that is called as labels are was given for a text: it is the label as well."""
    return name.lower() in LABELS and all(key.partition("_")[0] == "text" for key in keys)


def _names_files(records: list[Record], column: str) -> bool:
    """Tells whether any cell of a column is a file that could be read: not so image_id, nor image_url."""
    cells = (record.cells.get(column) for record in records)
    return any(isinstance(cell, str) and "://" not in cell and _extension(cell) in KINDS for cell in cells)


def _extension(name: str) -> str:
    return PurePosixPath(name.strip().replace("\\", "/")).suffix[1:].lower()


def _classes(records: list[Record], roles: Roles) -> list[str]:
    """Returns the sorted names of the classes; none where all labels are whole numbers."""
    column = next((column for column, keys in roles.items() if "label" in keys), None)
    cells = (record.cells.get(column) for record in records if not record.fault) if column is not None else ()
    labels = {label for cell in cells if not missing(cell) and (label := _label(cell)) is not None}
    return [] if all(map(WHOLE.fullmatch, labels)) else sorted(labels)


def _label(value: Any) -> str | None:
    """Returns the name or whole number that a label is, as text; None for anything else. 3.0 is 3."""
    if isinstance(value, str):
        return value.strip()
    whole = (isinstance(value, int) and not isinstance(value, bool)) or (
        isinstance(value, float) and value.is_integer()
    )
    return str(int(value)) if whole else None


@dataclass
class _Reader:
    """Makes lines of records; `numbers`: class -> its number as text."""

    home: Path
    roles: Roles
    numbers: dict[str, str]
    passed_over: Counter[str] = field(default_factory=Counter)

    def line(self, record: Record) -> Line:
        """Returns what a row says; a cell that cannot be used is the fault of the whole row."""
        line = Line(record.where)
        try:
            if record.fault:
                raise DamagedError(record.fault)
            self._fill(line, record.cells)
        except DamagedError as error:
            where = f"{record.where}, {error.detail}" if error.detail else record.where
            return Line(where, fault=error.reason)
        return line

    def _fill(self, line: Line, cells: dict[str, Any]) -> None:
        for column, value in cells.items():
            roles = self.roles.get(column, ())
            if not roles or "label" in roles:
                line.meta[column] = None if value != value else value
            for role in () if missing(value) else roles:
                self._cell(line, role, column, value)
        if not line.files and not line.texts.keys() - {"cls"}:
            raise DamagedError("a row with neither a file nor a caption")
        line.meta = {**({"file": line.name} if line.name else {}), **line.meta}
        if line.meta:
            try:
                line.texts["json"] = json.dumps(line.meta, ensure_ascii=False, default=_plain)
            except RecursionError:
                raise DamagedError("values nested too deep") from None

    def _cell(self, line: Line, role: str, column: str, value: Any) -> None:
        if role == "label":
            self._class(line, column, value)
        elif role.partition("_")[0] == "text":
            self._caption(line, role, column, value)
        elif role == "meta" and isinstance(value, dict):
            line.meta |= value
        elif role == "meta" and isinstance(value, str) and is_file(self._path(value)):
            line.files["json"] = self._path(value)
        elif role == "meta":
            line.meta[column] = value
        else:
            self._file(line, role, column, value)

    def _class(self, line: Line, column: str, value: Any) -> None:
        label = _label(value)
        if label is None:
            raise DamagedError("a label that is neither a name nor a whole number", f"{column} {value!r:.60}")
        if self.numbers:
            line.meta.setdefault("class", label)
        line.texts["cls"] = self.numbers[label] if self.numbers else str(int(label.partition(".")[0]))

    def _caption(self, line: Line, role: str, column: str, value: Any) -> None:
        """Takes a text, a list of texts, or the path of a text file that is there."""
        plain = "txt" if role == "text" else f"{role}.txt"
        if isinstance(value, str) and _extension(value) == "txt" and is_file(self._path(value)):
            line.files[plain] = self._path(value)
        elif isinstance(value, str):
            line.texts[plain] = str(text.load(value))
        elif isinstance(value, list | tuple) and all(isinstance(caption, str) for caption in value):
            if any(caption.strip() for caption in value):
                line.texts[f"{role}.json"] = json.dumps(text.load(value), ensure_ascii=False)
        else:
            raise DamagedError("a caption that is neither text nor a list of texts", f"{column} {value!r:.60}")

    def _file(self, line: Line, role: str, column: str, value: Any) -> None:
        if not isinstance(value, str):
            raise DamagedError("a cell that is not the path of a file", f"{column} {value!r:.60}")
        extension, kind = _extension(value), role.partition("_")[0]
        if extension not in modalities.EXTENSIONS:
            self.passed_over[f".{extension}" if extension else "without extension"] += 1
            return
        found = modalities.EXTENSIONS[extension]
        if kind in modalities.MODALITIES and kind != found and (kind, found) != ("audio", "video"):
            raise DamagedError("a file of another kind than its column", f"{column} {value!r:.60}")
        name = extension if role in ("file", found) else f"{role}.{extension}"
        if name in line.files:
            raise DamagedError("two files for one key", f"{column} {value!r:.60}")
        line.files[name] = self._path(value)
        line.name = line.name or value.strip().replace("\\", "/")

    def _path(self, name: str) -> Path:
        """Returns where a file is, from the table's folder on; backslashes part folders where the file is there so."""
        path = self.home / name.strip()
        windows = self.home / name.strip().replace("\\", "/")
        return windows if "\\" in name and not is_file(path) and is_file(windows) else path


def _plain(value: Any) -> str:
    """Writes what JSON has no word for, such as a date."""
    if isinstance(value, bytes | bytearray | memoryview):
        raise DamagedError("a cell of bytes, which JSON cannot hold")
    return str(value)
