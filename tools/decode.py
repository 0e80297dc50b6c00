"""Gives every file of tars and folders to the decoders, in processes of bounded memory and time, and counts the ends.

python tools/decode.py ../shared/data/broken.tar ../shared/data/androidx-media.tar

A file is decoded whole, as `mmssl shards verify --decode` does it, then goes through the preprocessing of an encoder,
and once through a View with everything random switched on. One whose extension has no reader is given to every reader,
under a name of theirs. It may be read, or left out as damaged; a foreign exception, a process that dies, or one that
takes too long are listed, and the exit status is then 1.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from mmssl import modalities
from mmssl.errors import DamagedError

EVERY = ("jpg", "mp4", "wav", "ply", "pcd", "npz", "pose.npy", "txt", "json", "cls")
STEPS = ("decoded whole", "preprocessed", "random view")


@dataclass
class End:
    """How one file under one field name ended."""

    name: str
    field: str
    step: str = "not begun"  # the last that was begun
    reason: str = ""  # why it is damaged
    limit: bool = False  # whether a limit says so
    foreign: str = ""
    seconds: float = 0.0
    megabytes: float = 0.0  # the most that the process held besides what it held before


def files(places: Iterable[Path]) -> Iterator[tuple[str, bytes]]:
    """Yields every file of tars and folders, with its name."""
    for place in places:
        if place.is_dir():
            yield from ((str(path), path.read_bytes()) for path in sorted(place.rglob("*")) if path.is_file())
            continue
        with tarfile.open(place) as tar:
            for member in tar:
                if member.isfile():
                    file = tar.extractfile(member)
                    assert file is not None
                    yield f"{place.name}/{member.name}", file.read()


def fields(name: str) -> tuple[str, ...]:
    """Returns the field names under which a file is read: its extension, or all where that has no reader."""
    extension = name.lower().rpartition(".")[2]
    return (extension,) if extension in {*modalities.EXTENSIONS, "json", "cls"} else EVERY


def steps(field: str, data: bytes) -> Iterator[str]:
    """Yields the name of each step before it is done."""
    from mmssl.modalities import whole
    from mmssl.transforms.audio import AudioPreprocess
    from mmssl.transforms.image import ImagePreprocess
    from mmssl.transforms.points import PointsPreprocess
    from mmssl.transforms.video import VideoPreprocess
    from mmssl.views.single import view

    yield STEPS[0]
    whole.check(field, data)
    kind = modalities.EXTENSIONS.get(field.rpartition(".")[2], "")
    seen = [{"name": "crop", "scale": (0.2, 1.0)}, "flip", "color_jitter"]
    made: dict[str, tuple[Any, list[Any]]] = {
        "image": (ImagePreprocess(64), seen),
        "video": (VideoPreprocess(64, frames=4, fps=8.0), seen),
        "audio": (AudioPreprocess(), ["speed", "gain", "noise", "time_mask"]),
        "points": (PointsPreprocess(1024), ["crop", {"name": "rotate", "axis": "any"}, "jitter"]),
    }
    if kind not in made or field == "pose.npy":
        return
    preprocess, shown = made[kind]
    yield STEPS[1]
    preprocess(modalities.decode(field, data))
    yield STEPS[2]
    view({kind: preprocess}, views=2, **{kind: shown})({kind: modalities.decode(field, data)})


def attempt(name: str, field: str, data: bytes) -> End:
    """Does every step, and says how it ended."""
    end, before, start = End(name, field), held(reset=True), time.monotonic()
    try:
        for step in steps(field, data):
            end.step = step
    except DamagedError as error:
        end.reason, end.limit = error.reason, "--limits" in error.detail
    except BaseException as error:
        end.foreign = f"{type(error).__name__}: {error}".partition("\n")[0]
    end.seconds, end.megabytes = time.monotonic() - start, held() - before
    return end


def held(*, reset: bool = False) -> float:
    """Returns the most memory (MB) that this process has held, since the last reset where the system knows that."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def serve(pipe: Connection, gigabytes: float) -> None:
    """Attempts what comes through the pipe, in a process that may not hold more than so much."""
    import torch

    from mmssl.modalities import whole
    from mmssl.views import single

    assert whole and single  # imported before memory is bounded and measured
    torch.set_num_threads(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders complain
    most = int(gigabytes * 2**30)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + most, size + most))
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        pipe.send(attempt(*job))


class Worker:
    """A process that attempts one file after another, and another one after it died or was too slow."""

    def __init__(self, gigabytes: float, seconds: float) -> None:
        self.gigabytes, self.seconds = gigabytes, seconds
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, self.gigabytes), daemon=True)
        self.process.start()
        theirs.close()

    def __call__(self, name: str, field: str, data: bytes) -> End:
        try:
            self.pipe.send((name, field, data))
            if self.pipe.poll(self.seconds):
                return self.pipe.recv()
            found = f"took more than {self.seconds:g} s"
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self.process.join()
            found = f"the process died ({self.process.exitcode})"
        self.close()
        self._start()
        return End(name, field, step="in some step", foreign=found)

    def close(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def tried(places: Iterable[Path], *, workers: int, gigabytes: float, seconds: float) -> Iterator[End]:
    """Yields how every file ended under every field, in no order."""
    jobs = ((name, field, data) for name, data in files(places) for field in fields(name))
    lock = multiprocessing.get_context("spawn").Lock()

    def work(worker: Worker) -> list[End]:
        ends = []
        while True:
            with lock:
                job = next(jobs, None)
            if job is None:
                worker.close()
                return ends
            ends.append(worker(*job))

    with ThreadPoolExecutor(workers) as pool:
        for ends in pool.map(work, [Worker(gigabytes, seconds) for _ in range(workers)]):
            yield from ends


def report(ends: list[End]) -> str:
    """Lists the counts, the foreign ends, and the most that a file took."""
    read = sum(not (end.reason or end.foreign) for end in ends)
    damaged, foreign = sum(bool(end.reason) for end in ends), [end for end in ends if end.foreign]
    lines = [f"{len({end.name for end in ends})} files, {len(ends)} attempts"]
    lines += [f"{read} read, {damaged} damaged, of these {sum(end.limit for end in ends)} over a limit"]
    lines += [f"  {count:5} {reason}" for reason, count in Counter(e.reason for e in ends if e.reason).most_common()]
    lines += [f"{len(foreign)} foreign"]
    lines += [f"  {end.name} as {end.field}, {end.step}: {end.foreign}" for end in foreign]
    for what, value in (("MB", "megabytes"), ("s", "seconds")):
        most = max(ends, key=lambda end: getattr(end, value))
        lines.append(f"most: {getattr(most, value):.1f} {what} ({most.name} as {most.field})")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("places", nargs="+", type=Path, metavar="TAR_OR_FOLDER")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--gigabytes", type=float, default=4.0, help="that a process may hold besides its libraries")
    parser.add_argument("--seconds", type=float, default=120.0, help="that a file may take")
    given = parser.parse_args(arguments)
    bounds = {"workers": given.workers, "gigabytes": given.gigabytes, "seconds": given.seconds}
    ends = list(tried(given.places, **bounds))
    print(report(ends))
    return int(any(end.foreign for end in ends))


if __name__ == "__main__":
    sys.exit(main())
