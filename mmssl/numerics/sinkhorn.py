"""Sinkhorn-Knopp: assignments that spread samples evenly over clusters."""

from __future__ import annotations

import torch
from torch import Tensor

from mmssl import dist
from mmssl.numerics.missing import MISSING


@torch.no_grad()
def sinkhorn(
    scores: Tensor, *, epsilon: float, iterations: int, present: Tensor | None = None, shares: Tensor | None = None
) -> Tensor:
    """Returns soft assignments (B, K) of samples with scores (B, K) to clusters, each row of sum 1, float32.

    Every cluster is to receive its share of the samples of all processes; the number of samples may differ between
    them.
    epsilon: weight of the entropy, small ones give sharper assignments.
    iterations: normalisations of clusters, then of samples.
    present: (B,) bool, samples that count.
    shares: of each cluster (K,), above 0, by default equal ones.

    All of it happens in logarithms, so that no score is too small. Cuturi, NeurIPS 2013; as used by SeLa (Asano et
    al., ICLR 2020) and SwAV (Caron et al., NeurIPS 2020).
    """
    with torch.autocast(scores.device.type, enabled=False):
        logs = scores.float() / epsilon
        wanted = 0.0 if shares is None else shares.float().log()
        absent = None if present is None else ~present[:, None]
        for _ in range(iterations):
            counted = logs if absent is None else logs.masked_fill(absent, MISSING)
            own = (
                counted.logsumexp(dim=0, keepdim=True)
                if len(counted)
                else counted.new_full((1, counted.shape[1]), MISSING)
            )
            logs = logs - dist.gather(own).logsumexp(dim=0) + wanted
            logs = logs - logs.logsumexp(dim=1, keepdim=True)
        return logs.exp()
