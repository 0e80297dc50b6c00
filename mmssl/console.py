"""What the verbs of the `mmssl` command share: what they answer, and options that several have."""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import os
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from mmssl.types import Score

Verbs = argparse._SubParsersAction
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}


@dataclass(frozen=True)
class Answer:
    """What a verb answers, which the command prints last.

    text: for people; where it is empty, nothing is printed.
    document: the same as plain values, for `--json`.
    code: the exit code. error: why it is not 0.
    """

    text: str
    document: Any = None
    code: int = 0
    error: str = ""

    def tell(self, *, as_json: bool) -> None:
        """Prints the answer."""
        if as_json:
            print(json.dumps(_without_nan(self.document), indent=2, allow_nan=False))
        elif self.text:
            say(self.text)
        if self.error:
            say(f"mmssl: {self.error}", file=sys.stderr)


def drop_output() -> None:
    """Lets what is still printed vanish: what read it, such as `head`, has read enough."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _without_nan(value: Any) -> Any:
    """Returns plain values with null for numbers that are not finite, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def say(text: object, *, file: TextIO | None = None) -> None:
    """Prints a text; control characters, by which names in a stranger's files could steer a terminal, as `\\x1b`."""
    print(str(text).translate(CONTROL), file=file)


def columns(rows: Mapping[str, str]) -> str:
    """Lays names and what is said of them out in two columns."""
    width = max(map(len, rows), default=0)
    return "\n".join(f"{name:{width}}  {line}".rstrip() for name, line in rows.items())


def plain(scores: Mapping[str, Score]) -> dict[str, dict[str, Any]]:
    """Returns scores as plain values, with the keys of results.json."""
    return {key: asdict(score) for key, score in scores.items()}


def add_json(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--json", action="store_true", help="print one JSON document on stdout; all else that is told goes to stderr"
    )


def add_limits(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--limits", action="append", metavar="NAME=VALUE", help="raise what files may hold, as in picture_pixels=3e8"
    )


def add_trust(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--trust-code",
        action="store_true",
        help="let what the run's files name be run and fetched: code outside mmssl, commands, addresses",
    )


def complete(action: argparse.Action, names: Callable[[], Collection[str]], *, files: bool = False) -> None:
    """Lets a shell complete an argument by names, which are asked for when it does.

    files: whether it may be a file as well.
    """

    def completer(prefix: str, **_: Any) -> list[str]:
        from argcomplete.completers import FilesCompleter

        return [*(name for name in names() if name.startswith(prefix)), *(FilesCompleter()(prefix) if files else ())]

    action.completer = completer  # type: ignore[attr-defined]  # where argcomplete looks for it


def add_split(command: argparse.ArgumentParser) -> None:
    """Adds the options of a split, besides `--seed`, to a command: what `mmssl.data.split.Split.of` reads."""
    add = command.add_argument_group("splits (OUT/train and OUT/test, or OUT/fold0, ...)").add_argument
    share = "for test, at random, of each class alike; 1: a test set only"
    add("--test", type=float, metavar="SHARE", help=share)
    same = "whose values are never on both sides; `folder`: that of the file; or all rows with a value"
    add("--test-group", metavar="COLUMN[=VALUE]", help=f"a column or key of the JSON {same}")
    add("--test-list", metavar="FILE", help="a text file with the names of the test files, one a line")
    add("--folds", type=int, metavar="N", help="make N parts for cross-validation instead")


def keep_memory() -> None:
    """Makes this process keep the memory that it frees for what it allocates next, where the C library is glibc.

    Else every large tensor gets fresh pages, which the kernel clears: a tenth of a step on a CPU. The peak is up to a
    third higher. Variables of the environment that begin with MALLOC_ go before it.
    """
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 2**31 - 1)
        mallopt(M_TRIM_THRESHOLD, -1)  # never
