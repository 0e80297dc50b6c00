"""Processes that make things in turn, of which any may die and be replaced."""

from __future__ import annotations

import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.pool import ExceptionWithTraceback  # type: ignore[attr-defined]  # not in its stubs
from multiprocessing.util import Finalize, get_temp_dir
from typing import Any, Generic, TypeVar

from mmssl.data import timer
from mmssl.data.watch import Death, Place, Watch
from mmssl.data.workers import STOPS, end_with_parent, refuse_import, start_context
from mmssl.errors import UserError

T = TypeVar("T")
AHEAD = 2  # what a worker makes before it is asked for
LAST_WORDS = 10  # s that the exit code of a worker whose pipe is closed may take to come

Part = Callable[[Watch], Iterator[T]]  # what one worker makes


class Crew(Generic[T]):
    """Iterates over what several processes make, one after the other in turn, as long as they make anything.

    The iteration raises Death in the turn of a worker that has ended, and goes on when another part stands in for its.
    pin: into page-locked memory, one ahead. Workers start by multiprocessing's method (set_start_method), but
    once CUDA is in use by forkserver, or spawn where that lacks, instead of fork. These import the script that runs, so
    that a script must start what it does under `if __name__ == "__main__":`. Raises UserError for parts that cannot be
    sent to them.
    """

    def __init__(self, parts: Sequence[Part[T]], *, pin: bool = False) -> None:
        refuse_import()
        get_temp_dir()  # of this process, which removes it: killed workers would leave theirs
        self._context = start_context()
        self._row: _Row[T] = _Row()
        # workers end when nobody knows them; and before multiprocessing waits for them as the interpreter exits
        self.close = Finalize(self, self._row.kill, exitpriority=10)
        for part in parts:
            self._row.workers.append(_Worker(self._context, part))
        self._device = _device() if pin else None
        self._next: Future[T] | None = None

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        if self._device is None:
            return self._row.take()
        coming, self._next = self._next or _pinned(self._row, self._device), None
        try:
            made = coming.result()
        finally:
            del coming  # else its error and this frame would keep each other, and with them the workers
        self._next = _pinned(self._row, self._device)
        return made

    def replace(self, part: Part[T]) -> None:
        """Lets a new worker, which is careful, stand in for the one whose turn it is."""
        self._row.workers[self._row.turn] = _Worker(self._context, part, careful=AHEAD + 1)


class _Row(Generic[T]):
    """Workers that take turns."""

    def __init__(self) -> None:
        self.workers: list[_Worker[T]] = []
        self.turn = 0

    def take(self) -> T:
        """Returns what the next worker has made; StopIteration when all have come to their end."""
        while not all(worker.ended for worker in self.workers):
            worker = self.workers[self.turn]
            made = [] if worker.ended else worker.receive(self.turn)
            self.turn = (self.turn + 1) % len(self.workers)
            if made:
                return made[0]
        raise StopIteration

    def kill(self) -> None:
        for worker in self.workers:
            worker.process.kill()
        for worker in self.workers:
            worker.process.join(LAST_WORDS)


class _Worker(Generic[T]):
    """One process and the pipe to it, which asks for things with empty messages."""

    def __init__(self, context: BaseContext, part: Part[T], *, careful: int = 0) -> None:
        self.stands_in, self.made, self.ended = careful > 0, 0, False
        self.at: tuple[Place, str] | None = None
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(part, theirs, careful), daemon=True)  # type: ignore[attr-defined]
        try:
            self.process.start()
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise UserError(
                f"what makes the samples cannot be sent to workers: {error}; define it at the top of a module, "
                "or use workers: 0"
            ) from error
        theirs.close()
        for _ in range(AHEAD):
            self.ask()

    def ask(self) -> None:
        with suppress(OSError):  # that it is dead is noticed in its turn
            self.pipe.send_bytes(b"")

    def receive(self, turn: int) -> list[T]:
        """Returns the next that it made, or nothing at its end; raises what it raised, and Death."""
        while True:
            wait([self.pipe, self.process.sentinel])
            try:
                if not self.pipe.poll():
                    raise EOFError
                kind, value = self.pipe.recv()
            except (EOFError, OSError):  # OSError: a dead one's tensors have gone with it
                self.process.join(LAST_WORDS)
                if self.process.exitcode is None:
                    raise
                again = self.stands_in and not self.made
                raise Death(turn, self.process.exitcode, self._last_words(), again) from None
            if kind == "at":
                self.at = value
            elif kind == "error":
                raise value
            elif kind == "end":
                self.ended = True
                return []
            else:
                self.made += 1
                self.ask()
                return [value]

    def _last_words(self) -> tuple[Place, str] | None:
        """Returns what the dead one was at by the last that it said; of what it made nothing can be had any more."""
        with suppress(EOFError):
            while self.pipe.poll():
                with suppress(OSError):
                    kind, value = self.pipe.recv()
                    self.at = value if kind == "at" else self.at
        return self.at


def _serve(part: Part[T], pipe: Connection, careful: int) -> None:
    """Runs in a worker: makes one thing for each message that asks for one."""
    import torch

    end_with_parent()
    for number in (signal.SIGINT, *STOPS):  # clusters send these to all; what they mean is the parent's to say
        signal.signal(number, signal.SIG_IGN)
    timer.end_process()
    torch.set_num_threads(1)
    watch = Watch(lambda at: pipe.send(("at", at)), careful=careful)
    with suppress(EOFError, ConnectionError):  # the parent is gone
        pipe.recv_bytes()
        for message in _messages(part, watch):
            _send(pipe, message)
            watch.careful = max(0, watch.careful - 1)
            pipe.recv_bytes()
        while True:  # what was sent lives in this process until the parent has taken it
            pipe.recv_bytes()


def _messages(part: Part[T], watch: Watch) -> Iterator[tuple[str, Any]]:
    try:
        for made in part(watch):
            yield "made", made
        yield "end", None
    except Exception as error:
        yield "error", _portable(error)


def _send(pipe: Connection, message: tuple[str, Any]) -> None:
    try:
        pipe.send(message)
    except ConnectionError:
        raise
    except Exception as error:  # what was made cannot be sent
        pipe.send(("error", _portable(error)))


def _portable(error: Exception) -> Any:
    """Returns what becomes the error again in the parent, with its traceback for a cause, or an error that tells it."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError("".join(traceback.format_exception(error)))
    return ExceptionWithTraceback(error, error.__traceback__)


def _pinned(row: _Row[T], device: int) -> Future[T]:
    """Returns what comes next, in page-locked memory, as soon as another thread has it."""
    coming: Future[T] = Future()
    threading.Thread(target=_pin, args=(row, device, coming), daemon=True).start()
    return coming


def _pin(row: _Row[T], device: int, coming: Future[T]) -> None:
    import torch

    try:
        torch.cuda.set_device(device)
        torch.set_num_threads(1)  # of this thread: copying must not take the cores of the rest
        coming.set_result(row.take().pin_memory())  # type: ignore[attr-defined]
    except BaseException as error:
        coming.set_exception(error)
    finally:
        del coming  # as above


def _device() -> int | None:
    """Returns the CUDA device that this process uses, if any."""
    import torch

    return torch.cuda.current_device() if torch.cuda.is_available() else None
