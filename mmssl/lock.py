"""One writer for a folder: a lock that ends with its process, and that other machines know to be alive by its beat.

The kernel's lock on the file decides between processes of one machine, and of several where the file system carries it
there. Where it does not, the file's time does: its holder touches it, and who finds one of another machine watches.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile

from tqdm import tqdm

from mmssl.errors import UserError
from mmssl.files import naming

try:
    import fcntl
except ImportError:  # not a Unix: the beat alone decides
    fcntl = None  # type: ignore[assignment]

NAME = ".lock"
BEAT = 10.0  # seconds from one touch of a held lock to the next
SILENT = 60.0  # seconds without one after which the holder counts as dead
HELD: dict[Path, int] = {}  # folder -> the open file of the lock that this process holds


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Holds a folder, which is made if there is none, against all others; raises UserError where one lives that has it.

    Whoever died with it, here or on another machine, is said to have, and the folder taken.
    """
    absent = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    handle = _take(path)
    ended = threading.Event()
    beating = threading.Thread(target=_beat, args=(handle, ended), daemon=True)
    try:
        HELD[folder] = handle
        beating.start()
        yield
    finally:
        ended.set()
        beating.join()
        if HELD.pop(folder, None) is not None:
            _release(path, handle)
        if absent:
            with suppress(OSError):  # what was made in it stays
                folder.rmdir()


def confirm(folder: Path) -> None:
    """Raises UserError where the lock that this process took on a folder is another's by now.

    A process that was stopped for longer than SILENT seconds counts as dead for other machines, and may wake up.
    """
    handle = HELD.get(folder)
    if handle is None:
        return
    with suppress(FileNotFoundError):  # removed by hand, and nobody took its place
        if not _is(folder / NAME, handle) or _read(handle).get("token") != TOKEN:
            raise UserError(f"{folder} was taken over by another process while this one did not answer; this one ends")


def _take(path: Path) -> int:
    """Returns the lock's open file, locked where the file system can, with this process written in it."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        try:
            locked = _lock(path, handle)
            holder = _read(handle)
            if holder and not (locked and holder.get("machine") == _machine()):
                _watch(path, handle, holder)
            if _is(path, handle):  # else its holder removed it as it ended, and who comes next makes another
                if holder:
                    tqdm.write(f"{path.parent}: taken over from {_spell(holder)}, which ended without giving it back")
                with naming(path):
                    _write(handle)
                return handle
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _lock(path: Path, handle: int) -> bool:
    """Locks the file and tells whether the file system can; UserError where another process has it."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise _in_use(path, _read(handle)) from None
        return False
    return True


def _watch(path: Path, handle: int, holder: dict[str, str]) -> None:
    """Returns once a lock has not been touched for SILENT seconds; UserError when it is."""
    with TemporaryFile(dir=path.parent) as new:  # by the file system's clock, which need not be this machine's
        silent = max(0.0, os.fstat(new.fileno()).st_mtime - os.fstat(handle).st_mtime)
    before, end = os.fstat(handle).st_mtime_ns, time.monotonic() + SILENT - silent
    if silent < SILENT:
        tqdm.write(f"{path.parent}: watching up to {SILENT - silent:.0f} s whether {_spell(holder)} lives")
    while time.monotonic() < end:
        time.sleep(min(1.0, SILENT / 10))
        again = os.open(path, os.O_RDONLY)  # opening asks a network's file system anew
        try:
            if os.fstat(again).st_mtime_ns != before:
                raise _in_use(path, _read(again))
        finally:
            os.close(again)


def _in_use(path: Path, holder: dict[str, str]) -> UserError:
    return UserError(
        f"{path.parent} is in use by {_spell(holder)}; wait until that ends, or choose another folder "
        f"(where you know that it is gone, remove {path})"
    )


def _spell(holder: dict[str, str]) -> str:
    known = [f"{word} {holder[key]}" for word, key in (("on", "host"), ("since", "since")) if key in holder]
    return " ".join([f"process {holder['pid']}" if "pid" in holder else "another process", *known])


def _release(path: Path, handle: int) -> None:
    with suppress(OSError):
        if _is(path, handle):
            path.unlink()
    os.close(handle)


def _is(path: Path, handle: int) -> bool:
    """Tells whether an open file is the one that has the name."""
    return os.path.samestat(path.stat(), os.fstat(handle))


def _beat(handle: int, ended: threading.Event) -> None:
    while not ended.wait(BEAT):
        with suppress(OSError):
            os.utime(handle)


TOKEN = uuid.uuid4().hex  # of this process


def _write(handle: int) -> None:
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "since": since, "machine": _machine(), "token": TOKEN}
    os.ftruncate(handle, 0)
    os.lseek(handle, 0, os.SEEK_SET)
    os.write(handle, json.dumps(holder).encode())
    os.fsync(handle)


def _read(handle: int) -> dict[str, str]:
    """Returns what a lock says of its holder, fit to be printed; nothing if it says nothing."""
    os.lseek(handle, 0, os.SEEK_SET)
    try:
        found = json.loads(os.read(handle, 2048))
    except (ValueError, RecursionError):
        return {}
    return {key: repr(str(value))[1:-1] for key, value in found.items()} if isinstance(found, dict) else {}


def _machine() -> str:
    """Returns what tells one running kernel from another: containers of one machine share it, and its locks."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return socket.gethostname()


def _leave_to_parent() -> None:
    """Lets a forked process, such as a data worker, have no part in the locks: it may outlive the one that has them."""
    for handle in HELD.values():
        os.close(handle)
    HELD.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)
