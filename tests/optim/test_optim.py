import math

import pytest
import torch
from torch import nn

from mmssl import names
from mmssl.optim.groups import param_groups
from mmssl.optim.schedule import cosine, ramp, warmup_cosine


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))


def test_only_matrices_decay() -> None:
    model = small()
    model[0].bias.requires_grad_(False)
    matrices, vectors = param_groups(model)
    assert all(p.ndim == 2 for p in matrices["params"]) and "weight_decay" not in matrices
    assert all(p.ndim == 1 for p in vectors["params"]) and vectors["weight_decay"] == 0
    assert len(matrices["params"]) + len(vectors["params"]) == 5


def test_what_keeps_its_rate_stands_apart() -> None:
    model = small()
    groups = param_groups(model, own=[{"params": list(model[2].parameters()), "final_lr": 1.0}])
    assert [(len(group["params"]), group.get("final_lr")) for group in groups] == [
        (1, None),
        (3, None),
        (1, 1.0),
        (1, 1.0),
    ]
    assert groups[2]["params"][0] is model[2].weight and groups[3]["weight_decay"] == 0


@pytest.mark.parametrize("name", names.list_names("optim"))
def test_every_optimizer_lowers_a_loss_and_leaves_weights_alone_when_the_gradient_is_bad(name: str) -> None:
    model = small()
    trust = {"trust": 0.1} if name == "lars" else {}
    optimizer = names.build("optim", name, param_groups(model), lr=0.1 if trust else 0.01, weight_decay=0.0, **trust)
    x, y = torch.randn(64, 4), torch.randn(64, 2)
    losses = []
    for _ in range(60):
        loss = (model(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.found_inf = torch.tensor(0.0)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]
    before = [p.clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad.fill_(torch.nan)
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    for old, new in zip(before, model.parameters(), strict=True):
        torch.testing.assert_close(old, new, rtol=0, atol=0)


def test_values_follow_a_cosine_and_a_line() -> None:
    assert [cosine(done, start=0.9, end=1.0) for done in (0.0, 0.5, 1.0)] == pytest.approx([0.9, 0.95, 1.0])
    steps = [ramp(done, start=0.04, end=0.07, over=0.2) for done in (0.0, 0.1, 0.2, 1.0)]
    assert steps == pytest.approx([0.04, 0.055, 0.07, 0.07])
    assert ramp(0.0, start=0.04, end=0.07, over=0.0) == 0.07


def test_the_rate_rises_in_a_line_and_falls_in_half_a_cosine() -> None:
    rates = [warmup_cosine(step, steps=110, warmup=10, final=0.1) for step in range(111)]
    assert rates[0] == pytest.approx(1 / 11) and rates[10] == 1.0
    assert rates[60] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 2)))
    assert rates[110] == pytest.approx(0.1)
    assert rates == sorted(rates[:11]) + sorted(rates[11:], reverse=True)
