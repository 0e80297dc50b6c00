"""Where a method hears what it sees: heat maps over frames of own films, beside the truth where it is known."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from PIL import Image

from mmssl.errors import UserError
from mmssl.evals.localize import next_clip
from mmssl.evals.parts.compare import Comparer
from mmssl.evals.parts.report import no_samples_error
from mmssl.evals.parts.sounding import Moment, Sounding, Truth
from mmssl.evals.parts.source import open_source
from mmssl.plots.canvas import Pixels, blend, fitted, heat, scaled, tiles
from mmssl.plots.samples import films_as_images, prepared
from mmssl.types import Sample, Trained

SIDE, ROOM = 160, 50  # pixels: of a tile, and for a time behind a name
GREEN = (60, 230, 90)


def plot(
    trained: Trained,
    *,
    data: dict[str, Any],
    task: str = "avol",
    truth: Truth | None = None,
    moments: int = 1,
    count: int = 6,
    per_picture: int = 4,
) -> Iterator[tuple[str, Image.Image]]:
    """Draws for `count` clips the frame, the map of its sound, that of another clip's, and the truth where it is known.

    Each map is coloured from its least to its largest value.

    data: shards, or a folder of own films (`mmssl explain data`); with images or videos, sound, and truth if any.
    task: whose `similarity_map` is drawn, or without one the products in its space.
    truth: `impacts` of the toy world, `boxes` or `masks`; null for data without.
    moments: of each clip; without truth evenly apart.
    count: clips.
    per_picture: clips under each other in one image.
    """
    judge, source = Comparer(trained, task), open_source(data)
    judge.require_maps()
    films_as_images(source, judge.visual)
    sounding = Sounding(judge.preprocess, judge.visual, truth=truth, count=moments)
    try:
        source.check(sounding.reads)
    except UserError as error:
        raise UserError(f"{error}{'; truth=null draws the maps without it' if truth else ''}") from None
    make = partial(_named, sounding=sounding)
    clips = list(islice(prepared(source, sounding.reads, make, spread=count), count))
    if not clips:
        raise no_samples_error("the data has no moment at which something sounds and is seen")
    found = [(name, moment) for name, several in clips for moment in several]
    seen, heard = (torch.stack([getattr(m, kind) for _, m in found]) for kind in ("seen", "heard"))
    frames = [moment.frame for _, moment in found]
    other, _ = next_clip(torch.tensor([number for number, (_, several) in enumerate(clips) for _ in several]))
    maps, others = (judge.maps(seen, sounds, frames).numpy() for sounds in (heard, heard[other]))
    rows, titles = [], []
    for (name, moment), *drawn in zip(found, maps, others, strict=True):
        rows.append(_row(moment, *drawn, known=truth is not None))
        at = "" if moment.time is None else f", {moment.time:.1f} s"
        titles.append([f"{fitted(name, SIDE - ROOM)}{at}", "what sounds", "if another clip sounds", "truth"])
    step = per_picture * moments
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        yield f"maps-{start // step}", tiles(rows[part], titles=titles[part])


def _named(sample: Sample, *, sounding: Sounding) -> tuple[str, list[Moment]]:
    return str(sample.get("__key__", "")), sounding(sample)


def _row(moment: Moment, own: np.ndarray, other: np.ndarray, *, known: bool) -> list[Pixels]:
    frame = scaled(moment.picture.permute(1, 2, 0).numpy(), SIDE)
    row = [frame, *(blend(frame, heat(values, shape=frame.shape[:2])) for values in (own, other))]
    if known:
        mask = Image.fromarray(moment.truth.numpy()).resize(frame.shape[1::-1])
        green = np.broadcast_to(np.array(GREEN, dtype=np.uint8), frame.shape)
        row.append(blend(frame, green, where=np.asarray(mask)))
    return row
