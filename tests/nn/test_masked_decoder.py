"""MAE's decoder by its formula (He et al., CVPR 2022), token by token."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.nn.masked_decoder import MaskedDecoder
from mmssl.nn.positions import sincos
from mmssl.types import Features


@pytest.mark.parametrize("grid", [(2, 3), (3, 1, 2)])
def test_it_is_the_papers_in_value_and_gradient(grid: tuple[int, ...]) -> None:
    decoder = MaskedDecoder(5, out=4, width=8, depth=2, heads=2)
    with torch.no_grad():
        for p in decoder.parameters():
            p.add_(0.3 * torch.randn_like(p))
    pooled, tokens = torch.randn(2, 5, requires_grad=True), torch.randn(2, 3, 5, requires_grad=True)
    seen = torch.tensor([[0, 2, 5], [1, 3, 4]])
    found = decoder(Features(pooled, tokens), seen, grid)

    rows = []
    for sample in range(2):
        whole = [F.linear(pooled[sample], decoder.embed.weight, decoder.embed.bias)]
        for place, code in enumerate(sincos(8, grid)):
            known = seen[sample].tolist()
            token = decoder.mask_token
            if place in known:
                token = F.linear(tokens[sample, known.index(place)], decoder.embed.weight, decoder.embed.bias)
            whole.append(token + code)
        x = decoder.blocks(torch.stack(whole)[None])[0]
        x = F.layer_norm(x, (8,), decoder.norm.weight, decoder.norm.bias)
        rows.append(F.linear(x[1:], decoder.predict.weight, decoder.predict.bias))
    expected = torch.stack(rows)
    torch.testing.assert_close(found, expected)
    inputs = [pooled, tokens, *decoder.parameters()]
    mine = torch.autograd.grad(found.square().sum(), inputs)
    theirs = torch.autograd.grad(expected.square().sum(), inputs)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_it_is_as_large_as_is_asked_and_begins_small() -> None:
    decoder = MaskedDecoder(30, out=50, width=400, depth=3, heads=4)
    assert len(decoder.blocks.layers) == 3 and decoder.blocks.layers[0].attention.heads == 4
    assert decoder.mask_token.shape == (400,) and decoder.mask_token.std().item() == pytest.approx(0.02, rel=0.2)
    for linear, sizes in ((decoder.embed, (400, 30)), (decoder.predict, (50, 400))):
        bound = math.sqrt(6 / sum(sizes))
        assert linear.weight.shape == sizes and not linear.bias.any()
        assert 0.99 * bound < linear.weight.abs().max() <= bound
        assert linear.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)


def test_it_draws_in_float32_whatever_the_encoder_gives() -> None:
    decoder = MaskedDecoder(5, out=4, width=8, depth=1, heads=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = Features(torch.randn(2, 5), torch.randn(2, 3, 5))
        assert decoder(features, torch.tensor([[0, 2, 5], [1, 3, 4]]), (2, 3)).dtype == torch.float32


def test_heads_divide_the_width() -> None:
    with pytest.raises(UserError, match="width 10 must be a multiple of its heads 4"):
        MaskedDecoder(5, out=4, width=10, depth=1, heads=4)
    MaskedDecoder(5, out=4, width=8, depth=1, heads=4)
