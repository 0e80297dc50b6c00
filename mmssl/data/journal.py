"""Writes webdataset shards in parallel; an interrupted build continues and ends byte-identical to an unbroken one."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypedDict

from tqdm import tqdm

from mmssl.data.index import FORMAT, INDEX, JOURNAL, write_json
from mmssl.data.making import EXAMPLES, Fields, make_all, unused
from mmssl.data.summary import account
from mmssl.data.workers import end_with_parent, refuse_import
from mmssl.errors import UserError
from mmssl.files import sync_folder
from mmssl.schema import Count, FileName, fit

CANNOT_WRITE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.EFBIG, errno.ENOTDIR, errno.ENOENT)
OPTIONAL = ("examples", "empty_classes")  # in the index only where there are any


@dataclass(frozen=True)
class BuildPlan:
    """What is to be written: shard i holds `make(item)` for each of `shards[i]`; `about` goes into the index."""

    shards: Sequence[Sequence[Any]]
    make: Callable[[Any], Fields]
    about: dict[str, Any] = field(default_factory=dict)

    def digest(self) -> str:
        """Returns what tells this plan from another, the same in every process."""
        text = json.dumps([[list(shard) for shard in self.shards], self.about], default=repr)
        return hashlib.sha256((describe(self.make) + text).encode()).hexdigest()


def describe(make: Any) -> str:
    """Returns a function's path, with the arguments that are bound to it."""
    if isinstance(make, functools.partial):
        return f"{describe(make.func)}{make.args}{sorted(make.keywords.items())}"
    return f"{make.__module__}.{make.__qualname__}" if hasattr(make, "__qualname__") else repr(make)


def write(plan: BuildPlan, out: str | Path, *, workers: int | None = None, strict: bool = False) -> dict[str, Any]:
    """Carries out a plan, or what an interrupted build of it left to do, and returns the index.

    Each shard is written aside, synced and renamed, then noted in a journal; so nothing half-written ever bears
    a shard's name. Items that raise DamagedError are left out and counted; with `strict` the first one stops.
    """
    refuse_import()
    if not any(len(shard) for shard in plan.shards):
        raise UserError(f"nothing to write to {out}: the source holds no samples")
    folder = Path(out)
    done: dict[int, dict[str, Any]] = {}
    with _told(folder, done), _journal(folder, plan, done) as journal:
        todo = [i for i in range(len(plan.shards)) if i not in done]
        bar = tqdm(total=sum(map(len, plan.shards)), unit=" samples", desc=f"writing {folder.name}", disable=None)
        bar.update(sum(len(plan.shards[i]) for i in done))
        with bar:
            for number, entry in _write_all(plan, folder, todo, workers, strict):
                journal.note(number, entry)
                bar.update(len(plan.shards[number]))
        index = _index(plan, [done[i] for i in range(len(plan.shards))])
        if not index["samples"]:
            _remove(folder, index)
            raise UserError(f"no sample could be written to {folder}; {'; '.join(account(index))}")
        write_json(folder / INDEX, index)
        (folder / JOURNAL).unlink()
    return index


def _index(plan: BuildPlan, entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the index: what is known of the source, and over all shards what was left out, and why, with examples."""
    damaged: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    labels: Counter[str] = Counter()
    for entry in entries:
        labels.update(entry.pop("labels"))
        for reason, (count, named) in entry.pop("damaged").items():
            damaged[reason] += count
            examples[reason] = [*examples.get(reason, ()), *named][:EXAMPLES]
    empty = [name for number, name in enumerate(plan.about.get("classes", ())) if not labels[str(number)]]
    about = {**plan.about, "empty_classes": sorted({*plan.about.get("empty_classes", ()), *empty})}
    counts = {"samples": sum(entry["samples"] for entry in entries), "damaged": dict(damaged), "examples": examples}
    kept = {name: value for name, value in {**about, **counts}.items() if value or name not in OPTIONAL}
    return {"format": FORMAT, **kept, "shards": entries}


def _remove(folder: Path, index: dict[str, Any]) -> None:
    """Removes the shards of a build that wrote no sample, so that nothing looks finished."""
    for entry in index["shards"]:
        (folder / entry["name"]).unlink(missing_ok=True)
    (folder / JOURNAL).unlink()
    with contextlib.suppress(OSError):
        folder.rmdir()


class _Journal:
    """The finished shards of an unfinished build: a first line that names the plan, then one line for each."""

    def __init__(self, file: BinaryIO, digest: str, lines: list[Any], done: dict[int, dict[str, Any]]) -> None:
        self.file, self.done = file, done
        file.truncate(sum(len(line) for line in file if line.endswith(b"\n")) if lines else 0)
        file.seek(0, os.SEEK_END)
        if not lines:
            self._append(digest)

    def note(self, number: int, entry: dict[str, Any]) -> None:
        self.done[number] = entry
        self._append([number, entry])

    def _append(self, value: Any) -> None:
        self.file.write(json.dumps(value).encode() + b"\n")
        self.file.flush()
        os.fsync(self.file.fileno())


@contextlib.contextmanager
def _journal(folder: Path, plan: BuildPlan, done: dict[int, dict[str, Any]]) -> Iterator[_Journal]:
    """Opens the journal of a new or interrupted build, whose finished shards go into `done`, and locks it.

    Raises UserError, touching nothing, if the folder is another's or another build writes to it.
    """
    path, digest = folder / JOURNAL, plan.digest()
    if not path.exists() and folder.exists():
        _refuse_used(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path.touch()
    with open(path, "r+b") as file:
        _lock(file, folder)
        lines = _read_journal(path, digest, len(plan.shards))
        if lines and lines[0] != digest:
            raise UserError(
                f"{folder} holds an interrupted build of something else; remove it or choose another folder"
            )
        if not lines:
            _refuse_used(folder)
        for leftover in folder.glob("*.part"):
            leftover.unlink()
        for number, entry in lines[1:]:
            shard = folder / entry["name"]
            if shard.exists() and shard.stat().st_size == entry["bytes"]:
                done[number] = entry
        yield _Journal(file, digest, lines, done)


def _refuse_used(folder: Path) -> None:
    if not folder.is_dir():
        raise UserError(f"{folder} is a file; choose a folder")
    if any(entry.name != JOURNAL for entry in folder.iterdir()):
        raise UserError(f"{folder} is not empty; choose another folder, or empty it first")


def _lock(file: BinaryIO, folder: Path) -> None:
    """Raises UserError where another build writes to the folder; the lock ends with the process, however that ends."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"another build is writing to {folder}; wait for it, or choose another folder") from None
    except (ImportError, OSError):  # systems and network folders without locks
        return
    if not os.fstat(file.fileno()).st_nlink:
        raise UserError(f"another build has just ended in {folder}; choose another folder, or empty it first")


class Finished(TypedDict):
    """A shard's entry in the journal: that of the index, with what was left out, and why, and how often labels came."""

    name: FileName
    samples: Count
    bytes: Count
    fields: dict[str, Count]
    sha256: str
    damaged: dict[str, tuple[Count, list[str]]]
    labels: dict[str, Count]


def _read_journal(path: Path, digest: str, shards: int) -> list[Any]:
    """Returns the journal's records, the plan's digest and then number and entry of each finished shard.

    One that a crash cut short is left out. UserError for one that no build of this many shards with this digest wrote:
    nothing then tells which shards are finished, and none is overwritten.
    """
    if not path.exists():
        return []
    records: list[Any] = []
    for place, line in enumerate(path.read_bytes().split(b"\n")[:-1]):
        try:
            record = fit(json.loads(line), tuple[Count, Finished] if place else str, "the line")
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} is damaged in line {place + 1}, {error}; choose another folder") from None
        if place and (record[1]["name"] != f"{record[0]:05d}.tar" or (records[0] == digest and record[0] >= shards)):
            raise UserError(f"{path} is damaged in line {place + 1}, it names another shard; choose another folder")
        records.append(record)
    return records


@contextlib.contextmanager
def _told(folder: Path, done: dict[int, dict[str, Any]]) -> Iterator[None]:
    """Turns what stops a build into one line that says what is left and how to go on."""
    again = "shards are finished and stay; run the same command again to continue"
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"no space left for {folder}: {len(done)} {again} once there is room") from None
        file = Path(error.filename or folder)  # a write has no name; another's is that of what is read
        if error.errno in CANNOT_WRITE and (file.is_relative_to(folder) or folder.is_relative_to(file)):
            raise UserError(f"cannot write to {folder}: {error.strerror}: {len(done)} {again}") from None
        raise
    except BrokenProcessPool:
        raise UserError(f"a writing process was killed (out of memory?): {len(done)} {again}") from None


def _write_all(
    plan: BuildPlan, folder: Path, todo: list[int], workers: int | None, strict: bool
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Writes shards, several at a time, and yields each with its entry when it is finished."""
    workers = min(os.cpu_count() or 1 if workers is None else workers, len(todo))
    if workers <= 1:
        for i in todo:
            yield i, _write_shard(folder / f"{i:05d}.tar", plan.shards[i], plan.make, strict)
        return
    # spawn: forking a process that has threads (torch, tqdm) may hang its children
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=end_with_parent) as pool:
        running: dict[Future[dict[str, Any]], int] = {}
        waiting = iter(todo)
        try:
            while True:
                for i in _some(waiting, 2 * workers - len(running)):
                    task = pool.submit(_write_shard, folder / f"{i:05d}.tar", plan.shards[i], plan.make, strict)
                    running[task] = i
                if not running:
                    return
                for task in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(task), task.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _some(numbers: Iterator[int], count: int) -> Iterable[int]:
    return [i for _, i in zip(range(count), numbers, strict=False)]


class _Hashed:
    """A file that knows the checksum of what was written."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.sha = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sha.update(data)
        return self.file.write(data)


def _write_shard(path: Path, items: Sequence[Any], make: Callable[[Any], Fields], strict: bool) -> dict[str, Any]:
    """Writes one shard aside, syncs and renames it, and returns its entry in the index."""
    from webdataset import TarWriter

    aside = path.with_name(f"{path.name}.{os.getpid()}.part")
    damaged: dict[str, tuple[int, list[str]]] = {}
    fields: Counter[str] = Counter()
    labels: Counter[str] = Counter()
    keys: set[str] = set()
    try:
        with open(aside, "wb") as file:
            hashed = _Hashed(file)
            # a fixed time: the same samples are the same bytes
            with TarWriter(hashed, encoder=False, mtime=0) as tar:
                for sample in make_all(items, make, damaged, strict):
                    sample["__key__"] = unused(str(sample["__key__"]), keys)
                    tar.write(sample)
                    fields.update(name for name in sample if name != "__key__")
                    labels.update([sample["cls"].strip().decode("latin-1")] if "cls" in sample else [])
            file.flush()
            os.fsync(file.fileno())
        size = aside.stat().st_size
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    sync_folder(path.parent)
    entry = {"name": path.name, "samples": len(keys), "bytes": size, "fields": dict(sorted(fields.items()))}
    return {**entry, "sha256": hashed.sha.hexdigest(), "damaged": damaged, "labels": dict(labels)}
