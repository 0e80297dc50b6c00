"""What resembles what: how similar every cell of an image is to a chosen one, for any encoder with cells on a grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.evals.parts.source import open_source
from mmssl.nn.head import embed_cells
from mmssl.plots.canvas import Pixels, blend, heat, scaled, tiles
from mmssl.plots.samples import SEEING, in_picture, reader_of, seen
from mmssl.types import Trained, evaluating

SIDE = 160  # pixels of a tile
POINTS = ((0.5, 0.5), (0.15, 0.15), (0.85, 0.85))


def plot(
    trained: Trained,
    *,
    data: dict[str, Any],
    count: int = 6,
    encoder: str | None = None,
    space: str | None = None,
    at: Sequence[tuple[float, float]] = POINTS,
) -> Iterator[tuple[str, Image.Image]]:
    """Draws for each image the cosine of each cell to the cell at each point, which is framed.

    Each map is coloured from its least to its largest cosine, which its title says.

    data: shards, or a folder of own files (`mmssl explain data`); with images or videos.
    count: images, or videos, of which the middle is drawn.
    encoder: its key, by default the only one of images or videos.
    space: the task whose embedding of cells is used, null for the tokens.
    at: points, each x and y from 0 at the left and top to 1.
    """
    if not at or not all(0 <= share <= 1 for point in at for share in point):
        raise UserError(f"at is {list(at)}; expected points of x and y from 0 to 1, such as at=[[0.5, 0.5]]")
    source = open_source(data)
    network = reader_of(trained, encoder, source, space=space, modalities=SEEING)
    head, rows, titles = None if space is None else network.spaces[space], [], []
    for one in seen(network, source, count=count):
        with evaluating(network), torch.inference_mode():
            cells, grid = embed_cells(network(one.x[None].to(network.device)), head)
        maps = [similar(in_picture(cells[0], grid).float().cpu(), point) for point in at]
        picture = scaled(one.picture(grid), SIDE)
        rows.append([picture, *(_drawn(picture, *found) for found in maps)])
        titles.append([one.name, *(f"cosine {m.min():.2f} to {m.max():.2f}" for m, _ in maps)])
    yield "similarity", tiles(rows, titles=titles)


def similar(cells: Tensor, point: tuple[float, float]) -> tuple[Tensor, tuple[int, int]]:
    """Returns the cosines (H, W) of cells (H, W, D) to the one at a point (x, y), and that one's row and column."""
    height, width = cells.shape[:2]
    row, column = min(int(point[1] * height), height - 1), min(int(point[0] * width), width - 1)
    unit = F.normalize(cells, dim=-1)
    return unit @ unit[row, column], (row, column)


def _drawn(picture: Pixels, values: Tensor, place: tuple[int, int]) -> Pixels:
    """Lays a map over its image, and frames the cell that all are compared with."""
    over = Image.fromarray(blend(picture, heat(values.numpy(), shape=picture.shape[:2]), opacity=0.7))
    high, wide = picture.shape[0] / values.shape[0], picture.shape[1] / values.shape[1]
    left, top = round(place[1] * wide), round(place[0] * high)
    right, bottom = round((place[1] + 1) * wide) - 1, round((place[0] + 1) * high) - 1
    pen = ImageDraw.Draw(over)
    pen.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline="black")
    pen.rectangle((left, top, right, bottom), outline="white")
    return np.asarray(over)
