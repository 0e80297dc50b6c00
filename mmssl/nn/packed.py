"""Rows of several samples laid end to end: those of every process together, and an embedding of each."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl import dist
from mmssl.errors import UserError
from mmssl.types import Encoder, Ragged


def gather_rows(x: Tensor) -> tuple[Tensor, int]:
    """Concatenates every process's (n, ...), n of any size, with its gradient; and tells where this one's begin."""
    if dist.world() == 1:
        return x, 0
    counts = dist.gather(torch.tensor([len(x)], device=x.device))  # (world,)
    longest = int(counts.max())
    padding = (0, 0) * (x.ndim - 1) + (0, longest - len(x))
    rows = dist.gather_with_grad(F.pad(x, padding)) if x.is_floating_point() else dist.gather(F.pad(x, padding))
    there = torch.arange(longest, device=x.device) < counts[:, None]  # (world, longest)
    return rows[there.flatten()], int(counts[: dist.rank()].sum())


def embed_tokens(encoder: Encoder, x: Ragged, *, space: str | None = None) -> Tensor:
    """Returns an embedding per point (sum N, D): the encoder's tokens, or those of a task's space."""
    features = encoder(x)
    if space is not None and space not in encoder.spaces:
        raise UserError(f"this {encoder.modality} encoder has no space {space!r}; known: {', '.join(encoder.spaces)}")
    found: Tensor | None = features.tokens if space is None else encoder.spaces[space](features)
    if found is None or len(found) != len(x.values):
        raise UserError(
            f"{encoder.name} gives no feature per point; choose an encoder with tokens, such as sparse_unet"
        )
    return F.normalize(found.float(), dim=1)
