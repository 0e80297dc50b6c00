"""What a hidden word is, told from an image: two heads that look at its cells from where the word stood."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmssl.nn.blocks import Blocks


class AttFC(nn.Module):
    """The cells' mean, weighed by how well each fits the hidden word, through a layer of `width`: (B, out).

    Only the weights see the words: what is predicted comes from the image alone. Sariyildiz et al., ECCV 2020.
    """

    def __init__(self, seen: int, read: int, *, width: int) -> None:
        super().__init__()
        self.query = nn.Sequential(nn.Linear(read, width), nn.LayerNorm(width))
        self.key = nn.Sequential(nn.Linear(seen, width), nn.LayerNorm(width))
        self.out = nn.Sequential(nn.Linear(seen, width), nn.ReLU(), nn.Linear(width, read))

    def forward(self, cells: Tensor, words: Tensor, real: Tensor, place: Tensor) -> Tensor:
        """cells: (B, N, seen). words: (B, L, read), of which (B, L) are real. place: (B,) of the hidden word."""
        query, keys = self.query(at(words, place)), self.key(cells)  # (B, W), (B, N, W)
        fit = (keys @ query[:, :, None]).squeeze(2).float() * keys.shape[2] ** -0.5
        looked = (fit.softmax(dim=1)[:, None].to(cells.dtype) @ cells).squeeze(1)
        predicted: Tensor = self.out(looked)
        return predicted


class Tfm(nn.Module):
    """Transformer blocks on cells and words together, of which the hidden word's is read: (B, out).

    Sariyildiz et al., ECCV 2020.
    """

    def __init__(self, seen: int, read: int, *, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.cells = nn.Sequential(nn.Linear(seen, width), nn.LayerNorm(width))
        self.words = nn.Sequential(nn.Linear(read, width), nn.LayerNorm(width))
        self.blocks = Blocks(width, depth=depth, heads=heads)
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, read))

    def forward(self, cells: Tensor, words: Tensor, real: Tensor, place: Tensor) -> Tensor:
        """Takes what AttFC does."""
        x = torch.cat([self.words(words), self.cells(cells)], dim=1)
        mask = torch.cat([real, real.new_ones(cells.shape[:2])], dim=1)
        predicted: Tensor = self.out(at(self.blocks(x, mask=mask), place))
        return predicted


def at(tokens: Tensor, place: Tensor) -> Tensor:
    """Returns each sample's token (B, D) at a place (B,), of tokens (B, L, D)."""
    return tokens.gather(1, place[:, None, None].expand(-1, 1, tokens.shape[2])).squeeze(1)
