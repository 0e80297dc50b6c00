"""Measures a whole run of SimCLR on images of 32 pixels, as `mmssl train image/simclr_cifar10` makes it on a GPU.

    python tools/bench/small_run.py [--device cuda] [--samples 600000] [--workers 14] [--batch 512] [--shards FOLDER]

Images are made, JPEGs in shards of 5,000. Figures are those of the log's second half: samples a second by the clock,
and the share of the time in which the step waits for data. It has no peer.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pictures import once, small
from small_pictures import pack
from timing import Row, show

from mmssl.loop import train

RECIPE = "image/simclr_cifar10"


def rows(
    device: str = "cuda", *, samples: int = 600_000, workers: int = 0, batch: int = 512, shards: str = ""
) -> Iterator[Row]:
    """Yields the rate, and the share of the time that waits for data, in the row's bound."""
    workers = workers or max(1, (os.cpu_count() or 1) - 2)
    with tempfile.TemporaryDirectory() as home:
        if not shards:
            made = once(small, 1000)
            (folder := Path(home) / "shards").mkdir()
            for number in range(max(10, workers)):
                pack(folder / f"{number:03d}.tar", 5000, lambda sample: made[sample % len(made)])
        data = f"tasks.simclr.data.shards={shards or folder}"
        options = [data, f"tasks.simclr.data.workers={workers}", f"tasks.simclr.batch={batch}", "evals={}"]
        options += [f"train.samples={samples}", f"train.device={device}", "train.precision=bf16"]
        run = train(RECIPE, options, out=Path(home) / "run", progress=False)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    half = [line for line in lines if "data_wait" in line][len(lines) // 2 :]
    rate, wait = (statistics.median(line[key] for line in half) for key in ("samples_per_second", "data_wait"))
    yield {
        "work": f"SimCLR on images of 32 pixels, a run, batch {batch}, {workers} data workers",
        "against": "",
        "ours": rate,
        "peer": None,
        "ratio": None,
        "bound": f"waits for data {wait:.0%} of the time",
        "unit": "samples/s",
    }


if __name__ == "__main__":
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--device", default="cuda")
    command.add_argument("--samples", type=int, default=600_000)
    command.add_argument("--workers", type=int, default=0, help="by default two fewer than processors")
    command.add_argument("--batch", type=int, default=512)
    command.add_argument("--shards", default="", help="shards of images in place of made ones")
    show(rows(**vars(command.parse_args())))
