"""Two processes train a method as one does: loss, gradients, and what follows the network after a step."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))
from settings import batch, build, pick
from side_by_side import side_by_side

NAMES = ["simclr", "simclr:v2", "moco", "moco:v2", "moco:v3", "npid", "pirl", "pic", "cmc", "cpc", "dim", "byol"]
NAMES += ["simsiam", "barlow_twins", "vicreg", "directclr", "directpred", "moby"]


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_equal_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, halves = build(name), [build(name), build(name)]
    shown = batch(name)
    expected, _ = whole({name: shown})
    expected.backward()
    parts = [pick(shown, rows) for rows in torch.arange(8).chunk(2)]
    losses = side_by_side(lambda rank: halves[rank]({name: parts[rank]})[0], monkeypatch)
    found = sum(losses) / 2  # as DDP averages
    found.backward()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    for (key, one), *both in zip(whole.named_parameters(), *(half.parameters() for half in halves), strict=True):
        if one.grad is not None:
            summed = sum(p.grad for p in both if p.grad is not None)
            rounding = max(1e-5, 1e-6 * float(one.grad.abs().max()))  # an element may be a sum of larger terms
            torch.testing.assert_close(summed, one.grad, rtol=1e-5, atol=rounding, msg=lambda m, k=key: f"{k}: {m}")
    whole.objectives[name].after_step(whole.encoders, 0.5)
    side_by_side(lambda rank: halves[rank].objectives[name].after_step(halves[rank].encoders, 0.5), monkeypatch)
    for half in halves:
        for key, value in whole.objectives[name].state_dict().items():
            torch.testing.assert_close(half.objectives[name].state_dict()[key], value, msg=lambda m, k=key: f"{k}: {m}")
