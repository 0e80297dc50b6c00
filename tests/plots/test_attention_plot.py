"""What a class token attends to: by hand, as transformers tells it, and as timm without fused attention."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from given import give
from PIL import Image
from torch import Tensor

from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.nn.attention_rows import AttentionRows
from mmssl.plots import attention
from mmssl.plots.attention import class_attention
from mmssl.types import Encoder, Trained

SMALL = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 16}


def vit(**options: Any) -> Any:
    return create_encoder(
        "vit", **{"image_size": 16, "patch_size": 4, "width": 24, "depth": 3, "heads": 2, **options}
    ).eval()


def pictures(size: int = 16, count: int = 2) -> Tensor:
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)


@pytest.mark.parametrize("block", [0, 2, -1])
def test_ours_by_hand(block: int) -> None:
    encoder, x, held = vit(), pictures(), {}
    layer = encoder.blocks.layers[block].attention
    torch.nn.init.normal_(layer.qkv.weight)
    with layer.register_forward_pre_hook(lambda _, given: held.update(x=given[0])):
        found, grid = class_attention(encoder, x, block=block)
    q, k = (part.detach().numpy().reshape(2, 17, 2, 12) for part in layer.qkv(held["x"].clone()).split(24, dim=2)[:2])
    for sample in range(2):
        for head in range(2):
            scores = np.exp(q[sample, 0, head] @ k[sample, :, head].T / 12**0.5)
            np.testing.assert_allclose(found[sample, head], (scores / scores.sum())[1:], rtol=1e-4)
    assert grid == (4, 4) and found.shape == (2, 2, 16)


def test_a_set_head_looks_where_the_image_is_bright() -> None:
    encoder = vit(width=4, heads=1, depth=1, mean=[0, 0, 0], std=[1, 1, 1])
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.zero_()
        encoder.positions.zero_()
        encoder.patch.weight[0] = 1.0  # the first number of a patch's token is how bright it is
        encoder.patch.bias[1] = 1.0
        encoder.class_token[..., 2] = 1.0
        layer = encoder.blocks.layers[0]
        layer.norm1.weight.fill_(1.0)
        layer.attention.qkv.weight[0, 2] = layer.attention.qkv.weight[4, 0] = 3.0  # query of the class, key of light
    x = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    x[:, :, 4:8, 8:12] = 255
    found, _ = class_attention(encoder, x)
    assert found[0, 0].argmax() == 6 and found[0, 0, 6] > 5 * found[0, 0].sort().values[-2]


def test_what_is_computed_stays_as_it_is() -> None:
    encoder, x = vit(), pictures()
    plain = encoder(x)
    with AttentionRows() as rows:
        found = encoder(x)
    assert torch.equal(plain.pooled, found.pooled) and len(rows.rows) == 3 and rows.queries == [17] * 3


@pytest.mark.parametrize("family", ["vit", "dinov2_with_registers", "clip"])
def test_transformers_as_it_tells_itself(family: str) -> None:
    sides: dict[str, Any] = {**SMALL, "image_size": 16, "patch_size": 4}
    node: dict[str, Any] = {"model_type": family, **sides}
    if family == "clip":
        text = {**SMALL, "num_hidden_layers": 1, "vocab_size": 99, "bos_token_id": 1, "eos_token_id": 2}
        node = {"model_type": family, "vision_config": sides, "text_config": {**text, "pad_token_id": 0}}
    encoder: Any = create_encoder(
        "transformers", architecture=node, **({"modality": "image"} if family == "clip" else {})
    ).eval()
    x = pictures()
    found, grid = class_attention(encoder, x, block=1)
    encoder.model.set_attn_implementation("eager")
    with torch.no_grad():
        told = encoder.model(encoder.front(x), output_attentions=True).attentions[1][:, :, 0, -16:]
    assert grid == (4, 4)
    torch.testing.assert_close(found, told, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "beit_base_patch16_224", "vit_small_patch14_reg4_dinov2"])
def test_timm_without_fused_attention(name: str) -> None:
    small = {"embed_dim": 24, "depth": 2, "num_heads": 3, "img_size": 28, "patch_size": 14}
    encoder: Any = create_encoder(f"timm:{name}", **small).eval()
    if name.startswith("beit"):
        torch.nn.init.normal_(encoder.model.blocks[0].attn.relative_position_bias_table)
    x, held = pictures(28), {}
    found, grid = class_attention(encoder, x, block=0)
    layer = encoder.model.blocks[0].attn
    layer.fused_attn = False
    with layer.attn_drop.register_forward_hook(lambda _, given, out: held.update(weights=out)), torch.no_grad():
        encoder(x)
    assert grid == (2, 2)
    torch.testing.assert_close(found, held["weights"][:, :, 0, -4:], rtol=1e-5, atol=1e-7)


def test_a_query_that_pools_stands_for_a_class_token() -> None:
    sides: dict[str, Any] = {**SMALL, "image_size": 16, "patch_size": 4}
    text = {**SMALL, "vocab_size": 99, "bos_token_id": 1, "eos_token_id": 2}
    node = {"model_type": "siglip", "vision_config": sides, "text_config": text}
    encoder: Any = create_encoder("transformers", architecture=node, modality="image").eval()
    x, head = pictures(), encoder.model.head
    found, grid = class_attention(encoder, x)
    with torch.no_grad():
        hidden = encoder.model(encoder.front(x)).last_hidden_state
        probe = head.probe.repeat(2, 1, 1)
        _, told = head.attention(probe, hidden, hidden, average_attn_weights=False)
    assert grid == (4, 4)
    torch.testing.assert_close(found, told[:, :, 0], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("encoder", [vit(pool="mean"), create_encoder("convnet", image_size=16)])
def test_without_a_class_token_there_is_one_clear_error(encoder: Encoder) -> None:
    with pytest.raises(UserError, match=r"has no class token that attends to patches .* `mmssl plot RUN similarity`"):
        class_attention(encoder.eval(), pictures())


def test_a_block_that_is_not_there() -> None:
    for block in (3, -4):
        with pytest.raises(UserError, match=f"block is {block}; this encoder has 3, from 0 to 2"):
            class_attention(vit(), pictures(), block=block)


def test_a_row_is_an_image_the_mean_and_each_head(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [{"__key__": f"{n}.png", "image": Image.new("RGB", (20, 16), (n, 0, 0))} for n in range(8)]
    give(monkeypatch, "mmssl.plots.attention", samples)
    drawn: list[Any] = []
    monkeypatch.setattr(attention, "tiles", lambda rows, titles: drawn.append((rows, titles)))
    maps = torch.arange(32.0).view(1, 2, 16)
    monkeypatch.setattr(attention, "class_attention", lambda encoder, x, block: (maps * (1 + block), (4, 4)))
    monkeypatch.setattr(attention, "heat", lambda values, shape: np.full((*shape, 3), values[0, 1]))
    monkeypatch.setattr(attention, "blend", lambda under, over, opacity: over)
    encoder = vit()
    [(name, _)] = attention.plot(Trained({"image": encoder}), data={}, count=4, block=2)
    [(rows, titles)] = drawn
    assert name == "attention" and titles[1] == ["1.png", "mean of heads", "head 0", "head 1"]
    assert [row[0][0, 0, 0] for row in rows] == [0, 1, 2, 3]
    assert [tile[0, 0, 0] for tile in rows[0][1:]] == [27.0, 3.0, 51.0]
