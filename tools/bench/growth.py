"""Measures how cost grows: the contrastive loss with the batch, the loader with workers and shards, kNN with the bank,
the sparse U-Net with voxels, and the bytes that a rank sends in a step with the number of ranks.

python tools/bench/growth.py [--device cuda]

Times are processor time on the CPU, the clock's on CUDA. Bytes are counted at the calls of torch.distributed, of a
group that sends nothing, so that any number of ranks can be counted on one machine.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as td
from first_batch import picture
from small_pictures import Plain
from sparse_unet import cells, ours, room
from timing import Row, show
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.testing._internal.distributed.fake_pg import FakeStore

from mmssl.data.loader import Loader
from mmssl.data.shards import Source
from mmssl.data.writer import build_from
from mmssl.encoders import create_encoder
from mmssl.evals.knn import votes
from mmssl.losses.contrast import Contrast, in_batch
from mmssl.losses.infonce import info_nce, info_nce_both_ways
from mmssl.transforms.image import ImagePreprocess

BATCHES = {"cpu": (1024, 4096, 16_384), "cuda": (1024, 4096, 16_384, 65_536, 131_072)}
BANKS = (10_000, 100_000, 400_000)
VOXELS = {"cpu": (5_000, 20_000), "cuda": (20_000, 100_000)}
SHARDS = (10, 100, 1000, 10_000)
WORKERS = (0, 1, 2, 4)
RANKS = (2, 8, 64)
SAMPLES = 20_000


def rows(device: str = "cpu") -> Iterator[Row]:
    """Yields all of them; the loader, kNN and the bytes on the CPU only."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield from losses(device)
    yield from voxels(device)
    if device == "cpu":
        yield from banks()
        yield from loaders()
        yield from sent()


def row(work: str, ours: float, unit: str) -> Row:
    return {"work": work, "against": "", "ours": ours, "peer": None, "ratio": None, "bound": "", "unit": unit}


def seconds(call: Callable[[], object], device: str, rounds: int = 3) -> float:
    """Returns the median of a few rounds after one more."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    times = []
    for _ in range(rounds + 1):
        began = clock()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(clock() - began)
    return statistics.median(times[1:])


def losses(device: str) -> Iterator[Row]:
    """CLIP's loss, forward and backward, D = 512."""
    for batch in BATCHES[device]:
        pair = [F.normalize(torch.randn(batch, 512, device=device), dim=1).requires_grad_() for _ in "ab"]

        def step(one: torch.Tensor, other: torch.Tensor) -> None:
            both = torch.stack(info_nce_both_ways(Contrast(one, other, 10.0)))
            torch.autograd.grad(both.mean(), (one, other))

        yield row(f"CLIP's loss, B = {batch:,}", seconds(lambda pair=pair: step(*pair), device) * 1e3, "ms")


def voxels(device: str) -> Iterator[Row]:
    """Res16UNet34C, forward and backward."""
    for count in VOXELS[device]:
        _, run = ours(cells(room(count, 0.025).to(device), 0.025, count))
        taken = seconds(lambda run=run: run().square().mean().backward(), device, 1)
        yield row(f"Res16UNet34C, {count:,} voxels", taken * 1e3, "ms")


def banks() -> Iterator[Row]:
    """The kNN evaluation, of 512 queries, D = 384, k = 200."""
    queries = F.normalize(torch.randn(512, 384), dim=1)
    for count in BANKS:
        bank, labels = F.normalize(torch.randn(count, 384), dim=1), torch.randint(100, (count,))
        taken = seconds(
            lambda bank=bank, labels=labels: votes(bank, labels, queries, ks=(200,), temperature=0.07), "cpu", 1
        )
        yield row(f"kNN, bank of {count:,}", taken * 1e3, "ms")


def loaders() -> Iterator[Row]:
    """Images of 32 pixels to batches of 64: by the number of shards, then of data workers, in the clock's time."""
    with tempfile.TemporaryDirectory() as folder:
        for count in SHARDS:
            build_from(picture, SAMPLES, Path(folder) / f"{count}", shard_samples=SAMPLES // count)
            yield row(f"loader, {count:,} shards of {SAMPLES // count:,}", rate(f"{folder}/{count}", 0), "samples/s")
        for workers in WORKERS:
            yield row(f"loader, {workers} data workers", rate(f"{folder}/{SHARDS[1]}", workers), "samples/s")


def rate(shards: str, workers: int) -> float:
    """Returns samples per second of one epoch, from the first question for a batch on."""
    loader = Loader(Source(shards=shards), Plain({"image": ImagePreprocess(size=32)}), batch=64, workers=workers)
    began = time.perf_counter()
    seen = sum(len(batch.views["image"][0]) for batch in loader.epoch(0))
    return seen / (time.perf_counter() - began)


def sent() -> Iterator[Row]:
    """Bytes that one rank hands to collectives in a step of CLIP, 256 images of each rank: loss and gradients."""
    for ranks in RANKS:
        yield row(f"CLIP, {ranks} ranks of 256: handed to collectives", megabytes(ranks), "MB a step")


def megabytes(ranks: int) -> float:
    """Counts a step of a group of ranks, of which only the first exists."""
    counted: list[int] = []
    td.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    try:
        encoder = create_encoder("vit:tiny", image_size=32, patch_size=16)
        network = DistributedDataParallel(encoder)

        def exchanged(state: object, bucket: td.GradBucket) -> torch.futures.Future[torch.Tensor]:
            counted.append(bucket.buffer().nbytes)
            done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
            done.set_result(bucket.buffer())
            return done

        exchanged.__annotations__.clear()  # DDP refuses those that are text
        network.register_comm_hook(None, exchanged)
        with counting(counted):
            images, words = F.normalize(network(torch.rand(256, 3, 32, 32)).pooled, dim=1), torch.randn(256, 192)
            both = (
                info_nce(in_batch(images, words, scale=10.0)).mean()
                + info_nce(in_batch(words, images, scale=10.0)).mean()
            )
            both.backward()
    finally:
        td.destroy_process_group()
    return sum(counted) / 1e6


@contextlib.contextmanager
def counting(counted: list[int]) -> Iterator[None]:
    """Notes the bytes of what this rank contributes to collectives."""
    with contextlib.ExitStack() as patches:
        for name, place in {"all_gather": 1, "all_reduce": 0, "reduce_scatter_tensor": 1}.items():
            real = getattr(td, name)

            def called(*given: Any, real: Any = real, place: int = place, **options: Any) -> Any:
                counted.append(given[place].nbytes)
                return real(*given, **options)

            patches.enter_context(mock.patch.object(td, name, called))
        yield


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    show(rows(parser.parse_args().device))
