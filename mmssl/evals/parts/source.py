"""The shards that an evaluation reads: labels by name, and what is damaged reported."""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mmssl import names
from mmssl.data.fields import decode, find
from mmssl.data.index import read_index
from mmssl.data.patterns import is_local
from mmssl.data.remote import remote_index
from mmssl.data.shards import Source
from mmssl.data.subset import Subset
from mmssl.data.tar import Entry
from mmssl.data.user_source import UserFiles, user_rows
from mmssl.errors import DamagedError, UserError
from mmssl.evals.parts.classes import Label, as_labels, class_of, disjoint_error, number_listed, same
from mmssl.evals.parts.report import skip_sample, warn
from mmssl.types import Sample

PEEK = 32  # samples in which labels are looked for before a run


class Reported(Source):
    """A Source that reports the samples that cannot be opened."""

    def skip(self, entry: Entry, error: DamagedError) -> None:
        """Reports a sample that cannot be opened."""
        super().skip(entry, error)
        skip_sample({"__shard__": entry.shard, "__key__": entry.key, "__number__": entry.number}, error)


class OwnExamples(Reported, UserFiles):
    """A user's own files whose numbers of classes (`cls`) become names: those of the folders, or of the table."""

    def open(self, entry: Entry, wanted: Collection[str]) -> Sample:
        """Opens the wanted keys of a row."""
        sample, texts = super().open(entry, wanted), self.rows[entry.number].texts
        meta = json.loads(texts.get("json", "{}")) if "cls" in texts else {}
        for key in wanted if "class" in meta else ():
            if key in sample and find(key, texts, self.fields) == "cls":
                sample[key] = as_labels([same(meta["class"])])[0]
        return sample


class Examples(Reported):
    """A Source whose numbers of classes (`cls`) become names, by its index.json or the `class` in a sample's json.

    A number is that of its own set, so that it says nothing elsewhere; it stays where there is no name.
    """

    def open(self, entry: Entry, wanted: Collection[str]) -> Sample:
        """Decodes the wanted keys; DamagedError also for a number that index.json does not list."""
        sample = super().open(entry, wanted)
        for key in wanted if "cls" in entry.fields else ():
            if key in sample and find(key, entry.fields, self.fields) == "cls":
                sample[key] = self._named(entry, sample[key])
        return sample

    def entries(self, shard: int, *, start: int = 0, stop: int | None = None, step: int = 1) -> Iterator[Entry]:
        """Yields samples of one shard still encoded; one that is lost has no key, and its place for a number."""
        for place, entry in enumerate(super().entries(shard, start=start, stop=stop, step=step)):
            yield entry if entry.key else replace(entry, number=place)

    @cached_property
    def classes(self) -> dict[str, list[Label]]:
        """Shards' folder -> the names of its classes in the order of their numbers, where its index.json lists them."""
        folders = {str(Path(shard).parent) for shard in self.shards if is_local(shard)}
        indexes: dict[str, Mapping[str, Any]] = {folder: read_index(Path(folder)) or {} for folder in folders}
        indexes |= {str(Path(url)): remote_index(url) for url in self.folders}
        return {
            folder: as_labels([same(name) for name in i["classes"]])
            for folder, i in indexes.items()
            if i.get("classes")
        }

    def _named(self, entry: Entry, number: int) -> Label:
        listed = self.classes.get(str(Path(entry.shard).parent))
        if listed is None:
            said = self._said(entry)
            return number if said is None else said
        if not 0 <= number < len(listed):
            raise DamagedError("a class that index.json does not list", f"number {number} of {len(listed)}")
        return listed[number]

    def _said(self, entry: Entry) -> Label | None:
        """Returns the name, or number, that a sample's json gives its class."""
        with suppress(DamagedError):
            meta = decode("meta", entry.fields, {"meta": "json"})
            name = meta.get("class") if isinstance(meta, dict) else None
            return as_labels([same(name)])[0] if isinstance(name, str) and name.strip() else None
        return None


def open_source(data: Mapping[str, Any]) -> Source:
    """Opens the `data` node of an evaluation or a plot: shards, or a folder of a user's own files, one, or a table."""
    options = names.check_options(Source, data, where="data")
    shards = options["shards"]
    rows = user_rows(Path(shards)) if isinstance(shards, str) and is_local(shards) else None
    return Examples(**options) if rows is None else OwnExamples(Path(shards), rows, options.get("fields") or {})


def require_fields(source: Source, keys: Collection[str], *, where: str = "data") -> None:
    """Raises UserError where a set lacks a field; looks into the first samples of a few shards only."""
    try:
        source.check(keys)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def check_shared_classes(train: Source | Sequence[str], test: Source, label: str, *, where: str, known_as: str) -> None:
    """Raises UserError where it can be foreseen that two sides share no class; reads index.json or a few labels."""
    theirs, whole = peek_classes(test, label)
    mine, all_mine = (
        peek_classes(train, label) if isinstance(train, Source) else (list(number_listed(train, theirs)), True)
    )
    kinds = [{isinstance(name, str) for name in side} for side in (mine, theirs)]
    if mine and theirs and (not kinds[0] & kinds[1] or (whole and all_mine and not {*mine} & {*theirs})):
        raise disjoint_error(theirs, mine, where=where, known_as=known_as)


def peek_classes(source: Source, label: str) -> tuple[list[Label], bool]:
    """Returns the classes that index.json lists and True, or where it does not those of a few samples and False."""
    whole = source.source if isinstance(source, Subset) else source
    classes = whole.classes if isinstance(whole, Examples) else {}
    if find(label, ("cls",), whole.fields) and all(str(Path(shard).parent) in classes for shard in whole.shards):
        return [name for several in classes.values() for name in several], True
    found: list[Label] = []
    for entry in itertools.islice(whole.entries(0), PEEK):
        with suppress(DamagedError):
            found.append(class_of(whole.open(entry, {label}).get(label)))
    return found, False


def warn_of_overlap(train: Source, test: Source) -> None:
    """Warns where shards that are judged on were learnt from."""
    known, judged = ({str(Path(shard).resolve()) for shard in source.shards} for source in (train, test))
    if shared := len(known & judged):
        warn(f"{shared} of the {len(judged)} shards that are judged on are learnt from as well")
