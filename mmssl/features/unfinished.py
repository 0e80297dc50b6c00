"""What an encode has made so far, beside the file that it will become: an interrupted one goes on from here."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypedDict

import numpy as np

from mmssl.errors import UserError
from mmssl.features.files import Row
from mmssl.files import sync
from mmssl.lock import hold
from mmssl.schema import Count, fit

COMMIT = 2.0  # s between two times that what was made is put on the disk
Skipped = tuple[str, str, str]  # name, reason, detail


class Record(TypedDict):
    """One line of the journal: how many samples are done, and what was made of them since the line before."""

    done: Count
    dim: Count
    rows: list[tuple[str, float | None, float | None]]
    skipped: list[Skipped]
    notes: dict[str, Count]


class Unfinished:
    """Features in `features.f32`, and in `journal.jsonl` the digest of the work, then records.

    A line is written once its features are on the disk, so that whatever ends the process, what the lines tell is
    there; what is behind it is cut off.
    """

    def __init__(self, folder: Path, digest: str) -> None:
        self.folder = folder
        self.journal, self.file = folder / "journal.jsonl", folder / "features.f32"
        self.done = self.dim = self.count = 0
        self.notes: dict[str, int] = {}
        self._take_up(digest)
        self._out: BinaryIO = self.file.open("r+b")
        self._out.seek(0, os.SEEK_END)
        self._fresh()

    def _take_up(self, digest: str) -> None:
        self.file.touch()
        self.journal.touch()
        lines = self.journal.read_bytes().split(b"\n")[:-1]
        if lines and json.loads(lines[0]) != digest:
            raise UserError(
                f"{self.folder} holds an interrupted encode by another model, or of other data or windows; remove it, "
                "or choose another --out"
            )
        size, kept, end = self.file.stat().st_size, 0, 0
        for place, line in enumerate(lines):
            if place:
                record = _record(self.journal, line)
                if (self.count + len(record["rows"])) * record["dim"] * 4 > size:
                    break  # the disk lost it
                self.count += len(record["rows"])
                self.done, self.dim = record["done"], record["dim"] or self.dim
                for note, count in record["notes"].items():
                    self.notes[note] = self.notes.get(note, 0) + count
            kept, end = kept + 1, end + len(line) + 1
        os.truncate(self.journal, end)
        os.truncate(self.file, self.count * self.dim * 4)
        if not kept:
            self._append(digest)

    def _fresh(self) -> None:
        self._rows, self._skipped, self._notes = list[Row](), list[Skipped](), dict[str, int]()
        self._since = time.monotonic()

    def add(
        self, done: int, features: np.ndarray | None, rows: Sequence[Row], skipped: Sequence[Skipped], notes: Any
    ) -> None:
        """Takes in what became of the samples up to `done`: features (N, D) of N rows, and those that are skipped."""
        if features is not None:
            self.dim = features.shape[1]
            self._out.write(np.ascontiguousarray(features, dtype=np.float32).tobytes())
        self.done, self.count = done, self.count + len(rows)
        self._rows += rows
        self._skipped += skipped
        for note, count in notes.items():
            self._notes[note] = self._notes.get(note, 0) + count
            self.notes[note] = self.notes.get(note, 0) + count
        if time.monotonic() - self._since >= COMMIT:
            self.commit()

    def commit(self) -> None:
        """Puts everything on the disk."""
        if self._rows or self._skipped:
            self._out.flush()
            os.fsync(self._out.fileno())
            rows = [(name, *(span or (None, None))) for name, span in self._rows]
            self._append(
                {"done": self.done, "dim": self.dim, "rows": rows, "skipped": self._skipped, "notes": self._notes}
            )
        self._fresh()

    def _append(self, value: Any) -> None:
        with self.journal.open("ab") as file:
            file.write(json.dumps(value).encode() + b"\n")
        sync(self.journal)

    def features(self) -> np.ndarray:
        """Returns all features (N, D), on the disk."""
        return np.memmap(self.file, np.float32, "r", shape=(self.count, self.dim))

    def rows(self) -> Iterator[Row]:
        """Yields the name and window of each row."""
        for record in self._records():
            for name, start, end in record["rows"]:
                yield name, None if start is None or end is None else (start, end)

    def skipped(self) -> Iterator[Skipped]:
        """Yields what was skipped."""
        for record in self._records():
            yield from record["skipped"]

    def _records(self) -> Iterator[Record]:
        with self.journal.open("rb") as file:
            next(file)
            for line in file:
                yield _record(self.journal, line)

    def close(self) -> None:
        """Commits, and closes the file."""
        self.commit()
        self._out.close()

    def remove(self) -> None:
        """Removes everything, once it stands elsewhere."""
        for path in self.folder.iterdir():
            if path.name != ".lock":
                path.unlink()


def _record(path: Path, line: bytes) -> Record:
    try:
        record: Record = fit(json.loads(line), Record, "a line")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {error}; remove {path.parent} and encode again") from None
    return record


@contextmanager
def unfinished(folder: Path, digest: str) -> Iterator[Unfinished]:
    """Opens what an interrupted encode left in a folder, or a new one, which no other process then has.

    The folder is gone once what is in it was removed.
    """
    with hold(folder):
        work = Unfinished(folder, digest)
        try:
            yield work
        finally:
            work.close()
    with suppress(OSError):  # not where an error left something to go on from
        folder.rmdir()
