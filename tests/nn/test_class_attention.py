"""The class token's attention against timm's own, and the foreground against loops and scipy's labels of parts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.nn.class_attention import ClassAttention, foreground


@pytest.mark.parametrize("qk_norm", [False, True])
def test_attention_is_timms(qk_norm: bool) -> None:
    torch.manual_seed(0)
    options = {"embed_dim": 24, "depth": 2, "num_heads": 3, "patch_size": 8, "qk_norm": qk_norm}
    encoder = create_encoder("timm:vit_tiny_patch16_224", image_size=32, **options).eval()
    block = encoder.model.blocks[-1].attn
    x, caught = torch.rand(2, 3, 32, 32), []
    block.fused_attn = False
    hook = block.attn_drop.register_forward_hook(lambda _, __, out: caught.append(out))
    features, found = ClassAttention(encoder)(encoder, x)
    hook.remove()
    torch.testing.assert_close(found, caught[0][:, :, 0, 1:].mean(dim=1))
    torch.testing.assert_close(features.tokens, encoder(x).tokens)


def test_attention_of_our_own_vit_is_that_of_its_last_block() -> None:
    torch.manual_seed(0)
    encoder = create_encoder("vit", image_size=16, patch_size=8, width=12, depth=2, heads=3)
    x = torch.rand(2, 3, 16, 16)
    block = encoder.blocks.layers[1]
    inputs: list[torch.Tensor] = []
    hook = block.attention.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    _, found = ClassAttention(encoder)(encoder, x)
    hook.remove()
    q, k = block.attention.qkv(inputs[0]).split(12, dim=2)[:2]
    heads = [q[:, :1, h * 4 : h * 4 + 4] @ k[:, :, h * 4 : h * 4 + 4].mT / 2 for h in range(3)]
    expected = sum(each.softmax(dim=2)[:, 0, 1:] for each in heads) / 3
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("name", "options"), [("convnet", {}), ("vit", {"pool": "mean", "width": 24, "heads": 2})])
def test_an_encoder_without_a_class_token_is_refused(name: str, options: dict[str, object]) -> None:
    with pytest.raises(UserError, match="this encoder has none; choose a ViT with one"):
        ClassAttention(create_encoder(name, image_size=32, **options))


@pytest.mark.parametrize("mass", [0.6, 0.3])
def test_the_foreground_holds_most_of_the_attention_in_parts_of_three_cells_or_more(mass: float) -> None:
    draw = np.random.default_rng(0)
    attention = torch.from_numpy(draw.exponential(size=(6, 12 * 10))).float() ** 3
    found = foreground(attention, (12, 10), mass=mass).view(6, 12, 10)
    line = np.exp(-0.5 * (np.arange(-3, 4) / 0.6) ** 2)
    line, small = line / line.sum(), []
    for image, mine in zip(attention.view(6, 12, 10).double().numpy(), found.numpy(), strict=True):
        blurred = ndimage.convolve1d(ndimage.convolve1d(image, line, 0, mode="mirror"), line, 1, mode="mirror")
        order = np.argsort(blurred.ravel())
        kept = np.zeros(120, bool)
        kept[order[np.cumsum(blurred.ravel()[order]) / blurred.sum() > 1 - mass]] = True
        parts, count = ndimage.label(kept.reshape(12, 10), np.ones((3, 3)))
        sizes = ndimage.sum_labels(np.ones_like(parts), parts, range(count + 1))
        small.append((sizes[1:] <= 2).any())
        np.testing.assert_array_equal(mine, (parts > 0) & (sizes[parts] > 2))
    assert any(small), "some parts are left out"


def test_a_grid_smaller_than_the_filter_has_one_too() -> None:
    attention = torch.tensor([[0.0, 0.0, 0.0, 0.3, 0.3, 0.4]])
    assert foreground(attention, (2, 3), mass=0.9)[0, 3:].all()
