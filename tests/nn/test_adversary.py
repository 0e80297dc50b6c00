"""Each of the two losses of an adversary moves one side only, as two optimizers would."""

from __future__ import annotations

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


def test_it_learns_to_tell() -> None:
    torch.manual_seed(0)
    adversary = Adversary(widths=(8, 8))
    optimizer = torch.optim.AdamW(adversary.parameters(), lr=1e-2)
    for _ in range(30):
        _, mistakes = adversary.losses(0.6 * torch.rand(16, 3, 8, 8), torch.rand(16, 3, 8, 8))
        optimizer.zero_grad()
        mistakes.mean().backward()
        optimizer.step()
    assert mistakes.mean() < 0.2
