"""The projection, the transformer blocks and the pixel normalisation."""

from __future__ import annotations

import pytest
import torch

from mmssl.nn.blocks import Attention, Blocks, DropPath
from mmssl.nn.head import Projection
from mmssl.nn.normalize import Normalize, pixel_normalize
from mmssl.types import Features


@pytest.mark.parametrize("options", [{}, {"hidden": (20,)}, {"hidden": (20, 30), "norm": False, "bias": True}])
def test_projection_gives_unit_vectors_and_is_built_again(options: dict) -> None:
    torch.manual_seed(0)
    head = Projection(12, out=8, **options)
    features = Features(torch.randn(6, 12))
    with torch.autocast("cpu", torch.bfloat16):
        out = head(features)
    assert out.shape == (6, 8) and out.dtype == torch.float32
    torch.testing.assert_close(out.norm(dim=1), torch.ones(6))
    config = head.config()
    again = Projection(config.pop("dim"), **config)
    again.load_state_dict(head.state_dict(), strict=True)
    torch.testing.assert_close(again.eval()(features), head.eval()(features))


def test_projection_starts_as_in_clip_and_can_be_left_out() -> None:
    torch.manual_seed(0)
    (layer,) = Projection(256, out=512).layers
    assert layer.bias is None
    assert layer.weight.std().item() == pytest.approx(256**-0.5, rel=0.02)
    x = torch.randn(3, 5)
    torch.testing.assert_close(Projection(5, out=None)(Features(x)), x / x.norm(dim=1, keepdim=True))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_the_softmax_of_allowed_scores(causal: bool, masked: bool) -> None:
    torch.manual_seed(0)
    attention = Attention(8, 2)
    x = torch.randn(2, 5, 8)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2]) if masked else None
    q, k, v = attention.qkv(x).view(2, 5, 3, 2, 4).unbind(2)
    scores = torch.einsum("bihd,bjhd->bhij", q, k) / 4**0.5
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None], -torch.inf)
    if causal:
        scores = scores.masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf)
    expected = attention.proj(torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v).reshape(2, 5, 8))
    torch.testing.assert_close(attention(x, mask=mask, causal=causal), expected)


def test_blocks_keep_the_variance_at_any_depth() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 10, 64)
    for depth in (1, 24):
        assert 0.8 < Blocks(64, depth=depth, heads=4)(x).std().item() < 2


def test_drop_path_keeps_the_mean_and_skips_whole_samples() -> None:
    torch.manual_seed(0)
    drop, x = DropPath(0.25), torch.ones(4000, 2)
    assert drop.eval()(x) is x
    out = drop.train()(x)
    assert out.unique().tolist() == pytest.approx([0, 4 / 3])
    assert (out[:, 0] == out[:, 1]).all()
    assert out.mean().item() == pytest.approx(1, abs=0.03)
    torch.testing.assert_close(Blocks(8, depth=3, heads=2, drop_path=0.2).layers[-1].drop_path.rate, 0.2)


def test_bytes_and_unit_floats_are_normalised_alike() -> None:
    x = torch.randint(0, 256, (2, 3, 4, 5, 5), dtype=torch.uint8)
    normalize = Normalize((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    expected = (x[:, 1].float() / 255 - 0.2) / 0.6
    torch.testing.assert_close(normalize(x)[:, 1], expected)
    torch.testing.assert_close(normalize(x / 255)[:, 1], expected)
    assert not normalize.state_dict()
    gray = torch.rand(2, 1, 4, 4)
    torch.testing.assert_close(pixel_normalize(1, None, None)(gray), gray)
