"""Regions of images by hand: what masks cover of cells, and averages over it."""

from __future__ import annotations

import torch

from mmssl.nn.regions import mask_shares, masked_mean

MASK = torch.tensor([
    [[1, 1, 0, 0, 5, 5], [1, 1, 0, 0, 5, 0]],
    [[0, 0, 0, 0, 0, 0], [0, 0, 0, 9, 0, 0]],
])  # fmt: skip


def test_shares_of_cells() -> None:
    ids = torch.tensor([[1, 5, 0], [9, 5, 0]])
    found = mask_shares(MASK, ids, (1, 3))
    expected = [[[1, 0, 0], [0, 0, 0.75], [0, 1, 0.25]], [[0, 0.25, 0], [0, 0, 0], [1, 0.75, 1]]]
    torch.testing.assert_close(found, torch.tensor(expected))
    assert mask_shares(MASK, ids[:, :1], (2, 6))[0, 0].view(2, 6).equal((MASK[0] == 1).float()), "row by row"


def test_means_weigh_cells_by_what_is_covered() -> None:
    tokens = torch.tensor([[[1.0, 10], [2, 20], [4, 40]]])
    shares = torch.tensor([[[1, 0, 0], [0.5, 0, 1.0], [0, 0, 0]]])
    found = masked_mean(tokens, shares)
    torch.testing.assert_close(found, torch.tensor([[[1.0, 10], [3, 30], [0, 0]]]))
    assert masked_mean(tokens.bfloat16(), shares).dtype == torch.bfloat16
