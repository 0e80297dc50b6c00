"""An encoder read at several places at once: its pooled features, tasks' embeddings, and layers inside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmssl.errors import UserError, did_you_mean
from mmssl.nn.inside import outputs
from mmssl.types import Encoder, Features, Ragged

POOLED = "pooled"


class Tapped(Encoder):
    """Embeds by what an encoder gives at each of some places, side by side: (B, the sum of `sizes`).

    places: "pooled", a task's space, or the name of a submodule, such as blocks.2, whose output is averaged over its
    grid: maps have channels second, tokens last, and points are packed. A class token in front does not count.
    """

    def __init__(self, encoder: Encoder, places: Sequence[str]) -> None:
        super().__init__()
        self.inner, self.places = encoder, tuple(places)
        self.modality, self.preprocess = encoder.modality, encoder.preprocess
        for name in self.places:
            require_place(encoder, name)
        self.sizes = [encoder.dim] if self.places == (POOLED,) else self._measured()
        self.dim = sum(self.sizes)

    @property
    def device(self) -> torch.device:
        """The device of the encoder."""
        return self.inner.device

    @torch.inference_mode()
    def _measured(self) -> list[int]:
        blank = self.preprocess.collate([self.preprocess.blank()]).to(self.device)
        return [part.shape[1] for part in self.parts(blank)]

    def embed(self, x: Any, *, space: str | None = None) -> Tensor:
        return torch.cat([part.float() for part in self.parts(x)], dim=1)

    def parts(self, x: Any) -> list[Tensor]:
        """Returns (B, D) of each place."""
        names = [name for name in self.places if name != POOLED and name not in self.inner.spaces]
        features, caught = outputs(self.inner, x, names)
        ready = {POOLED: features.pooled, **{name: averaged(caught[name], x, features, self.inner) for name in names}}
        return [ready[name] if name in ready else self.inner.spaces[name](features) for name in self.places]


def has(encoder: Encoder, place: str) -> bool:
    """Tells whether an encoder can be read at a place."""
    return place == POOLED or place in encoder.spaces or (place != "" and place in dict(encoder.named_modules()))


def require_place(encoder: Encoder, place: str) -> None:
    """Raises UserError where an encoder cannot be read at a place."""
    if not has(encoder, place):
        known = [POOLED, *encoder.spaces, *filter(None, dict(encoder.named_modules()))]
        raise UserError(f"this {encoder.modality} encoder has no layer {place!r}; {did_you_mean(place, known)}")


def averaged(out: Any, x: Any, features: Features, encoder: Encoder) -> Tensor:
    """Returns what a layer put out, one vector for each sample (B, D)."""
    if isinstance(out, Features):
        return out.pooled
    out = out[0] if isinstance(out, tuple | list) else out
    rows = len(features.pooled)
    if not isinstance(out, Tensor) or out.ndim < 2:
        raise UserError(
            f"a layer gives {type(out).__name__}, which has no average; choose one that gives maps or tokens"
        )
    if isinstance(x, Ragged) and not x.padded and len(out) == len(x.values):
        return out.new_zeros(rows, out.shape[1]).index_add_(0, x.sample, out) / x.lengths.clamp(min=1)[:, None]
    if out.ndim >= 4:
        last = getattr(getattr(encoder, "model", None), "output_fmt", "NCHW") == "NHWC"  # timm's windowed transformers
        out = out.flatten(1, -2).mean(1) if last else out.flatten(2).mean(2)
    elif out.ndim == 3:
        out = _tokens(out, features)
    if len(out) % rows:
        raise UserError(f"a layer gives {len(out)} rows for {rows} samples, which has no average; choose another")
    return out.unflatten(0, (rows, -1)).mean(1)  # an encoder of frames sees each of a video by itself


def _tokens(out: Tensor, features: Features) -> Tensor:
    """Averages tokens (B, N, D) without the class token and registers in front, and without padding."""
    count = 0 if features.tokens is None else features.tokens.shape[-2]
    if features.lengths is not None and out.shape[1] == count and len(out) == len(features.lengths):
        real = torch.arange(count, device=out.device) < features.lengths[:, None]  # (B, N)
        return (out * real[..., None]).sum(1) / real.sum(1, keepdim=True)
    front = out.shape[1] - count if features.tokens is not None and features.tokens.ndim == 3 else 0
    return out[:, front:].mean(1) if 0 < front <= 16 else out.mean(1)
