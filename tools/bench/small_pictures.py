"""Measures small pictures, opened and stacked in batches, beside webdataset and torchvision: processor time, in turn.

    python tools/bench/small_pictures.py [--count 5000] [--rounds 5] [--shards TAR]

Pictures of 32 pixels out of one tar in this process, and out of a folder for torchvision's ImageFolder with a
DataLoader; each is opened, brought to uint8 (3, 32, 32) and stacked. Webdataset's pipeline has a shuffle buffer too.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import webdataset
from pictures import DECODING, decoding, once, small
from timing import Row, compare, show, taken
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import PILToTensor

from mmssl.data.loader import Loader
from mmssl.data.shards import Source
from mmssl.data.tar import read_tar
from mmssl.transforms.image import ImagePreprocess
from mmssl.types import Sample, View

BATCH = 128


class Plain(View):
    """Shows each image once, as its encoder wants it."""

    def __call__(self, sample: Sample) -> Sample:
        return {"image": [self.preprocess["image"](sample["image"])]}


def ours(shard: Path) -> Callable[[], int]:
    """Returns what makes the batches of mmssl's next epoch."""
    view = Plain({"image": ImagePreprocess(size=32)})
    loader = Loader(Source(shards=str(shard)), view, batch=BATCH, workers=0)
    epochs = itertools.count()
    return lambda: taken(batch.views["image"][0] for batch in loader.epoch(next(epochs)))


def by_webdataset(shard: Path) -> Callable[[], int]:
    """Returns what makes an epoch's of webdataset."""
    tensor = PILToTensor()
    data = webdataset.WebDataset(str(shard), shardshuffle=False).shuffle(5000).decode("pil").to_tuple("jpg;jpeg")
    batched = data.map(lambda sample: tensor(sample[0])).batched(BATCH, collation_fn=torch.stack, partial=False)
    return lambda: taken(DataLoader(batched, batch_size=None))


def by_image_folder(folder: Path) -> Callable[[], int]:
    """Returns what makes an epoch's of a folder of pictures."""
    data = ImageFolder(str(folder), PILToTensor())
    batches = DataLoader(data, batch_size=BATCH, shuffle=True, drop_last=True)
    return lambda: taken(pictures for pictures, _ in batches)


def unpack(shard: Path, folder: Path) -> None:
    """Writes a tar's pictures as files of one class."""
    (folder / "class").mkdir(parents=True)
    for number, entry in enumerate(read_tar(str(shard))):
        (folder / "class" / f"{number}.jpg").write_bytes(next(iter(entry.fields.values())))


def pack(shard: Path, count: int, make: Callable[[int], bytes] = small) -> None:
    """Writes a tar of pictures."""
    with webdataset.TarWriter(str(shard), encoder=False) as tar:
        for number in range(count):
            tar.write({"__key__": f"{number:06d}", "jpg": make(number)})


def rows(*, count: int = 5000, rounds: int = 5, shards: str = "") -> Iterator[Row]:
    """Yields a row for each peer."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as home:
        shard = Path(shards or f"{home}/0.tar")
        if not shards:
            pack(shard, count)
        unpack(shard, Path(home) / "folder")
        mine, work = ours(shard), "images of 32 pixels, a tar to batches"
        peers = {"webdataset": by_webdataset(shard), "ImageFolder": by_image_folder(Path(home) / "folder")}
        given: dict[str, Any] = {"bound": decoding(once(small, 1000)), "bound_by": DECODING}
        for name, theirs in peers.items():
            yield compare(work, mine, theirs, against=name, rounds=rounds, per_sample=True, **given)


if __name__ == "__main__":
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--count", type=int, default=5000)
    command.add_argument("--rounds", type=int, default=5)
    command.add_argument("--shards", default="", help="a tar of JPEGs of 32 pixels in place of made ones")
    show(rows(**vars(command.parse_args())))
