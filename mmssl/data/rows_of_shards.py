"""Samples of other shards as rows: those that stand apart in a tar are joined, and classes meet by their names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmssl.data.index import read_index
from mmssl.data.rows import Row, Spot, UserRows
from mmssl.data.shards import Source
from mmssl.data.tar import TORN, scan_tar
from mmssl.errors import DamagedError, UserError

DIGITS = 9  # of a label; int takes its time over many, or refuses them
STRAY = "a label that is none of its set's classes"


def has_shards(folder: Path) -> bool:
    """Tells whether a folder holds tars."""
    return any(folder.glob("*.tar"))


def rows_of_shards(shards: str | list[str]) -> UserRows:
    """Returns a row for each sample of local uncompressed tars; what follows a break in a tar is left out.

    The sets' classes are joined by name, and labels numbered anew where that changes them; UserError where some sets
    have names for their labels and others do not.
    """
    paths = list(map(Path, Source(shards=shards).shards))
    for path in paths:
        if not path.is_file() or path.suffix != ".tar":
            raise UserError(f"{path} is not a local uncompressed tar; download or unpack it before building from it")
    folders = dict.fromkeys(path.parent for path in paths)
    indexes: dict[Path, Mapping[str, Any]] = {folder: read_index(folder) or {} for folder in folders}
    promised = {folder / s["name"]: s["samples"] for folder, index in indexes.items() for s in index.get("shards", ())}
    rows = {path: _rows_of(path, promised.get(path, 0)) for path in paths}
    labelled = {path.parent for path in paths if any("cls" in row.files for row in rows[path])}
    names = {folder: indexes[folder].get("classes", []) for folder in indexes}
    without = [str(folder) for folder in names if folder in labelled and not names[folder]]
    classes = list(dict.fromkeys(name for folder in names for name in names[folder]))
    if classes and without:
        raise UserError(
            f"the labels of {', '.join(without)} are numbers without names, and those of other sets have names; "
            "build them apart, or give each an index.json with classes"
        )
    for path in paths:
        if names[path.parent] != classes[: len(names[path.parent])]:
            _renumber(rows[path], names[path.parent], classes)
    return UserRows([row for path in paths for row in rows[path]], classes)


def _rows_of(path: Path, promised: int) -> list[Row]:
    """Returns the rows of one tar, and a fault for each that an index promises and a break has cost."""
    rows: list[Row] = []
    latest: dict[str, Row] = {}
    try:
        for place in scan_tar(path):
            spots: dict[str, Spot] = {name: (str(path.resolve()), *spot) for name, spot in place.fields.items()}
            if place.fault == TORN:
                latest[place.key].files |= spots
                continue
            where = f"{place.key} of {path.name}"
            rows.append(Row(place.key, spots, check=False, fault=place.fault, where=where))
            latest[place.key] = rows[-1]
    except DamagedError as error:
        broken = Row(path.name, fault=error.reason, where=str(path))
        rows += [broken] * max(1, promised - len(rows))
    return rows


def _renumber(rows: Iterable[Row], own: list[str], classes: list[str]) -> None:
    """Puts the number among all classes in place of that among a set's own."""
    for row in rows:
        if spot := row.files.pop("cls", None):
            path, start, length = spot
            with open(path, "rb") as file:
                file.seek(start)
                label = file.read(length).strip()
            if not label.isdigit() or len(label) > DIGITS or int(label) >= len(own):
                row.fault = STRAY
                continue
            row.texts["cls"] = str(classes.index(own[int(label)]))
