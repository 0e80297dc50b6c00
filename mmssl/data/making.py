"""What goes into a shard: the samples that can be made, under names that are safe to unpack and read back as such."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mmssl.data.members import META, NAME, base_and_field
from mmssl.data.user_files import hidden
from mmssl.errors import DamagedError

Fields = dict[str, bytes]
EXAMPLES = 3  # of what was left out for one reason
PART = 255  # bytes of a part of a name
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
LEADS_OUT = "a name that leads out of the folder that the shard is unpacked to"
NO_NAME = "a name that no file can have"
UNREADABLE = "a name that is not read back: a key has no dots, and none of .x, __x__, x._y and x. is a file's name"


def make_all(
    items: Sequence[Any], make: Callable[[Any], Fields], damaged: dict[str, tuple[int, list[str]]], strict: bool
) -> Iterator[dict[str, Any]]:
    """Yields the samples of items; with `strict` raises the first DamagedError, else counts them, with examples."""
    for item in items:
        try:
            made = {"__key__": f"{item:08d}" if isinstance(item, int) else str(item), **make(item)}
            _check_names(made)
        except DamagedError as error:
            if strict:
                raise
            count, examples = damaged.get(error.reason, (0, []))
            named = [f"sample {item}"] if isinstance(item, int) else []
            example = ", ".join([*named, *([error.detail] if error.detail else [])])
            damaged[error.reason] = count + 1, [*examples, example][:EXAMPLES]
        else:
            yield made


def _check_names(sample: dict[str, Any]) -> None:
    """Raises DamagedError for a sample whose files could not be unpacked safely, or would be read as something else."""
    key = str(sample["__key__"])
    for field in (name for name in sample if name != "__key__"):
        name = f"{key}.{field}"
        _check_name(name)
        passed_over = field[:1] in ("", "_") or META.match(name) or hidden(name)
        if passed_over or base_and_field(name) != (key, field.lower()):
            raise DamagedError(UNREADABLE, f"{name!r:.200}")


def _check_name(name: str) -> None:
    """Raises DamagedError for a name that is not safe to unpack: it leads elsewhere, or no file can have it."""
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or "\\" in name or re.match("[A-Za-z]:", name):
        raise DamagedError(LEADS_OUT, f"{name!r:.200}")
    try:
        sizes = [len(part.encode("utf-8", "surrogateescape")) for part in parts]
    except UnicodeEncodeError:
        sizes = [NAME + 1]
    if max(sizes) > PART or sum(sizes) > NAME or not parts[-1] or CONTROL.search(name):
        raise DamagedError(NO_NAME, f"{name!r:.200}")


def unused(key: str, used: set[str]) -> str:
    """Returns the key, numbered if another sample of the shard bears it: readers would join the two."""
    name = next(k for k in (key, *(f"{key}-{n}" for n in range(2, len(used) + 3))) if k not in used)
    used.add(name)
    return name
