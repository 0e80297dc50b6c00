"""Noise-contrastive estimation against its formula, written with probabilities and loops."""

from __future__ import annotations

import math

import pytest
import torch

from mmssl.losses.contrast import Contrast
from mmssl.losses.nce import nce


def of_scores(own: torch.Tensor, noise: torch.Tensor, log_z: torch.Tensor | float, samples: int) -> torch.Tensor:
    """The loss of scores (B,) and (B, m): queries are the units, so that keys are what they score."""
    units = torch.eye(len(own))
    return nce(Contrast(units, noise.T, own=torch.diag(own)), log_z, samples)


def plain(own: torch.Tensor, noise: torch.Tensor, z: float, samples: int) -> torch.Tensor:
    drawn = noise.shape[1] / samples  # m times the noise's own probability of a sample
    losses = []
    for mine, others in zip(own, noise, strict=True):
        p = mine.exp() / z
        loss = -torch.log(p / (p + drawn))
        for other in others:
            q = other.exp() / z
            loss = loss - torch.log(1 - q / (q + drawn))
        losses.append(loss)
    return torch.stack(losses)


def test_value_and_gradient() -> None:
    raw = torch.randn(4, 8, dtype=torch.double)
    found = []
    for double in (False, True):
        x = (raw if double else raw.float()).clone().requires_grad_()
        own, noise = 3 * x[:, 0], 3 * x[:, 1:]
        log_z = torch.tensor(60.0, dtype=x.dtype).log()
        losses = plain(own, noise, 60.0, 20) if double else of_scores(own, noise, log_z, 20)
        (losses * torch.arange(1, 5)).sum().backward()
        found.append((losses.detach().float(), x.grad.float()))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)


def test_similarities_that_overflow_as_probabilities() -> None:
    own, noise = torch.tensor([200.0, -200.0], requires_grad=True), torch.tensor([[-200.0], [200.0]])
    losses = of_scores(own, noise, 5.0, 10)
    losses.sum().backward()
    assert losses.isfinite().all() and own.grad.isfinite().all()
    assert losses[0] < 1e-3 < 100 < losses[1]


def test_by_hand() -> None:
    """P = 1/4 of its own and 1/2 of the one drawn of two samples, which noise draws with 1/2 each."""
    found = of_scores(torch.tensor([0.0]), torch.tensor([[math.log(2)]]), math.log(4), 2)
    known, other = (1 / 4) / (1 / 4 + 1 / 2), (1 / 2) / (1 / 2 + 1 / 2)
    assert found.item() == pytest.approx(-math.log(known) - math.log(1 - other))
