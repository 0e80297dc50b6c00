"""The other processes of a run: whether each lives and keeps up, and the end of this one when one does not."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

import torch.distributed as td

from mmssl.errors import UserError

BEAT = 1.0  # seconds between two looks at the others, up to 64 processes; more look more seldom
GRACE = 10.0  # seconds in which this process may end by itself once another has failed
QUIET = 15.0  # seconds without a sign of life that mean death once a connection broke
FAILED = "failed"  # the store's key for what ends the run
DONE = "done"


def leave(code: int = 0) -> NoReturn:
    """Ends a process of a group whose work is done, at once: what gloo leaves behind now and then aborts one while its
    interpreter is taken down, and torchrun then counts the run as failed.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def end_with_launcher() -> None:
    """Ends this process when the torchrun that started it is killed; nobody else would end it."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(BEAT)
        _say(f"torchrun (process {parent}) is gone; `--resume` goes on from the newest checkpoint")
        leave(2)

    threading.Thread(target=watch, name="launcher", daemon=True).start()


class Peers:
    """The processes of a group, seen from one of them.

    Each writes to the store that torchrun, or else rank 0, holds how many collectives it has begun, once a `BEAT`; one
    that fails writes why. A thread of each reads that, and ends its process with one line and exit code 2 if another
    failed, died, keeps the others waiting for `timeout` seconds, or gives no sign of life for as long. The line comes
    once on each machine. What all do at the same time, such as a slow first step, may take as long as it takes.
    """

    def __init__(self, *, timeout: float, prefix: str = "") -> None:
        if timeout <= 0:
            raise UserError(f"train.timeout is {timeout:g}; expected seconds, more than 0")
        lacking = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
        if lacking:
            raise UserError(f"WORLD_SIZE is set, but not {', '.join(lacking)}; start several processes with torchrun")
        self.rank, self.world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.timeout, self.beat = timeout, max(BEAT, BEAT * self.world / 64)
        self.node = os.environ.get("GROUP_RANK") or _machine()
        self.launched = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        self.hosts = self.rank == 0 and not self.launched
        self.server = td.PrefixStore(prefix, self._connect())
        self.store = self.server.clone()  # its own connection, since one that waits keeps others from speaking
        self.left, self.broken = threading.Event(), threading.Event()
        self.thread: threading.Thread | None = None
        self.failing = False

    def _connect(self) -> td.TCPStore:
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        try:
            return td.TCPStore(
                address,
                port,
                self.world,
                self.hosts,
                timedelta(seconds=self.timeout),
                wait_for_workers=False,
                multi_tenant=True,
            )
        except td.DistError as error:
            raise UserError(
                f"rank {self.rank} found nobody at {address}:{port} within {self.timeout:g} s (train.timeout): "
                f"{_first_line(error)}"
            ) from error

    def meet(self) -> None:
        """Waits until all are there; UserError names those that do not come within the timeout."""
        self.store.set(f"place/{self.rank}", json.dumps({"machine": _machine(), "pid": os.getpid()}))
        self.store.set(self._key(self.rank), "0 0")
        keys, began = [self._key(rank) for rank in range(self.world)], time.monotonic()
        while not self.store.check(keys):
            if time.monotonic() - began > self.timeout:
                missing = [str(rank) for rank, key in enumerate(keys) if not self.store.check([key])]
                raise UserError(
                    f"{self.world - len(missing)} of {self.world} processes came within {self.timeout:g} s "
                    f"(train.timeout); missing: rank {', '.join(missing)}"
                )
            time.sleep(0.05)
        self.places = [json.loads(self.store.get(f"place/{rank}")) for rank in range(self.world)]

    def watch(self, progress: Callable[[], int]) -> None:
        """Starts to look after the others; `progress` gives how many collectives this process has begun."""
        self.progress = progress
        self.thread = threading.Thread(target=self._watch, name="peers", daemon=True)
        self.thread.start()

    def tell(self, error: BaseException) -> None:
        """Ends the others with the error that ends this process; one that another caused ends this one with that."""
        if isinstance(error, SystemExit) and not error.code:
            return
        self.failing = True
        if of_connection(error) and self.thread:
            self.reason = f"rank {self.rank} lost its connection to the others: {_first_line(error)}"
            self.broken.set()
            self.thread.join()
        text = "was interrupted" if isinstance(error, KeyboardInterrupt) else f"failed, {_first_line(error)}"
        text = f"rank {self.rank}: {error}" if isinstance(error, UserError) else f"rank {self.rank} {text}"
        with suppress(td.DistError):
            self.store.compare_set(FAILED, "", text)

    def close(self) -> None:
        """Stops looking; where this process holds the store, once the others do not need it."""
        self.left.set()
        if self.thread:
            self.thread.join()
        if self.failing:
            self._linger()

    def _linger(self) -> None:
        """Lets the others read why the run ends, where the store ends with this process."""
        time.sleep(2 * self.beat if self.hosts else 0)

    def _key(self, rank: int) -> str:
        return f"beat/{rank}"

    def _watch(self) -> None:
        signs, last = _Signs(self.world), time.monotonic()
        try:
            while not self.left.wait(self.beat):
                now = time.monotonic()
                passed, last = min(now - last, 2 * self.beat), now  # a process that was suspended blames nobody
                if text := self._look(signs, passed):
                    return self._end(text)
            if not self.failing:
                self.store.set(self._key(self.rank), DONE)
            while self.hosts and not self.failing and (text := self._look(signs, self.beat)) is not None:
                if text:
                    return self._end(text)
                time.sleep(0.05)
        except td.DistError as error:
            who = "torchrun" if self.launched else "rank 0"
            address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            if not self.left.is_set():
                self._end(f"{who} at {address} does not answer, {_first_line(error)}")

    def _look(self, signs: _Signs, passed: float) -> str | None:
        """Gives a sign of life and reads the others'; returns why the run cannot go on, "" if it can, None if all
        others are done.
        """
        if not self.left.is_set():
            signs.own += 1
            self.store.set(self._key(self.rank), f"{signs.own} {self.progress()}")
        if self.store.check([FAILED]):
            return self.store.get(FAILED).decode()
        found = [value.decode() for value in self.store.multi_get([self._key(rank) for rank in range(self.world)])]
        if all(value == DONE for value in found):
            return None
        signs.read(found, passed)
        for rank, place in enumerate(self.places):
            who = f"rank {rank} (process {place['pid']} on {place['machine'].split()[0]})"
            if found[rank] == DONE or rank == self.rank:
                continue
            dead = place["machine"] == _machine() and not is_alive(place["pid"])
            if dead and self.store.get(self._key(rank)).decode() != DONE:
                return self._settle(f"{who} died")
            if signs.silent[rank] > (min(QUIET, self.timeout) if self.broken.is_set() else self.timeout):
                return self._settle(f"{who} gave no sign of life for {signs.silent[rank]:.0f} s")
            if signs.behind[rank] > self.timeout:
                return self._settle(f"{who} kept the others waiting for {self.timeout:g} s (train.timeout)")
        signs.broken += passed if self.broken.is_set() else 0
        return self._settle(self.reason) if signs.broken > QUIET + 5 * self.beat else ""

    def _settle(self, text: str) -> str:
        """Makes a reason known to all; returns the one that came first."""
        text = f"{text}; `--resume` goes on from the newest checkpoint"
        return self.store.compare_set(FAILED, "", text).decode()

    def _end(self, text: str) -> None:
        """Ends this process, unless it leaves the group by itself."""
        waited = 0.0
        while waited < GRACE and not self.broken.is_set():
            if self.left.wait(0.1):
                return
            waited += 0.1
        first = True
        with suppress(td.DistError):
            first = self.store.add(f"told/{self.node}", 1) == 1
        if first:
            _say(text)
        self._linger()
        leave(2)


class _Signs:
    """For each rank: seconds without a sign of life, and seconds in which it had begun fewer collectives than another
    and began none.
    """

    def __init__(self, world: int) -> None:
        self.own, self.broken = 0, 0.0
        self.silent, self.behind = [0.0] * world, [0.0] * world
        self.last = [""] * world

    def read(self, found: list[str], passed: float) -> None:
        """Takes in what every rank wrote, this many seconds after the last time."""
        begun = [-1 if value == DONE else int(value.split()[1]) for value in found]
        for rank, value in enumerate(found):
            before, self.last[rank] = self.last[rank], value
            moved = before.split()[1:] != value.split()[1:]
            self.silent[rank] = 0.0 if value != before else self.silent[rank] + passed
            self.behind[rank] = 0.0 if moved or begun[rank] == max(begun) else self.behind[rank] + passed


def of_connection(error: BaseException) -> bool:
    """Whether an error tells of the connection to other processes, not of what this one did."""
    return isinstance(error, td.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def is_alive(pid: int) -> bool:
    """Whether a process of this machine runs; one that has ended and was not asked for its exit code does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except ProcessLookupError:
        return False
    except OSError:  # another user's process, or a system without /proc
        return True


def _machine() -> str:
    """Names what process numbers are unique in."""
    space = ""
    with suppress(OSError):
        space = str(Path("/proc/self/ns/pid").readlink())
    return f"{socket.gethostname()} {space}"


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]}"


def _say(line: str) -> None:
    print("\n" * sys.stderr.isatty() + f"mmssl: {line}", file=sys.stderr)  # a progress bar may stand there
