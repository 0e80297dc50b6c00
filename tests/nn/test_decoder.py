"""The decoder draws maps of any size from a grid or a vector."""

from __future__ import annotations

import pytest
import torch

from mmssl.errors import UserError
from mmssl.nn.decoder import Decoder
from mmssl.types import Features


def test_every_stage_doubles_the_grid_and_the_rest_is_interpolated() -> None:
    torch.manual_seed(0)
    decoder = Decoder(6, out=4, widths=(8, 5)).eval()
    features = Features(torch.randn(2, 6), torch.randn(2, 6, 6), grid=(2, 3))
    drawn = decoder(features, (8, 12))
    assert drawn.shape == (2, 4, 8, 12) and drawn.dtype == torch.float32
    assert decoder(features, (20, 30)).shape == (2, 4, 20, 30)
    assert [m.out_channels for m in decoder.modules() if isinstance(m, torch.nn.Conv2d)] == [8, 5, 4]
    assert Decoder(6, out=4, widths=(8, 5), kernel=1).eval()(features, (8, 12)).shape == drawn.shape


def test_cells_are_drawn_where_they_lie() -> None:
    torch.manual_seed(0)
    decoder = Decoder(4, widths=(8,)).eval()
    tokens = torch.randn(1, 16, 4, requires_grad=True)
    drawn = decoder(Features(torch.zeros(1, 4), tokens, grid=(4, 4)), (8, 8))
    (gradient,) = torch.autograd.grad(drawn[0, 0, 0, 7], tokens)
    assert (gradient.abs().sum(2).view(4, 4) > 0).nonzero().tolist() == [[0, 2], [0, 3], [1, 2], [1, 3]]


def test_a_vector_becomes_the_first_map_and_what_is_drawn_at_first_is_chosen() -> None:
    torch.manual_seed(0)
    decoder = Decoder(5, widths=(8, 4), start=3, at_first=0.5)
    drawn = decoder(torch.randn(2, 5), (12, 12))
    assert drawn.shape == (2, 3, 12, 12)
    assert (drawn - 0.5).abs().max() < 0.2


def test_it_says_what_it_needs() -> None:
    with pytest.raises(UserError, match="gives no grid"):
        Decoder(4)(Features(torch.zeros(1, 4)), (8, 8))
    for options in ({"widths": ()}, {"widths": (0,)}, {"start": 0}):
        with pytest.raises(UserError, match="expected numbers above 0"):
            Decoder(4, **options)
