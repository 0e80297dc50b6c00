"""Patches lie in their cells, in the order of reading."""

from __future__ import annotations

import pytest
import torch

from mmssl.errors import UserError
from mmssl.transforms.patches import cut, leveled


def test_cells_are_read_row_by_row() -> None:
    x = torch.arange(2 * 3 * 8 * 12).view(2, 3, 8, 12)
    cells = cut(x, cell=4)
    assert cells.shape == (2, 6, 3, 4, 4)
    assert cells[:, 4].equal(x[:, :, 4:8, 4:8])
    overlapping = cut(x, cell=4, stride=2)
    assert overlapping.shape == (2, 15, 3, 4, 4)
    assert overlapping[:, 6].equal(x[:, :, 2:6, 2:6])


def test_patches_lie_anywhere_in_their_cell() -> None:
    x = torch.arange(64.0).view(1, 1, 8, 8).expand(300, 2, 8, 8)
    torch.manual_seed(0)
    corners = cut(x, cell=4, side=3)[:, 3, :, 0, 0]
    assert corners[:, 0].equal(corners[:, 1])
    assert set(corners[:, 0].tolist()) == {36.0, 37.0, 44.0, 45.0}
    patch = cut(x, cell=4, side=3)[0, 3, 0]
    assert (patch - patch[0, 0]).tolist() == [[0, 1, 2], [8, 9, 10], [16, 17, 18]]


def test_patches_that_do_not_fit() -> None:
    for options in ({"cell": 9}, {"cell": 4, "side": 5}, {"cell": 0}):
        with pytest.raises(UserError, match="cannot be cut"):
            cut(torch.zeros(1, 3, 8, 8), **options)


def test_leveled_patches_have_one_brightness_and_contrast_in_each_channel() -> None:
    torch.manual_seed(0)
    patches = torch.randint(0, 256, (2, 9, 3, 6, 6), dtype=torch.uint8)
    level = leveled(patches)
    torch.testing.assert_close(level.mean((-1, -2)), torch.full((2, 9, 3), 0.45))
    torch.testing.assert_close(level.std((-1, -2), correction=0), torch.full((2, 9, 3), 0.225))
    torch.testing.assert_close(leveled(0.3 + 0.5 * patches / 255), level, rtol=1e-4, atol=1e-4)
    assert leveled(torch.full((1, 3, 4, 4), 0.7)).unique().tolist() == pytest.approx([0.45], abs=1e-3)
