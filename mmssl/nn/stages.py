"""The maps of an image encoder at several scales: the last of each size on the way to its features."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn

from mmssl.errors import UserError
from mmssl.types import Encoder, Features, evaluating

Size = tuple[int, int]
Call = tuple[
    Size | None, Size | None, bool
]  # height and width of what went in and came out, and whether that is tokens


class Stages:
    """Reads an encoder's maps in the pass that makes its features, with gradients.

    They are what its parts put out just before the map shrinks, and last the features' own cells: stages 2 to 5 of a
    ResNet (He et al., CVPR 2016), all four of Swin and ConvNeXt, one map of a ViT. The encoder is not kept: a copy of
    it, such as a teacher, is read by the same object.

    encoder: of images.
    finest: pixels between the cells of the finest map that is wanted; finer ones are left out, unless they are last.
    channels: of each map, finest first.
    strides: pixels between the cells of each map.
    Raises UserError for an encoder that reads no images, or gives no map.
    """

    def __init__(self, encoder: Encoder, *, finest: int = 4) -> None:
        if encoder.modality != "image":
            raise UserError(f"stages are read from encoders of images; this one reads {encoder.modality}")
        self.names: list[str] = []
        with torch.no_grad(), evaluating(encoder):
            blank = encoder.preprocess.collate([encoder.preprocess.blank()] * 2).to(encoder.device)
            names = _names(encoder, blank)
            self.names = list(names)
            _, maps = self(encoder, blank)
        heights = [blank.shape[2], *(found.shape[2] for found in maps)]
        # Step by step, as sides that do not divide are rounded up at each.
        strides = list(accumulate((round(a / b) for a, b in pairwise(heights)), operator.mul))
        kept = [number for number, stride in enumerate(strides) if stride >= finest] or [len(maps) - 1]
        self.names = self.names[kept[0] :]
        self.strides, self.channels = [strides[n] for n in kept], [maps[n].shape[1] for n in kept]

    def __call__(self, encoder: Encoder, x: Tensor) -> tuple[Features, list[Tensor]]:
        """Returns the features of images, and the maps (B, C, H, W), finest first."""
        modules, caught = dict(encoder.named_modules()), dict[str, Tensor]()
        hooks = [
            modules[name].register_forward_hook(lambda _, __, out, name=name: caught.__setitem__(name, out))
            for name in self.names
        ]
        try:
            # A compiled call would not stop at hooks inside it.
            features: Features = encoder.forward(x) if hooks else encoder(x)
        finally:
            for hook in hooks:
                hook.remove()
        maps = [_channels_second(encoder, modules[name], caught[name]) for name in self.names]
        if features.tokens is not None and features.grid is not None:
            maps.append(features.tokens.mT.unflatten(2, features.grid))
        return features, maps


def _names(encoder: Encoder, x: Tensor) -> Iterator[str]:
    """Yields which part puts out the last map of each size, finest first; that of the features' own cells is none."""
    calls, features = _calls(encoder, x)
    last: dict[Size, str] = {}
    for name in _along(encoder, "", calls):
        size = calls[name][1]
        if size is not None and _shrunk(tuple(x.shape[2:]), size):
            last[size] = name
    height = 1 if features.tokens is None or features.grid is None else features.grid[0]
    names = [last[size] for size in sorted(last, reverse=True) if size[0] > height]
    if features.grid is None and (features.tokens is not None or not names):
        raise UserError("this image encoder gives no map; choose one whose tokens lie on a grid, such as convnet")
    yield from names


def _calls(encoder: Encoder, x: Tensor) -> tuple[dict[str, Call], Features]:
    """Returns what went through each part of an encoder, in the order in which they were done."""
    calls: dict[str, Call] = {}

    def note(name: str, module: nn.Module, given: tuple[Any, ...], out: Any) -> None:
        calls.pop(name, None)
        before, after = (_size(encoder, module, value, len(x)) for value in (given[0] if given else None, out))
        calls[name] = before, after, isinstance(out, Tensor) and after is None

    hooks = [
        module.register_forward_hook(lambda module, given, out, name=name: note(name, module, given, out))
        for name, module in encoder.named_modules()
        if name
    ]
    try:
        return calls, encoder.forward(x)
    finally:
        for hook in hooks:
            hook.remove()


def _along(module: nn.Module, name: str, calls: dict[str, Call]) -> Iterator[str]:
    """Yields the parts along which maps shrink: not those inside what shrinks them once only."""
    given, out, is_tokens = calls.get(name, (None, None, False))
    whole = is_tokens or (given is not None and out is not None and given[0] < 3 * out[0])
    if not whole:
        inner = [(f"{name}.{key}" if name else key, child) for key, child in module.named_children()]
        found = {part for key, child in inner for part in _along(child, key, calls)}
        yield from (part for part in calls if part in found)
    if name in calls:
        yield name


def _size(encoder: Encoder, module: nn.Module, value: Any, samples: int) -> Size | None:
    if not isinstance(value, Tensor) or value.ndim != 4 or len(value) != samples:
        return None
    height, width = _channels_second(encoder, module, value).shape[2:]
    return height, width


def _shrunk(shown: tuple[int, ...], size: Size) -> bool:
    """Tells whether a size is that of an image, shrunk on both sides alike."""
    return all(inner < outer for inner, outer in zip(size, shown, strict=True)) and (
        round(shown[0] / size[0]) == round(shown[1] / size[1])
    )


def _channels_second(encoder: Encoder, module: nn.Module, out: Tensor) -> Tensor:
    """Returns (B, C, H, W) of what a part puts out; in timm's windowed transformers channels are last."""
    last = getattr(getattr(encoder, "model", None), "output_fmt", "NCHW") == "NHWC"
    return out.permute(0, 3, 1, 2) if last and not isinstance(module, nn.Conv2d | nn.BatchNorm2d) else out
