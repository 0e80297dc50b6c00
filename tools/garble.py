"""Garbles documents, and lists the readers that end neither in what they read nor in one line.

python tools/garble.py --each 10000
    This many documents for every reader: a change or a few of the values of a whole one, or of its bytes (garbling.py).
python tools/garble.py config recipe --each 300 --seed 7
    Some readers. A document depends on the seed, the reader and its number alone.
python tools/garble.py config --only 1234
    That document again, here and now, with the traceback.

Each is read in a child process with bounded memory and time. A fault is: an exception that is no UserError, a message
of several lines, a command executed, a process that hangs, dies or grows by more than a GiB.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}

import torch
import yaml
from documents import READERS
from garbling import MARKER, garbled, garbled_bytes

from mmssl.errors import UserError

MEMORY, GROWN = 4 << 30, 1 << 20  # bytes that a child may ask for; KiB that reading one document may hold
LONGEST = 3000  # characters of a message


def document(reader: str, whole: bytes, number: int, seed: int) -> bytes:
    """Returns a garbled document; most by their values, the rest by their bytes."""
    kind, draw = READERS[reader], random.Random(f"{seed} {reader} {number}")
    if draw.random() < 0.75:
        try:
            return kind.dump(garbled(kind.load(whole), draw))
        except (ValueError, TypeError, RecursionError, yaml.YAMLError):  # what this format cannot hold
            pass
    return garbled_bytes(whole, draw)


def outcome(read: Callable[[], Any]) -> tuple[str, str]:
    """Reads a document; returns what came of it, and in words what was wrong if that is a fault."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        read()
        kind, said = "read", ""
    except UserError as error:
        kind, said = "refused", str(error)
        if len(said.splitlines()) > 1 or not said.strip():
            return "FAULT", f"not one line: {said!r:.300}"
        if re.search("can't allocate|out of memory|MemoryError", said):
            return "FAULT", f"asked for too much: {said:.300}"
        if len(said) > LONGEST:
            return "FAULT", f"{len(said)} characters: {said:.300}"
    except BaseException as error:  # a PanicException is no Exception
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        return "FAULT", f"{type(error).__name__} in {where}: {' '.join(str(error).split()):.300}"
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    if grown > GROWN:
        return "FAULT", f"grew by {grown >> 10} MiB"
    if Path(MARKER).exists() or Path(f"{MARKER}.tar").exists():
        return "FAULT", "a command was executed"
    return kind, said


def read_one(reader: str, cases: Path, number: int, seed: int) -> tuple[str, str]:
    """Garbles one case and reads it; the case is whole again afterwards."""
    kind, draw = READERS[reader], random.Random(f"{seed} {reader} {number} case")
    case = draw.choice(sorted(path for path in cases.iterdir() if (path / kind.file).is_file()))
    file, whole = case / kind.file, (case / kind.file).read_bytes()
    file.write_bytes(document(reader, whole, number, seed))
    try:
        return outcome(lambda: kind.read(case))
    finally:
        file.write_bytes(whole)


@dataclass
class Child:
    """A process that reads documents and writes a line about each."""

    process: int
    pipe: int
    numbers: range
    since: float
    held: bytes = b""

    def lines(self) -> list[Any]:
        """Returns what it has said by now; raises EOFError where it has ended."""
        if not (data := os.read(self.pipe, 1 << 16)):
            raise EOFError
        *whole, self.held = (self.held + data).split(b"\n")
        self.numbers, self.since = self.numbers[len(whole) :], time.monotonic()
        return [json.loads(line) for line in whole]

    def end(self) -> None:
        os.kill(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)
        os.close(self.pipe)


def start(reader: str, cases: Path, numbers: range, seed: int) -> Child:
    """Starts a child of bounded memory, in a folder of its own."""
    theirs, ours = os.pipe()
    if process := os.fork():
        os.close(ours)
        return Child(process, theirs, numbers, time.monotonic())
    try:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        own = Path(tempfile.mkdtemp(dir=cases.parent))
        shutil.copytree(cases, own / "cases")
        os.chdir(own)
        quiet = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(quiet, stream)
        for number in numbers:
            os.write(ours, json.dumps([number, *read_one(reader, own / "cases", number, seed)]).encode() + b"\n")
    finally:
        os._exit(0)


def garble(reader: str, cases: Path, a: argparse.Namespace) -> Iterator[tuple[int, str, str]]:
    """Yields number, outcome and words of each document; a child that hangs or dies is replaced by the next."""
    children = [start(reader, cases, range(job, a.each, a.jobs), a.seed) for job in range(a.jobs)]
    while children:
        ready, _, _ = select.select([child.pipe for child in children], [], [], 1)
        for child in list(children):
            ended = f"hangs for {a.limit:g} s" if time.monotonic() - child.since > a.limit else ""
            try:
                yield from map(tuple, child.lines() if child.pipe in ready else ())
            except EOFError:
                ended = "the process died"
            if ended or not child.numbers:
                children.remove(child)
                child.end()
            if ended and child.numbers:
                yield child.numbers[0], "FAULT", ended
                children.append(start(reader, cases, child.numbers[1:], a.seed))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("readers", nargs="*", metavar="READER", help=", ".join(READERS))
    parser.add_argument("--each", type=int, default=10_000, help="documents for each reader (default 10000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, metavar="NUMBER", help="read one document, with the traceback")
    parser.add_argument("--limit", type=float, default=60, help="seconds that one document may take (default 60)")
    parser.add_argument("--jobs", type=int, default=2)
    a = parser.parse_args()
    if unknown := {*a.readers} - {*READERS}:
        parser.error(f"no reader {', '.join(unknown)}; known: {', '.join(READERS)}")
    with tempfile.TemporaryDirectory() as home:
        faults = 0
        print("| reader | documents | read | refused | faults | seconds |\n|---|---|---|---|---|---|", flush=True)
        torch.set_num_threads(1)
        for reader in a.readers or READERS:
            cases = Path(home, reader, "cases")
            cases.mkdir(parents=True)
            READERS[reader].make(cases)
            if a.only is not None:
                return once(reader, cases, a.only, a.seed)
            faults += report(reader, cases, a)
    return min(faults, 1)


def once(reader: str, cases: Path, number: int, seed: int) -> int:
    os.chdir(cases)
    kind, draw = READERS[reader], random.Random(f"{seed} {reader} {number} case")
    case = draw.choice(sorted(path for path in cases.iterdir() if (path / kind.file).is_file()))
    whole = (case / kind.file).read_bytes()
    (case / kind.file).write_bytes(document(reader, whole, number, seed))
    print((case / kind.file).read_bytes()[:5000].decode("utf-8", "replace"))
    print("read:", kind.read(case))
    return 0


def report(reader: str, cases: Path, a: argparse.Namespace) -> int:
    """Prints a line of figures, and of each kind of fault how often it came and a number to see it again with."""
    began, count, faults = time.monotonic(), Counter[str](), defaultdict[str, list[tuple[int, str]]](list)
    for number, kind, said in garble(reader, cases, a):
        count[kind] += 1
        if kind == "FAULT":
            faults[said[:60]].append((number, said))
    took = time.monotonic() - began
    print(f"| {reader} | {a.each} | {count['read']} | {count['refused']} | {count['FAULT']} | {took:.0f} |", flush=True)
    for alike in sorted(faults.values(), key=len, reverse=True):
        number, said = min(alike)
        print(f"    {len(alike)} x {said} (--seed {a.seed} --only {number})", flush=True)
    return count["FAULT"]


if __name__ == "__main__":
    sys.exit(main())
