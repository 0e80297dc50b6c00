"""What the verbs of the `mmssl` command share: printing, and options that several have."""

from __future__ import annotations

import argparse
from typing import TextIO

Verbs = argparse._SubParsersAction
ROOMS = ("encoders", "methods", "evals", "views", "optim", "plots")
CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}


def say(text: object, *, file: TextIO | None = None) -> None:
    """Prints a text; control characters, by which names in a stranger's files could steer a terminal, as `\\x1b`."""
    print(str(text).translate(CONTROL), file=file)


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


def add_split(command: argparse.ArgumentParser) -> None:
    """Adds the options of a split, besides `--seed`, to a command: what `mmssl.data.split.Split.of` reads."""
    add = command.add_argument_group("splits (OUT/train and OUT/test, or OUT/fold0, ...)").add_argument
    share = "for test, at random, of each class alike; 1: a test set only"
    add("--test", type=float, metavar="SHARE", help=share)
    same = "whose values are never on both sides; `folder`: that of the file; or all rows with a value"
    add("--test-group", metavar="COLUMN[=VALUE]", help=f"a column or key of the JSON {same}")
    add("--test-list", metavar="FILE", help="a text file with the names of the test files, one a line")
    add("--folds", type=int, metavar="N", help="make N parts for cross-validation instead")
