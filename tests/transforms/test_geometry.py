"""Pictures that are turned and moved as a batch."""

from __future__ import annotations

import torch

from mmssl.transforms.geometry import rotate, rotation, warp


def test_a_quarter_turn_is_exact_and_against_the_clock() -> None:
    x = torch.rand(2, 3, 6, 6)
    torch.testing.assert_close(warp(x, rotation(torch.tensor([90.0, 0.0])))[0], x[0].rot90(1, (1, 2)))
    torch.testing.assert_close(warp(x, rotation(torch.tensor([90.0, 0.0])))[1], x[1])


def test_a_wide_picture_is_turned_and_not_skewed() -> None:
    x = torch.zeros(1, 1, 9, 21)
    x[0, 0, 4, 10:13] = 1  # a line to the right of the middle
    turned = warp(x, rotation(torch.tensor([90.0])), fill=0.0)
    expected = torch.zeros(9, 21)
    expected[2:5, 10] = 1
    torch.testing.assert_close(turned[0, 0], expected, atol=1e-4, rtol=0)


def test_what_lies_outside_is_mirrored_or_filled() -> None:
    x = torch.ones(2, 3, 8, 8)
    moved = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]).expand(2, 2, 3)
    filled = warp(x, moved, fill=0.5)
    torch.testing.assert_close(filled[..., :4], torch.ones(2, 3, 8, 4))
    torch.testing.assert_close(filled[..., 4:], torch.full((2, 3, 8, 4), 0.5))
    torch.testing.assert_close(warp(x, moved), x)


def test_each_picture_turns_by_its_own_angle() -> None:
    x = torch.rand(1, 3, 16, 16).expand(4, -1, -1, -1)
    turned = rotate(x, degrees=20)
    assert turned.shape == x.shape
    assert len({round(float(one.sum()), 3) for one in turned}) == 4
    torch.testing.assert_close(rotate(x, degrees=0), x)
