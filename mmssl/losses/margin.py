"""Margin losses: pull matching pairs together, push others out to a margin."""

from __future__ import annotations

from torch import Tensor


def contrastive_margin(distances: Tensor, matches: Tensor, *, margin: float = 0.99) -> Tensor:
    """y d^2 + (1 - y) max(margin - d, 0)^2 for each pair.

    distances (B,) Euclidean, matches (B,) bool. Returns (B,).
    Chopra et al., CVPR 2005; as used by AVTS (Korbar et al., NeurIPS 2018).
    """
    apart = (margin - distances).clamp(min=0).square()
    return distances.square().where(matches, apart)


def triplet(anchor_positive: Tensor, anchor_negative: Tensor, *, margin: float = 0.2) -> Tensor:
    """max(d(a, p) - d(a, n) + margin, 0) for each triplet of distances (B,); returns (B,).

    Schroff et al., CVPR 2015 (FaceNet).
    """
    return (anchor_positive - anchor_negative + margin).clamp(min=0)
