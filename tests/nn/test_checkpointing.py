"""Gradient checkpointing: the same step with less kept."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from mmssl.encoders import create_encoder
from mmssl.nn.checkpointing import blocks, checkpoint_blocks
from mmssl.types import Encoder, Ragged

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
BERT = transformers.BertConfig(**SMALL, vocab_size=300, hidden_dropout_prob=0.3).to_dict()
PICTURE = {"image_size": 16, "widths": [4, 6], "depths": [2, 1], "stem_stride": 1}
ENCODERS: dict[str, tuple[dict[str, Any], int]] = {  # options, and how many blocks there are
    "vit": ({"width": 8, "heads": 2, "depth": 3, "image_size": 32, "drop_path": 0.5}, 3),
    "transformer": ({"width": 8, "heads": 2, "depth": 2, "drop_path": 0.5, "vocab_size": 300}, 2),
    "transformers": ({"architecture": BERT}, 2),
    "timm:test_vit": ({"drop_path": 0.5}, 6),
    "timm:test_resnet": ({}, 4),
    "convnet": (PICTURE, 3),
    "frames": ({"image": {"name": "convnet", **PICTURE}, "frames": 2}, 3),
    "sparse_unet:tiny": ({"planes": [4, 4, 4, 4], "voxel": 0.25}, 4),
}


def shown(encoder: Encoder) -> Any:
    """Returns a batch of what an encoder reads."""
    side = getattr(encoder.preprocess, "size", 0)
    drawn = torch.Generator().manual_seed(1)
    if encoder.modality == "text":
        return torch.randint(1, 250, (3, 7), generator=drawn)
    if encoder.modality == "points":
        return Ragged(torch.rand(60, 3, generator=drawn), torch.tensor([20, 40]))
    return torch.rand(2, 3, *([2] if encoder.modality == "video" else []), side, side, generator=drawn)


def step(encoder: Encoder, x: Any) -> tuple[Tensor, Tensor]:
    """Sees a batch twice, as two views, and goes backward; returns the loss and what is drawn next."""
    torch.manual_seed(3)
    loss = encoder(x).pooled.square().sum() + (encoder(x).pooled ** 3).sum()
    loss.backward()
    return loss.detach(), torch.rand(2)


@pytest.mark.parametrize("name", ENCODERS)
def test_values_gradients_buffers_and_what_is_drawn_are_the_same(name: str) -> None:
    options, count = ENCODERS[name]
    torch.manual_seed(0)
    plain = create_encoder(name, **options).train()
    kept = copy.deepcopy(plain)
    assert checkpoint_blocks(kept) == count
    x = shown(plain)
    for mine, theirs in zip(step(kept, x), step(plain, x), strict=True):
        assert torch.equal(mine, theirs)
    for (key, mine), theirs in zip(kept.named_parameters(), plain.parameters(), strict=True):
        assert (mine.grad is None) == (theirs.grad is None), key
        if mine.grad is not None:
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-6, atol=1e-7, msg=key)
    for (key, mine), theirs in zip(kept.named_buffers(), plain.buffers(), strict=True):
        assert torch.equal(mine, theirs), key


class Kept(TorchDispatchMode):
    """Remembers what every operation makes, and tells how many bytes of it are still there beside the weights."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.weights = {weight.data_ptr() for weight in network.parameters()}
        self.made: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for each in out if isinstance(out, tuple | list) else (out,):
            storage = each.untyped_storage() if isinstance(each, Tensor) else None
            if storage is not None and storage.data_ptr() not in self.weights:
                self.made[storage.data_ptr()] = StorageWeakRef(storage), storage.nbytes()
        return out

    def bytes(self) -> int:
        return sum(size for storage, size in self.made.values() if not storage.expired())


def test_much_less_is_kept_for_the_backward_pass() -> None:
    encoder = create_encoder("vit", width=32, heads=2, depth=6)
    x, sizes = torch.rand(2, 64, 32), []
    for _ in range(2):
        with Kept(encoder) as made:
            loss = encoder.encode_tokens(x).pooled.sum()
        sizes.append(made.bytes())
        del loss
        checkpoint_blocks(encoder)
    plain, kept = sizes
    tokens = 2 * 65 * 32 * 4
    assert plain > 60 * tokens and 7 * tokens < kept < 12 * tokens, "the input of each block, and what stands around"


def test_a_copy_computes_its_own_blocks_again_and_nothing_is_without_gradients() -> None:
    encoder = create_encoder("convnet", **PICTURE)
    checkpoint_blocks(encoder)
    other = copy.deepcopy(encoder)
    for weight in other.parameters():
        nn.init.zeros_(weight)
    assert all(block.forward.__self__ is block for block in blocks(other))
    with torch.no_grad():
        assert encoder.eval()(shown(encoder)).pooled.abs().sum() > 0
        assert other.eval()(shown(encoder)).pooled.abs().sum() == 0
