"""Captions of a user's own images, by a task of a run that has learnt to write them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from mmssl import modalities
from mmssl.data.user_files import files_of
from mmssl.errors import UserError
from mmssl.loading import load_run
from mmssl.objectives.captioning import captioning_task
from mmssl.types import Encoder


@dataclass(slots=True)
class Captioned:
    """rows: (image, caption, logarithm of its probability). skipped: image -> why it cannot be read."""

    rows: list[tuple[str, str, float]] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


def caption(
    run: str | Path,
    images: str | Path,
    *,
    task: str | None = None,
    beams: int = 5,
    length: int | None = None,
    batch_size: int = 32,
    device: str = "cpu",
    progress: bool = True,
    trust_code: bool = False,
) -> Captioned:
    """Writes a caption for an image, or for every image below a folder; unreadable images are skipped and listed.

    task: the run's task that writes; by default the only one that does. beams: captions that are kept while one is
    written. length: tokens of a caption at most. trust_code: allow the run to name code outside mmssl.
    UserError where the run has no such task, the folder no image, or the one image cannot be read.
    """
    if beams < 1 or (length is not None and length < 1):
        raise UserError(f"beams is {beams} and length {length}; expected whole numbers above 0")
    trained = load_run(run, device=device, trust_code=trust_code)
    _, writer = captioning_task(trained, task)
    paths = image_paths(Path(images))
    found, encoder = Captioned(), trained.encoders["image"]
    readable = _prepared(paths, encoder, found)
    with tqdm(desc="caption", unit="image", total=len(paths), disable=not progress) as bar:
        while batch := list(islice(readable, batch_size)):
            x = encoder.preprocess.collate([item for _, item in batch]).to(encoder.device)
            with torch.inference_mode():
                written = writer.captions(trained.encoders, x, beams=beams, length=length)
            found.rows += [(str(path), one.text, one.log_prob) for (path, _), one in zip(batch, written, strict=True)]
            bar.update(len(batch))
    if not found.rows:
        path, why = next(iter(found.skipped.items()))
        raise UserError(f"none of the images can be read; {path!r}: {why}")
    return found


def image_paths(images: Path) -> list[Path]:
    """Returns the images below a folder in order, hidden files left out, or the one file."""
    if not images.exists():
        raise UserError(f"there is no {str(images)!r}; expected an image, or a folder of images")
    if not images.is_dir():
        return [images]
    endings = [f".{name}" for name, kind in modalities.EXTENSIONS.items() if kind == "image"]
    found = [images / path for path in files_of(images)[0] if path.suffix.lower() in endings]
    if not found:
        raise UserError(f"{images} holds no images; expected files that end in {', '.join(endings)}")
    return found


def _prepared(paths: list[Path], encoder: Encoder, found: Captioned) -> Iterator[tuple[Path, Any]]:
    for path in paths:
        try:
            yield path, encoder.preprocess(path)
        except UserError as error:
            found.skipped[str(path)] = str(error)
