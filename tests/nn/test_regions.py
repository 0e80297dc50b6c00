"""Regions of images by hand: what most of a cell is covered by, and averages."""

from __future__ import annotations

import torch

from mmssl.nn.regions import commonest, masked_mean

MASK = torch.tensor([
    [[1, 1, 0, 0, 5, 5, 9], [1, 1, 0, 0, 5, 9, 9]],
    [[2, 2, 2, 2, 2, 2, 2], [2, 2, 2, 7, 4, 4, 4]],
])  # fmt: skip


def test_the_commonest_number_of_each_cell() -> None:
    mask = MASK[:, :, :6]
    assert commonest(mask, (1, 3), 256).tolist() == [[1, 0, 5], [2, 2, 2]], "of equals the least"
    assert commonest(mask, (2, 6), 256).view(2, 2, 6).equal(mask), "row by row"
    assert commonest(mask, (2, 6), 5).view(2, 2, 6).equal(mask.clamp(max=4)), "what lies beyond is one"
    assert commonest(MASK, (2, 3), 10)[0].tolist() == [1, 0, 5, 1, 0, 9], "columns 0 to 2, 3 and 4, 5 and 6"


def test_means_weigh_cells_by_what_is_covered() -> None:
    tokens = torch.tensor([[[1.0, 10], [2, 20], [4, 40]]])
    shares = torch.tensor([[[1, 0, 0], [0.5, 0, 1.0], [0, 0, 0]]])
    found = masked_mean(tokens, shares)
    torch.testing.assert_close(found, torch.tensor([[[1.0, 10], [3, 30], [0, 0]]]))
    assert masked_mean(tokens.bfloat16(), shares).dtype == torch.bfloat16
