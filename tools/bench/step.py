"""Measures what a step of a five-task run costs in Python, outside the model and the loader.

    python tools/bench/step.py [--steps 60] [--profile 25]

Makes small shards (images, words, videos with sound, scans) in a temporary folder and trains tiny models on the five
tasks of configs/cross_modal/five.yaml, with two evaluations that are never due, as `mmssl train` does: progress bar, a
line of the log every tenth step, monitors. Counted is the processor time of the main thread in the loop, log lines
spread over the steps, minus what it spends in these calls:
    model       the wrapped module, backward, the optimizer's step, clipping, after_step, the averaged model
    loader      the next batch and the View's on_device
    the end     the last step's checkpoint and evaluations
What is left is the loop's own: schedules, seeding, bookkeeping, figures, log and bar, asking what is due. Processor
time, since other programs on the machine would be counted in the clock's.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import functools
import io
import pstats
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from mmssl import dist, loop, recipe, trainer
from mmssl.data.loader import Loader
from mmssl.data.writer import build_from
from mmssl.log import RunLog
from mmssl.modalities import points
from mmssl.modalities.image import encode
from mmssl.modalities.points import Cloud
from mmssl.modalities.video import encode as encode_film
from mmssl.stopping import Stopping

SAMPLES, RATE, FPS = 24, 8000, 12.5


def sample(number: int) -> dict[str, bytes]:
    """Makes a sample of every modality: a square that moves to the right, noise to hear, a scan of a plane."""
    random = np.random.default_rng(number)
    film = np.full((30, 64, 64, 3), 200, np.uint8)
    for time_, picture in enumerate(film):
        picture[20:40, time_ : time_ + 20] = random.integers(0, 255, 3)
    cloud = Cloud(random.uniform(0, 1, (600, 3)).astype(np.float32))
    return {
        "jpg": encode(Image.fromarray(film[0])),
        "txt": f"square number {number}".encode(),
        "mp4": encode_film(film, fps=FPS, audio=random.uniform(-0.5, 0.5, int(2.4 * RATE)), sample_rate=RATE),
        "ply": points.encode(cloud),
    }


def run(shards: str) -> recipe.Recipe:
    """Returns a run of five tasks on tiny models."""
    data = {"shards": shards, "workers": 0, "epoch_samples": 10_000}
    picture = {"name": "convnet", "image_size": 16, "widths": [4, 8], "depths": [1, 1]}
    cut = {"crop": [0.9, 1.0], "min_points": 10}
    looked = {"video": {"shuffled_frames": {"fps": FPS, "side": 64, "crop": 56, "jitter": 2, "gap": [0.16, 0.32]}}}
    never = 10**9
    return recipe.check(
        {
            "name": "step",
            "encoders": {
                "image": picture,
                "text": {"name": "transformer", "width": 16, "depth": 1, "heads": 2, "vocab_size": 280},
                "video": {"name": "frames", "frames": 4, "fps": FPS, "temporal": 1, "image": picture},
                "audio": {"name": "spectrogram", "seconds": 0.5, "sample_rate": RATE, "mels": 16, "window": 0.02}
                | {"backbone": {**picture, "in_channels": 1}},
                "points": {"name": "sparse_unet", "planes": [4, 8], "voxel": 0.2},
            },
            "tasks": {
                "clip": task(data, 8, "clip", objective={"embed_dim": 8, "pairs": [["image", "text"]]}),
                "avts": task(data, 4, "avts", objective={"embed_dim": 8}, view={"easy_until": 0.0}),
                "pointcontrast": task(
                    data, 2, "pointcontrast", objective={"embed_dim": 8}, view={"voxel": 0.1, "pair": "crops", **cut}
                ),
                "opn": task(data, 4, "opn", objective={"widths": [8, 8], "dropout": 0.0}, view=looked),
                "color_tracking": task(
                    data, 2, "color_tracking", objective={"clusters": 4, "width": 8, "learn_from": 2000}
                ),
            },
            "train": {"samples": never, "precision": "fp32", "threads": 1, "ema": 0.99},
            "evals": {
                "retrieval": {"data": {"shards": shards}, "every": never},
                "sync": {"name": "audio_visual", "data": {"shards": shards}, "task": "avts", "every": never},
            },
        }
    )


def task(data: dict[str, Any], batch: int, name: str, **parts: Any) -> dict[str, Any]:
    return {"data": data, "batch": batch, "method": {"name": name, **parts}}


class Watch:
    """Adds up the processor time of the main thread in calls of some kinds; of calls in calls, only the outer one."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self.inside = False
        self.profile: cProfile.Profile | None = None  # of what is counted

    def time(self, kind: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Returns the call, timed as one of the kind."""

        @functools.wraps(call)
        def timed(*args: Any, **options: Any) -> Any:
            if self.inside:
                return call(*args, **options)
            self.inside, began = True, time.thread_time()
            if self.profile:
                self.profile.disable()
            try:
                return call(*args, **options)
            finally:
                if self.profile:
                    self.profile.enable()
                self.inside = False
                self.spent[kind] += time.thread_time() - began

        return timed

    def batches(self, epoch: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        """Returns Loader.epoch whose batches are timed."""

        def timed(*args: Any, **options: Any) -> Iterator[Any]:
            batches = iter(epoch(*args, **options))
            following = self.time("loader", lambda: next(batches, None))
            while (batch := following()) is not None:
                yield batch

        return timed

    @contextlib.contextmanager
    def watching(self, made: trainer.Trainer) -> Iterator[None]:
        """Times the run's calls."""
        parts: list[tuple[str, Any, str]] = [
            ("model", made.wrapped, "forward"),
            ("model", torch.Tensor, "backward"),
            ("model", made.optimizer, "step"),
            ("model", torch.nn.utils, "clip_grad_norm_"),
            ("model", trainer, "ema_update"),
            ("the end", trainer.Trainer, "save"),
            ("the end", made.judge, "run"),
            ("the end", loop, "write_results"),
            *(("model", objective, "after_step") for objective in made.model.named_objectives.values()),
            *(("loader", stream.view, "on_device") for stream in made.streams.values()),
        ]
        with contextlib.ExitStack() as patches:
            for kind, owner, name in parts:
                patches.enter_context(mock.patch.object(owner, name, self.time(kind, getattr(owner, name))))
            yield


def main() -> None:
    """Prints the time of a step by kind."""
    command = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    command.add_argument("--steps", type=int, default=60)
    command.add_argument("--profile", type=int, default=0, help="also print this many functions of the rest")
    options = command.parse_args()
    watch = Watch()
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(Loader, "epoch", watch.batches(Loader.epoch)):
        build_from(sample, SAMPLES, Path(folder) / "shards", workers=1)
        made = trainer.Trainer(run(f"{folder}/shards"), Path(folder), device=dist.start("cpu"), state=None)
        made.train_step()  # the first one makes the optimizer's state
        made.steps = 1 + options.steps
        report(made, watch, options)


def report(made: trainer.Trainer, watch: Watch, options: argparse.Namespace) -> None:
    """Runs the loop and prints what it took."""
    watch.spent.clear()
    watch.profile = cProfile.Profile(time.thread_time) if options.profile else None
    bar = tqdm(total=options.steps, file=io.StringIO())
    with (
        RunLog(made.folder, name="step", recipe=made.recipe.plain) as log,
        Stopping() as stop,
        watch.watching(made),
        watch.profile or contextlib.nullcontext(),
    ):
        began = time.thread_time()
        loop._steps(made, bar, log, stop)
        whole = time.thread_time() - began
    for kind, spent in sorted(watch.spent.items()):
        print(f"{kind:>10}: {1000 * spent / options.steps:8.2f} ms a step")
    left = whole - sum(watch.spent.values())
    print(f"{'the rest':>10}: {1000 * left / options.steps:8.2f} ms a step, of {options.steps} steps")
    if watch.profile:
        pstats.Stats(watch.profile).sort_stats("cumulative").print_stats(options.profile)


if __name__ == "__main__":
    main()
