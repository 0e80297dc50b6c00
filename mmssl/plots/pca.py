"""Clouds coloured by their points' features: alike colours are alike features."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mmssl.evals.parts.descriptors import encoded
from mmssl.evals.parts.needs import require_encoder
from mmssl.evals.parts.report import no_samples_error, require
from mmssl.evals.parts.source import open_source
from mmssl.modalities import points as clouds
from mmssl.plots.canvas import tiles
from mmssl.plots.samples import prepared
from mmssl.plots.scatter import dots, look_down, on_canvas
from mmssl.transforms.pairs import move, pose_at
from mmssl.transforms.points import centred, grid_index
from mmssl.types import Sample, Trained, evaluating


def plot(
    trained: Trained,
    *,
    data: dict[str, Any],
    count: int = 6,
    encoder: str = "points",
    space: str | None = None,
    pose: str | None = None,
    voxel: float = 0.025,
    up: Literal["-y", "z"] = "-y",
    side: int = 360,
) -> Iterator[tuple[str, Image.Image]]:
    """Yields one image of clouds, each point in the colour of its features' first three principal components.

    The components are those of all the clouds together.

    data: shards, and how they are read (`mmssl explain data`); with clouds.
    count: clouds.
    encoder: its key.
    space: the task whose embedding of points is used, null for the tokens.
    pose: where in `meta` a camera-to-world matrix stands, by which each cloud is brought upright before it is encoded,
        for networks that know no other way.
    voxel: in metres, of which one point is kept.
    up: which way clouds stand, "-y" as cameras have them.
    side: of each tile, in pixels.
    """
    network = require_encoder(trained, encoder, space=space, modalities=("points",))
    wanted = {"points", *(["meta"] if pose else [])}
    shown = list(islice(prepared(open_source(data), wanted, partial(_cloud, voxel=voxel, pose=pose)), count))
    if not shown:
        raise no_samples_error("the data has no whole cloud")
    with evaluating(network):
        features = [encoded(network, centred(upright), space=space) for _, upright in shown]
    colors = np.split(principal_colors(torch.cat(features)), np.cumsum([len(cloud) for cloud, _ in shown])[:-1])
    row = []
    for (cloud, _), part in zip(shown, colors, strict=True):
        seen = look_down(cloud.xyz if up == "-y" else cloud.xyz[:, [0, 2, 1]] * (1, -1, 1))
        row.append(dots(on_canvas(seen, side), seen[:, 2], part, side))
    yield "pca", tiles([row[start : start + 3] for start in range(0, len(row), 3)])


def _cloud(sample: Sample, *, voxel: float, pose: str | None) -> tuple[clouds.Cloud, clouds.Cloud]:
    """Returns a thinned cloud, and as it is brought upright."""
    cloud = clouds.load(*require(sample, "points"))
    cloud = cloud.pick(grid_index(cloud, voxel))
    return cloud, move(cloud, pose_at(sample.get("meta"), pose)) if pose else cloud


def principal_colors(features: Tensor) -> NDArray[np.uint8]:
    """Returns the first three principal components of (N, D) as colours (N, 3), stretched over all but the 2% ends."""
    centred = features - features.mean(dim=0)
    parts = centred @ torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -3:].flip(1)
    low, high = parts.quantile(torch.tensor([0.02, 0.98]), dim=0)
    unit = ((parts - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)
    return (unit * 255).round().to(torch.uint8).numpy()
