"""The discrete VAE: its relaxation, its two costs, and what it learns."""

from __future__ import annotations

import math

import pytest
import torch

from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.methods.dvae import DVAE
from mmssl.nn.draws import draws
from mmssl.types import Batch

CODES = {"image_size": 16, "codes": 12, "width": 8, "groups": 3, "depth": 1}


def test_the_cost_is_the_bound_of_the_paper() -> None:
    encoder = create_encoder("codes", **CODES)
    objective = DVAE({"image": encoder}, width=4, first=8, depth=1, kl=2.0, kl_over=0.5, cool_over=0.5)
    objective.after_step({"image": encoder}, 0.25)
    assert objective.temperature == pytest.approx((1 + 1 / 16) / 2) and objective.weight == pytest.approx(1 / 48)
    x = torch.rand(3, 3, 16, 16)
    seed = torch.tensor([5, 6, 7])
    found = objective({"image": encoder}, Batch({"image": [x]}, extra={"seed": seed}))

    logits = encoder(x).tokens  # (B, 16, 12)
    noise = -torch.log(-torch.log(draws(seed, 16, 12)))
    soft = torch.softmax((logits + noise) / objective.temperature, dim=-1)
    stats = objective.decoder(soft.transpose(1, 2).reshape(3, 12, 4, 4))
    pixels = 0.8 * x + 0.1
    density = torch.distributions.TransformedDistribution(
        torch.distributions.Laplace(stats[:, :3], stats[:, 3:].exp()), torch.distributions.SigmoidTransform()
    )
    q = torch.distributions.Categorical(logits=logits)
    uneven = torch.distributions.kl_divergence(q, torch.distributions.Categorical(logits=torch.zeros(12)))
    # beta KL, summed over cells, over as many numbers as the picture has
    expected = -density.log_prob(pixels).sum((1, 2, 3)) / 768 + 1.0 * uneven.sum(1) / 768
    torch.testing.assert_close(found.total, expected.mean())
    torch.testing.assert_close(found.logs["kl"], uneven.mean())


def test_relaxed_codes_are_drawn_as_often_as_they_are_likely() -> None:
    logits = torch.tensor([1.0, 0.0, -1.0, 0.5])
    noise = -(-draws(torch.arange(20_000), 4).log()).log()
    counts = torch.bincount((logits + noise).argmax(1), minlength=4) / 20_000
    torch.testing.assert_close(counts, logits.softmax(0), atol=0.015, rtol=0)


def test_it_learns_to_draw_coloured_cells_with_few_codes() -> None:
    encoder = create_encoder("codes", **CODES | {"width": 16})
    objective = DVAE({"image": encoder}, width=16, first=16, depth=1, kl=0.1, kl_over=0.5, cool_over=1.0)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *objective.parameters()], lr=4e-3)
    palette = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.8, 0.2], [0.1, 0.2, 0.9], [0.9, 0.9, 0.1]])
    errors = []
    for step in range(60):
        cells = palette[torch.randint(4, (16, 4, 4))].movedim(-1, 1)
        x = cells.repeat_interleave(4, 2).repeat_interleave(4, 3)
        found = objective({"image": encoder}, Batch({"image": [x]}, extra={"seed": torch.randint(2**31, (16,))}))
        optimizer.zero_grad()
        found.total.backward()
        optimizer.step()
        objective.after_step({"image": encoder}, (step + 1) / 60)
        errors.append(found.logs["error"].item())
    assert errors[-1] < errors[0] / 2
    assert math.isfinite(found.logs["codes_used"].item())


def test_sizes_that_do_not_halve_are_refused() -> None:
    with pytest.raises(UserError, match="cells are 6 pixels wide"):
        DVAE({"image": create_encoder("vit", image_size=18, patch_size=6, width=32, depth=1, heads=2)})
