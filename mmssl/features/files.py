"""Files of features: npy, csv, parquet and safetensors, with a name and a window for each row."""

from __future__ import annotations

import csv
import json
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.data.index import as_bytes
from mmssl.errors import UserError, did_you_mean
from mmssl.files import replacing, write_atomically
from mmssl.schema import fit, read_json
from mmssl.types import Span

Row = tuple[str, Span | None]  # name, and window in seconds
BLOCK = 8192  # rows that are held at a time


class About(TypedDict, total=False):
    """What `FILE.json` says of features: by what and of what they were made.

    digest: tells all of that from any other. weights: tells the encoder from any other.
    """

    digest: str
    model: str
    weights: str
    encoder: str
    modality: str
    space: str | None
    data: str
    window: float | None
    stride: float | None
    rows: int
    dim: int
    skipped: dict[str, int]


@dataclass(slots=True)
class Table:
    """Features (N, D) float32, the name of each row, the windows (N, 2) in seconds, and how they were made."""

    features: np.ndarray
    names: list[str]
    spans: np.ndarray | None = None
    about: About = field(default_factory=About)

    def rows(self, start: int, stop: int) -> Tensor:
        """Returns some rows, scaled to length 1."""
        return F.normalize(torch.tensor(self.features[start:stop]), dim=1)

    def describe(self, row: int) -> str:
        """Returns a row's name, and its window if it has one."""
        window = "" if self.spans is None else f" {clock(self.spans[row, 0])}-{clock(self.spans[row, 1])}"
        return self.names[row] + window

    def plain(self, row: int) -> dict[str, Any]:
        """Returns a row's name and window as JSON has them."""
        window = {} if self.spans is None else dict(zip(("start", "end"), self.spans[row].tolist(), strict=True))
        return {"name": self.names[row], **window}


def clock(seconds: float) -> str:
    """Returns a time as minutes and seconds, 1:02.5, with hours where there are any."""
    minutes, rest = divmod(round(float(seconds), 2), 60)
    hours, minutes = divmod(int(minutes), 60)
    left = f"{rest:05.2f}".rstrip("0").rstrip(".")
    return f"{hours}:{minutes:02}:{left}" if hours else f"{minutes}:{left}"


def kind_of(path: Path) -> str:
    """Returns the format that a file's name stands for; UserError for one that is none."""
    kind = path.suffix[1:].lower()
    if kind not in WRITERS:
        hint = did_you_mean(kind, WRITERS) if kind else f"known: {', '.join(sorted(WRITERS))}"
        raise UserError(
            f"{path} is no file of features by its name; end it in .npy, .csv, .parquet, .safetensors; {hint}"
        )
    if kind == "parquet":
        _pyarrow()
    return kind


def beside(path: Path, what: str) -> Path:
    """Returns a file that stands beside one of features: its name with an ending more."""
    return path.with_name(f"{path.name}.{what}")


def write_features(path: Path, features: np.ndarray, rows: Callable[[], Iterable[Row]], about: About) -> None:
    """Writes features (N, D) float32, as the path ends, and `PATH.json`; npy and safetensors have `PATH.names.csv` too.

    rows: called for an iterator over the names and windows, which may be too many to hold.
    """
    kind = kind_of(path)
    with replacing(path) as temporary:
        WRITERS[kind](temporary, features, rows())
    if kind in ("npy", "safetensors"):
        with replacing(beside(path, "names.csv")) as temporary, _table(temporary) as file:
            _write_rows(file, rows(), ((),) * len(features), [])
    write_atomically(beside(path, "json"), as_bytes(json.dumps(about, indent=1, ensure_ascii=False)))


def _table(path: Path) -> Any:
    return path.open("x", newline="", encoding="utf-8", errors="backslashreplace")


def _write_rows(file: Any, rows: Iterable[Row], values: Iterable[Iterable[Any]], header: list[str]) -> None:
    writer = csv.writer(file)
    for number, ((name, span), row) in enumerate(zip(rows, values, strict=True)):
        if not number:
            writer.writerow(["name", *(("start", "end") if span else ()), *header])
        writer.writerow([name, *(span or ()), *row])


def _write_npy(path: Path, features: np.ndarray, rows: Iterable[Row]) -> None:
    with path.open("xb") as file:
        np.lib.format.write_array(file, features, allow_pickle=False)


def _write_safetensors(path: Path, features: np.ndarray, rows: Iterable[Row]) -> None:
    """Writes the one tensor `features`, from the disk to the disk: safetensors' own writer holds all of it."""
    about = {"dtype": "F32", "shape": list(features.shape), "data_offsets": [0, features.nbytes]}
    header = json.dumps({"features": about}).encode()
    header += b" " * (-len(header) % 8)
    with path.open("xb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        features.tofile(file)


def _write_csv(path: Path, features: np.ndarray, rows: Iterable[Row]) -> None:
    values = ([f"{x:.9g}" for x in row.tolist()] for row in features)  # nine digits tell each float32
    with _table(path) as file:
        _write_rows(file, rows, values, [f"f{i}" for i in range(features.shape[1])])


def _write_parquet(path: Path, features: np.ndarray, rows: Iterable[Row]) -> None:
    """Writes the columns name, start, end (with windows) and features, a list of D float32."""
    pa = _pyarrow()
    writer, rows = None, iter(rows)
    with path.open("xb") as file:
        for start in range(0, len(features), BLOCK):
            block = np.ascontiguousarray(features[start : start + BLOCK])
            part = list(islice(rows, len(block)))
            columns: dict[str, Any] = {"name": [name for name, _ in part]}
            if part[0][1] is not None:
                columns |= {key: [span[i] for _, span in part if span] for i, key in enumerate(("start", "end"))}
            columns["features"] = pa.FixedSizeListArray.from_arrays(pa.array(block.ravel()), features.shape[1])
            table = pa.table(columns)
            writer = writer or pa.parquet.ParquetWriter(file, table.schema)
            writer.write_table(table)
        if writer:
            writer.close()


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise UserError("parquet needs pyarrow: pip install 'mmssl[parquet]'") from None
    return pyarrow


WRITERS = {"npy": _write_npy, "csv": _write_csv, "parquet": _write_parquet, "safetensors": _write_safetensors}


def read_features(path: str | Path) -> Table:
    """Reads a file of features: one of `mmssl encode`, or any npy (N, D) without names, whose rows are then numbered.

    An npy stays on the disk, and what of it is needed is read. UserError for a file that is damaged or holds something
    else.
    """
    path = Path(path)
    kind = kind_of(path)
    if not path.is_file():
        raise UserError(f"there is no file {path}; `mmssl encode` writes one")
    about: About = read_about(path) or {}
    try:
        table = READERS[kind](path)
    except UserError:
        raise
    except Exception as error:  # each library has errors of its own
        detail = " ".join(str(error).split())[:200]
        raise UserError(f"{path} cannot be read as {kind}: {detail or type(error).__name__}") from None
    features = table.features
    if features.ndim != 2 or features.dtype.kind != "f" or 0 in features.shape:
        raise UserError(f"{path} holds {features.dtype} {features.shape}; expected floats (rows, dim)")
    if len(table.names) != len(features) or (table.spans is not None and len(table.spans) != len(features)):
        raise UserError(f"{path} has {len(features)} rows and {len(table.names)} names; encode it again")
    for start in range(0, len(features), BLOCK):
        if not np.isfinite(features[start : start + BLOCK]).all():
            raise UserError(f"{path} holds numbers that are not finite, in rows {start} to {start + BLOCK}")
    return Table(features.astype(np.float32, copy=False), table.names, table.spans, about)


def read_about(path: Path) -> About | None:
    """Returns what stands beside a file of features; None where nothing does."""
    file = beside(path, "json")
    about: About | None = fit(read_json(file), About, str(file)) if file.is_file() else None
    return about


def _read_npy(path: Path) -> Table:
    return _named(path, np.load(path, mmap_mode="c", allow_pickle=False))


def _read_safetensors(path: Path) -> Table:
    from safetensors.numpy import load_file

    held = load_file(path)
    if "features" not in held:
        raise UserError(f"{path} has no tensor 'features'; {did_you_mean('features', held)}")
    return _named(path, held["features"])


def _named(path: Path, features: np.ndarray) -> Table:
    """Takes the names that stand beside a file; without any the rows are numbered."""
    file = beside(path, "names.csv")
    if not file.is_file():
        return Table(features, list(map(str, range(len(features)))))
    names, spans, _ = _read_rows(file, values=False)
    return Table(features, names, spans)


def _read_csv(path: Path) -> Table:
    names, spans, values = _read_rows(path, values=True)
    return Table(values, names, spans)


def _read_rows(path: Path, *, values: bool) -> tuple[list[str], np.ndarray | None, np.ndarray]:
    """Reads names, windows and, where there are any to read, features."""
    names, spans, blocks = list[str](), list[tuple[float, float]](), list[np.ndarray]()
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        header = next(reader, [])
        timed = header[1:3] == ["start", "end"]
        if header[:1] != ["name"]:
            raise UserError(f"{path} has the columns {', '.join(header)[:100]}; expected name, start, end, f0, f1, ...")
        for block in _blocks(reader):
            names += [row[0] for row in block]
            spans += [(float(row[1]), float(row[2])) for row in block if timed]
            if values:
                blocks.append(np.array([row[3 if timed else 1 :] for row in block], dtype=np.float32))
    found = np.concatenate(blocks) if blocks else np.empty((0, 0), np.float32)
    return names, np.array(spans).reshape(-1, 2) if timed else None, found


def _blocks(rows: Iterator[list[str]]) -> Iterator[list[list[str]]]:
    while block := list(islice(rows, BLOCK)):
        yield block


def _read_parquet(path: Path) -> Table:
    table = _pyarrow().parquet.read_table(path)
    column = table.column("features").combine_chunks()
    features = column.flatten().to_numpy().reshape(len(table), -1).copy()  # what Arrow holds cannot be written to
    names = table.column("name").to_pylist() if "name" in table.column_names else list(map(str, range(len(table))))
    spans = [table.column(key).to_numpy() for key in ("start", "end") if key in table.column_names]
    return Table(features, names, np.stack(spans, axis=1) if spans else None)


READERS = {"npy": _read_npy, "csv": _read_csv, "parquet": _read_parquet, "safetensors": _read_safetensors}
