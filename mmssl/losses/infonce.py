"""InfoNCE: pick each query's positives among keys."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.losses.contrast import Contrast


def info_nce(contrast: Contrast) -> Tensor:
    """Cross-entropy of finding each query's positives among all keys, one loss per query (B,), float32.

    With several positives among the keys it is the mean over them of -log p, as in SupCon's L_out (Khosla et al.,
    NeurIPS 2020). Own keys are each told from all the others, but not from one another (one: MoCo, He et al., CVPR
    2020). A query without any positive that counts gives 0.
    van den Oord et al., 2018 (CPC); one direction of CLIP (Radford et al., ICML 2021).
    """
    logits = contrast.logits
    if contrast.own is not None:
        return F.softplus(logits.logsumexp(dim=1, keepdim=True) - contrast.own_logits).mean(dim=1)
    positives = contrast.targets
    if positives.dtype == torch.bool:
        log_p = torch.where(contrast.matches, logits - logits.logsumexp(dim=1, keepdim=True), 0.0)
        return -log_p.sum(dim=1) / contrast.matches.sum(dim=1).clamp(min=1)
    losses = F.cross_entropy(logits, positives, reduction="none")
    if contrast.keep is None:
        return losses
    return torch.where(contrast.keep.expand_as(logits).gather(1, positives[:, None])[:, 0], losses, 0.0)
