"""What every method must do, found by its file."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mmssl import names
from mmssl.multitask import MultiTask
from mmssl.types import Ragged

sys.path.insert(0, str(Path(__file__).parent))
from settings import SETTINGS, batch, build, pick

METHODS = sorted(SETTINGS)
FROZEN = "distill.teacher_head"  # of a teacher that was trained before


def test_every_method_has_a_setting() -> None:
    files = {name.partition(":")[0] for name in SETTINGS}
    assert sorted(files) == sorted(names.list_names("methods")), "add a line to tests/methods/settings.py"


@pytest.mark.parametrize("name", METHODS)
def test_one_step_reaches_every_parameter_and_lowers_the_loss(name: str) -> None:
    model = build(name)
    optimizer = torch.optim.AdamW(model.parameters(), lr=SETTINGS[name].lr)
    losses = []
    for _ in range(12):
        total, told = model({name: batch(name)})
        assert told[name].rows > 0
        optimizer.zero_grad()
        total.backward()
        trainable = {key: p for key, p in model.named_parameters() if p.requires_grad}
        idle = [key for key, p in trainable.items() if p.grad is None or not p.grad.isfinite().all()]
        assert not idle
        optimizer.step()
        model.objectives[name].after_step(model.encoders, 0.1)
        losses.append(total.item())
    assert losses[-1] < losses[SETTINGS[name].settled]


def step(model: MultiTask, optimizer: torch.optim.Optimizer, name: str, number: int) -> float:
    """Makes one whole training step on a batch of its own."""
    torch.manual_seed(number)
    shown = batch(name)
    total, _ = model({name: pick(shown, torch.randperm(8))})
    optimizer.zero_grad()
    total.backward()
    optimizer.step()
    model.objectives[name].after_step(model.encoders, number / 10)
    return total.item()


@pytest.mark.parametrize("name", METHODS)
def test_a_resumed_run_goes_on_alike_and_what_follows_the_network_moves(name: str) -> None:
    models = [build(name), build(name)]
    optimizers = [torch.optim.AdamW(m.parameters(), lr=SETTINGS[name].lr) for m in models]
    before = {
        key: p.clone()
        for key, p in models[0].objectives.named_parameters()
        if not p.requires_grad and not key.startswith(FROZEN)
    }
    for number in range(2):
        step(models[0], optimizers[0], name, number)
    still = [key for key, p in models[0].objectives.named_parameters() if key in before and p.equal(before[key])]
    assert not still, "a teacher follows"
    models[1].load_state_dict(models[0].state_dict())
    optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))
    went_on = [step(m, o, name, 3) for m, o in zip(models, optimizers, strict=True)]
    assert went_on[0] == went_on[1]
    for (key, value), again in zip(models[0].state_dict().items(), models[1].state_dict().values(), strict=True):
        assert torch.equal(value, again), key


@pytest.mark.parametrize("name", METHODS)
def test_samples_that_lack_a_modality_change_nothing(name: str) -> None:
    model = build(name)
    full = batch(name)
    whole = torch.stack([full.extra[f"{key}_present"] for key in SETTINGS[name].keys]).all(0)
    complete = pick(full, whole.nonzero()[:, 0])
    noisy = full.map(Tensor.clone)
    for view in chain.from_iterable(noisy.views.values()):
        if isinstance(view, Ragged):
            view.values[~(whole if view.padded else whole[view.sample])] = 1
        else:
            view[~whole] = 1
    losses = [model({name: b})[0] for b in (full, complete, noisy)]
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(losses[0], losses[2])


@pytest.mark.parametrize("name", METHODS)
def test_a_batch_without_any_whole_sample_is_zero_and_differentiable(name: str) -> None:
    model = build(name)
    empty = batch(name)
    for key in SETTINGS[name].keys:
        empty.extra[f"{key}_present"][:] = False
    total, losses = model({name: empty})
    total.backward()
    assert total == 0
    assert losses[name].rows == 0, "the run does not log it"
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@pytest.fixture(scope="module")
def under_ddp(tmp_path_factory: pytest.TempPathFactory, two_processes: Callable[..., str]) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("ddp") / "found.pt"
    two_processes(Path(__file__).parent / "two_processes.py", out)
    return torch.load(out, weights_only=True)


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_equal_one(name: str, under_ddp: dict[str, Any]) -> None:
    model = build(name)
    total, _ = model({name: batch(name)})
    total.backward()
    model.objectives[name].after_step(model.encoders, 0.5)
    found = under_ddp[name]
    torch.testing.assert_close(found["loss"], total.detach(), rtol=1e-5, atol=1e-6)
    expected = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
    assert expected.keys() == found["gradients"].keys()
    for key, gradient in expected.items():
        rounding = max(1e-5, 1e-6 * float(gradient.abs().max()))  # an element may be a sum of larger terms
        torch.testing.assert_close(
            found["gradients"][key], gradient, rtol=1e-5, atol=rounding, msg=lambda m, k=key: f"{k}: {m}"
        )
    for key, value in model.objectives[name].state_dict().items():
        torch.testing.assert_close(found["state"][key], value)
