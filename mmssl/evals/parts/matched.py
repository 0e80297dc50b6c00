"""Clusters of cells matched with classes of pixels, and the mean IoU that they then reach."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from mmssl.evals.parts.masked import VOID
from mmssl.evals.parts.score import bootstrap
from mmssl.types import Score

Match = Callable[[Tensor], Tensor]  # pixels of each cluster and class (K, C) -> the class of each cluster (K,)


def hungarian(counts: Tensor) -> Tensor:
    """Returns classes one to one, so that the IoUs sum to most; 0 for a cluster that gets none."""
    from scipy.optimize import linear_sum_assignment

    union = counts.sum(dim=1, keepdim=True) + counts.sum(dim=0, keepdim=True) - counts
    rows, columns = linear_sum_assignment((counts / union.clamp(min=1)).numpy(), maximize=True)
    return torch.zeros(len(counts), dtype=torch.long).index_copy(0, torch.from_numpy(rows), torch.from_numpy(columns))


def commonest(counts: Tensor) -> Tensor:
    """Returns the class that most of each cluster's pixels have."""
    return counts.argmax(dim=1)


def scored(truth: Tensor, grid: tuple[int, int], labels: Tensor, *, classes: int, match: Match) -> Score:
    """Scores clusters (n, N) of cells by the classes (n, S, S) of pixels."""
    count = int(labels.max()) + 1

    def figure(clusters: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the confusion of each image (n, C, C), classes matched, and the mean IoU of all."""
        found = tables(clusters.cpu(), truth.cpu(), grid, count, classes)  # (n, K, C)
        chosen = match(found.sum(dim=0))
        confusion = torch.zeros(len(found), classes, classes, dtype=torch.double).index_add_(1, chosen, found)
        return confusion, mean_iou(confusion.sum(dim=0)[None])[0]

    confusion, _ = figure(labels)
    shuffled = labels.flatten()[torch.randperm(labels.numel(), generator=torch.Generator().manual_seed(0))]
    lazy = torch.zeros(1, classes, classes, dtype=torch.double)
    lazy[0, 0] = confusion.sum(dim=(0, 1))

    def statistic(rows: Tensor) -> Tensor:
        several = rows[None] if rows.ndim == 1 else rows
        times = torch.zeros(len(several), len(confusion), dtype=torch.double)
        times.scatter_add_(1, several.long(), torch.ones_like(several))
        values = mean_iou((times @ confusion.flatten(1)).unflatten(1, (classes, classes)))
        return values[0] if rows.ndim == 1 else values

    chance = float(figure(shuffled.view_as(labels))[1])
    score = bootstrap(torch.arange(len(confusion)), chance=chance, statistic=statistic)
    ious = iou(confusion.sum(dim=0)[None])[0]
    return replace(
        score, trivial=float(mean_iou(lazy)[0]), parts={str(n): float(value) for n, value in enumerate(ious)}
    )


def tables(clusters: Tensor, truth: Tensor, grid: tuple[int, int], count: int, classes: int) -> Tensor:
    """Counts the pixels of each cluster and class of each image, (n, K, C) float64, of clusters (n, N) of cells."""
    down, across = (torch.arange(pixels) * cells // pixels for pixels, cells in zip(truth.shape[1:], grid, strict=True))
    shown = clusters.unflatten(1, grid)[:, down][:, :, across]  # (n, S, S)
    index = shown * (VOID + 1) + truth.long()
    counts = torch.zeros(len(truth), count * (VOID + 1), dtype=torch.double)
    counts.scatter_add_(1, index.flatten(1), torch.ones_like(index, dtype=torch.double).flatten(1))
    return counts.unflatten(1, (count, VOID + 1))[..., :classes]


def iou(confusion: Tensor) -> Tensor:
    """Returns intersection over union (R, C) of confusions (R, C, C), 0 for a class that is neither there nor said."""
    right = confusion.diagonal(dim1=1, dim2=2)
    return right / (confusion.sum(dim=1) + confusion.sum(dim=2) - right).clamp(min=1)


def mean_iou(confusion: Tensor) -> Tensor:
    """Returns the mean of `iou` over classes that are there, (R,), of confusions (R, C said, C true)."""
    there = confusion.sum(dim=1) > 0
    return torch.where(there, iou(confusion), 0.0).sum(dim=1) / there.sum(dim=1).clamp(min=1)
