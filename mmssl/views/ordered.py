"""Frames of a clip about whose order a task asks, with what keeps shortcuts away."""

from __future__ import annotations

from typing import Any

from mmssl.transforms.base import step_name
from mmssl.transforms.frames import Level, SplitChannels
from mmssl.transforms.image import Flip
from mmssl.transforms.ordered import OrderedFrames
from mmssl.views.template import Views


def ordered(task: OrderedFrames) -> Views:
    """Returns a task's views; all frames of a clip are mirrored, or none."""
    own: dict[str, Any] = {name: {"video": {step_name(type(task)): down}} for name, down in task.guards.items()}
    guards = {"channel_splitting": {"video": {"split_channels": None}}, "level": {"video": {"level": None}}, **own}
    return Views(1, guards=guards, video=[task, Flip(), SplitChannels(), Level()])
