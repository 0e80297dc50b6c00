"""Measures batches of images held in memory beside those opened from shards: one core, processor time, in turn.

    python tools/bench/in_memory.py [--count 5000] [--rounds 5] [--shards TAR]

SimCLR's two views of images of 32 pixels without blur, each way of loading in this process: what the loader takes, and
with it what an accelerator would do, on this core. The pass that opens the images is not measured.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from small_pictures import pack
from timing import Row, compare, show

from mmssl.assembly import TaskStream
from mmssl.data.loader import Loader
from mmssl.data.shards import Source
from mmssl.methods.simclr import method
from mmssl.transforms.image import ImagePreprocess

BATCH, BATCHES, CPU = 512, 4, torch.device("cpu")


def stream(shard: Path, *, in_memory: bool) -> TaskStream:
    """Returns a stream that has begun."""
    view = method.view({"image": ImagePreprocess(size=32)}, image={"blur": None})
    loader = Loader(Source(shards=str(shard)), view, batch=BATCH, workers=0, in_memory=in_memory)
    made = TaskStream(loader, view, None)
    made.next(CPU)
    return made


def taking(made: TaskStream, *, shown: bool) -> Callable[[], int]:
    """Returns what takes some batches, and shows them as the view does on the device."""

    def work() -> int:
        for _ in range(BATCHES):
            made.next(CPU) if shown else next(made.batches)
        return BATCH * BATCHES

    return work


def rows(*, count: int = 5000, rounds: int = 5, shards: str = "") -> Iterator[Row]:
    """Yields a row for the loader, and one for all until the network."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as home:
        shard = Path(shards or f"{home}/0.tar")
        if not shards:
            pack(shard, count)
        ways = [stream(shard, in_memory=in_memory) for in_memory in (True, False)]
        for what, shown in (("the loader", False), ("the loader and the device's part", True)):
            ours, theirs = (taking(way, shown=shown) for way in ways)
            work = f"two views of 32 pixels from memory, {what}"
            yield compare(work, ours, theirs, against="from shards", rounds=rounds, per_sample=True)


if __name__ == "__main__":
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--count", type=int, default=5000)
    command.add_argument("--rounds", type=int, default=5)
    command.add_argument("--shards", default="", help="a tar of JPEGs of 32 pixels in place of made ones")
    show(rows(**vars(command.parse_args())))
