"""Every step of a run, exactly: against a plain loop in double precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from linear.plain import NAMES, loop, made, parts, same, started, weights

HEAD = ("objectives.fit.head.weight", "objectives.fit.head.bias")
ROW = {"lr": 0.02, "weight_decay": 0.3, "warmup": 4, "final_lr": 0.2}
KEPT, OWN = {"final_lr": 1.0}, {"lr": 0.03, "final_lr": 0.4, "weight_decay": 0.2}  # of the head
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # what the recipe says, what the plain loop does
    "cosine": ({}, {}),
    "warm-up and a last rate": ({"train": {"warmup": 3, "final_lr": 0.25}}, {"warmup": 3, "final": 0.25}),
    "rate": ({"optim": {"lr": 0.03}}, {"lr": 0.03}),
    "weight decay of matrices": ({"optim": {"weight_decay": 0.3}}, {"decay": 0.3}),
    "momentum": ({"optim": {"momentum": 0.7}}, {"momentum": 0.7}),
    "clipping": ({"train": {"clip_grad": 0.5}, "optim": {"momentum": 0.5}}, {"clip": 0.5, "momentum": 0.5}),
    "accumulation": ({"train": {"accumulate": 4}}, {}),
    "average": ({"train": {"ema": 0.6}}, {"ema": 0.6}),
    "weight of the task": ({"tasks": {"fit": {"weight": 0.3}}}, {"share": {"fit": 0.3}}),
    "a rate that stays": (
        {"tasks": {"fit": {"objective": {"head": KEPT}}}, "train": {"warmup": 2}, "optim": {"weight_decay": 0.1}},
        {"own": dict.fromkeys(HEAD, KEPT), "warmup": 2, "decay": 0.1},
    ),
    "options of the task's own weights": (
        {"tasks": {"fit": {"objective": {"head": OWN}}}, "train": {"warmup": 2}, "optim": {"weight_decay": 0.1}},
        {"own": dict.fromkeys(HEAD, OWN), "warmup": 2, "decay": 0.1},
    ),
    "options of parts": (
        {
            "optim": {"weight_decay": 0.1, "groups": {"row": ROW, "row.layer.bias": {"lr": 0.5}, "heads": KEPT}},
            "train": {"warmup": 2},
        },
        {
            "own": {
                NAMES[0]: ROW,
                NAMES[1]: {**ROW, "lr": 0.5, "weight_decay": 0.0},
                **dict.fromkeys(HEAD, KEPT),
            },
            "warmup": 2,
            "decay": 0.1,
        },
    ),
    "rates by layers": (  # of which the encoder has one
        {"optim": {"groups": {"row": {"layer_decay": 0.4}}}},
        {"own": {NAMES[0]: {"lr": 0.04}, NAMES[1]: {"lr": 0.04}}},
    ),
    "options of a part on which the task's own stand": (
        {
            "tasks": {"fit": {"objective": {"head": {"lr": 0.03, "final_lr": 0.4}}}},
            "optim": {"groups": {"heads.fit": {"lr": 0.7, "warmup": 3, "weight_decay": 0.2}}},
        },
        {
            "own": {
                HEAD[0]: {"lr": 0.03, "final_lr": 0.4, "warmup": 3, "weight_decay": 0.2},
                HEAD[1]: {"lr": 0.03, "final_lr": 0.4, "warmup": 3},
            },
        },
    ),
    "an encoder that trains from the middle on": (
        {"train": {"freeze": {"row": 0.5}, "clip_grad": 0.5}, "optim": {"momentum": 0.5, "weight_decay": 0.1}},
        {"held": dict.fromkeys(NAMES, 3), "clip": 0.5, "momentum": 0.5, "decay": 0.1},
    ),
    "a part that trains from a later share on": (
        {"train": {"freeze": {"row": 0.3, "row.layer.bias": 0.6}, "ema": 0.6}},
        {"held": {NAMES[0]: 2, NAMES[1]: 4}, "ema": 0.6},
    ),
    "bad steps": (
        {"tasks": {"fit": {"objective": {"bad": [0, 3]}}}, "optim": {"momentum": 0.9, "weight_decay": 0.1}},
        {"bad": (0, 3), "momentum": 0.9, "decay": 0.1},
    ),
    "two tasks": (
        {"tasks": {"fit": {"weight": 0.5}, "more": {"weight": 2.0, "batch": 4}}, "train": {"samples": 72}},
        {"share": {"fit": 0.5, "more": 2.0}},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_run_is_a_plain_loop(name: str, rows: Path, tmp_path: Path) -> None:
    nodes, options = CASES[name]
    run = started(made(rows, **nodes), tmp_path)
    before, lines = weights(run), []
    for _ in range(6):
        losses, waited = run.train_step()
        lines.append(run.figures(losses, waited, 1.0, 1))
    pieces = run.recipe.train.accumulate
    shown = {
        task: [parts(run, task)[i : i + pieces] for i in range(0, 6 * pieces, pieces)] for task in run.recipe.tasks
    }
    assert all(len(step) == pieces for step in shown["fit"])
    assert all(len(torch.cat(step)) == run.recipe.tasks[task].batch for task in shown for step in shown[task])
    found = loop(before, shown, **options)
    same(weights(run), found.weights)
    key = "lr/row" if name in ("options of parts", "rates by layers") else "lr"
    scale = 0.4 if name == "rates by layers" else 1.0  # the log shows the rate of what stands behind the layers
    assert [scale * line[key] for line in lines] == pytest.approx([rates[NAMES[0]] for rates in found.rates])
    if "ema" in options:
        same({k: p for k, p in run.averaged.named_parameters() if k in before}, found.average)
    if name == "accumulation":
        return
    if name != "bad steps":
        assert [line["grad_norm"] for line in lines] == pytest.approx(found.norms)
        assert [line["total"] for line in lines] == pytest.approx(found.totals)
        for task in shown:
            key = "loss" if len(shown) == 1 else f"{task}/loss"
            assert [line[key] for line in lines] == pytest.approx([losses[task] for losses in found.losses])
