"""Several views pass through an encoder together, and a teacher follows."""

from __future__ import annotations

import pytest
import torch

from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.nn.head import Projection
from mmssl.nn.several import Several, pooled_views
from mmssl.nn.teacher import Teacher
from mmssl.types import Batch


def test_views_of_one_size_pass_at_once_and_come_back_in_order() -> None:
    torch.manual_seed(0)
    encoder = create_encoder("convnet", image_size=16, widths=[8], depths=[1], stem_stride=1).eval()
    views = [torch.rand(3, 3, size, size) for size in (16, 16, 8, 8, 8)]
    found = pooled_views(encoder, views, 3)
    for view, pooled in zip(views, found, strict=True):
        torch.testing.assert_close(pooled, encoder(view).pooled)


def test_views_apart_meet_in_no_batch_norm() -> None:
    encoder = create_encoder("convnet", image_size=16, widths=[8], depths=[1], stem_stride=1).train()
    views = [torch.rand(3, 3, 16, 16), torch.rand(3, 3, 16, 16) / 2]
    alone = [encoder(view).pooled for view in views]
    for made, expected in zip(pooled_views(encoder, views, 3, apart=True), alone, strict=True):
        torch.testing.assert_close(made, expected)
    assert not torch.allclose(pooled_views(encoder, views, 3)[0], alone[0], atol=1e-2)
    head = Projection(8, out=4)
    taught = Teacher(encoder, head, apart=True)(views, 3)
    for made, expected in zip(taught, alone, strict=True):
        torch.testing.assert_close(made, head.project(expected))


def test_clouds_are_packed() -> None:
    torch.manual_seed(0)
    encoder = create_encoder("pointnet", widths=[8, 16]).eval()
    index = torch.tensor([0, 0, 0, 1, 1])
    views = [torch.cat([index[:n, None].float(), torch.rand(n, 3)], dim=1) for n in (5, 4)]
    for view, pooled in zip(views, pooled_views(encoder, views, 2), strict=True):
        torch.testing.assert_close(pooled, encoder(view).pooled)


def test_the_encoder_is_the_only_one_or_named() -> None:
    image, audio = create_encoder("convnet", image_size=16), create_encoder("raw:audio")
    assert Several({"audio": audio}).uses == ("audio",)
    assert Several({"image": image, "audio": audio}, encoder="audio").uses == ("audio",)
    with pytest.raises(UserError, match="say which"):
        Several({"image": image, "audio": audio})
    with pytest.raises(UserError, match="the run has image"):
        Several({"image": image}, encoder="audio")
    with pytest.raises(UserError, match="compares 2 views"):
        Several({"image": image}).views(Batch({"image": [torch.zeros(1)]}))


def test_a_teacher_follows_without_gradient() -> None:
    torch.manual_seed(0)
    encoder = create_encoder("convnet", image_size=16, widths=[8], depths=[1])
    head = Projection(8, out=4, hidden=[6])
    teacher = Teacher(encoder, head)
    assert not any(p.requires_grad for p in teacher.parameters())
    before = teacher.head.layers[0].weight.clone()
    with torch.no_grad():
        head.layers[0].weight.add_(1.0)
    teacher.follow(encoder, head, decay=0.75)
    torch.testing.assert_close(teacher.head.layers[0].weight, before + 0.25)
    (projected,) = teacher([torch.rand(2, 3, 16, 16)], 2)
    assert projected.shape == (2, 4)
    assert not projected.requires_grad
