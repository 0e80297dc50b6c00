"""What patterns of shards stand for: a user writes addresses and commands; no file that is found becomes one."""

from __future__ import annotations

import difflib
import glob
import itertools
import os
import re
import stat
import string
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

from mmssl.data.index import JOURNAL, parts_hint, read_index
from mmssl.data.remote import is_folder, remote_index, shard_at
from mmssl.errors import UserError
from mmssl.limits import limit, refuse

LETTERS = string.ascii_uppercase + string.ascii_lowercase  # in the order of braceexpand
RANGE = re.compile(r"(?:(-?\d+)\.\.(-?\d+)|([A-Za-z])\.\.([A-Za-z]))(?:\.\.-?(\d+))?\n?")
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
LOOKED_AT = 10_000  # names of a folder among which the nearest is looked for


def is_local(shard: str) -> bool:
    """Tells whether a shard is a file of this system, rather than a command or an address that webdataset opens."""
    return not SCHEME.match(shard)


def as_file(path: str | Path) -> str:
    """Returns a found file as a shard: one whose name is spelt as a command, `pipe:x.tar`, is `./pipe:x.tar`."""
    return str(path) if is_local(str(path)) else f".{os.sep}{path}"


def expand(shards: str | list[str]) -> list[str]:
    """Returns every shard that patterns, folders and URLs stand for; raises UserError for one that is not there."""
    found: list[str] = []
    for url in urls(shards):
        found += _expand_one(url)
        refuse("shards", len(found), f"{shards!r:.200} stands for {len(found):,} shards or more")
    if not found:
        raise UserError(f"there are no shards in {shards!r}; give a pattern such as 'data/train-{{000..099}}.tar'")
    return found


def urls(shards: str | list[str]) -> Iterator[str]:
    """Yields what patterns stand for once `::`, variables and braces are done with; folders and globs stay.

    A pattern that begins with `pipe:` is a command and stays whole; parts of others may end up as one, too.
    """
    from braceexpand import braceexpand

    patterns = [shards] if isinstance(shards, str) else list(shards)
    parts = [part for pattern in patterns for part in _parts(pattern)]
    count = sum(map(_stands_for, parts))
    refuse("shards", count, f"{shards!r:.200} stands for {count:,} shards or more")
    for part in parts:
        yield from [part] if part.startswith("pipe:") else braceexpand(part)


def _parts(pattern: str) -> list[str]:
    """Returns the parts of a pattern between `::`, with their variables replaced, as webdataset has them."""
    from webdataset.shardlists import envsubst

    if pattern.startswith("pipe:"):
        return [pattern]
    try:
        for _ in range(10):  # variables that hold variables
            pattern = envsubst(pattern)
    except AssertionError as error:
        raise UserError(f"{pattern!r:.200}: {error}") from None
    return pattern.split("::")


def _stands_for(pattern: str) -> int:
    """Returns how many names a pattern's braces stand for, without making any: `{0..999999999}` takes the memory.

    Raises UserError for braces that do not match, and where they exceed the limits.
    """
    if pattern.startswith("pipe:"):
        return 1
    outer: list[tuple[int, int, int]] = []  # of each open brace: where it is, and the count and sum before it
    count, total, place = 1, 0, 0
    while place < len(pattern):
        sign = pattern[place]
        place += 1 + (sign == "\\")
        if sign == "{":
            outer.append((place, count, total))
            refuse("document_depth", len(outer), f"{pattern!r:.200} has braces within braces")
            count, total = 1, 0
        elif sign == "," and outer:
            count, total = 1, total + count
        elif sign == "}" and outer:
            start, before, sum_before = outer.pop()
            inside = total + count if total else _in_range(pattern[start : place - 1]) or count
            count, total = before * inside, sum_before
            refuse("shards", count, f"{pattern!r:.200} stands for {count:,} shards or more")
        elif sign == "}":
            outer.append((place, 1, 0))
            break
    if outer:
        raise UserError(f"{pattern!r:.200} has a brace without its other; write \\\\{{ for one that means itself")
    return count


def _in_range(text: str) -> int:
    """Returns how many there are in a range of numbers or letters, such as `000..331`; 0 where a text is none."""
    if not (found := RANGE.fullmatch(text)):
        return 0
    if len(text) > 60:
        raise UserError(f"a pattern has the range {text:.60}...; expected shorter numbers")
    first, last, first_letter, last_letter, step = found.groups()
    ends = map(int, (first, last)) if first else map(LETTERS.index, (first_letter, last_letter))
    return abs(next(ends) - next(ends)) // (int(step or 1) or 1) + 1


def _expand_one(url: str) -> list[str]:
    """Returns the shards of one pattern without braces: a URL as it is, a folder's tars, or what a glob matches."""
    if not is_local(url) and not url.startswith("file:"):
        if is_folder(_checked(url)):
            return [shard_at(url, shard["name"]) for shard in remote_index(url)["shards"]]
        return [url]
    path = Path(os.path.expanduser(url if is_local(url) else url2pathname(urlparse(url).path)))  # noqa: PTH111
    if mode := _mode(path):
        return _of_folder(path) if stat.S_ISDIR(mode) else [as_file(path)]
    matches = list(itertools.islice(glob.iglob(str(path)), int(limit("shards")) + 1))  # noqa: PTH207 - may be absolute
    if not matches:
        raise UserError(f"there is no shard {url}; {_near(path)}")
    found = sorted(map(Path, matches))
    return [shard for match in found for shard in (_of_folder(match) if match.is_dir() else [_found(match)])]


def _mode(path: Path) -> int:
    """Returns what kind of file a path is; 0 where nothing is there, or no file can be named so."""
    try:
        return path.stat().st_mode
    except (OSError, ValueError):
        return 0


def is_special(path: str) -> bool:
    """Tells whether a path is a named pipe, a device or a socket, from which reading may never end."""
    mode = _mode(Path(path))
    return bool(mode) and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _checked(url: str) -> str:
    """Returns a URL that webdataset opens; raises UserError for another."""
    from webdataset.gopen import gopen_schemes

    try:
        scheme = urlparse(url).scheme
    except ValueError as error:
        raise UserError(f"{url!r:.200} is no address: {error}") from None
    if scheme not in gopen_schemes:
        raise UserError(f"{url}: webdataset opens no {scheme!r}; use 'pipe:COMMAND' with a command that prints it")
    return url


def _of_folder(folder: Path) -> list[str]:
    """Returns the shards in a folder, those that its index.json lists or every tar; nothing is expanded once more."""
    if (folder / JOURNAL).exists():
        raise UserError(f"{folder} holds an interrupted build; run its command again to finish it")
    index = read_index(folder)
    with os.scandir(folder) as entries:  # which tells files from folders without a look at each
        there = {entry.name: entry.is_file() for entry in entries}
    names = [s["name"] for s in index["shards"]] if index else sorted(n for n in there if n.endswith(".tar"))
    if not names:
        raise UserError(f"{folder} holds no *.tar; {parts_hint(folder) or _near(folder / 'x.tar')}")
    return [as_file(folder / name) if there.get(name) else _found(folder / name) for name in names]


def _found(path: Path) -> str:
    """Returns a file that was found; raises UserError for what is none, for one would wait for ever at a named pipe."""
    if not path.exists():
        raise UserError(f"there is no shard {path}; {_near(path)}")
    if not path.is_file():
        raise UserError(f"{path} is no file; expected a tar")
    return as_file(path)


def _near(path: Path) -> str:
    """Returns a hint for a path that is not there: the nearest one that is."""
    while not os.path.isdir(path.parent):  # noqa: PTH112 - Path raises for a name that no file can have
        path = path.parent
    there = [entry.name for entry in itertools.islice(path.parent.iterdir(), LOOKED_AT)]
    near = difflib.get_close_matches(path.name, there, n=1)
    if near:
        return f"the nearest is {path.parent / near[0]}"
    return f"{path.parent} has {', '.join(sorted(there)[:5]) or 'nothing'}{', ...' if len(there) > 5 else ''}"
