"""Asking something trained how well image and sound match: as a whole, and in every cell of the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.evals.parts.needs import require_encoder
from mmssl.nn.head import similarity_map
from mmssl.types import Encoder, Features, Head, Trained


class Comparer:
    """Compares by a task's own `log_odds` and `similarity_map`; without them, in its joint space.

    visual: the encoder that sees, image or video. yes_no: whether above 0 means yes. joint: whether there is a joint
    space; where not (L3-Net's task), embeddings are the encoders' own features.
    """

    def __init__(self, trained: Trained, task: str) -> None:
        objective: Any = trained.tasks[task].objective if task in trained.tasks else None
        self.log_odds, self.own_map = getattr(objective, "log_odds", None), getattr(objective, "similarity_map", None)
        self.visual: str = getattr(objective, "visual", "") or _visual(trained, task)
        self.reads = (self.visual, "audio")
        self.encoders: dict[str, Encoder] = {name: require_encoder(trained, name) for name in self.reads}
        self.preprocess = {name: encoder.preprocess for name, encoder in self.encoders.items()}
        self.heads: dict[str, Head] = {
            name: encoder.spaces[task] for name, encoder in self.encoders.items() if task in encoder.spaces
        }
        self.yes_no, self.joint = self.log_odds is not None, len(self.heads) == 2

    @torch.inference_mode()
    def features(self, name: str, x: Tensor) -> Features:
        """Encodes prepared images, videos or sounds."""
        return self.encoders[name](x.to(self.encoders[name].device))

    @torch.inference_mode()
    def embedding(self, name: str, features: Features) -> Tensor:
        """Returns embeddings of unit length, (B, D)."""
        return F.normalize((self.heads[name](features) if self.joint else features.pooled).float(), dim=-1)

    @torch.inference_mode()
    def match(self, seen: Features, heard: Features) -> Tensor:
        """Returns how well each row's image and sound match, (B,) on the CPU."""
        if self.log_odds is not None:
            return self.log_odds(seen, heard).float().cpu()
        return (self.embedding(self.visual, seen) * self.embedding("audio", heard)).sum(dim=1).cpu()

    def require_maps(self) -> None:
        """Raises UserError for a task that has no maps."""
        if self.own_map is None and not self.joint:
            raise UserError("the task has neither a similarity_map nor a joint space to make one; judge avol or clip")

    @torch.inference_mode()
    def maps(self, seen: Tensor, heard: Tensor, frames: Sequence[int]) -> Tensor:
        """Returns how well each cell of images, or of one frame of each video, matches the sound: (B, H, W)."""
        visual, audio = self.features(self.visual, seen), self.features("audio", heard)
        self.require_maps()
        if self.own_map is not None:
            found = self.own_map(visual, audio)
        else:
            found = similarity_map(visual, self.heads["audio"](audio), self.heads[self.visual])
        if found.ndim == 4:  # (B, T, H, W), where an encoder may have fewer moments than the video has frames
            moments = torch.tensor(frames) * found.shape[1] // seen.shape[2]
            found = found[torch.arange(len(found)), moments.to(found.device)]
        return found.float().cpu()


def _visual(trained: Trained, task: str) -> str:
    """Returns which encoder of videos or images shares a space of that name with the one of sounds."""
    spaces = {name: list(encoder.spaces) for name, encoder in trained.encoders.items()}
    for name in ("video", "image"):
        if task in spaces.get(name, ()) and task in spaces.get("audio", ()):
            return name
    raise UserError(f"{task!r} compares no image or video with sound; the encoders have the spaces {spaces}")
