"""Reads a table of samples: columns of files by modality, captions, labels; all other columns become JSON."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmssl import modalities
from mmssl.errors import UserError, did_you_mean

FILES = ("file", "path", "filename", "filepath", "file_name")  # columns of files whose extension tells the modality
TEXTS = ("text", "caption", "txt")
LABELS = ("label", "class", "cls")
Record = dict[str, Any]


@dataclass(slots=True)
class Manifest:
    """Of each row, field -> file and field -> text; and the class names, if the labels are names."""

    rows: list[tuple[dict[str, str], dict[str, str]]]
    classes: list[str]


def read_manifest(path: Path, columns: dict[str, str]) -> Manifest:
    """Reads a CSV, TSV, Parquet or JSONL table; `columns` (key -> column) overrules the columns' names."""
    records = _records(path)
    if not records:
        raise UserError(f"{path} has no rows")
    names = list(dict.fromkeys(name for record in records for name in record))
    for key, column in columns.items():
        if column not in names:
            raise UserError(f"{path} has no column {column!r} for {key!r}; {did_you_mean(column, names)}")
    roles = _roles(names, columns)
    if not any(role in modalities.MODALITIES or "_" in role or role in FILES for role in roles.values()):
        raise UserError(
            f"{path} has the columns {', '.join(names)}; expected one of {', '.join(modalities.MODALITIES)} or file,"
            " or say which is which with columns"
        )
    label = next((column for column, role in roles.items() if role == "label"), None)
    values = {str(record[label]) for record in records if record.get(label) not in (None, "")} if label else set()
    classes = [] if all(value.isdecimal() for value in values) else sorted(values)
    places = {name: place for place, name in enumerate(classes)}
    return Manifest([_row(record, roles, places) for record in records], classes)


def _roles(names: Iterable[str], columns: dict[str, str]) -> dict[str, str]:
    """Returns column -> key of what it holds; columns of no role go into the JSON."""
    given = {column: key for key, column in columns.items()}
    roles = {}
    for name in names:
        kind = name.partition("_")[0]
        if name in given:
            roles[name] = given[name]
        elif name in TEXTS and "text" not in columns:
            roles[name] = "text"
        elif name in LABELS and "label" not in columns:
            roles[name] = "label"
        elif name in FILES or (kind in modalities.MODALITIES and kind != "text"):
            roles[name] = name
    return roles


def _row(record: Record, roles: dict[str, str], places: dict[str, int]) -> tuple[dict[str, str], dict[str, str]]:
    files: dict[str, str] = {}
    texts: dict[str, str] = {}
    others: Record = {}
    for column, value in record.items():
        role = roles.get(column)
        extension = str(value).rpartition(".")[2].lower()
        if role is not None and value in (None, ""):
            continue
        if role is None or (role not in ("text", "label") and extension not in modalities.EXTENSIONS):
            others[column] = value
        elif role == "text":
            texts["txt"] = str(value)
        elif role == "label":
            texts["cls"] = str(places.get(str(value), value))
            others[column] = value
        else:
            plain = role in FILES or role == modalities.EXTENSIONS[extension]
            files[extension if plain else f"{role}.{extension}"] = str(value)
    if others:
        texts["json"] = json.dumps(others, ensure_ascii=False, default=str)
    return files, texts


def _records(path: Path) -> list[Record]:
    if not path.is_file():
        raise UserError(f"there is no manifest {path}")
    kind = path.suffix.lower()
    try:
        if kind == ".parquet":
            return _parquet(path)
        with open(path, encoding="utf-8-sig", newline="") as file:
            if kind in (".csv", ".tsv"):
                return list(csv.DictReader(file, delimiter="\t" if kind == ".tsv" else ","))
            return [_object(line, f"{path}, line {n}") for n, line in enumerate(file, 1) if line.strip()]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as {kind[1:]} in UTF-8: {error}") from None


def _object(line: str, where: str) -> Record:
    try:
        value = json.loads(line)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected one JSON object per line")
    return value


def _parquet(path: Path) -> list[Record]:
    try:
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise UserError(f"reading {path} needs pyarrow: pip install pyarrow") from None
    return pyarrow.parquet.read_table(path).to_pylist()
