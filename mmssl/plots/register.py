"""Two scans of a scene side by side, lines between matched points: right ones green, wrong ones red."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from mmssl.evals.parts.descriptors import encoded
from mmssl.evals.parts.needs import require_encoder
from mmssl.evals.parts.report import no_samples_error
from mmssl.evals.parts.source import open_source
from mmssl.plots.canvas import Pixels, tiles
from mmssl.plots.samples import prepared
from mmssl.plots.scatter import dots, look_down, on_canvas
from mmssl.transforms.pairs import POSES, Scan, fixed_scans, move, nearest_features, posed_pair, right_pairs
from mmssl.types import Sample, Trained, evaluating

RIGHT, WRONG, GREY = (40, 160, 60), (215, 60, 50), 150


def plot(
    trained: Trained,
    *,
    data: dict[str, Any],
    count: int = 6,
    encoder: str = "points",
    space: str | None = None,
    poses: tuple[str, str] | None = POSES,
    voxel: float = 0.05,
    rotation: Literal["none", "vertical", "any"] = "any",
    threshold: float = 0.1,
    lines: int = 60,
    side: int = 420,
) -> Iterator[tuple[str, Image.Image]]:
    """Yields an image for each pair of clouds, with lines between matches.

    data: shards, and how they are read (`mmssl explain data`); with posed pairs of clouds.
    count: pairs.
    encoder: its key.
    space: the task whose embedding of points is used, null for the tokens.
    poses: where in `meta` the camera-to-world matrices of both clouds stand; null for clouds in one frame.
    voxel: in metres, of which one point is kept.
    rotation: how each cloud is turned about its mean before it is encoded.
    threshold: metres within which a match is right.
    lines: how many of the matches that are nearest both ways are drawn, the same share of right ones as among all.
    side: of each cloud's image, in pixels.
    """
    network, shown = require_encoder(trained, encoder, space=space, modalities=("points",)), 0
    wanted = {"points", "points_b", *(["meta"] if poses else [])}
    pairs = prepared(open_source(data), wanted, partial(_pair, poses=poses, voxel=voxel, rotation=rotation))
    for shown, (scans, camera) in enumerate(islice(pairs, count), 1):
        with evaluating(network):
            one, two = (encoded(network, scan.cloud, space=space) for scan in scans)
        matches = nearest_features(one, two, mutual=True)
        right = right_pairs(matches, scans[0].place, scans[1].place, threshold)
        seen = [look_down(move(replace(s.cloud, xyz=s.place), camera).xyz) for s in scans]
        yield f"register_{shown - 1}", drawn(seen, matches.numpy(), right, lines=lines, side=side)
    if not shown:
        raise no_samples_error("the data has no whole pair of clouds")


def _pair(
    sample: Sample, *, poses: tuple[str, str] | None, voxel: float, rotation: Literal["none", "vertical", "any"]
) -> tuple[tuple[Scan, Scan], NDArray[np.floating]]:
    """Returns two scans, and what takes their common frame to that of the first camera."""
    scans = fixed_scans(sample, poses=poses, voxel=voxel, points=5000, rotation=rotation)
    return scans, np.linalg.inv(posed_pair(sample, poses)[0][1])


def drawn(
    seen: list[NDArray[np.floating]], pairs: NDArray[np.integer], right: NDArray[np.bool_], *, lines: int, side: int
) -> Image.Image:
    """Lays two clouds (N, 3), as a camera has them, side by side with lines for evenly chosen matches (M, 2)."""
    pixels = [on_canvas(points, side) for points in seen]
    both = np.concatenate([shaded(p, s, side) for p, s in zip(pixels, seen, strict=True)], axis=1)
    canvas = Image.fromarray(both)
    pen = ImageDraw.Draw(canvas)
    order = np.argsort(right, kind="stable")  # the right ones are drawn last
    for chosen in order[np.linspace(0, len(order) - 1, min(lines, len(order))).astype(int)]:
        start, end = pixels[0][pairs[chosen, 0]], pixels[1][pairs[chosen, 1]] + (side, 0)
        pen.line([*start, *end], fill=RIGHT if right[chosen] else WRONG)
    title = f"{right.mean() if len(right) else 0:.0%} of {len(right)} mutual matches are right"
    return tiles([[np.asarray(canvas)]], titles=[[title]])


def shaded(pixels: NDArray[np.floating], seen: NDArray[np.floating], side: int) -> Pixels:
    """Draws a cloud in greys, what is far paler."""
    depth = (seen[:, 2] - seen[:, 2].min()) / max(float(np.ptp(seen[:, 2])), 1e-6)
    grey = (60 + depth * GREY).astype(np.uint8)
    return dots(pixels, seen[:, 2], np.repeat(grey[:, None], 3, axis=1), side)
