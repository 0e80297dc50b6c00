"""Packed rows: an embedding of each."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mmssl.errors import UserError
from mmssl.nn.packed import embed_tokens
from mmssl.types import Encoder, Features, Head, Ragged


class Points(Encoder):
    """Gives each row (C) its numbers as a token, or no tokens."""

    modality, name, dim = "points", "own", 2

    def __init__(self, *, tokens: bool = True, every: int = 1) -> None:
        super().__init__()
        self.tokens, self.every = tokens, every

    def forward(self, x: Ragged) -> Features:
        return Features(x.values[:1], x.values[:: self.every].half() if self.tokens else None)


class Doubled(Head):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Identity()

    def forward(self, features: Features) -> Tensor:
        return torch.stack([features.tokens[:, 1], 0 * features.tokens[:, 0]], dim=1)


def test_points_are_embedded_to_unit_length() -> None:
    x = Ragged(torch.tensor([[3.0, 4], [0, 2], [5, 12]]), torch.tensor([2, 1]))
    expected = torch.tensor([[3 / 5, 4 / 5], [0, 1], [5 / 13, 12 / 13]])
    encoder = Points()
    found = embed_tokens(encoder, x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    encoder.spaces["contrast"] = Doubled()
    torch.testing.assert_close(embed_tokens(encoder, x, space="contrast"), torch.tensor([[1.0, 0]] * 3))
    with pytest.raises(UserError, match="this points encoder has no space 'other'; known: contrast"):
        embed_tokens(encoder, x, space="other")
    for without in (Points(tokens=False), Points(every=2)):
        with pytest.raises(UserError, match="own gives no feature per point; choose an encoder with tokens"):
            embed_tokens(without, x)
