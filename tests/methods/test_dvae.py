"""The discrete VAE: its relaxation, its two costs, and what it learns."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.methods import dvae
from mmssl.methods.dvae import DVAE
from mmssl.numerics.seeded_random import draws
from mmssl.types import Batch
from mmssl.views.mae import view as mae_view

sys.path.insert(0, str(Path(__file__).parent))
from by_hand import defaults, same, shake

CODES = {"image_size": 16, "codes": 12, "width": 8, "groups": 3, "depth": 1}


def made(**options: Any) -> tuple[Any, DVAE]:
    encoder = create_encoder("codes", **CODES)
    objective = DVAE({"image": encoder}, **{"width": 8, "first": 8, "depth": 1, "kl": 2.0, "kl_over": 0.5} | options)
    return encoder, objective


def drawn(objective: DVAE, soft: Tensor, depth: int) -> Tensor:
    """What DALL-E's decoder makes of codes (B, 12, 4, 4): groups of blocks, each group but the first twice as fine."""
    weights = iter(objective.decoder.parameters())

    def conv(x: Tensor, kernel: int, out: int) -> Tensor:
        weight, bias = next(weights), next(weights)
        assert weight.shape[2:] == (kernel, kernel) and len(weight) == out
        return F.conv2d(x, weight, bias, padding=kernel // 2)

    x = conv(soft, 1, 8)
    for group, out in enumerate((32, 16, 8)):
        if group:
            x = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        for _ in range(depth):
            branch = x
            for kernel, channels in ((1, out // 4), (3, out // 4), (3, out // 4), (3, out)):
                branch = conv(branch.relu(), kernel, channels)
            short = x if x.shape[1] == out else conv(x, 1, out)
            x = short + branch / (3 * depth) ** 2
    found = conv(x.relu(), 1, 6)
    assert next(weights, None) is None
    return found


@pytest.mark.parametrize("depth", [1, 2])
def test_the_loss_is_the_papers_in_value_and_gradient(depth: int) -> None:
    encoder, objective = made(cool_over=0.5, depth=depth)
    shake(encoder, objective, by=0.2)
    objective.after_step({"image": encoder}, 0.25)
    x = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    seed, rows = torch.tensor([5, 6, 7, 8]), [0, 1, 3]
    extra = {"seed": seed, "image_present": torch.tensor([True, True, False, True])}
    found = objective({"image": encoder}, Batch({"image": [x]}, extra=extra))
    x = x / 255

    logits = encoder(x).tokens  # (B, 16, 12)
    noise = -torch.log(-torch.log(draws(seed, 16, 12)))
    soft = torch.softmax((logits + noise) / ((1 + 1 / 16) / 2), dim=-1)
    stats = drawn(objective, soft.transpose(1, 2).reshape(4, 12, 4, 4), depth)
    density = torch.distributions.TransformedDistribution(
        torch.distributions.Laplace(stats[:, :3], stats[:, 3:].exp()), torch.distributions.SigmoidTransform()
    )
    nll = -density.log_prob(0.8 * x + 0.1).sum((1, 2, 3))[rows]
    q = torch.distributions.Categorical(logits=logits)
    uneven = torch.distributions.kl_divergence(q, torch.distributions.Categorical(logits=torch.zeros(12))).sum(1)[rows]
    # half of kl 2.0 is reached; both summed over the image, over as many numbers as it has
    same(found.total, (nll / 768 + 1.0 * uneven / 768).mean(), encoder, objective)
    torch.testing.assert_close(found.logs["nll"], nll.mean().detach() / 768)
    torch.testing.assert_close(found.logs["kl"], uneven.mean().detach() / 16)
    pixels = ((torch.sigmoid(stats[:, :3]) - 0.1) / 0.8).detach()
    torch.testing.assert_close(found.logs["error"], (pixels - x)[rows].square().mean())
    used = q.probs[rows].mean((0, 1)).detach()
    torch.testing.assert_close(found.logs["codes_used"], torch.distributions.Categorical(used).entropy().exp())
    torch.testing.assert_close(found.logs["temperature"], torch.tensor((1 + 1 / 16) / 2))
    assert not any(value.requires_grad for value in found.logs.values())
    torch.testing.assert_close(found.embeddings["image"], encoder(x).pooled.detach())
    assert not found.embeddings["image"].requires_grad


def test_codes_harden_and_evenness_weighs_in_their_time() -> None:
    encoder, objective = made(temperature=(0.8, 0.2), kl=6.0, kl_over=0.25, cool_over=0.5)
    found = [(float(objective.temperature), float(objective.weight))]
    for progress in (0.0, 0.125, 0.25, 0.5, 1.0):
        objective.after_step({"image": encoder}, progress)
        found.append((float(objective.temperature), float(objective.weight)))
    middle = 0.2 + 0.6 * (1 + math.cos(math.pi / 4)) / 2
    expected = [(0.8, 0), (0.8, 0), (middle, 3 / 48), (0.5, 6 / 48), (0.2, 6 / 48), (0.2, 6 / 48)]
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected))
    shown = Batch({"image": [torch.rand(1, 3, 16, 16)]}, extra={"seed": torch.tensor([1])})
    told = objective({"image": encoder}, shown).logs["temperature"]
    objective.after_step({"image": encoder}, 0.0)
    torch.testing.assert_close(told, torch.tensor(0.2), msg="what was told stays")


def test_defaults_are_the_papers() -> None:
    """Ramesh et al., ICML 2021, appendix A: beta to 6.6 over 5000 of 3 million steps, temperature to 1/16 over 150000;
    decoder.py of DALL-E: n_init, n_hid, n_blk_per_group.
    """
    assert defaults(DVAE) == {
        "width": 256,
        "first": 128,
        "depth": 2,
        "kl": 6.6,
        "kl_over": 0.0017,
        "temperature": (1.0, 1 / 16),
        "cool_over": 0.05,
        "encoder": None,
    }
    assert (dvae.method.view, dvae.method.objective, DVAE.modalities) == (mae_view, DVAE, ("image",))
    encoder = made()[0]
    small: dict[str, Any] = {"width": 4, "first": 8, "depth": 1}
    assert DVAE({"a": encoder, "b": encoder}, **small, encoder="b").uses == ("b",)


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


def test_sizes_that_do_not_halve_and_temperatures_of_zero_are_refused() -> None:
    with pytest.raises(UserError, match="cells are 6 pixels wide"):
        DVAE({"image": create_encoder("vit", image_size=18, patch_size=6, width=32, depth=1, heads=2)})
    for wrong in ((0.0, 1.0), (1.0, 0.0), (1.0, -0.1)):
        with pytest.raises(UserError, match="expected 1, 2, 4, ..., above 0"):
            made(temperature=wrong)
    encoder, objective = made(temperature=(1.0, 0.01))
    with pytest.raises(UserError, match="the task compares 1 views of image, but 0 is shown"):
        objective({"image": encoder}, Batch({"image": []}, extra={"seed": torch.zeros(0)}))
    one = create_encoder("vit", image_size=4, patch_size=1, width=8, depth=1, heads=2)
    DVAE({"image": one}, width=4, first=8, depth=1)
