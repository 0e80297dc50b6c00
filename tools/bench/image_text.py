"""Measures image-text shards to batches beside open_clip's webdataset pipeline: processor time, in turn.

    python tools/bench/image_text.py [--count 1024] [--rounds 3] [--workers 0 1 2]

Both read the same shards of 110 KB JPEGs with captions, shuffle, cut one crop for training and tokenize. The time of
workers is counted with that of this process, their start included, and the batches of the next epoch that mmssl's make
ahead.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import open_clip
import torch
import webdataset
from open_clip_train import data
from pictures import DECODING, decoding, once, photograph
from timing import Row, compare, show, taken

from mmssl.data.loader import Loader
from mmssl.data.shards import Source
from mmssl.data.writer import build_from
from mmssl.encoders.bpe import byte_tokenizer, learn_merges
from mmssl.methods.clip import method
from mmssl.transforms.image import ImagePreprocess
from mmssl.transforms.text import TextPreprocess

BATCH, SIZE = 32, 224
WORDS = [
    "a",
    "photo",
    "of",
    "the",
    "small",
    "large",
    "red",
    "green",
    "old",
    "new",
    "dog",
    "cat",
    "house",
    "tree",
    "river",
    "on",
    "under",
    "beside",
]


def sample(number: int) -> dict[str, bytes]:
    """Makes a picture and a caption of ten words."""
    return {"jpg": photograph(number), "txt": caption(number).encode()}


def caption(number: int) -> str:
    """Returns ten words."""
    return " ".join(WORDS[(number * 7 + place * place) % len(WORDS)] for place in range(10))


def ours(folder: Path, workers: int, count: int) -> Callable[[], int]:
    """Returns what makes an epoch's batches of mmssl."""
    text = TextPreprocess(byte_tokenizer(lowercase=True))
    learn_merges(text, map(caption, range(50)), 400)
    view = method.view({"image": ImagePreprocess(size=SIZE), "text": text})

    def work() -> int:
        loader = Loader(Source(shards=str(folder)), view, batch=BATCH, workers=workers)
        return taken((batch.views["image"][0] for batch in loader.epoch(0)), count)

    return work


def by_open_clip(folder: Path, workers: int, count: int, shards: int) -> Callable[[], int]:
    """Returns what makes as many of open_clip's training pipeline."""
    options = Namespace(
        train_data=f"{folder}/{{00000..{shards - 1:05d}}}.tar",
        train_num_samples=count,
        train_data_upsampling_factors=None,
        dataset_resampled=False,
        batch_size=BATCH,
        workers=workers,
        world_size=1,
        seed=0,
    )
    transform = open_clip.image_transform(SIZE, is_train=True)
    tokenizer = open_clip.get_tokenizer("ViT-B-32")

    # open_clip's own reader of tars knows no webdataset of version 1; this one stands beside it in a comment there
    read = webdataset.tarfile_to_samples()

    def work() -> int:
        with mock.patch.object(data, "tarfile_to_samples_nothrow", read):
            loader = data.get_wds_dataset(options, transform, True, tokenizer=tokenizer).dataloader
        return taken((images for images, _ in loader), count)

    return work


def rows(*, count: int = 1024, rounds: int = 3, workers: Sequence[int] = (0, 1, 2)) -> Iterator[Row]:
    """Yields a row for each number of workers."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    shards, bound = 4, decoding(once(photograph, 64))
    with tempfile.TemporaryDirectory() as home:
        build_from(sample, count, Path(home), shard_samples=count // shards)
        for number in workers:
            mine, theirs = ours(Path(home), number, count), by_open_clip(Path(home), number, count, shards)
            work = f"image-text shards to batches, {number} workers"
            given: dict[str, Any] = {"against": "open_clip", "bound": bound, "bound_by": DECODING}
            yield compare(work, mine, theirs, rounds=rounds, per_sample=True, **given)


if __name__ == "__main__":
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--count", type=int, default=1024)
    command.add_argument("--rounds", type=int, default=3)
    command.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    show(rows(**vars(command.parse_args())))
