"""How alike N pairs are in a joint space: every item of one modality against every item of another."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from PIL import Image

from mmssl.evals.parts.needs import require_encoder
from mmssl.evals.parts.report import no_samples_error, require
from mmssl.evals.parts.source import open_source
from mmssl.plots.canvas import Pixels, heat
from mmssl.plots.items import drawn_item
from mmssl.plots.samples import prepared
from mmssl.types import Encoder, Sample, Trained

CELL, GAP, LINE = 48, 4, 260  # pixels: side of a cell, gaps, width of a caption


def plot(
    trained: Trained,
    *,
    data: dict[str, Any],
    modalities: tuple[str, str] = ("image", "text"),
    space: str = "clip",
    count: int = 12,
) -> Iterator[tuple[str, Image.Image]]:
    """Draws the cosines of `count` pairs, brightest on the diagonal where the space is good, with what was compared.

    data: shards, and how they are read (`mmssl explain data`); with both modalities.
    modalities: rows and columns; texts always lie in rows, where they can be read.
    space: the task whose joint embedding is used.
    count: pairs.
    """
    for name in modalities:
        require_encoder(trained, name, space=space)
    rows, columns = modalities if modalities[1] != "text" else modalities[::-1]
    prepare = {name: trained.encoders[name].preprocess for name in modalities}
    samples = prepared(open_source(data), prepare, partial(_items, prepare=prepare), spread=count)
    found = list(islice(samples, count))
    if not found:
        raise no_samples_error(f"the data has no sample with a whole {rows} and {columns}")
    embedded = {key: _embedded(trained.encoders[key], [items[key] for _, items in found], space) for key in prepare}
    sides = [[drawn_item(key, sample[key], side=CELL, line=LINE) for sample, _ in found] for key in (rows, columns)]
    yield f"{rows}-{columns}", _laid_out((embedded[rows] @ embedded[columns].T).numpy(), *sides)


def _items(sample: Sample, *, prepare: dict[str, Any]) -> tuple[Sample, dict[str, Any]]:
    """Returns a sample, and what the encoders take of it."""
    require(sample, *prepare)
    return sample, {name: prepare[name](sample[name]) for name in prepare}


def _embedded(encoder: Encoder, items: list[Any], space: str) -> torch.Tensor:
    return encoder.embed(encoder.preprocess.collate(items).to(encoder.device), space=space).float().cpu()


def _laid_out(values: np.ndarray, left: list[Pixels], above: list[Pixels]) -> Image.Image:
    """Lays a matrix (N, N) out with its rows' items to the left and its columns' above."""
    margin, step = left[0].shape[1] + GAP, CELL + GAP
    whole = Image.new("RGB", (margin + step * len(above), step * (len(left) + 1)), "white")
    colors = heat(values)
    for r, item in enumerate(left):
        whole.paste(Image.fromarray(item), (0, step * (r + 1)))
        for c in range(len(above)):
            box = (margin + step * c, step * (r + 1))
            whole.paste(tuple(colors[r, c].tolist()), (*box, box[0] + CELL, box[1] + CELL))
    for c, item in enumerate(above):
        whole.paste(Image.fromarray(item), (margin + step * c, 0))
    return whole
