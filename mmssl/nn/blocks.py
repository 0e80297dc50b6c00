"""The pre-norm transformer block that image, text and masked encoders share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head self-attention. Vaswani et al., NeurIPS 2017."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, *, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        batch, length, dim = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # each (B, H, N, D / H)
        allowed = None if mask is None else mask[:, None, None, :]  # (B, 1, 1, N)
        if allowed is not None and causal:
            allowed = allowed & torch.ones(length, length, dtype=torch.bool, device=x.device).tril()  # (B, 1, N, N)
        x = F.scaled_dot_product_attention(q, k, v, allowed, is_causal=causal and allowed is None)
        return self.proj(x.transpose(1, 2).reshape(batch, length, dim))


class DropPath(nn.Module):
    """Skips a branch for a random share of samples while training. Huang et al., ECCV 2016 (stochastic depth)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if self.rate == 0 or not self.training:
            return x
        keep = 1 - self.rate
        return x * (x.new_empty(x.shape[0], *(1,) * (x.ndim - 1)).bernoulli_(keep) / keep)


def stop_drop_path(network: nn.Module) -> None:
    """Turns a network's stochastic depth off for good, ours or timm's, so that a teacher leaves nothing to chance."""
    for part in network.modules():
        if type(part).__name__ == "DropPath":
            setattr(part, "rate" if isinstance(part, DropPath) else "drop_prob", 0.0)


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)): the pre-norm block with GELU."""

    def __init__(self, dim: int, heads: int, *, mlp_ratio: float = 4.0, drop_path: float = 0.0) -> None:
        super().__init__()
        hidden = int(dim * mlp_ratio)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, *, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        x = x + self.drop_path(self.attention(self.norm1(x), mask=mask, causal=causal))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Blocks(nn.Module):
    """A stack of blocks on tokens (B, N, D), which keeps the variance of the stream at any depth.

    mask: (B, N) bool, true at the tokens that may be attended to, at least one in each row.
    causal: each token sees only itself and those before it.
    drop_path: rate of stochastic depth in the last block, rising from none in the first.
    """

    def __init__(self, dim: int, *, depth: int, heads: int, mlp_ratio: float = 4.0, drop_path: float = 0.0) -> None:
        super().__init__()
        rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
        self.layers = nn.ModuleList(Block(dim, heads, mlp_ratio=mlp_ratio, drop_path=rate) for rate in rates)
        for name, parameter in self.named_parameters():
            if name.endswith(".bias"):
                nn.init.zeros_(parameter)
            elif parameter.ndim == 2:
                branch_end = name.endswith(("proj.weight", "mlp.2.weight"))
                nn.init.xavier_uniform_(parameter, gain=(2 * depth) ** -0.5 if branch_end else 1.0)

    def forward(self, x: Tensor, *, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        for layer in self.layers:
            x = layer(x, mask=mask, causal=causal)
        return x
