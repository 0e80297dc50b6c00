"""An embedding of each row of several samples that are laid end to end."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.types import Encoder, Ragged


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
