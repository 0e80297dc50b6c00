"""Measures the first batch of a run and of its second epoch beside a batch in the middle: processor time.

    python tools/bench/first_batch.py [--count 20000] [--batch 64] [--shuffle-mb 64]

Pictures of 32 pixels out of one tar in this process; the peer is the same loader once it runs: the ratio says how many
batches the first one costs.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from pictures import small
from small_pictures import Plain
from timing import Row, show

from mmssl.data.loader import Loader
from mmssl.data.shards import Source
from mmssl.data.writer import build_from
from mmssl.transforms.image import ImagePreprocess


def picture(number: int) -> dict[str, bytes]:
    """Makes one of a hundred pictures."""
    return {"jpg": small(number % 100)}


def rows(*, count: int = 20_000, batch: int = 64, shuffle_mb: float = 64) -> Iterator[Row]:
    """Yields a row for the first epoch and one for the second."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as home:
        build_from(picture, count, Path(home) / "set", shard_samples=count)
        view = Plain({"image": ImagePreprocess(size=32)})
        loader = Loader(Source(shards=f"{home}/set"), view, batch=batch, workers=0, shuffle_mb=shuffle_mb)
        for epoch in range(2):
            times, before = [], time.process_time()
            for _ in loader.epoch(epoch):
                times.append((time.process_time() - before) * 1e3)
                before = time.process_time()
            usual = statistics.median(times)
            spread = (min(times[1:]) / times[0], max(times[1:]) / times[0])
            yield {
                "work": f"the first batch of epoch {epoch}",
                "against": "its median batch",
                "ours": times[0],
                "peer": usual,
                "ratio": usual / times[0],
                "spread": spread,
                "bound": "reading 1/16 of the shuffle buffer",
                "unit": "ms",
            }


if __name__ == "__main__":
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--count", type=int, default=20_000)
    command.add_argument("--batch", type=int, default=64)
    command.add_argument("--shuffle-mb", type=float, default=64)
    show(rows(**vars(command.parse_args())))
