"""Measures samples per second of mmssl's loader and of a plain webdataset pipeline that does the same work.

    python tools/bench/loader.py [SHARDS] [--batch 64] [--workers 2] [--size 32] [--rounds 3]

Without SHARDS it makes 4,000 random images of 64 pixels first. Both read the shards, shuffle, decode each image,
resize it to SIZE and stack batches in as many worker processes.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from mmssl.data.loader import Loader
from mmssl.data.shards import Source
from mmssl.data.writer import build_from
from mmssl.modalities.image import encode
from mmssl.transforms.image import ImagePreprocess
from mmssl.types import Sample, View


class Plain(View):
    """Shows each image once, as its encoder wants it."""

    def __call__(self, sample: Sample) -> Sample:
        return {"image": [self.preprocess["image"](sample["image"])]}


def ours(source: Source, options: argparse.Namespace) -> Iterable[Tensor]:
    """Yields batches (B, 3, H, W) of one epoch from mmssl."""
    preprocess = {"image": ImagePreprocess(size=options.size)}
    loader = Loader(source, Plain(preprocess), batch=options.batch, workers=options.workers)
    return (batch.views["image"][0] for batch in loader.epoch(0))


def picture(preprocess: ImagePreprocess, sample: tuple[Image.Image]) -> Tensor:
    """Prepares one decoded image."""
    prepared: Tensor = preprocess(sample[0])
    return prepared


def plain(source: Source, options: argparse.Namespace) -> Iterable[Tensor]:
    """Yields batches (B, 3, H, W) of one epoch from webdataset."""
    # several workers need several shards; one is given to each of them as often as there are workers
    shards = source.shards if len(source.shards) >= options.workers else source.shards * max(1, options.workers)
    data = (
        webdataset.WebDataset(shards, shardshuffle=len(shards))
        .shuffle(5000)
        .decode("pil")
        .to_tuple("jpg;png;webp")
        .map(functools.partial(picture, ImagePreprocess(size=options.size)))
        .batched(options.batch, collation_fn=torch.stack, partial=False)
    )
    return DataLoader(data, batch_size=None, num_workers=options.workers)


def rate(batches: Iterable[Any], most: int) -> float:
    """Returns samples per second, workers' start included."""
    began, seen = time.perf_counter(), 0
    for batch in batches:
        seen += len(batch)
        if seen >= most:
            break
    return seen / (time.perf_counter() - began)


def main() -> None:
    """Prints both rates and their ratio, the median of several rounds taken in turn."""
    command = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    command.add_argument("shards", nargs="?", help="webdataset shards with images")
    command.add_argument("--batch", type=int, default=64)
    command.add_argument("--workers", type=int, default=2)
    command.add_argument("--size", type=int, default=32, help="pixels to which images are resized")
    command.add_argument("--rounds", type=int, default=3)
    options = command.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.shards is None:
            build_from(random_picture, 4000, Path(folder) / "shards", shard_samples=500)
        compare(Source(shards=options.shards or f"{folder}/shards"), options)


def random_picture(number: int) -> dict[str, bytes]:
    """Makes one sample: a JPEG of smooth noise."""
    noise = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return {"jpg": encode(Image.fromarray(noise).resize((64, 64), Image.Resampling.BICUBIC))}


def compare(source: Source, options: argparse.Namespace) -> None:
    """Times both in turn."""
    most = source.count or 20_000
    rates: dict[str, list[float]] = {"mmssl": [], "webdataset": []}
    for _ in range(options.rounds):
        rates["mmssl"].append(rate(ours(source, options), most))
        rates["webdataset"].append(rate(plain(source, options), most))
    middle = {name: statistics.median(found) for name, found in rates.items()}
    for name, found in rates.items():
        print(f"{name:>10}: {middle[name]:8,.0f} samples/s (rounds {', '.join(f'{r:,.0f}' for r in found)})")
    print(f"     ratio: {middle['mmssl'] / middle['webdataset']:.2f}")


if __name__ == "__main__":
    main()
