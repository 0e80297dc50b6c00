"""Clusterings of the whole training set between epochs: features by sample number, and the labels that they get."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from mmssl import dist
from mmssl.errors import UserError
from mmssl.numerics.seeded_random import draws
from mmssl.objectives.bank import SampleRows, counted
from mmssl.types import Batch

NONE = -1  # the label of a sample that no clustering has seen
LAST = 2**63 - 1  # beyond every cell's rank


class Labels(SampleRows):
    """Keeps each training sample's cluster in several clusterings, (n, clusterings) whole numbers, -1 for none yet.

    clusters: of each clustering.
    """

    def __init__(self, clusters: Sequence[int]) -> None:
        super().__init__(len(clusters), learnt=False)
        self.clusters, self.rows = tuple(clusters), self.rows.long()

    def reserve(self, samples: int | None) -> None:
        count, most = counted(samples), max(self.clusters)
        if not 1 < most <= count:
            raise UserError(f"{most} clusters of {count} training samples; expected from 2 to as many as samples")
        self.rows = self.rows.new_full((count, self.rows.shape[1]), NONE)

    def write(self, index: Tensor, labels: Tensor) -> None:
        """Sets the labels (n, clusterings) of all samples: those with the numbers index (n,), and none for the rest."""
        self.rows.fill_(NONE)
        self.rows[index] = labels

    def of(self, batch: Batch) -> Tensor:
        """Returns the labels (B, clusterings) of a batch's samples."""
        return self.rows[batch.extra["index"]]


@torch.no_grad()
def survey(
    embed: Callable[..., Tensor], key: str, sweep: Callable[[], Iterator[Batch]], *more: str
) -> tuple[Tensor, Tensor]:
    """Returns the numbers (n,) of this process's share of the training set and what embed makes of it, (n, D) float32.

    key: the encoder's, whose inputs embed takes; `more` are further ones, whose inputs it takes behind the first's.
    Samples that lack a modality of these are left out.
    """
    numbers, rows = [], []
    for batch in sweep():
        there = torch.stack([batch.present(each) for each in (key, *more)]).all(dim=0)
        numbers.append(batch.extra["index"][there])
        rows.append(embed(*(batch.views[each][0] for each in (key, *more)))[there].float())
    return torch.cat(numbers), torch.cat(rows)


@torch.no_grad()
def sampled_cells(embed: Callable[[Any], Tensor], key: str, sweep: Callable[[], Iterator[Batch]], most: int) -> Tensor:
    """Returns at most so many (n, D), float32, of the cells (B, N, D) that embed makes of the training set's samples.

    Which ones, and in which order, says a hash of the sample's number and the cell's: it is the same for any number of
    processes. key: the encoder's, whose inputs embed takes; samples that lack them are left out.
    """
    kept, bound = list[tuple[Tensor, Tensor]](), LAST
    for batch in sweep():
        there = batch.present(key)
        found = embed(batch.views[key][0])[there].float()
        ranks = _ranks(batch.extra["index"][there], found.shape[1]).flatten()
        low = ranks < bound
        kept.append((ranks[low], found.flatten(0, 1)[low]))
        if sum(len(ranks) for ranks, _ in kept) > 2 * most:  # memory stays bounded
            ranks, rows = (torch.cat(parts) for parts in zip(*kept, strict=True))
            order = ranks.argsort()[:most]
            kept, bound = [(ranks[order], rows[order])], int(ranks[order[-1]])
    ranks, rows = (torch.cat(parts) for parts in zip(*kept, strict=True))
    chosen = torch.isin(ranks, dist.gather(ranks).sort().values[:most])
    order = dist.gather(ranks[chosen]).argsort()
    return dist.gather(rows[chosen])[order]


def _ranks(numbers: Tensor, cells: int) -> Tensor:
    """Returns a whole number (n, cells) of its own for each cell of the samples (n,): a draw, then which cell it is."""
    drawn = (draws(numbers, cells) * 2**23).long()
    return (drawn << 40) + numbers[:, None] * cells + torch.arange(cells, device=numbers.device)


def by_number(numbers: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Returns every process's numbers (n,) and rows (n, ...), in the order of the numbers, on every process."""
    numbers, order = dist.gather(numbers).sort()
    return numbers, dist.gather(rows)[order]


def agreed(x: Tensor) -> Tensor:
    """Returns the first process's x on all: accelerators add in any order, so that equal rows may end up in others."""
    return dist.gather(x)[: len(x)]
