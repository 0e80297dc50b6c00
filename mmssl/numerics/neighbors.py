"""Exact search for the nearest rows of a bank, in bounded memory and at the speed of a matrix product."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

HELD = 2**24  # similarities held at a time: fresh memory costs time
TILE = 4096  # rows of the bank that one product reads: what it writes stays in the processor's cache
GROUP = 16  # columns whose largest value stands for them


@torch.no_grad()
def nearest(bank: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Returns the k rows of a bank (N, D) that are most similar to each query (M, D) by cosine, float32.

    Similarities and places (M, min(k, N)), the most similar first; of equally similar rows the earlier one.
    """
    bank, queries = bank.float(), F.normalize(queries.float(), dim=1)
    scale = 1 / bank.norm(dim=1).clamp(min=1e-12)  # a normalised copy of a large bank costs as much as the search
    width = -(-len(bank) // GROUP) * GROUP
    held = bank.new_empty(min(len(queries), max(1, HELD // width)), width)
    held[:, len(bank) :] = -torch.inf
    found = []
    for part in queries.split(len(held)):
        similar = held[: len(part)]
        tiles = bank.split(TILE), scale.split(TILE), similar[:, : len(bank)].split(TILE, dim=1)
        for rows, factor, out in zip(*tiles, strict=True):
            torch.mm(part, rows.T, out=out).mul_(factor)
        found.append(largest(similar, min(k, len(bank))))
    values, places = zip(*found, strict=True)
    return torch.cat(values), torch.cat(places)


@torch.no_grad()
def most_alike(rows: Tensor, others: Tensor) -> Tensor:
    """Returns which of the others (B, M, D) of its group each row (B, N, D) is most similar to by cosine: (B, N).

    Of equally similar ones the first.
    """
    with torch.autocast(rows.device.type, enabled=False):
        return (rows.float() @ F.normalize(others.float(), dim=2).mT).argmax(dim=2)


def largest(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Returns the k largest of each row (M, N), N a multiple of GROUP, and their places, in descending order.

    Of equal values the earlier one comes first. The k + 1 largest lie in the k + 1 groups of the largest maxima, so
    that only these are searched.
    """
    groups = values.unflatten(1, (GROUP, -1))  # one group is every so many columns, so that maxima are taken of rows
    count = groups.shape[2]
    best = groups.amax(dim=1).topk(min(k + 1, count), sorted=False).indices
    among = (best[:, None] + torch.arange(GROUP, device=values.device)[:, None] * count).flatten(1)
    found, at = values.gather(1, among).topk(min(k + 1, values.shape[1]))
    places = among.gather(1, at)[:, :k]
    tied = (found[:, 1:] == found[:, :-1]).any(dim=1)
    places[tied] = _in_order(values[tied], found[tied, k - 1 : k], k)
    return found[:, :k], places


def _in_order(values: Tensor, least: Tensor, k: int) -> Tensor:
    """Returns the places (M, k) of all values (M, N) above the k-th largest (M, 1) and of the first that equal it."""
    above, equal = ~(values <= least), values == least  # NaN stands above all, as topk has it
    wanted = above | (equal & (equal.cumsum(dim=1, dtype=torch.int32) <= k - above.sum(dim=1, keepdim=True)))
    places = wanted.nonzero()[:, 1].view(-1, k)
    return places.gather(1, values.gather(1, places).argsort(dim=1, descending=True, stable=True))
