"""Each of the two losses of an adversary moves one side only, as two optimizers would."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mmssl.nn.adversary import Adversary


def test_one_backward_gives_each_side_its_own_gradient() -> None:
    torch.manual_seed(0)
    adversary, network = Adversary(widths=(4, 6)), nn.Conv2d(3, 3, 3, padding=1)
    x, real = torch.rand(5, 3, 8, 8), torch.rand(5, 3, 8, 8)

    deceit, mistakes = adversary.losses(network(x), real)
    assert deceit.shape == mistakes.shape == (5,)
    (deceit + mistakes).mean().backward()
    found = [p.grad.clone() for p in (*adversary.parameters(), *network.parameters())]

    judging = F.binary_cross_entropy_with_logits  # the same, as two optimizers are given it
    drawn = network(x)
    ones, zeros = torch.ones(5), torch.zeros(5)
    wrong = (judging(adversary(real), ones) + judging(adversary(drawn.detach()), zeros)) / 2
    of_adversary = torch.autograd.grad(wrong, list(adversary.parameters()))
    of_network = torch.autograd.grad(judging(adversary(drawn), ones), list(network.parameters()))
    torch.testing.assert_close(found, [*of_adversary, *of_network])
    torch.testing.assert_close(mistakes.mean(), wrong)


def test_it_is_dcgans_discriminator_with_group_norm() -> None:
    """Radford et al., ICLR 2016: convolutions of 4 by steps of 2, a slope of 0.2, no norm on the first layer."""
    torch.manual_seed(0)
    adversary, x = Adversary(2, widths=(4, 6, 5)), torch.rand(3, 2, 16, 24)
    weights = [p for name, p in adversary.named_parameters() if name.startswith("layers")]
    assert [tuple(p.shape) for p in weights if p.ndim == 4] == [(4, 2, 4, 4), (6, 4, 4, 4), (5, 6, 4, 4)]
    for p in weights:
        p.data += 0.1 * torch.randn_like(p)
    seen = F.leaky_relu(F.conv2d(x, weights[0], weights[1], stride=2, padding=1), 0.2)
    for weight, bias, scale, shift in (weights[2:6], weights[6:10]):
        seen = F.conv2d(seen, weight, bias, stride=2, padding=1)
        mean, spread = seen.mean((1, 2, 3), keepdim=True), seen.var((1, 2, 3), correction=0, keepdim=True)
        seen = (seen - mean) / (spread + 1e-5).sqrt() * scale[:, None, None] + shift[:, None, None]
        seen = torch.where(seen > 0, seen, 0.2 * seen)
    assert seen.shape == (3, 5, 2, 3)
    expected = seen.mean((2, 3)) @ adversary.answer.weight[0] + adversary.answer.bias
    torch.testing.assert_close(adversary(x), expected)


def test_the_defaults() -> None:
    parameters = inspect.signature(Adversary).parameters
    assert parameters["channels"].default == 3 and parameters["widths"].default == (64, 128, 256, 512)
    convolutions = [m for m in Adversary().modules() if isinstance(m, nn.Conv2d)]
    assert [m.out_channels for m in convolutions] == [64, 128, 256, 512] and convolutions[0].in_channels == 3


def test_what_each_answer_costs() -> None:
    """With logits worked out: the mean of an image, three times, less 1."""
    adversary = Adversary(1, widths=(1,))
    real, drawn = torch.full((2, 1, 4, 4), 2.0), torch.tensor([0.5, 1.0])[:, None, None, None].expand(-1, 1, 4, 4)
    adversary.forward = lambda x: 3 * x.mean((1, 2, 3)) - 1  # type: ignore[method-assign]
    deceit, mistakes = adversary.losses(drawn, real)
    torch.testing.assert_close(deceit, (1 + torch.tensor([-0.5, -2.0]).exp()).log())  # -log sigmoid(0.5), of 2
    on_real, on_drawn = (1 + torch.tensor(-5.0).exp()).log(), (1 + torch.tensor([0.5, 2.0]).exp()).log()
    torch.testing.assert_close(mistakes, (on_real + on_drawn) / 2)


def test_logits_are_float32_and_real_pictures_get_no_gradient_but_their_own() -> None:
    adversary, x = Adversary(widths=(4,)), torch.rand(2, 3, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert adversary(x).dtype == torch.float32
    drawn = torch.rand(2, 3, 8, 8, requires_grad=True)
    _, mistakes = adversary.losses(drawn, x)
    mistakes.sum().backward()
    assert drawn.grad is None, "the adversary's own loss moves the adversary only"
    assert pytest.approx(0) != adversary.answer.weight.grad.abs().sum().item()
