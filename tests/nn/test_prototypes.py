"""Prototypes compare by direction, and stay as they are when they are told to."""

from __future__ import annotations

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


def test_until_the_thaw_they_get_a_gradient_of_zero_and_hand_one_on() -> None:
    prototypes = Prototypes(5, 3)
    prototypes.thaw.zero_()
    x = F.normalize(torch.randn(4, 5), dim=1).requires_grad_()
    prototypes(x).square().sum().backward()
    assert prototypes.directions.grad is not None and not prototypes.directions.grad.any()
    assert x.grad.any()


def test_a_network_without_drop_path_says_the_same_each_time() -> None:
    sizes = {"image_size": 16, "patch_size": 8, "width": 16, "depth": 2, "heads": 2}
    own = create_encoder("vit", drop_path=0.5, **sizes)
    swin = create_encoder("timm:test_vit", drop_path=0.5)
    for encoder, size in ((own, 16), (swin, swin.preprocess.size)):
        x = torch.rand(8, 3, size, size)
        assert not torch.equal(encoder.train()(x).pooled, encoder(x).pooled)
        stop_drop_path(encoder)
        assert torch.equal(encoder(x).pooled, encoder(x).pooled)
