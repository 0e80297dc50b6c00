"""Order: frames as a task about it shows them, what was said and what is true; green where right, red where wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image

from mmssl.evals.order import ordered
from mmssl.evals.parts.pretext import answer, show
from mmssl.evals.parts.report import no_samples_error
from mmssl.evals.parts.source import open_source
from mmssl.plots.canvas import Pixels, scaled, tiles
from mmssl.transforms.ordered import orders
from mmssl.types import Trained

RIGHT, WRONG, BORDER, SIDE = (60, 170, 75), (230, 60, 50), 4, 96  # colours; pixels


def plot(
    trained: Trained, *, data: dict[str, Any], task: str = "opn", count: int = 6, seed: int = 0
) -> Iterator[tuple[str, Image.Image]]:
    """Yields an image of each of the first clips: its frames as shown, as the task sorts them, and in true order.

    Tasks that do not sort have one row per sequence shown, and what was said of it.

    data: shards, and how they are read (`mmssl explain data`); with videos.
    task: which of the run's tasks is asked.
    count: clips.
    seed: of what is shown of each clip.
    """
    ordered(trained, task)
    _, batch = next(show(trained, task, open_source(data), seed=seed, batch=count), (None, None))
    if batch is None:
        raise no_samples_error("the data has no clip that the task can be asked about")
    found = answer(trained, task, batch)
    assert batch.target is not None
    films = torch.stack(batch.views["video"], dim=1).movedim(2, -1).cpu().numpy()  # (B, V, T, H, W, 3)
    said = found.answers["said"].long().tolist()
    draw = _sorted if films.shape[1] == 1 and films.shape[2] > 3 else _judged
    for number, row in enumerate(zip(films, batch.extra["order"].tolist(), batch.target.tolist(), said, strict=True)):
        yield f"order-{number:02d}", draw(*row)


def _sorted(frames: Any, order: list[list[int]], _target: int, said: int) -> Image.Image:
    """Draws the frames (1, T, H, W, 3) as shown, then as sorted, then in true order."""
    time = order[0]
    truth = [time.index(moment) for moment in range(len(time))]  # where the first, the second, ... is shown
    way = orders(len(time))[said]
    # forward and backward are one answer; the one that fits better is drawn
    guess = max((way, way[::-1]), key=lambda places: sum(map(int.__eq__, places, truth)))
    rows = [
        [_framed(frames[0, place]) for place in range(len(time))],
        [_framed(frames[0, p], RIGHT if p == q else WRONG) for p, q in zip(guess, truth, strict=True)],
        [_framed(frames[0, place]) for place in truth],
    ]
    titles = [[f"{label}{place + 1}" for place in places] for label, places in (
        ("shown ", range(len(time))), ("sorted: ", guess), ("true: ", truth)
    )]  # fmt: skip
    return tiles(rows, titles=titles)


def _judged(frames: Any, order: list[list[int]], target: int, said: int) -> Image.Image:
    """Draws sequences (V, T, H, W, 3) as shown, with each frame's place in time and what was said of them."""
    titles = [[f"moment {moment + 1}" for moment in moments] for moments in order]
    if len(frames) > 1:
        marks = [RIGHT if n == target else WRONG if n == said else None for n in range(len(frames))]
        titles[said][0] += ": said odd"
    else:
        marks = [RIGHT if said == target else WRONG]
        titles[0][0] += f": said {('no', 'yes')[said]}"
    rows = [[_framed(f, mark) for f in several] for several, mark in zip(frames, marks, strict=True)]
    return tiles(rows, titles=titles)


def _framed(frame: Any, color: tuple[int, int, int] | None = None) -> Pixels:
    """Scales a frame and puts a border around it."""
    pixels = np.asarray(scaled(frame, SIDE))
    framed = np.full((SIDE + 2 * BORDER, SIDE + 2 * BORDER, 3), color or (255, 255, 255), dtype=np.uint8)
    framed[BORDER:-BORDER, BORDER:-BORDER] = pixels
    return framed
