"""A decoder of text that sees an image: each word looks at those before it, and at the cells of the image."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TextDecoder(nn.Module):
    """Transformer decoder layers with GELU, normalised after each branch: (B, L, D) words and (B, N, D) cells to
    (B, L, D), where each word sees itself, those before it and all cells. Vaswani et al., NeurIPS 2017.

    mlp_ratio: width of the hidden layers over D.
    dropout: rate of dropout in the layers.
    """

    def __init__(self, dim: int, *, layers: int, heads: int, mlp_ratio: float = 4.0, dropout: float = 0.1) -> None:
        super().__init__()
        hidden = int(dim * mlp_ratio)
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(dim, heads, hidden, dropout, activation="gelu", batch_first=True)
            for _ in range(layers)
        )
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:  # as BERT's
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, words: Tensor, cells: Tensor) -> Tensor:
        length = words.shape[1]
        later = torch.ones(length, length, dtype=torch.bool, device=words.device).triu(1)
        for layer in self.layers:
            words = layer(words, cells, tgt_mask=later)
        return words
