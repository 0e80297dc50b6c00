"""Where a method hears what it sees: heat maps over frames, beside the truth."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from PIL import Image

from mmssl.evals.parts.compare import Comparer
from mmssl.evals.parts.report import no_samples_error
from mmssl.evals.parts.sounding import Moment, Sounding, Truth
from mmssl.evals.parts.source import open_source
from mmssl.plots.canvas import Pixels, blend, heat, scaled, tiles
from mmssl.plots.samples import prepared
from mmssl.types import Trained

SIDE = 160  # pixels of a tile
GREEN = (60, 230, 90)


def plot(
    trained: Trained,
    *,
    data: dict[str, Any],
    task: str = "avol",
    truth: Truth = "impacts",
    count: int = 6,
    per_picture: int = 4,
) -> Iterator[tuple[str, Image.Image]]:
    """Draws for `count` clips the frame, the map of its sound, that of another clip's, and the truth.

    data: shards, and how they are read (`mmssl explain data`); with images or videos, sound and truth.
    task: whose `similarity_map` is drawn, or without one the products in its space.
    truth: `impacts` of the toy world, `boxes` or `masks`.
    count: clips.
    per_picture: clips under each other in one image.
    """
    judge = Comparer(trained, task)
    judge.require_maps()
    sounding = Sounding(judge.preprocess, judge.visual, truth=truth)
    found = prepared(open_source(data), sounding.reads, sounding, spread=count)
    moments = list(islice(chain.from_iterable(found), count))
    if not moments:
        raise no_samples_error("the data has no moment at which something sounds and is seen")
    seen, heard = torch.stack([m.seen for m in moments]), torch.stack([m.heard for m in moments])
    frames = [moment.frame for moment in moments]
    maps, others = (judge.maps(seen, sounds, frames).numpy() for sounds in (heard, heard.roll(1, 0)))
    titles = ["seen", "what sounds", "if another clip sounds", "truth"]
    for start in range(0, len(moments), per_picture):
        part = range(start, min(start + per_picture, len(moments)))
        rows = [_row(moments[n], maps[n], others[n]) for n in part]
        yield f"maps-{start // per_picture}", tiles(rows, titles=[titles] * len(rows))


def _row(moment: Moment, own: np.ndarray, other: np.ndarray) -> list[Pixels]:
    frame = scaled(moment.picture.permute(1, 2, 0).numpy(), SIDE)
    over = [blend(frame, heat(values, shape=frame.shape[:2])) for values in (own, other)]
    mask = Image.fromarray(moment.truth.numpy()).resize(frame.shape[1::-1])
    green = np.broadcast_to(np.array(GREEN, dtype=np.uint8), frame.shape)
    return [frame, *over, blend(frame, green, where=np.asarray(mask))]
