"""Propagated masks: a clip's first mask carried through its frames, beside the truth, as an image and an animation."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from PIL import Image

from mmssl.evals.parts.annotated import VOID, Annotated, annotated
from mmssl.evals.parts.needs import require_encoder
from mmssl.evals.parts.propagation import carried, cells_of
from mmssl.evals.parts.report import no_samples_error, require
from mmssl.evals.parts.source import open_source
from mmssl.evals.propagate import SEEING, side
from mmssl.plots.canvas import Pixels, blend, label_colors, scaled, tiles
from mmssl.plots.samples import prepared
from mmssl.types import Sample, Trained, evaluating

SIDE = 160  # of one frame, in pixels


def plot(
    trained: Trained,
    *,
    data: dict[str, Any],
    count: int = 6,
    encoder: str = "video",
    space: str | None = None,
    size: int | None = None,
    window: int = 1,
    grayscale: bool = False,
    columns: int = 6,
) -> Iterator[tuple[str, Image.Image | list[Image.Image]]]:
    """Yields of each of the first clips with masks a sheet of frames, and the frames of an animation.

    Above the propagated mask, below the true one.

    data: shards, and how they are read (`mmssl explain data`); with clips and masks.
    count: clips.
    encoder: key of the one that is drawn, of videos or images.
    space: the task whose head the cells go through, null for the encoder's own.
    size: pixels of the frames' shorter side, the encoder's own by default.
    window: frames that a video encoder sees at a time.
    grayscale: hides the colour, which tasks such as colour tracking never saw.
    columns: frames of a sheet.
    """
    network, drawn = require_encoder(trained, encoder, space=space, modalities=SEEING), 0
    make = partial(_clip, size=side(network, size))
    clips = filter(_has_objects, prepared(open_source(data), {"video", "masks", "meta"}, make))
    for drawn, clip in enumerate(islice(clips, count), 1):
        with evaluating(network):
            cells = cells_of(network, clip.frames, space=space, window=window, grayscale=grayscale).cpu()
        rows = _painted(clip, cells)
        shown = np.linspace(0, len(rows[0]) - 1, min(columns, len(rows[0]))).round().astype(int)
        titles = [[f"{name} {i}" for i in shown] for name in ("carried", "true")]
        name = f"propagate-{drawn - 1:02d}"
        yield name, tiles([[row[i] for i in shown] for row in rows], titles=titles)
        yield f"{name}-film", [tiles([pair]) for pair in zip(*rows, strict=True)]
    if not drawn:
        raise no_samples_error("the data has no video with masks")


def _clip(sample: Sample, *, size: int | None) -> Annotated:
    require(sample, "video")
    return annotated(sample, size=size)


def _has_objects(clip: Annotated) -> bool:
    """Tells whether there is anything to carry from the first frame."""
    return clip.masks is not None and bool(((clip.masks[0] > 0) & (clip.masks[0] != VOID)).any())


def _painted(clip: Annotated, cells: torch.Tensor) -> tuple[list[Pixels], list[Pixels]]:
    """Returns every frame under the carried mask, and under the true one."""
    assert clip.masks is not None
    masks = clip.masks.where(clip.masks != VOID, 0)
    frames = [scaled(frame.permute(1, 2, 0).numpy(), SIDE) for frame in clip.frames]
    return _under(frames, carried(cells, masks[0])), _under(frames, masks)


def _under(frames: list[Pixels], masks: torch.Tensor) -> list[Pixels]:
    """Lays masks (T, h, w) over frames of another size."""
    found = []
    for frame, mask in zip(frames, masks.numpy(), strict=True):
        sized = Image.fromarray(mask.astype(np.uint8)).resize(frame.shape[1::-1], Image.Resampling.NEAREST)
        labels = np.asarray(sized)
        found.append(blend(frame, label_colors(labels), opacity=0.6, where=labels > 0))
    return found
