"""The embedding in two dimensions, by PCA, t-SNE or UMAP: a dot for each sample, coloured by its label if any."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mmssl.data.subset import limited
from mmssl.errors import DamagedError, UserError
from mmssl.evals.parts.classes import Label, class_of
from mmssl.evals.parts.source import open_source
from mmssl.evals.parts.stream import embed_stream
from mmssl.plots.canvas import DISTINCT
from mmssl.plots.pca import principal
from mmssl.plots.samples import has, reader_of
from mmssl.types import Trained

Way = Literal["pca", "tsne", "umap"]
TITLES = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}
MARKS = "os^D"  # by which more classes than there are colours are told apart
REST = "#BBBBBB"


def plot(
    trained: Trained,
    *,
    data: dict[str, Any],
    way: Way = "pca",
    count: int = 2000,
    encoder: str | None = None,
    space: str | None = None,
    label: str | None = None,
    perplexity: float = 30.0,
    neighbors: int = 15,
    seed: int = 0,
) -> Iterator[tuple[str, Image.Image]]:
    """Draws a dot for each sample where two numbers made of its features, scaled to length 1, put it.

    data: shards, or a folder of own files, whose folders are the labels (`mmssl explain data`); of any modality.
    way: the first two principal components; t-SNE (van der Maaten & Hinton, JMLR 2008), by scikit-learn; or UMAP
        (McInnes et al., 2018), by umap-learn.
    count: samples at most, drawn from a fixed seed.
    encoder: its key, by default the only one.
    space: the task whose embedding is used, null for pooled features.
    label: the sample's key that colours it, by default `label` where the data has it.
    perplexity: of t-SNE, about how many neighbours of each count.
    neighbors: of UMAP, how many of each count.
    seed: of t-SNE and UMAP.
    """
    _library(way)
    source = open_source(data)
    network = reader_of(trained, encoder, source, space=space)
    if label is not None:
        source.check({label})
    key = label or ("label" if has(source, "label") else None)
    own = network.modality
    x, about = embed_stream({own: network}, limited(source, count), [own], space=space, keep=[key] if key else [])
    features = torch.nn.functional.normalize(x[own], dim=1)
    flat = in_two(features, way, perplexity=perplexity, neighbors=neighbors, seed=seed)
    labels = [_label(one[key]) for one in about] if key else None
    yield f"embedding-{way}", _drawn(flat, labels, f"{TITLES[way]} of {len(flat)} samples")


def in_two(features: Tensor, way: Way, *, perplexity: float, neighbors: int, seed: int) -> NDArray[np.floating]:
    """Puts features (N, D) in two dimensions: (N, 2). UserError for too few, and where a library is not installed."""
    count = len(features)
    if count < 3 or (way == "tsne" and perplexity >= count):
        raise UserError(f"there are {count} samples; {TITLES[way]} needs more{' than its perplexity' * (count > 2)}")
    if way == "pca":
        return principal(features, 2).numpy()
    if way == "tsne":
        made = _library(way).TSNE(2, perplexity=perplexity, init="pca", random_state=seed)
    else:
        made = _library(way).UMAP(n_neighbors=min(neighbors, count - 1), random_state=seed, n_jobs=1)
    return np.asarray(made.fit_transform(features.numpy()))


def _library(way: Way) -> Any:
    """Returns what makes the two numbers, None of PCA; UserError where it is not installed."""
    try:
        if way == "tsne":
            import sklearn.manifold as library
        elif way == "umap":
            import umap as library
        else:
            return None
    except ModuleNotFoundError as error:
        name = {"sklearn": "scikit-learn", "umap": "umap-learn"}.get(str(error.name).partition(".")[0], error.name)
        raise UserError(f"{TITLES[way]} needs {name}: pip install 'mmssl[plots]'; way=pca needs nothing") from None
    return library


def _label(value: Any) -> Label | None:
    """Returns a label, None where there is no usable one."""
    try:
        return class_of(value)
    except DamagedError:
        return None


def styles(labels: Sequence[Label | None]) -> dict[Label | None, tuple[str, str]]:
    """Returns the colour and mark of each label that is told apart, sorted: of the most frequent, 32 at most."""
    known = Counter(label for label in labels if label is not None)
    shown = sorted((label for label, _ in known.most_common(len(DISTINCT) * len(MARKS))), key=_order)
    return {
        label: (DISTINCT[place % len(DISTINCT)], MARKS[place // len(DISTINCT)]) for place, label in enumerate(shown)
    }


def _order(label: Label) -> tuple[bool, int, str]:
    return (True, 0, label) if isinstance(label, str) else (False, label, "")


def _drawn(flat: NDArray[np.floating], labels: Sequence[Label | None] | None, title: str) -> Image.Image:
    """Draws dots (N, 2), with a legend where they have labels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 7), dpi=110, layout="constrained")
    axes = figure.add_subplot(title=title, xticks=[], yticks=[])
    size = float(np.clip(30_000 / len(flat), 6, 50))
    known = styles(labels or [])
    rest = np.array([label not in known for label in labels or [None] * len(flat)])
    color = REST if labels else DISTINCT[0]
    axes.scatter(*flat[rest].T, s=size, c=color, linewidths=0, label="others" if labels and rest.any() else None)
    for label, (color, mark) in known.items():
        mine = np.array([one == label for one in labels or []])
        axes.scatter(*flat[mine].T, s=size, c=color, marker=mark, linewidths=0, label=f"{label} ({mine.sum()})")
    if labels:
        columns = 1 + (len(known) > 20)
        figure.legend(
            loc="outside right upper", ncols=columns, fontsize=8, frameon=False, markerscale=(40 / size) ** 0.5
        )
    png = io.BytesIO()
    FigureCanvasAgg(figure).print_png(png)
    return Image.open(png).convert("RGB")
