"""Prototypes compare by direction, and stay as they are when they are told to."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mmssl.encoders import create_encoder
from mmssl.nn.blocks import stop_drop_path
from mmssl.nn.prototypes import Prototypes


def test_they_equal_a_weight_normed_layer_in_value_and_gradient() -> None:
    torch.manual_seed(0)
    mine = Prototypes(5, 3, lengths=True)
    theirs = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(5, 3, bias=False))
    with torch.no_grad():
        mine.directions.mul_(2.0)
        theirs.parametrizations.weight.original1.copy_(mine.directions)
        theirs.parametrizations.weight.original0.fill_(1.0)
    x = F.normalize(torch.randn(4, 5), dim=1)
    torch.testing.assert_close(mine(x), theirs(x))
    for scores in (mine(x), theirs(x)):
        scores.square().sum().backward()
    expected = theirs.parametrizations.weight
    torch.testing.assert_close(mine.directions.grad, expected.original1.grad)
    torch.testing.assert_close(mine.lengths.grad, expected.original0.grad.flatten())


def test_they_begin_as_random_directions_of_unit_length() -> None:
    made = Prototypes(5, 400, lengths=True)
    torch.testing.assert_close(made.directions.norm(dim=1), torch.ones(400))
    torch.testing.assert_close(made.directions.mean(dim=0), torch.zeros(5), atol=0.1, rtol=0)
    assert made.directions.std().item() == pytest.approx(5**-0.5, rel=0.05)
    assert made.lengths is not None and made.lengths.eq(1).all() and made.trainable == 1
    assert Prototypes(5, 3).lengths is None


def test_lengths_multiply_and_products_are_of_float32() -> None:
    made = Prototypes(5, 3, lengths=True)
    with torch.no_grad():
        made.directions.mul_(torch.tensor([[2.0], [3.0], [0.5]]))
        made.lengths.copy_(torch.tensor([1.5, -1.0, 2.0]))
    x = F.normalize(torch.randn(4, 5), dim=1)
    scaled = [d / d.norm() * length for d, length in zip(made.directions.detach(), (1.5, -1.0, 2.0), strict=True)]
    expected = torch.stack([torch.stack([(row * d).sum() for d in scaled]) for row in x])
    torch.testing.assert_close(made(x).detach(), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(made(x).detach(), expected)
        torch.testing.assert_close(made(x.bfloat16()).detach(), expected, atol=0.02, rtol=0)
        assert made(x.bfloat16()).dtype == torch.float32


def test_until_the_thaw_they_get_a_gradient_of_zero_and_hand_one_on() -> None:
    frozen, free = Prototypes(5, 3, lengths=True), Prototypes(5, 3, lengths=True)
    free.load_state_dict(frozen.state_dict())
    frozen.trainable.zero_()
    x = F.normalize(torch.randn(4, 5), dim=1)
    given = []
    for prototypes in (frozen, free):
        mine = x.clone().requires_grad_()
        prototypes(mine).square().sum().backward()
        given.append(mine.grad)
    for p in frozen.parameters():
        assert p.grad is not None and not p.grad.any()
    for p in free.parameters():
        assert p.grad is not None and p.grad.any()
    torch.testing.assert_close(*given)
    torch.testing.assert_close(frozen(x), free(x))


def test_a_network_without_drop_path_says_the_same_each_time() -> None:
    sizes = {"image_size": 16, "patch_size": 8, "width": 16, "depth": 2, "heads": 2}
    own = create_encoder("vit", drop_path=0.5, **sizes)
    swin = create_encoder("timm:test_vit", drop_path=0.5)
    for encoder, size in ((own, 16), (swin, swin.preprocess.size)):
        x = torch.rand(8, 3, size, size)
        assert not torch.equal(encoder.train()(x).pooled, encoder(x).pooled)
        stop_drop_path(encoder)
        assert torch.equal(encoder(x).pooled, encoder(x).pooled)
