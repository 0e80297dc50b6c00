"""Packed rows: those of other processes, and an embedding of each."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mmssl import dist
from mmssl.errors import UserError
from mmssl.nn.packed import embed_tokens, gather_rows
from mmssl.types import Encoder, Features, Head, Ragged


@pytest.mark.parametrize("rank, begin", [(0, 0), (1, 3), (2, 4)])
@pytest.mark.parametrize("kind", [torch.float, torch.long])
def test_rows_of_all_processes_come_in_their_order(
    monkeypatch: pytest.MonkeyPatch, rank: int, begin: int, kind: torch.dtype
) -> None:
    everyone = [torch.arange(12).view(3, 2, 2), 100 + torch.arange(4).view(1, 2, 2), torch.zeros(0, 2, 2).long()]
    everyone = [x.to(kind) for x in everyone]
    asked = []

    def gather(x: Tensor) -> Tensor:
        """All processes' lengths, or their rows, padded with zeros to the longest."""
        asked.append("plain")
        if x.ndim == 1:
            assert x.tolist() == [len(everyone[rank])]
            return torch.tensor([3, 1, 0])
        assert x.shape == (3, 2, 2) and x[: len(everyone[rank])].equal(everyone[rank])
        assert not x[len(everyone[rank]) :].any()
        filled = [torch.cat([part, 77 * torch.ones(3 - len(part), 2, 2).to(kind)]) for part in everyone]
        return torch.cat(filled)

    def with_grad(x: Tensor) -> Tensor:
        found = gather(x)
        asked[-1] = "with_grad"
        return found

    monkeypatch.setattr(dist, "world", lambda: 3)
    monkeypatch.setattr(dist, "rank", lambda: rank)
    monkeypatch.setattr(dist, "gather", gather)
    monkeypatch.setattr(dist, "gather_with_grad", with_grad)
    rows, first = gather_rows(everyone[rank])
    assert rows.equal(torch.cat(everyone)) and first == begin and isinstance(first, int)
    assert asked == ["plain", "with_grad" if kind == torch.float else "plain"]


def test_a_process_alone_has_its_own_rows() -> None:
    x = torch.rand(3, 2)
    rows, first = gather_rows(x)
    assert rows is x and first == 0


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
