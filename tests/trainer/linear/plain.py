"""A run of linear regression as a plain loop, and helpers to make the same run with the trainer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmssl import dist, recipe, trainer

Weights = dict[str, Tensor]
NAMES = ("encoders.row.layer.weight", "encoders.row.layer.bias")


def made(shards: Path, *, tasks: Mapping[str, Mapping[str, Any]] | None = None, **nodes: Any) -> dict[str, Any]:
    """Returns a recipe of 6 steps, two passes over 24 rows, on SGD; nodes: what other ones hold."""
    shared = {"data": {"shards": str(shards), "workers": 0}, "batch": 8}
    method = {"name": "linear.model:method"}
    asked = {"fit": {}} if tasks is None else tasks
    return {
        "name": "rows",
        "encoders": {"row": {"name": "linear.model:encoder", **nodes.get("encoder", {})}},
        "tasks": {
            key: {**shared, **{k: v for k, v in node.items() if k not in ("view", "objective")}}
            | {"method": method | {part: node[part] for part in ("view", "objective") if part in node}}
            for key, node in asked.items()
        },
        "optim": {"name": "sgd", "lr": 0.1, "momentum": 0.0, "weight_decay": 0.0} | nodes.get("optim", {}),
        "train": {"samples": 48, "precision": "fp32", "log_every": 1, "device": "cpu"} | nodes.get("train", {}),
        "evals": nodes.get("evals", {}),
    }


def started(tree: Mapping[str, Any], folder: Path, state: dict[str, Any] | None = None) -> trainer.Trainer:
    """Returns a run before its first step."""
    return trainer.Trainer(recipe.check(dict(tree)), folder, device=dist.start("cpu"), state=state)


def weights(run: trainer.Trainer) -> Weights:
    """Returns copies of the weights that train, now or later, by name."""
    later = run.frozen.waiting
    return {key: p.detach().clone() for key, p in run.model.named_parameters() if p.requires_grad or p in later}


def parts(run: trainer.Trainer, task: str = "fit") -> list[Tensor]:
    """Returns the rows that each part of each step was shown, without the trial step's."""
    return [rows for rows, _, _ in run.model.named_objectives[task].of("forward")][1:]


@dataclass
class Plain:
    """What a plain loop came to."""

    weights: Weights
    average: Weights
    rates: list[dict[str, float]] = field(default_factory=list)
    losses: list[dict[str, float]] = field(default_factory=list)
    totals: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)


def loop(
    start: Weights,
    shown: Mapping[str, Sequence[Sequence[Tensor]]],
    *,
    lr: float = 0.1,
    warmup: int = 0,
    final: float = 0.0,
    steps: int | None = None,
    decay: float = 0.0,
    momentum: float = 0.0,
    clip: float = math.inf,
    ema: float = 0.0,
    share: Mapping[str, float] | None = None,
    own: Mapping[str, Mapping[str, float]] | None = None,
    bad: Sequence[int] = (),
    held: Mapping[str, int] | None = None,
    begin: int = 0,
) -> Plain:
    """Trains on task -> each step's parts by SGD; torch clips to a norm plus a millionth.

    share: task -> its weight. own: weights' lr, final_lr, warmup and weight_decay. bad: steps that change nothing.
    held: weights -> the first step in which they train.
    """
    w = {key: value.clone() for key, value in start.items()}
    velocity = {key: torch.zeros_like(value) for key, value in start.items()}
    found = Plain(w, {key: value.clone() for key, value in start.items()})
    count = len(next(iter(shown.values())))
    steps = steps or count
    for step in range(begin, begin + count):
        leaves = {key: value.clone().requires_grad_() for key, value in w.items()}
        total, losses = torch.zeros((), dtype=torch.float64), {}
        for task, batches in shown.items():
            x = torch.cat(list(batches[step - begin]))
            features = x @ leaves[NAMES[0]].T + leaves[NAMES[1]]
            answer = features @ leaves[f"objectives.{task}.head.weight"][0] + leaves[f"objectives.{task}.head.bias"]
            loss = ((answer - x.sum(1)) ** 2).sum() / len(x)
            losses[task] = loss.item()
            total = total + (share or {}).get(task, 1.0) * loss
        grads = dict(zip(leaves, torch.autograd.grad(total, list(leaves.values())), strict=True))
        moves = [key for key in w if step >= (held or {}).get(key, 0)]
        norm = math.sqrt(sum((grads[key] ** 2).sum().item() for key in moves))
        rates, decays = {}, {}
        for key, value in w.items():
            mine = {
                "lr": lr,
                "final_lr": final,
                "warmup": warmup,
                "weight_decay": decay if value.ndim == 2 else 0.0,
                **(own or {}).get(key, {}),
            }
            rise = mine["warmup"]
            turn = math.cos(math.pi * (step - rise) / (steps - rise))
            falling = mine["final_lr"] + (1 - mine["final_lr"]) * (1 + turn) / 2
            rates[key] = mine["lr"] * ((step + 1) / (rise + 1) if step < rise else falling)
            decays[key] = mine["weight_decay"]
        for key in moves if step not in bad else ():
            push = grads[key] * min(1.0, clip / (norm + 1e-6)) + decays[key] * w[key]
            velocity[key] = momentum * velocity[key] + push
            w[key] = w[key] - rates[key] * velocity[key]
        for key, value in w.items():
            found.average[key] = ema * found.average[key] + (1 - ema) * value
        found.rates.append(rates)
        found.losses.append(losses)
        found.totals.append(total.item())
        found.norms.append(norm)
    return found


def same(mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    """Compares weights by name."""
    assert mine.keys() == theirs.keys()
    for key, value in mine.items():
        torch.testing.assert_close(
            value, theirs[key], rtol=1e-9, atol=1e-12, msg=lambda said, key=key: f"{key}: {said}"
        )
