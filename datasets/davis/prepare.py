"""Makes shards of DAVIS, one sample a sequence: prepare.py OUT --source TAR_OR_FOLDER [--height 240]."""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from mmssl.data.user_files import Files
from mmssl.data.writer import build_from, summary
from mmssl.errors import DamagedError, UserError
from mmssl.modalities import image, video

T = TypeVar("T")
VOID = 255
EXPECTED = "JPEGImages and Annotations"
CRF = 10  # H.264 without a loss that one sees


def main(arguments: list[str] | None = None) -> int:
    """Writes OUT/train and OUT/val; an interrupted run continues where it stopped."""
    options = parser().parse_args(arguments)
    try:
        if options.height is not None and options.height < 16:
            raise UserError(f"--height {options.height}: expected at least 16 pixels")
        source = Path(options.source)
        with closing(Files(source, expected=EXPECTED)) as files:
            sequences = find(files.names, options.resolution, source)
            listed = [name for name in files.names if name.endswith("ImageSets/2017/train.txt")]
            train = set(files.read(listed[0]).decode().split()) if listed else set()
        for split in ("train", "val"):
            chosen = [sequences[name] for name in sorted(sequences) if (name in train) == (split == "train")]
            if chosen:
                make = Samples(source, chosen, options.fps, options.height)
                about = f"davis {split}: height {options.height or options.resolution}, {options.fps:g} fps"
                index = build_from(make, len(chosen), Path(options.out) / split, shard_samples=10, description=about)
                print(f"{split}: {summary(index)}")
    except UserError as error:
        print(f"davis: {error}", file=sys.stderr)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    """Returns the command line."""
    command = argparse.ArgumentParser(description="Makes shards of DAVIS, one sample a sequence.")
    command.add_argument("out", metavar="OUT", help="folder for the splits train and val")
    command.add_argument("--source", required=True, metavar="PATH", help="tar or folder in the official layout")
    command.add_argument("--resolution", default="480p", metavar="NAME", help="which of the layout (default 480p)")
    command.add_argument("--height", type=int, metavar="PIXELS", help="shrink frames and masks (default: as they are)")
    command.add_argument("--fps", type=float, default=24, metavar="F", help="frames a second (default 24)")
    return command


def find(files: list[str], resolution: str, source: Path) -> dict[str, list[tuple[str, str | None]]]:
    """Returns sequence -> the path of each frame, in order, and of its mask."""
    masks = {name.rpartition(".")[0]: name for name in files if f"Annotations/{resolution}/" in name}
    found: dict[str, list[tuple[str, str | None]]] = {}
    for name in files:
        if f"JPEGImages/{resolution}/" in name:
            mask = masks.get(name.rpartition(".")[0].replace("JPEGImages", "Annotations"))
            found.setdefault(name.split("/")[-2], []).append((name, mask))
    if not found:
        raise UserError(f"{source} has no JPEGImages/{resolution}/<sequence>/*.jpg; expected the layout of DAVIS")
    return found


@dataclass
class Samples:
    """Makes the sample of a number: the sequence's frames as a clip, and their masks."""

    source: Path
    sequences: list[list[tuple[str, str | None]]]
    fps: float
    height: int | None

    def __call__(self, number: int) -> dict[str, bytes]:
        pairs = self.sequences[number]
        with closing(Files(self.source, expected=EXPECTED)) as files:
            data = {name: files.read(name) for pair in pairs for name in pair if name}
        if any(mask is None for _, mask in pairs):
            raise DamagedError("a sequence with frames without masks", pairs[0][0])
        frames = [opened(data[frame], frame, image.pixels) for frame, _ in pairs]
        size = even(*frames[0].size, self.height)
        numbers = [Image.fromarray(opened(data[mask], mask, image.values)) for _, mask in pairs if mask]
        masks = numbered(numbers, frames[0].size, size)
        pixels = np.stack([np.asarray(frame.resize(size, Image.Resampling.BOX)) for frame in frames])
        stream = io.BytesIO()
        np.savez_compressed(stream, masks=masks)
        objects = int(masks[masks != VOID].max(initial=0))
        meta = {"sequence": pairs[0][0].split("/")[-2], "fps": self.fps, "frames": len(frames), "objects": objects}
        return {
            "__key__": meta["sequence"],
            "mp4": video.encode(pixels, fps=self.fps, quality=CRF),
            "masks.npz": stream.getvalue(),
            "json": json.dumps(meta).encode(),
        }


def opened(data: bytes, name: str, read: Callable[[Image.Image], T]) -> T:
    """Reads a frame or a mask; DamagedError names the file."""
    try:
        return read(image.decode(data))
    except DamagedError as error:
        raise DamagedError("a damaged frame or mask", f"{name}: {error}") from None


def even(width: int, height: int, wanted: int | None) -> tuple[int, int]:
    """Returns the width and height to write: as wanted, or as they are, and even, for H.264."""
    factor = (wanted or height) / height
    return max(2, round(width * factor / 2) * 2), max(2, round(height * factor / 2) * 2)


def numbered(pictures: list[Image.Image], shape: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Returns masks (T, H, W) of object numbers; DamagedError for one of another size than its frame."""
    if any(picture.size != shape for picture in pictures):
        raise DamagedError("masks of another size than their frames")
    if any(picture.mode not in ("P", "L", "1") for picture in pictures):
        raise DamagedError("masks that are not numbers of objects but colours")
    masks = np.stack([np.asarray(picture.resize(size, Image.Resampling.NEAREST)) for picture in pictures])
    masks = masks.astype(np.uint8) * (VOID if masks.dtype == bool else 1)
    one_object = not np.isin(masks, (0, VOID), invert=True).any()
    return np.where(masks == VOID, 1, 0).astype(np.uint8) if one_object else masks


if __name__ == "__main__":
    sys.exit(main())
