"""Transformer blocks against torch's own layer, and stochastic depth by its definition."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import Tensor, nn

from mmssl.nn.blocks import Attention, Block, Blocks, DropPath, stop_drop_path


def torchs(block: Block, *, dim: int, heads: int, hidden: int) -> nn.TransformerEncoderLayer:
    """The pre-norm layer of torch with the weights of ours."""
    layer = nn.TransformerEncoderLayer(
        dim, heads, hidden, dropout=0.0, activation="gelu", norm_first=True, batch_first=True, dtype=torch.double
    )
    given = {
        "self_attn.in_proj_weight": block.attention.qkv.weight,
        "self_attn.in_proj_bias": block.attention.qkv.bias,
        "self_attn.out_proj.weight": block.attention.proj.weight,
        "self_attn.out_proj.bias": block.attention.proj.bias,
        "linear1.weight": block.mlp[0].weight,
        "linear1.bias": block.mlp[0].bias,
        "linear2.weight": block.mlp[2].weight,
        "linear2.bias": block.mlp[2].bias,
        "norm1.weight": block.norm1.weight,
        "norm1.bias": block.norm1.bias,
        "norm2.weight": block.norm2.weight,
        "norm2.bias": block.norm2.bias,
    }
    layer.load_state_dict({name: p.detach().clone() for name, p in given.items()}, strict=True)
    return layer


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_a_stack_is_torchs_in_value_and_gradient(causal: bool, masked: bool) -> None:
    blocks = Blocks(12, depth=2, heads=3, mlp_ratio=1.5, drop_path=0.0).double()
    with torch.no_grad():
        for p in blocks.parameters():
            p.add_(0.2 * torch.randn_like(p))
    theirs = [torchs(block, dim=12, heads=3, hidden=18) for block in blocks.layers]
    x = torch.randn(3, 5, 12, dtype=torch.double)
    there = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 1, 1, 0], [1, 1, 0, 0, 0]], dtype=torch.bool)
    hidden = ~there if masked else None
    after = torch.ones(5, 5, dtype=torch.bool).triu(1) if causal else None
    mine, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    found = blocks(mine, mask=there if masked else None, causal=causal)
    expected: Tensor = other
    for layer in theirs:
        expected = layer(expected, src_mask=after, src_key_padding_mask=hidden)
    kept = there[..., None] if masked else torch.ones_like(there)[..., None]
    torch.testing.assert_close(found * kept, expected * kept)
    weight = torch.randn_like(x) * kept
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(mine.grad, other.grad)
    for block, layer in zip(blocks.layers, theirs, strict=True):
        torch.testing.assert_close(block.attention.qkv.weight.grad, layer.self_attn.in_proj_weight.grad)
        torch.testing.assert_close(block.mlp[2].bias.grad, layer.linear2.bias.grad)


def test_each_layer_is_handed_the_masks() -> None:
    blocks, x = Blocks(8, depth=3, heads=2), torch.randn(2, 4, 8)
    there = torch.tensor([[True, True, True, False]] * 2)
    changed = x.clone()
    changed[:, 3] = torch.randn(2, 8)
    torch.testing.assert_close(blocks(x, mask=there)[:, :3], blocks(changed, mask=there)[:, :3])
    torch.testing.assert_close(blocks(x, causal=True)[:, :3], blocks(changed, causal=True)[:, :3])
    assert not blocks(x)[:, :3].isclose(blocks(changed)[:, :3]).any()


def test_attention_has_its_heads_and_looks_both_ways() -> None:
    attention, x = Attention(6, 3), torch.randn(1, 4, 6)
    assert attention.heads == 3 and attention.qkv.weight.shape == (18, 6)
    for module in (attention, Block(6, 3)):
        torch.testing.assert_close(module(x), module(x, mask=None, causal=False))
        assert not module(x).isclose(module(x, causal=True))[:, :3].all(dim=2).any()


def test_drop_path_skips_samples_and_keeps_the_mean() -> None:
    drop, x = DropPath(0.25), torch.rand(4000, 3, 2) + 1
    found = drop(x)
    skipped = (found == 0).all(dim=2).all(dim=1)
    assert skipped.float().mean().item() == pytest.approx(0.25, abs=0.03)
    torch.testing.assert_close(found[~skipped], x[~skipped] / 0.75)
    assert drop.eval()(x) is x and DropPath(0.0).train()(x) is x


def test_both_branches_of_a_block_are_dropped_and_deeper_ones_more_often() -> None:
    blocks = Blocks(8, depth=5, heads=2, drop_path=0.4)
    rates = [block.drop_path.rate for block in blocks.layers]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert Blocks(8, depth=1, heads=2, drop_path=0.4).layers[0].drop_path.rate == 0
    assert [block.drop_path.rate for block in Blocks(8, depth=2, heads=2, drop_path=0.4).layers] == [0, 0.4]
    block, x = Block(8, 2, drop_path=1 - 1e-9), torch.randn(3, 4, 8)
    torch.testing.assert_close(block(x), x, msg="nothing but the stream is left")
    assert not block.eval()(x).isclose(x).all(dim=2).any()


def test_the_stream_keeps_its_variance_at_any_depth() -> None:
    """Weights are drawn as Glorot & Bengio have them, and what ends a branch by the square root of twice the depth."""
    blocks, x = Blocks(64, depth=8, heads=4), torch.randn(4, 16, 64)
    for name, p in blocks.named_parameters():
        if name.endswith("bias"):
            assert not p.any(), name
        elif p.ndim == 2:
            gain = 1 / 4 if name.endswith(("proj.weight", "mlp.2.weight")) else 1.0
            bound = gain * (6 / sum(p.shape)) ** 0.5
            assert p.abs().max() <= bound and p.abs().max() > 0.97 * bound, name
            assert p.std().item() == pytest.approx(bound / 3**0.5, rel=0.05), name
        else:
            assert p.eq(1).all(), name
    assert blocks.layers[0].mlp[0].out_features == 256, "four times as wide"
    assert 0.8 < blocks(x).std() < 2
    for kind, given in ((Blocks, {"mlp_ratio": 4.0, "drop_path": 0.0}), (Block, {"mlp_ratio": 4.0, "drop_path": 0.0})):
        parameters = inspect.signature(kind).parameters
        assert {name: parameters[name].default for name in given} == given


def test_drop_path_is_turned_off_for_good_whosever_it_is() -> None:
    """Ours has a rate and timm's, of the same name, a drop_prob; test_prototypes.py has a network of timm's."""
    theirs = type("DropPath", (nn.Module,), {})()
    theirs.drop_prob = 0.5
    network = nn.Sequential(DropPath(0.5), nn.Sequential(theirs), nn.Dropout(0.5))
    stop_drop_path(network)
    assert network[0].rate == 0.0 and theirs.drop_prob == 0.0 and network[2].p == 0.5
    assert not hasattr(network[0], "drop_prob") and not hasattr(theirs, "rate") and not hasattr(network[2], "rate")
