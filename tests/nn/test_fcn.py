"""The fully convolutional head against plain torch."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from mmssl.nn.fcn import FCN


def test_scores_of_finer_maps_are_added() -> None:
    torch.manual_seed(0)
    maps = [torch.randn(2, width, side, side) for width, side in ((4, 16), (6, 8), (8, 4))]
    head = FCN([4, 6, 8], 3, width=5, skips=1).eval()
    assert head.count == 2 and head.last[0].weight.shape == (5, 8, 3, 3)
    coarse = head.last(maps[2])
    scale = {"mode": "bilinear", "align_corners": False}
    middle = F.interpolate(coarse, size=(8, 8), **scale)
    torch.testing.assert_close(head(maps, (20, 24)), F.interpolate(middle, size=(20, 24), **scale), msg="from zero")
    torch.nn.init.normal_(head.finer[0].weight)
    middle = middle + F.conv2d(maps[1], head.finer[0].weight)
    torch.testing.assert_close(head(maps, (20, 24)), F.interpolate(middle, size=(20, 24), **scale))
    assert FCN([4, 6, 8], 3, skips=9).count == 3 and FCN([8], 3, skips=2)([maps[2]], (8, 8)).shape == (2, 3, 8, 8)
