"""The decoder draws maps of any size from a grid or a vector."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

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


def plain(decoder: Decoder, first: Tensor) -> Tensor:
    """Draws from the first map: each stage doubles the side by repeating, then convolves, with BatchNorm and ReLU."""
    convolutions = [m for m in decoder.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in decoder.modules() if isinstance(m, nn.BatchNorm2d)]
    seen = first
    for convolution, norm in zip(convolutions[:-1], norms, strict=True):
        seen = seen.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        seen = F.conv2d(seen, convolution.weight, padding=1)
        mean, spread = seen.mean((0, 2, 3)), seen.var((0, 2, 3), correction=0)
        seen = (seen - mean[:, None, None]) / (spread + 1e-5).sqrt()[:, None, None]
        seen = (seen * norm.weight[:, None, None] + norm.bias[:, None, None]).clamp(min=0)
    last = convolutions[-1]
    return F.conv2d(seen, last.weight, last.bias, padding=last.kernel_size[0] // 2)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("size", [(8, 12), (10, 9)])
def test_a_grid_is_drawn_as_the_formula_has_it(kernel: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    decoder = Decoder(6, out=4, widths=(8, 5), kernel=kernel)
    for p in decoder.parameters():
        p.data += 0.1 * torch.randn_like(p)
    tokens = torch.randn(2, 6, 6)
    cells = F.linear(tokens, decoder.first.weight, decoder.first.bias)  # (2, 6, 8)
    first = torch.zeros(2, 8, 2, 3)
    for i in range(2):
        for j in range(3):
            first[:, :, i, j] = cells[:, 3 * i + j]
    expected = plain(decoder, first)
    assert expected.shape == (2, 4, 8, 12)
    if size != (8, 12):
        expected = F.interpolate(expected, size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(decoder(Features(torch.zeros(2, 6), tokens, grid=(2, 3)), size), expected)


@pytest.mark.parametrize(("start", "side"), [(None, 1), (1, 1), (3, 3)])
def test_a_vector_is_drawn_as_the_formula_has_it(start: int | None, side: int) -> None:
    torch.manual_seed(0)
    decoder, x = Decoder(6, out=4, widths=(8,), start=start), torch.randn(2, 6)
    nn.init.normal_(decoder.stages[-1].weight)
    first = F.linear(x, decoder.first.weight, decoder.first.bias).reshape(2, 8, side, side)
    torch.testing.assert_close(decoder(x, (2 * side, 2 * side)), plain(decoder, first))


def test_the_defaults_and_what_is_drawn_before_anything_is_learnt() -> None:
    torch.manual_seed(0)
    decoder = Decoder(6)
    convolutions = [m for m in decoder.modules() if isinstance(m, nn.Conv2d)]
    assert [m.out_channels for m in convolutions] == [256, 128, 64, 3] and decoder.first.out_features == 256
    assert [m.kernel_size for m in convolutions] == [(3, 3)] * 4 and [m.bias is None for m in convolutions[:3]] == [
        True
    ] * 3
    last = convolutions[-1]
    assert last.bias is not None and last.bias.tolist() == [0.0] * 3
    assert last.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert Decoder(6, widths=(4,), at_first=0.25).stages[-1].bias.tolist() == [0.25] * 3


def test_what_is_drawn_is_float32() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert Decoder(6, widths=(4,))(torch.randn(2, 6), (2, 2)).dtype == torch.float32


def test_tokens_without_a_grid_or_a_grid_without_tokens_are_not_drawn_from() -> None:
    for features in (Features(torch.zeros(1, 4), torch.zeros(1, 6, 4)), Features(torch.zeros(1, 4), grid=(2, 3))):
        with pytest.raises(UserError, match="gives no grid"):
            Decoder(4, widths=(4,))(features, (8, 8))
    Decoder(4, widths=(1,), start=1)
    with pytest.raises(UserError, match="expected numbers above 0"):
        Decoder(4, widths=(4, 0, 4))
