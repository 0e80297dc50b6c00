"""PCA-whitening of features that are spread over all processes."""

from __future__ import annotations

import torch
from torch import Tensor

from mmssl import dist

CHUNK = 2**16  # rows that are held in double precision at a time


def pca_whiten(x: Tensor, dims: int) -> Tensor:
    """Returns this process's features (n, D) along the main directions of those of all processes, (n, dims), float32.

    Each direction has variance 1; there are no more of them than features vary in. Signs are fixed, so that the
    result does not depend on how the rows are shared out.
    """
    parts = x.split(CHUNK)
    count = dist.total(torch.tensor(len(x), device=x.device)).clamp(min=1)
    mean = dist.total(x.sum(dim=0, dtype=torch.double)) / count
    products = x.new_zeros(x.shape[1], x.shape[1], dtype=torch.double)
    for part in parts:
        centred = part - mean  # double
        products.addmm_(centred.T, centred)
    variances, directions = torch.linalg.eigh(dist.total(products) / count)  # ascending
    kept = min(dims, max(1, int((variances > variances[-1] * 1e-9).sum())))
    variances, directions = variances[-kept:].flip(0), directions[:, -kept:].flip(1)
    largest = directions.gather(0, directions.abs().argmax(dim=0, keepdim=True))
    scaled = directions * largest.sign() / variances.clamp(min=1e-12).sqrt()
    return torch.cat([((part - mean) @ scaled).float() for part in parts])
