"""Single changes of documents: of the values that they hold, and of their bytes."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable
from typing import Any

Draw = random.Random
MARKER = "garbled-and-executed"  # a file that a command in a document would make

NUMBERS = [0, 1, -1, 2, -2.5, 1e-320, 1e308, math.inf, -math.inf, math.nan, 255, 2**16, 2**31, 2**63, 2**64, 10**30]
TEXTS = ["", " ", "x", "a" * 300, "a" * 100_000, "\0", "\n", "\ud800", "é\u0301", "\u202e", "nan", "1e999", "-1", "3"]
PATHS = ["../../x", "/etc/passwd", "~/x", "-", "*", "[", "{a,b}", "{0..99999999}", "a" * 300 + ".tar", "con:", "%s%n"]
COMMANDS = [f"pipe:touch {MARKER}", f"pipe:touch {MARKER}.tar", "http://localhost:1/x", f"$(touch {MARKER})"]
NAMES = [
    "os:system",
    "mmssl.cli:main",
    "mmssl.demo:demo",
    "subprocess:run",
    ".x",
    "a..b",
    "mmssl",
    "mmssl.types:Encoder",
]
NESTS = [[], {}, [[]], [None], {"": None}, [1, [2, [3]]], [0] * 1000, {"name": None}, {"name": {"name": []}}]
ODD = [None, True, False, *NUMBERS, *TEXTS, *PATHS, *COMMANDS, *NAMES, *NESTS]


def garbled(value: Any, draw: Draw) -> Any:
    """Returns a copy of plain values with one to three changes at random places."""
    whole = [copy.deepcopy(value)]  # in a list, so that the outermost value has a place too
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        if places := list(_places(whole)):
            draw.choice(CHANGES)(*draw.choice(places), places, draw)
    return whole[0] if whole else None


def garbled_bytes(data: bytes, draw: Draw) -> bytes:
    """Returns bytes with one to three changes at random places."""
    changed = bytearray(data)
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        place = draw.randrange(len(changed) + 1)
        length = min(draw.choice([1, 1, 2, 8, 100, 5000]), len(changed) - place)
        piece = bytes(changed[place : place + length])
        kind = draw.choice(["flip", "cut", "insert", "repeat", "remove", "swap"])
        if kind == "flip" and length:
            changed[place] ^= 1 << draw.randrange(8)
        elif kind == "cut":
            del changed[place:]
        elif kind == "insert":
            changed[place:place] = draw.choice(
                [draw.randbytes(length), b'"', b"{", b"]", b"-", b"9" * 400, b"\xff", b": "]
            )
        elif kind == "repeat":
            changed[place:place] = piece * draw.choice([1, 2, 50])
        elif kind == "remove":
            del changed[place : place + length]
        elif kind == "swap":
            other = draw.randrange(len(changed) + 1)
            changed[other : other + length] = piece
    return bytes(changed)


def _places(value: Any) -> Any:
    """Yields (holder, key) of every value inside, from outer to inner."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in list(inside):
        yield value, key
        yield from _places(part)


def _replace(holder: Any, key: Any, places: Any, draw: Draw) -> None:
    holder[key] = copy.deepcopy(draw.choice(ODD))


def _bend(holder: Any, key: Any, places: Any, draw: Draw) -> None:
    """Changes a value into a near one: another number, a part of a text."""
    value = holder[key]
    if isinstance(value, int | float):
        holder[key] = draw.choice(
            [-value, value + 1, value - 1, value * 1000, value / 2, float(value), str(value), [value]]
        )
    elif isinstance(value, str):
        holder[key] = draw.choice(
            [value[:-1], value + value, value.upper(), value + ":x", value + ".x", [value], value[::-1]]
        )
    else:
        holder[key] = draw.choice([[value], {"name": value}, str(value)])


def _delete(holder: Any, key: Any, places: Any, draw: Draw) -> None:
    del holder[key]


def _copy(holder: Any, key: Any, places: Any, draw: Draw) -> None:
    """Puts a second one beside a value, in a mapping under another's name or a new one."""
    value = copy.deepcopy(holder[key])
    if isinstance(holder, list):
        holder.insert(key, value)
    else:
        holder[draw.choice([*holder, f"{key}2", "", 3, None, "../x"])] = value


def _rename(holder: Any, key: Any, places: Any, draw: Draw) -> None:
    value = holder[key]
    del holder[key]
    if isinstance(holder, dict):
        holder[draw.choice([f"{key}s", str(key)[1:], draw.choice(TEXTS), 1, None, True, 1.5])] = value


def _exchange(holder: Any, key: Any, places: Any, draw: Draw) -> None:
    """Exchanges a value with one beside it, or puts a copy of another part of the document in its place."""
    other, place = draw.choice(places)
    mine, holder[key] = holder[key], copy.deepcopy(other[place])
    if other is holder:
        holder[place] = mine


def _nest(holder: Any, key: Any, places: Any, draw: Draw) -> None:
    """Puts a value at the bottom of lists or mappings."""
    for _ in range(draw.choice([1, 3, 70, 200])):
        holder[key] = draw.choice([[holder[key]], {"x": holder[key]}])


CHANGES: list[Callable[[Any, Any, Any, Draw], None]] = [
    *[_replace] * 5,
    *[_bend] * 3,
    _delete,
    _copy,
    _rename,
    _exchange,
    _nest,
]
