"""Makes shards of CIFAR-10: prepare.py OUT --source cifar-10-python.tar.gz, or --train and --test with images."""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import random
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmssl import modalities
from mmssl.data.user_files import read_files
from mmssl.data.writer import build_from, summary
from mmssl.errors import UserError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PICTURE = re.compile(r"(?:.*/)?([a-z]+)/[^/]+\.(jpg|png)")
BATCH = re.compile(r"(?:.*/)?(?:data_batch_\d|(test)_batch)")
Picture = tuple[int, str, str, bytes]  # class, name of the file, its extension and bytes


def main(arguments: list[str] | None = None) -> int:
    """Writes OUT/train and OUT/test; an interrupted run continues where it stopped."""
    options = parser().parse_args(arguments)
    try:
        for split, pictures in splits(options).items():
            random.Random(0).shuffle(pictures)
            about = f"CIFAR-10 {split}"
            out = Path(options.out) / split
            index = build_from(Samples(pictures), len(pictures), out, workers=1, description=about, classes=CLASSES)
            print(f"{split}: {summary(index)}")
    except UserError as error:
        print(f"cifar10: {error}", file=sys.stderr)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    """Returns the command line."""
    command = argparse.ArgumentParser(description="Makes shards of CIFAR-10.")
    command.add_argument("out", metavar="OUT", help="folder for the splits train and test")
    command.add_argument("--source", metavar="TAR", help="the official cifar-10-python.tar.gz")
    command.add_argument("--train", metavar="PATH", help="tar or folder of CLASS/NAME.jpg, in place of --source")
    command.add_argument("--test", metavar="PATH", help="the same for test")
    return command


def splits(options: argparse.Namespace) -> dict[str, list[Picture]]:
    """Returns split -> images."""
    if options.source and not (options.train or options.test):
        return official(Path(options.source))
    if options.source or not (options.train and options.test):
        raise UserError("give either --source, the official archive, or both --train and --test")
    return {"train": pictures_of(Path(options.train)), "test": pictures_of(Path(options.test))}


def official(source: Path) -> dict[str, list[Picture]]:
    """Reads the batches of the official archive."""
    found: dict[str, list[Picture]] = {"train": [], "test": []}
    for name, data in read_files(source, expected="data_batch_1 ... test_batch").items():
        if told := BATCH.fullmatch(name):
            batch = Plain(io.BytesIO(data), encoding="bytes").load()
            pixels = np.asarray(batch[b"data"], np.uint8).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            split = "test" if told[1] else "train"
            names = [f"{name}/{number}.png" for number in range(len(pixels))]
            names = [os.fsdecode(own) for own in batch.get(b"filenames", ())] or names
            pairs = zip(batch[b"labels"], names, pixels, strict=True)
            found[split] += [(int(label), file, "png", png(p)) for label, file, p in pairs]
    if not all(found.values()):
        raise UserError(f"{source} has no data_batch_1 ... and test_batch; expected cifar-10-python.tar.gz")
    return found


class Plain(pickle.Unpickler):
    """Opens pickles of plain values and arrays, and nothing that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        known = {"_reconstruct", "ndarray", "dtype", "scalar", "_frombuffer", "encode"}
        if (module.split(".")[0] == "numpy" or module == "_codecs") and name in known:
            return super().find_class(module, name)
        raise UserError(f"the archive's batches name {module}.{name}; expected arrays only")


def pictures_of(source: Path) -> list[Picture]:
    """Returns the images of a tar or folder with one folder per class."""
    found, others = [], []
    for name, data in read_files(source, expected="CLASS/NAME.jpg").items():
        if (told := PICTURE.fullmatch(name)) and told[1] in CLASSES:
            found.append((CLASSES.index(told[1]), name, told[2], data))
        else:
            others.append(name)
    if not found:
        raise UserError(f"{source} has no image such as airplane/0001.jpg")
    if others:
        print(f"{source}: passed over {len(others)} files that are not CLASS/NAME.jpg or .png, such as {others[0]}")
    return found


def png(pixels: np.ndarray) -> bytes:
    """Writes an image (H, W, 3)."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@dataclass
class Samples:
    """Makes the sample of a number."""

    pictures: list[Picture] = field(repr=False)

    def __call__(self, number: int) -> dict[str, bytes]:
        label, file, extension, data = self.pictures[number]
        modalities.decode(extension, data)
        about = {"file": file, "class": CLASSES[label]}
        return {extension: data, "cls": str(label).encode(), "json": json.dumps(about).encode()}


if __name__ == "__main__":
    sys.exit(main())
