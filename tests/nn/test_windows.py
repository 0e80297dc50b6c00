"""Means over windows of maps, and windows carried from view to view, against sums over many points."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mmssl.nn.regions import window_shares
from mmssl.numerics.geometry import apply, boxes_between, sliding_windows


def line(start: float, end: float, cells: int) -> Tensor:
    """What each cell counts between start and end, by interpolation at many points; at the edge no more is there."""
    points = (torch.arange(20_000, dtype=torch.double) + 0.5) / 20_000 * (end - start) + start
    hats = (1 - (points[:, None] * cells - torch.arange(cells) - 0.5).abs()).clamp(min=0)
    return (hats.sum(dim=0) / hats.sum()).float()


@pytest.mark.parametrize("grid", [(4, 4), (3, 7), (1, 2)])
def test_a_window_averages_the_interpolated_map(grid: tuple[int, int]) -> None:
    windows = torch.tensor([[0.1, 0.2, 0.55, 0.9], [0.0, 0.0, 1.0, 1.0], [0.62, 0.4, 0.64, 0.41], [0, 0, 0.05, 0.1]])
    found = window_shares(windows.expand(2, -1, -1), grid)
    assert found.shape == (2, 4, grid[0] * grid[1])
    for shares, (left, top, right, bottom) in zip(found[1], windows.tolist(), strict=True):
        expected = line(top, bottom, grid[0])[:, None] * line(left, right, grid[1])
        torch.testing.assert_close(shares, expected.flatten(), rtol=1e-4, atol=1e-6)


def test_windows_slide_while_they_fit() -> None:
    """Those of ReSim in 224 pixels; its authors leave out what ends at the very edge, the ninth of 32."""
    for side, step, count in ((48, 32, 6), (32, 24, 9), (224, 10, 1), (100, 124, 2), (100, 125, 1)):
        found = sliding_windows(side / 224, step / 224) * 224
        expected = [[j * step, i * step, j * step + side, i * step + side] for i in range(count) for j in range(count)]
        torch.testing.assert_close(found, torch.tensor(expected).float())


def test_boxes_are_carried_between_views() -> None:
    one = torch.tensor([[[20.0, 0, 4], [0, 10, 2]], [[-20, 0, 24], [0, 10, 2]], [[14, -14, 20], [14, 14, 0]]])
    other = torch.tensor([[[10.0, 0, 4], [0, 20, 0]], [[10, 0, 4], [0, 20, 0]], [[20, 0, 5], [0, 10, 3]]])
    boxes = torch.tensor([[0.0, 0.0, 0.5, 1.0], [0.25, 0.5, 0.75, 0.6]])
    found = boxes_between(boxes, one, other)
    torch.testing.assert_close(found[0, 0], torch.tensor([0.0, 0.1, 1.0, 0.6]))
    torch.testing.assert_close(found[1, 0], torch.tensor([1.0, 0.1, 2.0, 0.6]), msg="mirrored")
    down, across = torch.meshgrid(torch.linspace(0, 1, 50), torch.linspace(0, 1, 50), indexing="ij")
    inside = torch.stack([across.flatten(), down.flatten()], dim=1)[None]
    for sample in range(3):
        for box, moved in zip(boxes, found[sample], strict=True):
            source = apply(one[sample : sample + 1], box[:2] + inside * (box[2:] - box[:2]))[0]
            there = torch.linalg.solve(other[sample, :, :2], (source - other[sample, :, 2]).T).T
            torch.testing.assert_close(torch.cat([there.amin(dim=0), there.amax(dim=0)]), moved)
