"""A set of webdataset shards, found by pattern, counted, and read as samples."""

from __future__ import annotations

import difflib
import glob
import itertools
import statistics
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from urllib.parse import urlparse

from mmssl.data.fields import decode_all, fills, find, key_of, places
from mmssl.data.index import JOURNAL, Shard, read_index
from mmssl.data.tar import TORN, Entry, read_tar, scan_tar
from mmssl.errors import DamagedError, UserError, did_you_mean
from mmssl.types import Sample

SCAN_SHARDS, SCAN_FILES = 512, 1_000_000  # larger sets without an index are not counted
PEEK = 32  # shards looked into for a field that the first one lacks


class Source:
    """Shards to read: a pattern, folder or URL, or several; any webdataset tar, with or without an index.json.

    shards: braces and globs ("data/train-{0000..0331}.tar"), a folder, or what webdataset opens (http:, pipe:).
    fields: sample key -> field that fills it, such as {text: json.caption}; by default the extension tells.
    Each sample has `__key__`, `__shard__` and `__number__` (its place in the set, -1 where the shards are not counted)
    besides what was wanted of it.
    """

    def __init__(self, *, shards: str | list[str], fields: dict[str, str] | None = None) -> None:
        self.shards = expand(shards)
        self.fields = fields or {}
        self.damaged: Counter[tuple[str, str]] = Counter()

    @cached_property
    def _held(self) -> list[tuple[int, int]] | None:
        """Of each shard its samples and how many of them are there, from index.json or the headers of local tars.

        A broken tar without an index has as many as the set's others hold (their median), or one more than are there.
        """
        indexed = _indexed(self.shards)
        unknown = [shard for shard in self.shards if shard not in indexed]
        if len(unknown) > SCAN_SHARDS or not all(shard.endswith(".tar") and _is_local(shard) for shard in unknown):
            return None
        whole = {s: e["samples"] for s, e in indexed.items() if "bytes" not in e or _size(s) == e["bytes"]}
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

    def keep(self, entry: Entry, wanted: Collection[str]) -> Entry:
        """Returns the entry without the fields that fill none of the wanted keys."""
        needed = {find(key, entry.fields, self.fields) for key in wanted}
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
        every = itertools.chain.from_iterable(map(self.entries, range(len(self.shards))))
        for entry in itertools.islice(every, rank, None, world):
            try:
                sample = self.open(entry, wanted)
            except DamagedError as error:
                self.skip(entry, error)
            else:
                yield sample

    def skip(self, entry: Entry, error: DamagedError) -> None:
        """Counts an entry that cannot be used."""
        self.damaged[error.reason, entry.shard] += 1

    def check(self, wanted: Collection[str]) -> None:
        """Raises UserError if a wanted key is filled by no sample of the first shard, nor by the next ones' first."""
        missing, seen, fault = set(wanted), set[str](), ""
        heads = (itertools.islice(self.entries(i), 1) for i in range(1, min(PEEK, len(self.shards))))
        for entry in itertools.chain(self.entries(0), *heads):
            missing -= {key for key in missing if fills(key, entry.fields, self.fields)}
            if not missing:
                return
            seen |= places(entry.fields)
            fault = fault or entry.fault
            if entry.fault and entry.key:
                raise UserError(f"{entry.shard} holds {entry.fault}; such as {entry.key}")
        if not seen:
            raise UserError(f"{self.shards[0]} holds no samples{': ' + fault if fault else ''}")
        key, known = min(missing), sorted(place for place in seen if ".json." not in f".{place}")
        if key in self.fields:
            asked = self.fields[key]
            hint = f"what is there is no {key}" if asked in seen else did_you_mean(asked, seen)
            raise UserError(f"no sample of {self.shards[0]} has {asked!r} for {key!r}; {hint}")
        keys = sorted({name for name in map(key_of, known) if name})
        raise UserError(
            f"no sample of {self.shards[0]} has {key!r}; its fields are {', '.join(known)}"
            f" (keys: {', '.join(keys) or 'none'}); name the field as in fields: {{{key}: {known[0]}}}"
        )


def _is_local(shard: str) -> bool:
    return urlparse(shard).scheme == ""


def expand(shards: str | list[str]) -> list[str]:
    """Returns every shard that patterns, folders and URLs stand for; raises UserError for one that is not there."""
    from webdataset.shardlists import expand_urls

    patterns = [shards] if isinstance(shards, str) else list(shards)
    found: list[str] = []
    for pattern in patterns:
        urls = [pattern] if pattern.startswith("pipe:") else expand_urls(pattern)
        found += itertools.chain.from_iterable(map(_expand_one, urls))
    if not found:
        raise UserError(f"there are no shards in {shards!r}; give a pattern such as 'data/train-{{000..099}}.tar'")
    return found


def _expand_one(url: str) -> list[str]:
    """Returns the shards of one pattern without braces: a URL as it is, a folder's tars, or what a glob matches."""
    from webdataset.gopen import gopen_schemes

    scheme = urlparse(url).scheme
    if scheme:
        if scheme != "file" and scheme not in gopen_schemes:
            raise UserError(f"{url}: webdataset opens no {scheme!r}; use 'pipe:COMMAND' with a command that prints it")
        return [url]
    path = Path(url).expanduser()
    if path.is_dir():
        return _of_folder(path)
    if path.exists():
        return [str(path)]
    if matches := sorted(map(Path, glob.glob(str(path)))):  # noqa: PTH207 - the pattern may be absolute
        return [shard for match in matches for shard in (_of_folder(match) if match.is_dir() else [str(match)])]
    raise UserError(f"there is no shard {url}; {_near(path)}")


def _of_folder(folder: Path) -> list[str]:
    if (folder / JOURNAL).exists():
        raise UserError(f"{folder} holds an interrupted build; run its command again to finish it")
    index = read_index(folder)
    names = [s["name"] for s in index["shards"]] if index else sorted(p.name for p in folder.glob("*.tar"))
    if not names:
        raise UserError(f"{folder} holds no *.tar; {_near(folder / 'x.tar')}")
    return [shard for name in names for shard in _expand_one(str(folder / name))]


def _near(path: Path) -> str:
    """Returns a hint for a path that is not there: the nearest one that is."""
    while not path.parent.is_dir():
        path = path.parent
    there = [entry.name for entry in path.parent.iterdir()]
    near = difflib.get_close_matches(path.name, there, n=1)
    if near:
        return f"the nearest is {path.parent / near[0]}"
    return f"{path.parent} has {', '.join(sorted(there)[:5]) or 'nothing'}{', ...' if len(there) > 5 else ''}"


def _indexed(shards: list[str]) -> dict[str, Shard]:
    """Returns what index.json beside the local shards says of each."""
    found: dict[str, Shard] = {}
    for folder in {Path(shard).parent for shard in shards if _is_local(shard)}:
        index = read_index(folder)
        for entry in index["shards"] if index else []:
            found[str(folder / entry["name"])] = entry
    return {shard: found[shard] for shard in shards if shard in found}


def _size(shard: str) -> int:
    return Path(shard).stat().st_size if Path(shard).is_file() else -1


def _scan(shard: str, most: int) -> tuple[int, int, bool]:
    """Returns how many samples, and files up to `most`, a local tar has, and whether it is whole."""
    count = files = 0
    try:
        for place in scan_tar(shard):
            if place.torn:
                apart = ", ".join(place.fields)
                raise UserError(f"{shard} holds {TORN}; such as {place.key}, whose {apart} comes later")
            count += 1
            files += len(place.fields)
            if files >= most:
                break
    except DamagedError:
        return count, files, False
    return count, files, True
