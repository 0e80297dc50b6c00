"""Overlaps of crops by hand, and maps cut there: a ramp over the source is the same in both views."""

from __future__ import annotations

import torch

from mmssl.numerics.geometry import apply, cell_centers
from mmssl.numerics.overlaps import cut_at, overlap

LEFT = torch.tensor([[[20.0, 0, 4], [0, 10.0, 6]]])
MIRRORED = torch.tensor([[[-16.0, 0, 30], [0, 24.0, 2]]])
ASIDE = torch.tensor([[[5.0, 0, 60], [0, 5.0, 60]]])


def test_the_box_that_both_show() -> None:
    box, area = overlap(LEFT, MIRRORED)
    assert box.tolist() == [[14, 6, 24, 16]] and area.tolist() == [100]
    assert overlap(LEFT, ASIDE)[1].tolist() == [0]
    assert overlap(LEFT, LEFT)[0].tolist() == [[4, 6, 24, 16]]


def test_what_is_cut_is_the_same_place_in_both_views() -> None:
    box, _ = overlap(LEFT, MIRRORED)
    cuts = []
    for place, grid in ((LEFT, (20, 40)), (MIRRORED, (48, 32))):
        source = apply(place, cell_centers(grid))[0]  # x and y of the source at each cell
        cuts.append(cut_at(source.T.reshape(1, 2, *grid), place, box, 5)[0])
    middle = torch.arange(5) * 2 + 1.0
    for cut in cuts:
        torch.testing.assert_close(cut[0], (14 + middle).expand(5, 5), atol=0.3, rtol=0)
        torch.testing.assert_close(cut[1], (6 + middle)[:, None].expand(5, 5), atol=0.3, rtol=0)
    torch.testing.assert_close(cuts[0], cuts[1], atol=0.3, rtol=0)
