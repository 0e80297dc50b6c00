"""Cells of images, or points of clouds, in the colours of their features: alike colours are alike features."""

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

from mmssl.data.shards import Source
from mmssl.evals.parts.descriptors import encoded
from mmssl.evals.parts.report import no_samples_error, require
from mmssl.evals.parts.source import open_source
from mmssl.modalities import points as clouds
from mmssl.nn.head import embed_cells
from mmssl.plots.canvas import Pixels, scaled, tiles
from mmssl.plots.samples import SEEING, in_picture, prepared, reader_of, seen
from mmssl.plots.scatter import dots, look_down, on_canvas
from mmssl.transforms.pairs import move, pose_at
from mmssl.transforms.points import centred, grid_index
from mmssl.types import Encoder, Sample, Trained, evaluating

COLUMNS = {"points": 3, "image": 6, "video": 6}  # of tiles


def plot(
    trained: Trained,
    *,
    data: dict[str, Any],
    count: int = 6,
    encoder: str | None = None,
    space: str | None = None,
    foreground: bool = False,
    pose: str | None = None,
    voxel: float = 0.025,
    up: Literal["-y", "z"] = "-y",
    side: int | None = None,
) -> Iterator[tuple[str, Image.Image]]:
    """Yields one image, each cell or point in the colour of its features' first three principal components.

    The components are those of all the images or clouds together.

    data: shards, or a folder of own files (`mmssl explain data`); with images, videos or clouds.
    count: images, clouds, or videos, of which the middle is drawn.
    encoder: its key, by default the only one of images, videos or points.
    space: the task whose embedding of cells or points is used, null for the tokens.
    foreground: whether cells are first parted by their first component, and those of the side that touches the border
        of the images more are black, as DINOv2 has it (Oquab et al., TMLR 2024); not of clouds.
    pose: of clouds, where in `meta` a camera-to-world matrix stands, by which each is brought upright before it is
        encoded, for networks that know no other way.
    voxel: of clouds, in metres, of which one point is kept.
    up: which way clouds stand, "-y" as cameras have them.
    side: of each tile in pixels, by default 160, and 360 of clouds.
    """
    source = open_source(data)
    network = reader_of(trained, encoder, source, space=space, modalities=(*SEEING, "points"))
    with evaluating(network):
        if network.modality == "points":
            drawn = _clouds(network, source, count, space, pose=pose, voxel=voxel, up=up, side=side or 360)
            rows, titles = [drawn], None
        else:
            pictures, names, cells = _cells(network, source, count, space, foreground=foreground, side=side or 160)
            rows, titles = [pictures, cells], [names, ["its cells"] * len(names)]
    step = COLUMNS[network.modality]
    parts = [slice(start, start + step) for start in range(0, len(rows[0]), step)]
    below = None if titles is None else [row[part] for part in parts for row in titles]
    yield "pca", tiles([row[part] for part in parts for row in rows], titles=below)


def _cells(
    network: Encoder, source: Source, count: int, space: str | None, *, foreground: bool, side: int
) -> tuple[list[Pixels], list[str], list[Pixels]]:
    """Returns images, what they are called, and their cells in colours."""
    head, shown = None if space is None else network.spaces[space], seen(network, source, count=count)
    cells = []
    with torch.inference_mode():
        for one in shown:
            found, grid = embed_cells(network(one.x[None].to(network.device)), head)
            cells.append(in_picture(found[0], grid).float().cpu())
    every = torch.stack(cells)  # (B, H, W, D)
    front = in_front(every) if foreground else torch.ones(every.shape[:3], dtype=torch.bool)
    colors = np.zeros((*every.shape[:3], 3), np.uint8)
    colors[front.numpy()] = principal_colors(every[front])
    pictures = [scaled(one.picture(grid), side) for one in shown]
    sizes = [picture.shape[1::-1] for picture in pictures]
    painted = [
        np.asarray(Image.fromarray(c).resize(size, Image.Resampling.NEAREST))
        for c, size in zip(colors, sizes, strict=True)
    ]
    return pictures, [one.name for one in shown], painted


def in_front(cells: Tensor) -> Tensor:
    """Parts cells (B, H, W, D) by the sign of their first principal component: (B, H, W), true on the side of which
    the smaller share lies at the border.
    """
    flat = cells.flatten(0, 2)
    positive = (principal(flat, 1)[:, 0] > 0).view(cells.shape[:3])
    border = torch.ones(cells.shape[:3], dtype=torch.bool)
    border[:, 1:-1, 1:-1] = False
    shares = [(border & side).sum() / side.sum().clamp(min=1) for side in (positive, ~positive)]
    return positive if shares[0] <= shares[1] else ~positive


def _clouds(
    network: Encoder,
    source: Source,
    count: int,
    space: str | None,
    *,
    pose: str | None,
    voxel: float,
    up: Literal["-y", "z"],
    side: int,
) -> list[Pixels]:
    """Returns a tile for each cloud."""
    wanted = {"points", *(["meta"] if pose else [])}
    shown = list(islice(prepared(source, wanted, partial(_cloud, voxel=voxel, pose=pose)), count))
    if not shown:
        raise no_samples_error("the data has no whole cloud")
    features = [encoded(network, centred(upright), space=space) for _, upright in shown]
    colors = np.split(principal_colors(torch.cat(features)), np.cumsum([len(cloud) for cloud, _ in shown])[:-1])
    row = []
    for (cloud, _), part in zip(shown, colors, strict=True):
        seen_by = look_down(cloud.xyz if up == "-y" else cloud.xyz[:, [0, 2, 1]] * (1, -1, 1))
        row.append(dots(on_canvas(seen_by, side), seen_by[:, 2], part, side))
    return row


def _cloud(sample: Sample, *, voxel: float, pose: str | None) -> tuple[clouds.Cloud, clouds.Cloud]:
    """Returns a thinned cloud, and as it is brought upright."""
    cloud = clouds.load(*require(sample, "points"))
    cloud = cloud.pick(grid_index(cloud, voxel))
    return cloud, move(cloud, pose_at(sample.get("meta"), pose)) if pose else cloud


def principal(features: Tensor, count: int) -> Tensor:
    """Returns the first principal components of features (N, D), centred: (N, count); zeros where D has fewer."""
    centred = features - features.mean(dim=0)
    axes = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -count:].flip(1)
    return torch.nn.functional.pad(centred @ axes, (0, count - axes.shape[1]))


def principal_colors(features: Tensor) -> NDArray[np.uint8]:
    """Returns the first three principal components of (N, D) as colours (N, 3), stretched over all but the 2% ends."""
    parts = principal(features, 3)
    low, high = parts.quantile(torch.tensor([0.02, 0.98]), dim=0)
    unit = ((parts - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)
    return (unit * 255).round().to(torch.uint8).numpy()
