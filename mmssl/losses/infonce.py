"""InfoNCE: pick each query's positives among keys."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl import dist
from mmssl.losses.contrast import Contrast


def info_nce(contrast: Contrast) -> Tensor:
    """Cross-entropy of finding each query's positives among all keys, one loss per query (..., B), float32.

    With several positives among the keys it is the mean over them of -log p, as in SupCon's L_out (Khosla et al.,
    NeurIPS 2020). Own keys are each told from all the others, but not from one another (one: MoCo, He et al., CVPR
    2020). A query without any positive that counts gives 0.
    van den Oord et al., 2018 (CPC); one direction of CLIP (Radford et al., ICML 2021).
    """
    sums = contrast.log_sums
    if sums.positive is not None:
        log_sum, scores, number = sums.positive
        losses = torch.logaddexp(sums.others, log_sum) - scores / number.clamp(min=1)
        return torch.where(number > 0, losses, 0.0)
    return _counted(contrast, _told(sums.own, sums.others))


def mil_nce(contrast: Contrast, negatives: Tensor | None = None) -> Tensor:
    """-log of the share that all of a query's positives have together, one loss per query (B,), float32.

    So one of several positives that may each be wrong is enough (multiple instances). A query without any gives 0.
    Miech et al., CVPR 2020 (MIL-NCE), whose negatives are also other queries against the positives; Xie et al., CVPR
    2021 (PixContrast).

    contrast: with positives by mask or labels.
    negatives: (B,) logarithm of a further sum of exp(score) over negatives.
    """
    sums = contrast.log_sums
    assert sums.positive is not None, "positives are given by a mask or by labels"
    others = sums.others if negatives is None else torch.logaddexp(sums.others, negatives)
    return torch.where(sums.positive.number > 0, F.softplus(others - sums.positive.log_sum), 0.0)


def info_nce_both_ways(contrast: Contrast, *, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """Returns `info_nce` of finding each query's positive key, and each such key's query, from the same products.

    For positives by number: other queries, of all processes, are not the key's; a sample whose key does not count is
    no candidate as a query either. Both (B,), float32. Radford et al., ICML 2021 (CLIP).

    smoothing: share of the label that is spread evenly over all candidates (Szegedy et al., CVPR 2016; Jia et al., ICML
        2021: ALIGN). Queries and keys are (B, D) and (N, D).
    """
    sums, other_way = contrast.log_sums_both_ways, contrast.log_sums_both_ways.other_way
    assert other_way is not None
    if dist.world() > 1:
        other_way = dist.gather_with_grad(other_way[None]).logsumexp(dim=0)  # over the queries of every process
    losses = [_told(sums.own, others) for others in (sums.others, other_way[contrast.targets])]
    if smoothing:
        losses = [loss + smoothing * above for loss, above in zip(losses, _above_mean(contrast), strict=True)]
    one, other = (_counted(contrast, loss) for loss in losses)
    return one, other


def _above_mean(contrast: Contrast) -> tuple[Tensor, Tensor]:
    """Returns how far the positive's score lies above the mean of all candidates', as query and as key; both (B,).

    The mean of products is the product with the mean, so that no scores are made.
    """
    queries, keys, counting = contrast.queries.float(), contrast.keys.float(), contrast.counting
    mine = keys[contrast.targets]
    mean_key = _mean_row(keys, contrast.keep)
    mean_query = _mean_row(dist.gather_with_grad(queries), None if counting is None else dist.gather(counting))
    own = (queries * mine).sum(dim=1)
    above = (own - (queries * mean_key).sum(dim=1), own - (mine * mean_query).sum(dim=1))
    return contrast.scale * above[0], contrast.scale * above[1]


def _mean_row(rows: Tensor, keep: Tensor | None) -> Tensor:
    """Returns the mean (D,) of the rows (N, D) that count."""
    if keep is None:
        return rows.mean(dim=0)
    return (rows * keep[:, None]).sum(dim=0) / keep.sum().clamp(min=1)


def _told(own: Tensor, others: Tensor) -> Tensor:
    """-log of each own key's share of it and the others; as softplus, exact where that is almost 1."""
    return F.softplus(others[..., None] - own).mean(dim=-1)


def _counted(contrast: Contrast, losses: Tensor) -> Tensor:
    counting = contrast.counting
    return losses if counting is None else torch.where(counting, losses, 0.0)
