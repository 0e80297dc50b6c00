"""A set of webdataset shards, found by pattern, counted, and read as samples."""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from mmssl.data.fields import candidates, decode_all, fills, key_of, places, serves
from mmssl.data.index import Shard, read_index
from mmssl.data.members import BLOCK
from mmssl.data.patterns import as_file, expand, is_local, urls
from mmssl.data.remote import is_folder, remote_index, shard_at
from mmssl.data.tar import TORN, Entry, read_tar, scan_tar
from mmssl.data.timer import timed
from mmssl.errors import DamagedError, UserError, did_you_mean
from mmssl.limits import refuse
from mmssl.types import Sample

SCAN_SHARDS, SCAN_FILES = 512, 1_000_000  # larger sets without an index are not counted
PEEK = 32  # shards looked into for a field that the first one lacks


class Source:
    """Shards to read: a pattern, folder or URL, or several; any webdataset tar, with or without an index.json.

    Each sample has `__key__`, `__shard__` and `__number__` (its place in the set, -1 where the shards are not counted)
    besides what was wanted of it.

    shards: braces and globs ("data/train-{0000..0331}.tar"), a folder, or what webdataset opens (http:, pipe:), of
        which an address that ends in / is a folder with an index.json; one or several.
    fields: sample key -> field that fills it, such as {text: json.caption}, or several, of which the first that a
        sample has fills it, such as {video: [mp4, webm]}; by default the extension tells.
    """

    def __init__(self, *, shards: str | list[str], fields: dict[str, str | list[str]] | None = None) -> None:
        self.shards = expand(shards)
        self.folders = [url for url in urls(shards) if not is_local(url) and is_folder(url)]  # at addresses
        self.fields = fields or {}
        self.damaged: Counter[tuple[str, str]] = Counter()

    @cached_property
    def _held(self) -> list[tuple[int, int]] | None:
        """Of each shard its samples and how many of them are there, from index.json or the headers of local tars.

        A broken tar without an index has as many as the set's others hold (their median), or one more than are there.
        """
        indexed = _indexed(self.shards, self.folders)
        unknown = [shard for shard in self.shards if shard not in indexed]
        if len(unknown) > SCAN_SHARDS or not all(shard.endswith(".tar") and is_local(shard) for shard in unknown):
            return None
        whole = {shard: entry["samples"] for shard, entry in indexed.items() if _may_be_whole(shard, entry)}
        broken, left = dict[str, int](), SCAN_FILES
        for shard in self.shards:
            if shard not in whole:
                count, files, ends_well = _scan(shard, left)
                (whole if ends_well and shard not in indexed else broken)[shard] = count
                left -= files
                if left <= 0:
                    return None
        usual = int(statistics.median(whole.values())) if whole else 0
        held = {shard: (count, count) for shard, count in whole.items()}
        for shard, count in broken.items():
            held[shard] = indexed[shard]["samples"] if shard in indexed else max(usual, count + 1), count
        lost = sum(samples - there for samples, there in held.values() if samples > there)
        refuse("lost_samples", lost, f"{lost:,} samples of {self.shards[0]}, ... are not there")  # each is counted
        return [held[shard] for shard in self.shards]

    @property
    def counts(self) -> list[int] | None:
        """Samples in each shard, or None where that is not known without reading them all."""
        return None if self._held is None else [samples for samples, _ in self._held]

    @cached_property
    def broken(self) -> dict[str, int]:
        """Local shards that lack samples -> how many."""
        held = zip(self.shards, self._held or (), strict=False)
        return {shard: samples - there for shard, (samples, there) in held if samples > there}

    def check_whole(self, most: float) -> None:
        """Raises UserError if more than the ratio `most` of the samples is missing from broken local shards."""
        lost, broken = sum(self.broken.values()), list(self.broken)
        if lost > most * sum(self.counts or ()):
            named = ", ".join(broken[:5]) + (", ..." if broken[5:] else "")
            raise UserError(
                f"{len(broken)} of {len(self.shards)} shards are cut, garbled or gone, and with them {lost} of "
                f"{self.count} samples, more than max_damaged={most:g}: {named}"
            )

    @property
    def count(self) -> int | None:
        """Samples in the set, or None if that is not known without reading it all."""
        return None if self.counts is None else sum(self.counts)

    def entries(self, shard: int, *, start: int = 0, stop: int | None = None, step: int = 1) -> Iterator[Entry]:
        """Yields samples of one shard still encoded; for each that is missing, an entry that tells the fault."""
        counts = self.counts
        before = sum(counts[:shard]) if counts else None
        stop = counts[shard] if stop is None and counts else stop
        left = 0 if stop is None else len(range(start, stop, step))
        for entry in read_tar(self.shards[shard], start=start, stop=stop, step=step):
            if not entry.key:
                yield from itertools.repeat(entry, max(1, left))
                return
            left -= 1
            entry.number = -1 if before is None else before + entry.number
            yield entry

    def name_of(self, entry: Entry) -> str:
        """Returns what the logs call the source of a sample, where several are mixed; else nothing."""
        return ""

    def keep(self, entry: Entry, wanted: Collection[str]) -> Entry:
        """Returns the entry without the fields that fill none of the wanted keys."""
        needed = {field for key in wanted for field, _ in candidates(key, entry.fields, self.fields)}
        return replace(entry, fields={f: d for f, d in entry.fields.items() if f in needed})

    def open(self, entry: Entry, wanted: Collection[str]) -> Sample:
        """Decodes the wanted keys of an entry; raises DamagedError if it is broken or has none of them."""
        if entry.fault:
            raise DamagedError(entry.fault, entry.shard)
        sample = decode_all(wanted, entry.fields, self.fields)
        return {**sample, "__key__": entry.key, "__shard__": entry.shard, "__number__": entry.number}

    def samples(self, wanted: Collection[str], *, rank: int = 0, world: int = 1) -> Iterator[Sample]:
        """Yields every sample once and in order, sample i to rank i % world; skips and counts the damaged."""
        self.check(wanted)
        return self._samples(wanted, rank, world)

    def _samples(self, wanted: Collection[str], rank: int, world: int) -> Iterator[Sample]:
        for entry in self.share(rank, world):
            try:
                with timed():
                    sample = self.open(entry, wanted)
            except DamagedError as error:
                self.skip(entry, error)
            else:
                yield sample

    def share(self, rank: int, world: int) -> Iterator[Entry]:
        """Yields entry rank, rank + world, ... of all, still encoded."""
        every = itertools.chain.from_iterable(map(self.entries, range(len(self.shards))))
        return itertools.islice(every, rank, None, world)

    def hold(self) -> None:
        """Reads ahead what is to be held in memory, before several processes read a copy of this."""

    def skip(self, entry: Entry, error: DamagedError) -> None:
        """Counts an entry that cannot be used."""
        self.damaged[error.reason, entry.shard] += 1

    def check(self, wanted: Collection[str]) -> None:
        """Raises UserError if a wanted key is filled by no sample of the first shard, nor by the next ones' first."""
        missing, seen, fault = set(wanted), set[str](), ""
        useful: dict[str, set[str]] = {key: set() for key in missing}
        heads = (itertools.islice(self.entries(i), 1) for i in range(1, min(PEEK, len(self.shards))))
        for entry in itertools.chain(self.entries(0), *heads):
            missing -= {key for key in missing if fills(key, entry.fields, self.fields)}
            if not missing:
                return
            here = places(entry.fields)
            seen |= here
            for key in missing:
                useful[key] |= {place for place in here - useful[key] if serves(key, place, entry.fields)}
            fault = fault or entry.fault
            if entry.fault == TORN:
                raise UserError(f"{entry.shard} holds {entry.fault}; such as {entry.key}")
        if not seen:
            raise UserError(f"{self.shards[0]} holds no samples{': ' + fault if fault else ''}")
        key = min(missing)
        raise UserError(f"no sample of {self.shards[0]} has {self._lacks(key, seen, useful[key])}")

    def _lacks(self, key: str, seen: set[str], useful: set[str]) -> str:
        """Returns what is said of a key that no sample fills: what there is, and what of it could fill the key."""
        known = sorted(place for place in seen if ".json." not in f".{place}")
        there = f"its fields are {', '.join(known)}"
        if key not in self.fields:
            keys = sorted({name for name in map(key_of, known) if name})
            hint = f"; name the field as in fields: {{{key}: {_alike(useful)}}}" if useful else ""
            return f"{key!r}; {there} (keys: {', '.join(keys) or 'none'}){hint or f'; none of them can be {key}'}"
        asked = self.fields[key]
        several = [asked] if isinstance(asked, str) else asked
        hints = [f"what is there is no {key}"] if seen.intersection(several) else []
        hints += [did_you_mean(several[0], useful)] if useful else []
        said = "; ".join(hints) or f"{there}; none of them can be {key}"
        return f"{' or '.join(map(repr, several))} for {key!r}; {said}"


def _alike(places: set[str]) -> str:
    """Returns the nearest place as `fields` names it, with the others of its kind, such as mp4 and webm."""
    nearest = min(places, key=_nearness)
    kind = key_of(nearest)
    alike = sorted(place for place in places if "json" not in place.split(".") and key_of(place) == kind)
    return f"[{', '.join(alike)}]" if len(alike) > 1 else nearest


def _nearness(place: str) -> tuple[int, str]:
    """Orders places for a hint: fields before what lies in their JSON."""
    return place.count("."), place


def _indexed(shards: list[str], addresses: list[str]) -> dict[str, Shard]:
    """Returns what index.json beside the local shards, and those of folders at addresses, says of each."""
    found: dict[str, Shard] = {}
    for folder in {Path(shard).parent for shard in shards if is_local(shard)}:
        index = read_index(folder)
        for entry in index["shards"] if index else []:
            found[as_file(folder / entry["name"])] = entry
    for url in addresses:
        found |= {shard_at(url, entry["name"]): entry for entry in remote_index(url)["shards"]}
    return {shard: found[shard] for shard in shards if shard in found}


def _may_be_whole(shard: str, entry: Shard) -> bool:
    """Tells whether a file is as long as its index says, and long enough for its samples: a tar takes a block each.

    What is at an address is believed.
    """
    if not is_local(shard):
        return True
    size = _size(shard)
    fits = not shard.endswith(".tar") or entry["samples"] * BLOCK <= size
    return entry.get("bytes", size) == size and fits


def _size(shard: str) -> int:
    return Path(shard).stat().st_size if Path(shard).is_file() else -1


def _scan(shard: str, most: int) -> tuple[int, int, bool]:
    """Returns how many samples, and files up to `most`, a local tar has, and whether it is whole."""
    count = files = 0
    try:
        for place in scan_tar(shard):
            if place.fault == TORN:
                apart = ", ".join(place.fields)
                raise UserError(f"{shard} holds {TORN}; such as {place.key}, whose {apart} comes later")
            count += 1
            files += len(place.names)
            if files >= most:
                break
    except DamagedError:
        return count, files, False
    return count, files, True
