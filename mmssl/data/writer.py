"""Writes shard sets: `build` from a user's files, `build_from` from a function; `verify` and `show` look into them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mmssl.data.index import read_index
from mmssl.data.journal import BuildPlan, write
from mmssl.data.making import Fields
from mmssl.data.pair_filters import PairFilters, read_filtered
from mmssl.data.rows import Row, UserRows, read_row, rows_of_folder, rows_of_manifest
from mmssl.data.rows_of_shards import has_shards, rows_of_shards
from mmssl.data.split import Split, split_rows
from mmssl.data.summary import account, summary
from mmssl.data.table import MANIFESTS
from mmssl.data.verify import show, verify
from mmssl.errors import DamagedError, UserError

__all__ = ["build", "build_from", "build_splits", "show", "summary", "verify"]


def build_from(
    make: Callable[[int], Fields],
    count: int,
    out: str | Path,
    *,
    shard_samples: int = 250,
    workers: int | None = None,
    description: str = "",
    classes: Sequence[str] = (),
) -> dict[str, Any]:
    """Writes the samples make(0) .. make(count - 1) as the shard set `out`, one folder per split; returns its index.

    make: a module-level function (or a functools.partial of one) that returns field -> bytes, such as
        {"jpg": ..., "txt": ...}, the same for the same number, and `__key__` if it is not to be the number.
    classes: names of the classes that `cls` numbers.
    """
    shards = [range(start, min(start + shard_samples, count)) for start in range(0, count, shard_samples)]
    about = {"description": description, **({"classes": list(classes)} if classes else {})}
    return write(BuildPlan(shards, make, about), out, workers=workers)


def build(
    source: str | Path | list[str],
    out: str | Path,
    *,
    shard_samples: int = 1000,
    shard_mb: float = 256,
    shuffle: bool | None = None,
    seed: int = 0,
    columns: dict[str, str] | None = None,
    workers: int | None = None,
    strict: bool = False,
    description: str = "",
    filters: PairFilters | None = None,
) -> dict[str, Any]:
    """Writes the source as the shard set `out` and returns its index; run again, it continues where it stopped.

    source: a folder (`class/name.jpg`, files with one name joined into a sample; or files without classes), a
        manifest (CSV, TSV, Parquet, JSONL), or shard sets of local tars.
    columns: sample key -> column of the manifest.
    shard_samples, shard_mb: a shard ends where it reaches either.
    shuffle: samples in seeded random order, except from shards by default.
    strict: stop at the first row or file that cannot be read; else it is left out and counted.
    filters: which pairs of image and text are left out.
    `summary` says in words what the index counts: samples, and what was left out or passed over.
    """
    return build_splits(
        source,
        out,
        None,
        shard_samples=shard_samples,
        shard_mb=shard_mb,
        shuffle=shuffle,
        seed=seed,
        columns=columns,
        workers=workers,
        strict=strict,
        description=description,
        filters=filters,
    )[Path(out)]


def build_splits(
    source: str | Path | list[str],
    out: str | Path,
    split: Split | None,
    *,
    shard_samples: int = 1000,
    shard_mb: float = 256,
    shuffle: bool | None = None,
    seed: int = 0,
    columns: dict[str, str] | None = None,
    workers: int | None = None,
    strict: bool = False,
    description: str = "",
    filters: PairFilters | None = None,
) -> dict[Path, dict[str, Any]]:
    """Writes one shard set for each part of a split, OUT/train and the like, or OUT without one; folder -> index.

    What is finished stays as it is where the same command is run again. The rest as `build` has it.
    """
    found = _found(source, columns, shuffle=shuffle, seed=seed, strict=strict)
    make: Callable[[Row], Fields] = read_row
    if filters is not None:
        if strict and filters.looks:
            raise UserError(
                "--strict stops at the first image that --min-side or --max-aspect leaves out; give one of them"
            )
        found.rows = filters.passing(found.rows, found.passed_over)
        if not found.rows:
            raise UserError(f"no sample of {source} passes; {'; '.join(account(found.about()))}")
        make = partial(read_filtered, filters=filters)
    about = {"description": description, **found.about()}
    parts = {"": found.rows} if split is None else split_rows(found.rows, split)
    indexes: dict[Path, dict[str, Any]] = {}
    for name, rows in parts.items():
        folder = Path(out) / name
        told = about if split is None else {**about, "split": f"{name}: {split}"}
        told = {**told, "passed_over": {}} if indexes else told  # counted once
        done = read_index(folder) if split else None
        if done and done.get("split") == told["split"] and _counted(done) == len(rows):
            indexes[folder] = dict(done)
        else:
            shards = list(_packed(rows, shard_samples, shard_mb * 2**20))
            indexes[folder] = write(BuildPlan(shards, make, told), folder, workers=workers, strict=strict)
    return indexes


def _counted(index: Mapping[str, Any]) -> int:
    return int(index["samples"] + sum(index.get("damaged", {}).values()))


def _found(
    source: str | Path | list[str], columns: dict[str, str] | None, *, shuffle: bool | None, seed: int, strict: bool
) -> UserRows:
    """Returns a source's rows in the order in which they are written; UserError where there are none."""
    found, ordered = _rows(source, columns or {})
    rows = found.rows
    if not rows:
        passed = "; ".join(account(found.about()))
        raise UserError(
            f"{source} holds nothing to build from; expected class/name.jpg, a manifest, or shards (*.tar)"
            + (f"; {passed}" if passed else "")
        )
    if strict and (bad := next((row for row in rows if row.fault), None)):
        raise DamagedError(bad.fault, bad.where)
    if shuffle or (shuffle is None and not ordered):
        random.Random(seed).shuffle(rows)
    return found


def _rows(source: str | Path | list[str], columns: dict[str, str]) -> tuple[UserRows, bool]:
    """Returns a source's rows, and whether their order is to be kept."""
    if not isinstance(source, list):
        path = Path(source)
        if path.suffix.lower() in MANIFESTS:
            return rows_of_manifest(path, columns), False
        if path.is_dir() and not has_shards(path):
            return rows_of_folder(path), False
    return rows_of_shards(source if isinstance(source, list) else str(source)), True


def _packed(rows: Sequence[Row], most: int, most_bytes: float) -> Iterator[list[Row]]:
    """Yields shards: rows in order, each full when it has `most` rows or the next would make it too large."""
    shard: list[Row] = []
    held = 0
    for row in rows:
        size = row.size()
        if shard and (len(shard) >= most or held + size > most_bytes):
            yield shard
            shard, held = [], 0
        shard.append(row)
        held += size
    yield shard
