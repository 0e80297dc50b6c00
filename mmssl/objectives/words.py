"""Visual words: cells of a feature map compared with a vocabulary, and the bag of words that they make of an image."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl import dist
from mmssl.objectives.accumulated import Accumulated
from mmssl.objectives.queue import Queue

MEMORY = 0.99  # weight of the past in the mean distance to the nearest word


def distances(cells: Tensor, words: Tensor) -> Tensor:
    """Returns squared Euclidean distances (B, N, K) of cells (B, N, C) to words (K, C), float32."""
    with torch.autocast(cells.device.type, enabled=False):
        x, words = cells.float(), words.float()
        lengths = x.square().sum(dim=2, keepdim=True) + words.square().sum(dim=1)
        return (lengths - 2 * (x @ words.T)).clamp(min=0)


def hard_bag(cells: Tensor, words: Tensor, pool: Literal["binary", "histogram"]) -> Tensor:
    """Returns the words (B, K) of images, of sum 1, to which their cells (B, N, C) lie nearest.

    pool: whether a word counts once, or as often as it occurs. Gidaris et al., CVPR 2020 (BoWNet).
    """
    nearest = distances(cells, words).argmin(dim=2)
    bag = torch.zeros(len(cells), len(words), device=cells.device)
    bag.scatter_add_(1, nearest, torch.ones_like(nearest, dtype=bag.dtype))
    return F.normalize(bag.clamp(max=1) if pool == "binary" else bag, p=1, dim=1)


def bag_loss(scores: Tensor, bag: Tensor) -> Tensor:
    """Cross-entropy (B,) of scores (B, K) of words with the bag (B, K) that is sought, float32."""
    with torch.autocast(scores.device.type, enabled=False):
        return -(bag * scores.float().log_softmax(dim=1)).sum(dim=1)


class Vocabulary(Queue):
    """Words that are the last `size` cells of a teacher's maps, and the soft bags of words that maps make.

    A bag is the largest share that any of an image's cells gives a word, scaled to sum 1. Shares are a softmax of minus
    the squared distances over their mean to the nearest word, a moving average.
    Gidaris et al., CVPR 2021 (OBoW).

    dim: channels of the maps.
    sharpness: of the softmax.
    border: cells left out at each side of a map.
    average: side of the squares of cells that are averaged to become a word.
    """

    distance: Tensor

    def __init__(self, size: int, dim: int, *, sharpness: float, border: int, average: int) -> None:
        super().__init__(size, dim)
        self.rows.copy_(torch.randn(size, dim).clamp(min=0))
        self.register_buffer("distance", torch.tensor(0.5))
        self.measured = Accumulated()  # sums of distances to the nearest word, and of how many
        self.sharpness, self.border, self.average = sharpness, border, average

    @torch.no_grad()
    def bag(self, maps: Tensor, present: Tensor, drawn: Tensor) -> Tensor:
        """Returns the bags (B, K) of maps (B, C, H, W), and notes a cell of each that is present (B,) bool.

        drawn: (B,) from 0 to 1, which cell that is.
        """
        end = -self.border or None
        inner = maps.float()[:, :, self.border : end, self.border : end]
        squared = distances(inner.flatten(2).mT, self.rows)  # (B, N, K)
        nearest = squared.amin(dim=2).mean(dim=1)
        sums = dist.total(torch.stack([nearest.where(present, 0.0).sum(), present.sum()]))[None]
        self.measured.add(sums)
        shares = (-self.sharpness / self._moved(sums) * squared).softmax(dim=2)
        cells = F.avg_pool2d(inner, self.average, stride=1).flatten(2)  # (B, C, n)
        place = (drawn * cells.shape[2]).long()[:, None, None].expand(-1, cells.shape[1], -1)
        self.note(cells.gather(2, place)[:, :, 0], present)
        return F.normalize(shares.amax(dim=1), p=1, dim=1)

    def _moved(self, sums: Tensor) -> Tensor:
        """Returns the mean distance after batches of these sums (parts, 2); it stays where nothing was measured."""
        total, count = sums.sum(dim=0)
        share = (count > 0).float() * (1 - MEMORY) * self.training
        return torch.lerp(self.distance, total / count.clamp(min=1), share)

    def write(self) -> None:
        super().write()
        for sums in self.measured.take():
            self.distance.copy_(self._moved(sums))
