"""Reads a CSV, TSV, Parquet or JSONL table as records that know their place in it."""

from __future__ import annotations

import codecs
import csv
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmssl.errors import UserError
from mmssl.limits import refuse

MANIFESTS = (".csv", ".tsv", ".parquet", ".jsonl", ".ndjson")


@dataclass(slots=True)
class Record:
    """One row: where it stands, its cells by column, and what is wrong with it as a whole."""

    where: str
    cells: dict[str, Any] = field(default_factory=dict)
    fault: str = ""


def read_table(path: Path) -> list[Record]:
    """Returns the rows of a table; raises UserError for one that cannot be read or has none."""
    if not path.is_file():
        raise UserError(f"there is no manifest {path}")
    kind = path.suffix.lower()
    try:
        records = _parquet(path) if kind == ".parquet" else list(_text(path, kind))
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not in UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from None
    except csv.Error as error:
        raise UserError(f"{path} cannot be read as {kind[1:]}: {error}") from None
    if not records:
        raise UserError(f"{path} has no rows")
    return records


def _text(path: Path, kind: str) -> Iterator[Record]:
    with path.open("rb") as raw:
        start = raw.read(4096)
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in start:
        raise UserError(f"{path} is in UTF-16, or no text; save it as UTF-8 (in Excel: CSV UTF-8)")
    with path.open(encoding="utf-8-sig", newline="") as file:
        if kind in (".csv", ".tsv"):
            yield from _csv(path, csv.reader(file, delimiter="\t" if kind == ".tsv" else ",", skipinitialspace=True))
            return
        for number, line in enumerate(file, 1):
            if line.strip():
                yield Record(f"line {number}", _object(line, f"{path}, line {number}"))


def _csv(path: Path, rows: Any) -> Iterator[Record]:
    """Yields the rows under a header; one with more or fewer cells than the header is at fault."""
    names = [name.strip() for name in next(rows, [])]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UserError(f"{path} has two columns named {twice[0]!r}; rename one")
    for cells in rows:
        record = Record(f"line {rows.line_num}", dict(zip(names, cells, strict=False)))
        if len(cells) != len(names):
            record.fault = f"a row with {'more' if len(cells) > len(names) else 'fewer'} cells than the header"
        if cells:
            yield record


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected one JSON object per line")
    return value


def _parquet(path: Path) -> list[Record]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise UserError(f"reading {path} needs pyarrow: pip install pyarrow") from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            cells = file.metadata.num_rows * file.metadata.num_columns
            refuse("manifest_cells", cells, f"{path} has {cells:,} cells")  # equal ones take no room in the file
            rows = file.read().to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read as parquet: {str(error).partition(chr(10))[0]}") from None
    return [Record(f"row {number}", row) for number, row in enumerate(rows, 1)]
