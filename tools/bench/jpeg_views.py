"""Measures views of JPEGs beside lightly's and open_clip's transforms: one core, processor time, in turn.

    python tools/bench/jpeg_views.py [--pictures 32] [--rounds 5]

Two views of SimCLR, the two and eight of DINO (lightly), and one crop of CLIP (open_clip), each from a JPEG's bytes to
tensors. mmssl changes colours on the accelerator, lightly in the worker: so ours are measured with that on the CPU, and
without it as the data worker's part alone.
"""

from __future__ import annotations

import argparse
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import open_clip
import torch
from lightly.transforms import DINOTransform, SimCLRTransform
from pictures import DECODING, decoding, once, photograph
from PIL import Image
from timing import Row, compare, show

from mmssl.data.collate import collate
from mmssl.methods.clip import method as clip
from mmssl.methods.dino import method as dino
from mmssl.methods.simclr import method as simclr
from mmssl.modalities.image import decode
from mmssl.transforms.image import ImagePreprocess
from mmssl.types import Method

SIZE = 224


def viewed(method: Method, pictures: Sequence[bytes], *, colors: bool) -> Callable[[], int]:
    """Returns what shows all pictures as the method does, with or without what an accelerator would do."""
    view = method.view({"image": ImagePreprocess(size=SIZE)})

    def work() -> int:
        for start in range(0, len(pictures), 8):
            batch = collate([view({"image": decode(data)}) for data in pictures[start : start + 8]], view)
            if colors:
                view.on_device(batch)
        return len(pictures)

    return work


def peer(transform: Any, pictures: Sequence[bytes]) -> Callable[[], int]:
    """Returns what opens all pictures and gives each to a transform, and stacks eight."""

    def work() -> int:
        for start in range(0, len(pictures), 8):
            found = []
            for data in pictures[start : start + 8]:
                shown = transform(Image.open(io.BytesIO(data)).convert("RGB"))
                found.append(shown if isinstance(shown, list) else [shown])
            for each in zip(*found, strict=True):
                torch.stack(each)
        return len(pictures)

    return work


def rows(*, pictures: int = 32, rounds: int = 5) -> Iterator[Row]:
    """Yields a row for each kind of view."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    data = once(photograph, pictures)
    given: dict[str, Any] = {"rounds": rounds, "per_sample": True, "bound": decoding(data), "bound_by": DECODING}
    for name, method, transform in (
        ("two SimCLR views", simclr, SimCLRTransform(input_size=SIZE)),
        ("DINO's 2 + 8 crops", dino, DINOTransform()),
    ):
        theirs = peer(transform, data)
        for how, colors in (("colours on the CPU", True), ("the worker's part", False)):
            ours = viewed(method, data, colors=colors)
            yield compare(f"{name} from 110 KB JPEGs, {how}", ours, theirs, against="lightly", **given)
    crop = peer(open_clip.image_transform(SIZE, is_train=True), data)
    ours = viewed(clip, data, colors=False)
    yield compare("one CLIP crop from 110 KB JPEGs", ours, crop, against="open_clip", **given)


if __name__ == "__main__":
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--pictures", type=int, default=32)
    command.add_argument("--rounds", type=int, default=5)
    show(rows(**vars(command.parse_args())))
