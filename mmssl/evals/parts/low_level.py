"""What image and sound tell without learning: brightness, contrast, motion, loudness, and their rise together."""

from __future__ import annotations

import torch
from torch import Tensor

from mmssl.evals.parts.trivial import linear_answers
from mmssl.numerics.color import as_unit


def look(x: Tensor) -> Tensor:
    """Returns brightness, contrast and motion (mean absolute difference of frames) of images or clips: (B, 3)."""
    x = as_unit(x)
    motion = _motion(x).mean(dim=1) if x.ndim == 5 else torch.zeros(len(x))
    return torch.stack([x.flatten(1).mean(dim=1), x.flatten(1).std(dim=1), motion], dim=1)


def loudness(sounds: Tensor) -> Tensor:
    """Returns the logarithms of mean power and peak of sounds (B, samples): (B, 2)."""
    power = sounds.float().square()
    return torch.stack([power.mean(dim=1), power.amax(dim=1)], dim=1).add(1e-8).log()


def together(x: Tensor, sounds: Tensor) -> Tensor:
    """Returns the correlation of motion and loudness from frame to frame, (B, 1); of single images none, (B, 0)."""
    if x.ndim < 5 or x.shape[2] < 3:
        return torch.zeros(len(x), 0)
    motion = _motion(as_unit(x))  # (B, T - 1)
    length = sounds.shape[1] // motion.shape[1] * motion.shape[1]
    power = sounds[:, :length].float().square().unflatten(1, (motion.shape[1], -1)).mean(dim=2)
    a, b = (curve - curve.mean(dim=1, keepdim=True) for curve in (motion, power.add(1e-8).log()))
    return (a * b).sum(dim=1, keepdim=True) / (a.norm(dim=1) * b.norm(dim=1) + 1e-8)[:, None]


def _motion(x: Tensor) -> Tensor:
    return x.diff(dim=2).abs().mean(dim=(1, 3, 4))


def pair_features(seen: Tensor, heard: Tensor, curves: Tensor) -> Tensor:
    """Returns what a linear model may know of pairs (N, F): either side's cues, their distances, and the correlation.

    Products and squares of cues stand for the distances.
    """
    products = (seen[:, :, None] * heard[:, None, :]).flatten(1)
    return torch.cat([seen, heard, heard.square(), products, curves], dim=1)


def prefers(true: Tensor, false: Tensor, clip: Tensor) -> Tensor:
    """Tells where a linear model prefers the true pair's features (N, F) to the false one's, (N,) 1 or 0.

    It sees their difference, and which of the two is true is a coin's fall. Questions about one clip stay together.
    """
    side = torch.randint(2, (len(clip),), generator=torch.Generator().manual_seed(0))
    return linear_answers((true - false) * (2 * side - 1)[:, None], side, groups=clip)


def tells(true: Tensor, false: Tensor, clip: Tensor) -> Tensor:
    """Returns how often a linear model is right that says yes or no to the true and to the false pair, (N,)."""
    labels = torch.cat([torch.ones(len(clip)), torch.zeros(len(clip))]).long()
    return linear_answers(torch.cat([true, false]), labels, groups=clip.repeat(2)).view(2, -1).mean(dim=0)
