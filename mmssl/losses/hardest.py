"""Hardest-contrastive: pull matched points together, push each away from the nearest that is no match."""

from __future__ import annotations

import torch
from torch import Tensor

from mmssl.losses.tiles import nearest


def positive_margin(queries: Tensor, keys: Tensor, *, margin: float = 0.1) -> Tensor:
    """max(|q - k|^2 - margin, 0) for each matched pair, queries and keys (P, D); returns (P,)."""
    return ((queries.float() - keys.float()).square().sum(dim=1) - margin).clamp(min=0)


def hardest_negative(
    queries: Tensor,
    candidates: Tensor,
    *,
    query_id: Tensor,
    candidate_id: Tensor,
    known: Tensor,
    margin: float = 1.4,
) -> tuple[Tensor, Tensor]:
    """max(margin - |q - c|, 0)^2 for each query and the candidate nearest to it.

    queries (P, D), candidates (C, D) of unit length, with the numbers of their points query_id (P,) and
    candidate_id (C,), -1 for one that matches none. known: (K, 2) query and candidate numbers that match; a query
    whose nearest candidate is known to match it does not count.
    Returns the losses (P,), float32, and which of them count (P,) bool.
    Choy et al., ICCV 2019 (FCGF); as used by PointContrast (Xie et al., ECCV 2020).
    """
    if not len(candidates):
        return queries.float().sum(dim=1) * 0, torch.zeros(len(queries), dtype=torch.bool, device=queries.device)
    number = nearest(queries, candidates)  # (P,)
    with torch.autocast(queries.device.type, enabled=False):
        distance = ((queries.float() - candidates[number].float()).square().sum(dim=1) + 1e-7).sqrt()
    counts = ~is_known(query_id, candidate_id[number], known)
    return (margin - distance).clamp(min=0).square(), counts


def is_known(first: Tensor, second: Tensor, known: Tensor) -> Tensor:
    """Returns which of the pairs (P,), (P,) of numbers are among the known (K, 2), found by one key per pair; (P,)."""
    if not len(known):
        return torch.zeros_like(first, dtype=torch.bool)
    base = torch.cat([second, known[:, 1]]).max() + 2  # one more than needed, so that -1 shares no key
    return torch.isin(first * base + second, known[:, 0] * base + known[:, 1])
