"""Counts the crashes of many starts and stops of small runs with data workers.

    python tools/bench/starts.py [--runs 100] [--fresh] [--start-method forkserver] [--device cuda]

Each run trains two tasks for a few steps with two workers each, one of which also looks at the whole set before its
epoch by workers of its own, and stops while all of them have batches ready. Runs follow each other in one process,
which keeps what former ones left on the device, or with --fresh each has a process of its own. --start-method is how
workers start where CUDA is not in use; where it is they are never forked. A run that ends in an exception or a signal
counts as crashed, and the exit code is then 1.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from mmssl import train
from mmssl.data.writer import build_from
from mmssl.modalities.image import encode


def picture(number: int) -> dict[str, bytes]:
    """Makes one sample: an image of one colour and its name."""
    shade = np.full((16, 16, 3), number * 5 % 256, np.uint8)
    return {"jpg": encode(Image.fromarray(shade)), "txt": f"shade {number}".encode()}


def recipe(shards: str, device: str) -> dict[str, Any]:
    """Returns a run of two tasks with workers."""
    data = {"shards": shards, "workers": 2}
    return {
        "name": "starts",
        "encoders": {
            "image": {"name": "convnet", "image_size": 16, "widths": [8], "depths": [1]},
            "text": {"name": "transformer", "width": 16, "depth": 1, "heads": 2, "vocab_size": 270},
        },
        "tasks": {
            "clip": {"data": data, "batch": 8, "method": {"name": "clip", "objective": {"embed_dim": 8}}},
            "deepcluster": {
                "data": data,
                "batch": 8,
                "method": {"name": "deepcluster", "objective": {"clusters": 4, "pca": 4, "encoder": "image"}},
            },
        },
        "train": {"samples": 48, "device": device, "threads": 1},
    }


def one(shards: str, device: str, out: Path) -> bool:
    """Tells whether a run went well."""
    try:
        train(recipe(shards, device), out=out, progress=False)
    except Exception:
        traceback.print_exc()
        return False
    return True


def main() -> int:
    """Prints how many runs crashed and how long one took."""
    command = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    command.add_argument("--runs", type=int, default=100)
    command.add_argument("--fresh", action="store_true", help="each run in a process of its own")
    command.add_argument("--start-method", choices=multiprocessing.get_all_start_methods())
    command.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = command.parse_args()
    if options.start_method:
        multiprocessing.set_start_method(options.start_method)
    again = [*sys.argv, "--runs", "1"]
    again.remove("--fresh") if options.fresh else None
    took, crashed = [], 0
    with tempfile.TemporaryDirectory() as folder:
        shards = f"{folder}/shards"
        build_from(picture, 32, shards, workers=1)
        for number in range(options.runs):
            began = time.perf_counter()
            if options.fresh:
                went_well = subprocess.run([sys.executable, *again], stdout=subprocess.DEVNULL).returncode == 0
            else:
                went_well = one(shards, options.device, Path(folder) / str(number))
            crashed += not went_well
            took.append(time.perf_counter() - began)
    how = options.start_method or multiprocessing.get_start_method()
    print(f"{crashed} of {options.runs} runs crashed on {options.device} ({how}); {statistics.median(took):.2f} s each")
    return int(crashed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
