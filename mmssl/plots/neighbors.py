"""Nearest neighbours: samples, and those of the set whose features are most similar."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from mmssl.data.shards import Source
from mmssl.data.subset import limited
from mmssl.evals.parts.source import open_source
from mmssl.evals.parts.stream import embed_stream
from mmssl.numerics.neighbors import nearest
from mmssl.plots.canvas import Pixels, fitted, tiles
from mmssl.plots.items import drawn_item
from mmssl.plots.samples import reader_of
from mmssl.types import Encoder, Trained

SIDE, LINE, FIGURE = 112, 200, 30  # pixels: of a tile, the width of a text's, and room for a cosine
Place = tuple[str, str, int]


def plot(
    trained: Trained,
    *,
    data: dict[str, Any],
    bank: dict[str, Any] | None = None,
    count: int = 8,
    k: int = 7,
    encoder: str | None = None,
    space: str | None = None,
    limit: int = 2000,
) -> Iterator[tuple[str, Image.Image]]:
    """Draws `count` samples, each with the k most similar ones by the cosine of features, the most similar first.

    data: shards, or a folder of own files (`mmssl explain data`); of any modality.
    bank: data among which neighbours are looked for, by default the rest of the same.
    count: samples, from all over the data.
    k: neighbours of each.
    encoder: its key, by default the only one.
    space: the task whose embedding is used, null for pooled features.
    limit: samples of the bank at most, drawn from a fixed seed.
    """
    source = open_source(data)
    network = reader_of(trained, encoder, source, space=space)
    among = limited(source if bank is None else open_source(bank), limit)
    x, known = embedded(network, among, space)
    if bank is None:
        queries, asked = x, known
    else:
        queries, asked = embedded(network, limited(source, limit), space)
    rows = np.linspace(0, len(asked) - 1, min(count, len(asked))).round().astype(int).tolist()
    # of one's own set each finds itself first, or an equal before it: one more is looked for, and itself left out
    similar, places = nearest(x, queries[rows], k + (bank is None))
    found = [
        [(value, at) for value, at in zip(v, p, strict=True) if bank is not None or at != row][:k]
        for row, v, p in zip(rows, similar.tolist(), places.tolist(), strict=True)
    ]
    field = network.preprocess.field
    mine = _drawn(source, {asked[row] for row in rows}, field)
    theirs = _drawn(among, {known[at] for hits in found for _, at in hits}, field)
    drawn = [[mine[asked[row]], *(theirs[known[at]] for _, at in hits)] for row, hits in zip(rows, found, strict=True)]
    titles = [
        [asked[row][1], *(_title(value, known[at][1], network.modality) for value, at in hits)]
        for row, hits in zip(rows, found, strict=True)
    ]
    yield "neighbors", tiles(drawn, titles=titles)


def _title(similarity: float, name: str, modality: str) -> str:
    """Returns what stands above a neighbour: of a long name the end."""
    return f"{similarity:.2f} {fitted(name, (LINE if modality == 'text' else SIDE) - FIGURE)}"


def embedded(encoder: Encoder, source: Source, space: str | None) -> tuple[Tensor, list[Place]]:
    """Returns features (N, D) of every whole sample, and where each stands: shard, key, number."""
    x, about = embed_stream({encoder.modality: encoder}, source, [encoder.modality], space=space)
    return x[encoder.modality], [_place(one) for one in about]


def _place(about: Any) -> Place:
    return str(about["__shard__"]), str(about["__key__"]), int(about["__number__"])


def _drawn(source: Source, places: set[Place], field: str) -> dict[Place, Pixels]:
    """Opens and draws the samples at some places."""
    found: dict[Place, Pixels] = {}
    for entry in source.share(0, 1):
        place = (entry.shard, entry.key, entry.number)
        if place in places:
            raw = source.open(entry, {field})[field]
            found[place] = drawn_item(field, raw, side=SIDE, line=LINE)
    return found
