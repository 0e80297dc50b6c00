"""Shares rows out among train and test, or among folds: by share, by group or by a list; no group on both sides."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from mmssl.data.rows import Row, read_spot
from mmssl.errors import DamagedError, UserError, did_you_mean

SHARE = 0.2  # that is held out where a group is named and no share
FOLDER = "folder"  # the group that the folder of a file is


@dataclass(frozen=True, slots=True)
class Split:
    """What is held out; `Split.of` reads it from a command line.

    test: share of the samples for test; 1 makes a test set only.
    group: a column of the table or key of the JSON whose values never stand on both sides, or `folder`, that of the
        file; COLUMN=VALUE holds out all samples with this value.
    files: names of the files for test, as the source has them or without their folders.
    folds: how many parts of equal size are made instead, fold0, fold1, ..., each with its share of every class.
    seed: of what is held out.
    """

    test: float | None = None
    group: str | None = None
    files: tuple[str, ...] = ()
    folds: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        by_value = self.group if "=" in (self.group or "") else None
        ways: dict[str, Any] = {"--test": self.test, "--test-list": self.files or None, "--folds": self.folds}
        ways["--test-group COLUMN=VALUE"] = by_value
        said = [name for name, value in ways.items() if value is not None]
        if len(said) > 1 or (self.files and self.group):
            raise UserError(
                f"{' and '.join(said) if len(said) > 1 else '--test-list and --test-group'}: give one of them"
            )
        if self.test is not None and not 0 < self.test <= 1:
            raise UserError(f"--test {self.test:g}: expected a share above 0, up to 1 for a test set only")
        if self.folds is not None and self.folds < 2:
            raise UserError(f"--folds {self.folds}: expected at least 2")

    @classmethod
    def of(cls, options: argparse.Namespace) -> Split | None:
        """Returns what the options of `mmssl.console.add_split` say, None where nothing is to be split."""
        files = () if options.test_list is None else _listed(Path(options.test_list))
        if options.test is options.test_group is options.folds is options.test_list is None:
            return None
        return cls(options.test, options.test_group, files, options.folds, options.seed)

    def __str__(self) -> str:
        way = f"{len(self.files)} listed files" if self.files else f"{self.folds} folds" if self.folds else ""
        group = f" by {self.group}" if self.group else ""
        return f"{way or f'test {SHARE if self.test is None else self.test:g}'}{group}, seed {self.seed}"


def _listed(path: Path) -> tuple[str, ...]:
    try:
        names = tuple(line.strip() for line in path.read_text("utf-8-sig").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--test-list {path} cannot be read: {error}") from None
    if not names:
        raise UserError(f"--test-list {path} names no file; expected one a line")
    return names


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of one sample for a split: the name of its file, its class, and what JSON holds of it."""

    file: str
    label: str
    meta: dict[str, Any]


def known(row: Row) -> Known:
    """Returns what a row says of its sample; nothing of what cannot be read, for then it is left out anyway."""
    meta: dict[str, Any] = {}
    for text in (row.texts.get("json"), _text(row, "json")):
        with contextlib.suppress(ValueError, RecursionError):
            found = json.loads(text or "{}")
            meta |= found if isinstance(found, dict) else {}
    label = meta.get("class", row.texts.get("cls") or _text(row, "cls") or "")
    return Known(str(meta.get("file", row.key)), str(label).strip(), meta)


def _text(row: Row, name: str) -> str:
    with contextlib.suppress(DamagedError):
        if name in row.files:
            return read_spot(*row.files[name], row.where).decode("utf-8", "replace")
    return ""


def shared_out(samples: Sequence[Known], split: Split) -> dict[str, list[int]]:
    """Returns split -> the places of its samples, in order; a split without any is not among them."""
    if split.folds:
        names, shares = [f"fold{number}" for number in range(split.folds)], [1 / split.folds] * split.folds
    else:
        test = SHARE if split.test is None else split.test
        names, shares = ["train", "test"], [1 - test, test]
    column, said, value = (split.group or "").partition("=")
    if column and column != FOLDER and not any(column in one.meta for one in samples):
        have = {name for one in samples for name in one.meta}
        raise UserError(f"--test-group: no sample has {column!r}; {did_you_mean(column, [*sorted(have), FOLDER])}")
    if split.files:
        part_of = _by_name(samples, split.files)
    elif said:
        part_of = [int(str(_group(one, column)) == value) for one in samples]
        if not any(part_of):
            raise UserError(f"--test-group: no sample has {column}={value}")
    else:
        part_of = _by_share(samples, column, shares, split.seed)
    found: dict[str, list[int]] = defaultdict(list)
    for place, part in enumerate(part_of):
        found[names[part]].append(place)
    return {name: found[name] for name in names if name in found}


def _group(one: Known, column: str) -> Any:
    return str(PurePosixPath(one.file).parent) if column == FOLDER and FOLDER not in one.meta else one.meta.get(column)


def _by_name(samples: Sequence[Known], files: Sequence[str]) -> list[int]:
    """Returns 1 for each sample whose file is listed; UserError for names that no sample has, or that several share."""
    whole = {one.file for one in samples}
    bare = Counter(PurePosixPath(one.file).name for one in samples)
    listed = {name.removeprefix("./") for name in files}
    absent = sorted(name for name in listed if name not in whole and name not in bare)
    if absent:
        raise UserError(
            f"--test-list: {len(absent)} of {len(listed)} names are none of the source's files, such as {absent[0]!r}; "
            f"these are called like {samples[0].file!r}"
        )
    if twice := sorted(name for name in listed - whole if bare[name] > 1):
        raise UserError(f"--test-list: {twice[0]!r} is the name of {bare[twice[0]]} files; write their folders, too")
    return [int(one.file in listed or PurePosixPath(one.file).name in listed - whole) for one in samples]


def _by_share(samples: Sequence[Known], column: str, shares: Sequence[float], seed: int) -> list[int]:
    """Returns the part of each sample: groups, the largest first and then in the order of a seeded hash, one by one.

    Each goes to the part that is most behind its share, of the group's classes and of all samples so far. So without
    groups each part has its share of every class, but for single samples. Samples without a group are one by their
    file, so that an image with several captions, a row each, stands on one side.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for place, one in enumerate(samples):
        group = _group(one, column) if column else None
        alone = f"file {one.file}" if "file" in one.meta else f"sample {place}"
        groups[alone if group is None else f"group {group}"].append(place)
    order = {name: hashlib.sha256(f"{seed} {name}".encode("utf-8", "surrogatepass")).digest() for name in groups}
    seen, held = _Part(1), [_Part(share) for share in shares]
    part_of = [0] * len(samples)
    for name in sorted(groups, key=lambda name: (-len(groups[name]), order[name])):
        classes = Counter(samples[place].label for place in groups[name])
        seen.add(classes)
        part = max(range(len(held)), key=lambda number: held[number].behind(seen, classes))
        held[part].add(classes)
        for place in groups[name]:
            part_of[place] = part
    return part_of


class _Part:
    """What one part holds so far: samples of each class and in all; `share` is what it should hold of everything."""

    def __init__(self, share: float) -> None:
        self.share, self.classes, self.total = share, Counter[str](), 0

    def add(self, classes: Counter[str]) -> None:
        self.classes.update(classes)
        self.total += classes.total()

    def behind(self, seen: _Part, classes: Counter[str]) -> float:
        """Returns how many samples it lacks to its share of what was seen: of these classes, on average, and of all."""
        lacks = {label: self.share * seen.classes[label] - self.classes[label] for label in classes}
        of_each = sum(count * lacks[label] for label, count in classes.items()) / classes.total()
        return of_each + self.share * seen.total - self.total


def split_rows(rows: Sequence[Row], split: Split, about: Callable[[Row], Known] = known) -> dict[str, list[Row]]:
    """Returns split -> rows; those that are no samples, which will be left out and counted, are with the first."""
    whole = [row for row in rows if not row.fault]
    faulty = [row for row in rows if row.fault]
    parts = {name: [whole[i] for i in places] for name, places in shared_out([*map(about, whole)], split).items()}
    first = next(iter(parts), "train")
    return {**parts, first: [*parts.get(first, ()), *faulty]} if faulty else parts
