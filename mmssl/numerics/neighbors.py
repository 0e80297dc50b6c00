"""Exact search for the nearest rows of a bank, in bounded memory and at the speed of a matrix product."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.errors import UserError

HELD = 2**24  # similarities held at a time: fresh memory costs time
TILE = 4096  # rows of the bank that one product reads: what it writes stays in the processor's cache
GROUP = 16  # columns whose largest value stands for them
QUERIES = 512  # searched at a time where not all similarities are held: the more, the faster the product
SAMPLE = 4096  # rows of the bank that tell what the k-th largest similarity is about

Found = tuple[Tensor, Tensor]


@torch.no_grad()
def nearest(bank: Tensor, queries: Tensor, k: int) -> Found:
    """Returns the k rows of a bank (N, D) that are most similar to each query (M, D) by cosine, float32.

    Similarities and places (M, min(k, N)), the most similar first; of equally similar rows the earlier one. UserError
    for a bank without rows.
    """
    if not len(bank):
        raise UserError("a search among no rows: the bank is empty; expected at least one row")
    bank, queries = bank.float(), F.normalize(queries.float(), dim=1)
    scale = 1 / bank.norm(dim=1).clamp(min=1e-12)  # a normalised copy of a large bank costs as much as the search
    k, rank = min(k, len(bank)), _surely(k * SAMPLE / len(bank))
    if bank.device.type != "cpu" or len(bank) < 8 * SAMPLE or 32 * rank > SAMPLE:
        return _of_all(bank, scale, queries, k)
    parts = (_above(bank, scale, part, k, rank) or _of_all(bank, scale, part, k) for part in queries.split(QUERIES))
    values, places = zip(*parts, strict=True)
    return torch.cat(values), torch.cat(places)


def _of_all(bank: Tensor, scale: Tensor, queries: Tensor, k: int) -> Found:
    """Searches by holding all similarities of as many queries as HELD allows."""
    width = -(-len(bank) // GROUP) * GROUP
    held = bank.new_empty(min(len(queries), max(1, HELD // width)), width)
    held[:, len(bank) :] = -torch.inf
    found = []
    for part in queries.split(len(held)):
        similar = held[: len(part)]
        tiles = bank.split(TILE), scale.split(TILE), similar[:, : len(bank)].split(TILE, dim=1)
        for rows, factor, out in zip(*tiles, strict=True):
            torch.mm(part, rows.T, out=out).mul_(factor)
        found.append(largest(similar, k))
    values, places = zip(*found, strict=True)
    return torch.cat(values), torch.cat(places)


@torch.no_grad()
def most_alike(rows: Tensor, others: Tensor) -> Tensor:
    """Returns which of the others (B, M, D) of its group each row (B, N, D) is most similar to by cosine: (B, N).

    Of equally similar ones the first.
    """
    with torch.autocast(rows.device.type, enabled=False):
        return (rows.float() @ F.normalize(others.float(), dim=2).mT).argmax(dim=2)


def _surely(mean: float) -> int:
    """Returns a count that chance, with this mean, all but never reaches: six deviations and a little more."""
    return math.ceil(mean + 6 * math.sqrt(mean) + 4)


def _above(bank: Tensor, scale: Tensor, queries: Tensor, k: int, rank: int) -> Found | None:
    """Searches among the similarities that are not below a floor, the `rank`-th largest of a sample.

    Only these leave the processor's cache. None where the floor is too high for some query, or lets too many pass; then
    the sample was unlike the bank. NumPy finds the few that pass in a tenth of PyTorch's time.
    """
    step = slice(None, len(bank) // SAMPLE * SAMPLE, len(bank) // SAMPLE)
    floor = largest((queries @ bank[step].T).mul_(scale[step]), rank)[0][:, -1:].numpy()
    width = _surely(rank) * len(bank) // SAMPLE // GROUP * GROUP
    values = queries.new_full((len(queries), width), -torch.inf)
    places = torch.zeros(values.shape, dtype=torch.int64)
    free = np.arange(len(queries)) * width  # where the next value of each query goes
    full, held = free + width, queries.new_empty(len(queries) * TILE)
    for start, rows, factor in zip(range(0, len(bank), TILE), bank.split(TILE), scale.split(TILE), strict=True):
        out = held[: len(queries) * len(rows)].view(len(queries), -1)
        similar = torch.mm(queries, rows.T, out=out).mul_(factor).numpy()
        passed = np.flatnonzero(~(similar < floor))  # NaN stands above all, as topk has it
        row = passed // len(rows)
        new = np.bincount(row, minlength=len(queries))
        if (free + new > full).any():
            return None
        at = np.arange(len(row)) + (free + new - new.cumsum())[row]
        values.view(-1).numpy()[at] = similar.reshape(-1)[passed]
        places.view(-1).numpy()[at] = passed + (start - row * len(rows))
        free += new
    if (free - full + width < k).any():
        return None
    found, at = largest(values, k)
    return found, places.gather(1, at)


def largest(values: Tensor, k: int) -> Found:
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
