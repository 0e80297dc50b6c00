"""Maps of several scales against those that timm and torchvision give by themselves; pyramids against plain torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet18

from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.nn.pyramid import FPN, SimplePyramid, pyramid
from mmssl.nn.stages import Stages
from mmssl.transforms.image import ImagePreprocess
from mmssl.types import Encoder, Features


def picture(side: int, count: int = 2) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("variant", "options", "out_indices"),
    [
        ("resnet18", {"image_size": 65}, (1, 2, 3, 4)),
        ("swin_tiny_patch4_window7_224", {"embed_dim": 12, "depths": [1, 1, 1, 1]}, (0, 1, 2, 3)),
        ("convnext_atto", {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32], "image_size": 64}, (0, 1, 2, 3)),
    ],
)
def test_maps_and_gradients_are_those_that_timm_gives(
    variant: str, options: dict[str, Any], out_indices: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    encoder = create_encoder(f"timm:{variant}", **options).eval()
    stages, x = Stages(encoder), picture(encoder.preprocess.size)
    features, maps = stages(encoder, x)
    assert stages.strides == [4, 8, 16, 32] and stages.channels == [found.shape[1] for found in maps]
    shown = encoder.normalize(x)
    theirs = encoder.model.forward_intermediates(
        shown, indices=out_indices, intermediates_only=True, output_fmt="NCHW", norm=False
    )
    for mine, reference in zip(maps[:-1], theirs, strict=False):
        torch.testing.assert_close(mine, reference, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(maps[-1].flatten(2).mT, encoder(x).tokens)
    torch.testing.assert_close(features.pooled, encoder(x).pooled)
    weight = next(encoder.model.parameters())
    mine, reference = (torch.autograd.grad(each[1].square().sum(), weight)[0] for each in (maps, theirs))
    torch.testing.assert_close(mine, reference, rtol=1e-5, atol=1e-6)


class Torchvision(Encoder):
    modality, dim = "image", 512

    def __init__(self) -> None:
        super().__init__()
        self.preprocess, self.body = ImagePreprocess(size=64), resnet18()

    def forward(self, x: Tensor) -> Features:
        body = self.body
        x = body.maxpool(body.relu(body.bn1(body.conv1(x.float()))))
        x = body.layer4(body.layer3(body.layer2(body.layer1(x))))
        return Features(x.mean((2, 3)), x.flatten(2).mT, (x.shape[2], x.shape[3]))


def test_maps_of_torchvision_and_finer_ones() -> None:
    encoder, x = Torchvision(), picture(64)
    stem = encoder.body.relu(encoder.body.bn1(encoder.body.conv1(x)))
    whole = Stages(encoder, finest=2)
    before = encoder.body.bn1.running_mean.clone()
    assert whole.strides == [2, 4, 8, 16, 32] and Stages(encoder).strides == [4, 8, 16, 32]
    assert Stages(encoder, finest=9).strides == [16, 32] and Stages(encoder, finest=99).strides == [32]
    assert torch.equal(encoder.body.bn1.running_mean, before), "no figure of the encoder changes"
    torch.testing.assert_close(whole(encoder, x)[1][0], stem)
    assert all(module.training for module in encoder.modules())


def test_stages_of_our_own_encoders() -> None:
    convnet = create_encoder("convnet", depths=[2, 1, 1, 1], widths=[8, 16, 24, 32])
    stages, x = Stages(convnet), picture(64)
    assert stages.names == ["blocks.1", "blocks.2", "blocks.3"] and stages.channels == [8, 16, 24, 32]
    assert Stages(create_encoder("convnet", strides=[1, 1, 1, 1], stem_stride=2)).strides == [2]
    vit = create_encoder("vit:tiny", depth=1, width=12, heads=2, image_size=32, patch_size=8)
    one = Stages(vit)
    features, (only,) = one(vit, picture(32))
    assert one.strides == [8] and torch.equal(only[:, :, 1, 2], features.tokens[:, 6])
    copied = create_encoder("convnet", depths=[2, 1, 1, 1], widths=[8, 16, 24, 32]).eval()
    assert not torch.equal(stages(copied, x)[1][0], stages(convnet.eval(), x)[1][0]), "the encoder given is read"
    with pytest.raises(UserError, match="reads audio"):
        Stages(create_encoder("raw:audio"))
    with pytest.raises(UserError, match="gives no map"):
        Stages(create_encoder("raw:image"))


def test_the_pyramid_adds_coarser_levels() -> None:
    torch.manual_seed(0)
    maps = [torch.randn(2, width, side, side) for width, side in ((4, 16), (6, 8), (8, 4))]
    fpn = FPN([4, 6, 8], out=5)
    inner, outer = ([block[0] for block in part] for part in (fpn.layers.inner_blocks, fpn.layers.layer_blocks))
    last = inner[2](maps[2])
    middle = inner[1](maps[1]) + F.interpolate(last, scale_factor=2.0, mode="nearest")
    first = inner[0](maps[0]) + F.interpolate(middle, scale_factor=2.0, mode="nearest")
    for mine, conv, reference in zip(fpn(maps), outer, (first, middle, last), strict=True):
        torch.testing.assert_close(mine, conv(reference))
    assert any(isinstance(module, nn.BatchNorm2d) for module in FPN([4, 6], out=5, norm=True).modules())


def test_the_simple_pyramid_scales_one_map() -> None:
    torch.manual_seed(0)
    simple, x = SimplePyramid(8, out=6), torch.randn(2, 8, 5, 5)
    levels = simple([x])
    assert [level.shape for level in levels] == [(2, 6, side, side) for side in (20, 10, 5, 3)]

    def normed(x: Tensor) -> Tensor:
        return F.layer_norm(x.permute(0, 2, 3, 1), x.shape[1:2], eps=1e-6).permute(0, 3, 1, 2)

    one, _, three, _ = simple.levels[2][1:]
    reference = normed(F.conv2d(normed(F.conv2d(x, one.weight)), three.weight, padding=1))
    torch.testing.assert_close(levels[2], reference, rtol=1e-5, atol=1e-6)
    vit = create_encoder("vit:tiny", depth=1, width=12, heads=2, image_size=32, patch_size=8)
    made, strides = pyramid(Stages(vit), out=6)
    assert isinstance(made, SimplePyramid) and strides == [2, 4, 8, 16]
    made, strides = pyramid(Stages(create_encoder("convnet")), out=6)
    assert isinstance(made, FPN) and strides == [4, 8, 16, 32]
