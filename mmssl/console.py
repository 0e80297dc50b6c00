"""What the verbs of the `mmssl` command share: printing, and options that several have."""

from __future__ import annotations

import argparse
import ctypes
import os
import sys
from typing import TextIO

Verbs = argparse._SubParsersAction
ROOMS = ("encoders", "methods", "evals", "views", "optim", "plots")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
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
