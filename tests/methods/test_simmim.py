"""SimMIM (Xie et al., CVPR 2022) by its formula, in tokens and in pixels."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.methods import simmim
from mmssl.methods.simmim import SimMIM
from mmssl.objectives.masking import block_mask
from mmssl.transforms.image import Crop, Flip
from mmssl.types import Batch, TokenEncoder
from mmssl.views.mae import Seed

sys.path.insert(0, str(Path(__file__).parent))
from by_hand import defaults, same, shake

SMALL = {"width": 8, "depth": 1, "heads": 2}
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])  # ImageNet's
SPECTROGRAM = {
    "backbone": {"name": "vit", "image_size": 16, "patch_size": 4, "in_channels": 1, **SMALL},
    "mels": 16,
    "seconds": 0.16,
}
CASES: dict[str, tuple[str, str, dict[str, Any], tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = {
    "picture": ("image", "vit", {"image_size": 16, "patch_size": 2, **SMALL}, (3, 16, 16), (8, 8), (2, 2)),
    "film": ("video", "video_vit", {"image_size": 16, "patch_size": 2, "frames": 4, **SMALL}, (3, 4, 16, 16),
             (2, 8, 8), (1, 2, 2)),
}  # fmt: skip  # the grid, and how many tokens are hidden together


def batch(key: str, x: Tensor, absent: int = 1) -> Batch:
    rows = len(x)
    return Batch({key: [x]}, extra={"seed": torch.arange(rows) + 5, f"{key}_present": torch.arange(rows) != absent})


@pytest.mark.parametrize("case", CASES)
def test_in_tokens_it_is_the_papers_in_value_and_gradient(case: str) -> None:
    key, name, options, shape, grid, block = CASES[case]
    encoder: Any = create_encoder(name, **options)
    objective = SimMIM({key: encoder}, mask_size=4, ratio=0.3)
    shake(encoder, objective, by=0.1)
    shown = batch(key, torch.rand(4, *shape))
    found = objective({key: encoder}, shown)

    mask = block_mask(shown.extra["seed"], grid, ratio=0.3, block=block)
    patches = encoder.patches(shown.views[key][0])
    features = encoder.encode_tokens(encoder.tokenize(patches, mask=mask, mask_token=objective.mask_token))
    losses = []
    for row in (0, 2, 3):
        drawn = [features.tokens[row, i] @ objective.head.weight.T + objective.head.bias for i in range(len(mask[row]))]
        errors = [(d - p).abs().mean() for d, p, m in zip(drawn, patches.values[row], mask[row], strict=True) if m]
        losses.append(sum(errors) / len(errors))
    same(found.total, sum(losses) / 3, encoder, objective)
    torch.testing.assert_close(found.embeddings[key], features.pooled.detach())
    assert not found.embeddings[key].requires_grad
    assert objective.head.out_features == patches.values.shape[2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_in_pixels_it_is_the_papers_in_value_and_gradient(dtype: torch.dtype) -> None:
    encoder = create_encoder("convnet", image_size=16, widths=[6, 8], depths=[1, 1], stem_stride=2)
    objective = SimMIM({"image": encoder}, mask_size=8, ratio=0.7)
    torch.testing.assert_close(objective.mask_token.detach(), torch.full((3,), 0.5))
    shake(encoder, objective, by=0.1)
    for module in encoder.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    x = torch.rand(4, 3, 16, 24)
    x = x if dtype == torch.float32 else (255 * x).byte()
    shown = batch("image", x)
    found = objective({"image": encoder}, shown)

    x = x if dtype == torch.float32 else x.float() / 255
    mask = block_mask(shown.extra["seed"], (4, 6), ratio=0.7, block=(2, 2)).view(4, 4, 6)  # cells of 4 x 4 pixels
    assert mask.sum() == 4 * 4 * 5  # five of six squares, of four cells each
    seen = x.clone()
    for row, i, j in mask.nonzero().tolist():
        seen[row, :, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4] = objective.mask_token[:, None, None]
    features = encoder(seen)
    losses = []
    for row in (0, 2, 3):
        errors = []
        for i, j in mask[row].nonzero().tolist():
            drawn = features.tokens[row, 6 * i + j] @ objective.head.weight.T + objective.head.bias
            truth = (x[row, :, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4] - MEAN[:, None, None]) / STD[:, None, None]
            errors.append((drawn.view(3, 4, 4) - truth).abs().mean())
        losses.append(sum(errors) / len(errors))
    same(found.total, sum(losses) / 3, encoder, objective)
    torch.testing.assert_close(found.embeddings["image"], features.pooled.detach())


def test_the_mask_token_begins_small() -> None:
    wide = create_encoder("vit", image_size=8, patch_size=4, width=400, depth=1, heads=2)
    token = SimMIM({"image": wide}, mask_size=8).mask_token.detach()
    assert token.shape == (400,) and token.std().item() == pytest.approx(0.02, rel=0.2)
    sound = create_encoder("spectrogram", **SPECTROGRAM)
    objective = SimMIM({"audio": sound}, mask_size=8)
    assert (objective.block, objective.cell, objective.mask_token.shape) == ((2, 2), (4, 4), (8,))
    assert SimMIM({"a": wide, "b": wide}, mask_size=8, encoder="b").uses == ("b",)


def test_squares_hold_whole_patches() -> None:
    encoder = create_encoder("vit", image_size=12, patch_size=6, **SMALL)
    with pytest.raises(UserError, match="the task compares 1 views of image, but 0 is shown"):
        SimMIM({"image": encoder}, mask_size=6)(
            {"image": encoder}, Batch({"image": []}, extra={"seed": torch.zeros(0)})
        )
    for size in (6, 12):
        assert SimMIM({"image": encoder}, mask_size=size).block == (size // 6, size // 6)
    for size in (3, 8):
        with pytest.raises(UserError, match=rf"mask_size is {size}; expected a multiple .* \(6, 6\)"):
            SimMIM({"image": encoder}, mask_size=size)


class Oblong(TokenEncoder):
    """Of 5 moments, 4 rows and 6 columns are its patches."""

    modality, dim, cell, patch_dim = "video", 5, (5, 4, 6), 7


def test_squares_hold_whole_patches_on_both_sides_and_any_number_of_moments() -> None:
    made = SimMIM({"video": Oblong()}, mask_size=24)
    assert (made.block, made.head.out_features, made.head.in_features) == ((1, 6, 4), 7, 5)
    assert SimMIM({"video": Oblong()}, mask_size=12).block == (1, 3, 2)
    for size in (8, 6):
        with pytest.raises(UserError, match=r"expected a multiple of the encoder's patches of \(4, 6\)"):
            SimMIM({"video": Oblong()}, mask_size=size)


def test_defaults_are_the_papers() -> None:
    """config.py: MASK_PATCH_SIZE 32, MASK_RATIO 0.6; data_simmim.py: RandomResizedCrop from 0.67."""
    assert defaults(SimMIM) == {"mask_size": 32, "ratio": 0.6, "encoder": None}
    assert simmim.method.objective is SimMIM
    encoder = create_encoder("vit", image_size=8, patch_size=4, **SMALL)
    view = simmim.method.view({"image": encoder.preprocess})
    assert view.steps["image"] == [[Crop(scale=(0.67, 1.0), ratio=(3 / 4, 4 / 3)), Flip(p=0.5)]]
    assert view.after == [Seed()]
