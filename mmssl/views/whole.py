"""Views of whole images that are held in memory: drawn, cut and mirrored on the device, a batch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmssl.errors import UserError
from mmssl.transforms.base import Frame, Frames, Geometric, OnDevice, step_name
from mmssl.transforms.image import Crop
from mmssl.transforms.resample import resampled
from mmssl.types import Batch
from mmssl.views.checks import Steps


def check_whole(keys: Sequence[str], modality: str, made: Sequence[str], views: Sequence[Steps]) -> None:
    """Raises UserError where views need more than whole images and steps that draw for a batch of them.

    keys: what is shown, and the first one's modality. made: fields that move with it. views: the steps of each.
    """
    if len(keys) > 1 or modality != "image":
        raise UserError(f"in_memory keeps images alone, and the task shows {', '.join(keys)}; leave it out")
    if made:
        raise UserError(f"in_memory moves nothing with images, and the view has {', '.join(made)}; leave it out")
    for step in (step for steps in views for step in steps if not isinstance(step, OnDevice)):
        if not (isinstance(step, Geometric) and step.draws_batches()):
            name = step_name(type(step))
            raise UserError(f"in_memory: {name} draws for one image at a time; give it draw_each, or leave it out")


def is_cropped(steps: Steps) -> bool:
    """Tells whether a random part of an image or video is cut out."""
    return any(isinstance(step, Crop) for step in steps)


def first_frame(prepare: Any, steps: Steps, side: int, width: int, height: int) -> Frame:
    """Returns what is shown before any step draws: all of a source where there is a crop, what is judged where not."""
    frame = Frame(width, height, 0) if is_cropped(steps) else prepare.frame(width, height)
    frame.size = side
    return frame


def cut(batch: Batch, key: str, prepare: Any, views: Sequence[Steps], sides: Sequence[int]) -> Batch:
    """Returns the views of a batch that shows whole images uint8 (B, 3, H, W), and their places.

    views: the steps of each. sides: of each, in pixels.
    """
    (whole,) = batch.views[key]
    batch.views[key], batch.places[key] = [], []
    for steps, side in zip(views, sides, strict=True):
        frame = first_frame(prepare, steps, side, whole.shape[3], whole.shape[2])
        frames = Frames.like(frame, len(whole), whole.device)
        for step in steps:
            if isinstance(step, Geometric):
                step.draw_each(frames)
        how = {"interpolation": prepare.interpolation, "within": is_cropped(steps)}
        batch.views[key].append(resampled(whole, frames.place, side, **how))
        batch.places[key].append(frames.place)
    return batch
