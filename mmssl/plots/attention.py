"""Where a vision transformer looks: what its class token attends to, head by head, over own images or films."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from mmssl.errors import UserError
from mmssl.evals.parts.source import open_source
from mmssl.nn.attention_rows import AttentionRows
from mmssl.plots.canvas import blend, heat, scaled, tiles
from mmssl.plots.samples import SEEING, in_picture, reader_of, seen
from mmssl.types import Encoder, Trained, evaluating

SIDE = 112  # pixels of a tile
CLASS = ("cls", "class")  # what libraries call the class token, among other words


def plot(
    trained: Trained,
    *,
    data: dict[str, Any],
    count: int = 6,
    encoder: str | None = None,
    block: int = -1,
) -> Iterator[tuple[str, Image.Image]]:
    """Draws for each image what each head of a block gives its patches, and the mean of the heads.

    Each map is coloured from its least to its largest weight. Caron et al., ICCV 2021 (DINO).

    data: shards, or a folder of own files (`mmssl explain data`); with images or videos.
    count: images, or videos, of which the middle is drawn.
    encoder: key of a vision transformer, by default the only encoder of images or videos.
    block: whose attention is drawn, from 0; -1 is the last.
    """
    source = open_source(data)
    network = reader_of(trained, encoder, source, modalities=SEEING)
    rows, titles = [], []
    for one in seen(network, source, count=count):
        with evaluating(network):
            weights, grid = class_attention(network, one.x[None], block=block)
        picture = scaled(one.picture(grid), SIDE)
        maps = [in_picture(values, grid).cpu().numpy() for values in (weights[0].mean(dim=0), *weights[0])]
        rows.append([picture, *(blend(picture, heat(m, shape=picture.shape[:2]), opacity=0.7) for m in maps)])
        titles.append([one.name, "mean of heads", *(f"head {number}" for number in range(len(maps) - 1))])
    yield "attention", tiles(rows, titles=titles)


@torch.inference_mode()
def class_attention(encoder: Encoder, x: Tensor, *, block: int = -1) -> tuple[Tensor, tuple[int, ...]]:
    """Returns the weights (B, heads, N) that one block's class token gives the patches, and their grid.

    Where a network pools by a query of its own, as SigLIP does, that query's are the last. UserError for a network
    without either, and for a block that it has not.
    """
    with AttentionRows() as attention:
        features = encoder(x.to(encoder.device))
    cells = prod(features.grid or (0,))
    named = any(word in CLASS for name, _ in encoder.named_parameters() for word in name.split(".")[-1].split("_"))
    rows = [
        row[..., -cells:]
        for row, queries in zip(attention.rows, attention.queries, strict=True)
        if features.grid and len(row) == len(x) and row.shape[2] >= cells
        if queries == 1 or (named and row.shape[2] > cells)
    ]
    if not rows:
        raise UserError(
            f"the encoder {encoder.name!r} has no class token that attends to patches on a grid; `mmssl plot RUN "
            "similarity` and `pca` draw the cells of any encoder"
        )
    if not -len(rows) <= block < len(rows):
        raise UserError(f"block is {block}; this encoder has {len(rows)}, from 0 to {len(rows) - 1}")
    return rows[block], tuple(features.grid or ())
