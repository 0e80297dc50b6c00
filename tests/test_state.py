"""A checkpoint that lacks a part of a run does not load; the one before it is taken."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from mmssl.checkpoint import load_state, save_state
from mmssl.errors import UserError
from mmssl.loop import train
from mmssl.schema import fit
from mmssl.state import State


@pytest.fixture(scope="module")
def whole(color_recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    recipe = {**copy.deepcopy(color_recipe), "evals": {}}
    recipe["train"] |= {"samples": 32, "save_every": 16, "ema": 0.5}
    run = train(recipe, out=tmp_path_factory.mktemp("run") / "run", progress=False)
    state, problems = load_state(run / "checkpoints", schema=State)
    assert state is not None and not problems, "what a run saves is a state"
    return state


WRONG: list[tuple[str, Any, str]] = [
    *((key, ..., f"{key} is missing") for key in ("step", "model", "optimizer", "averaged", "bad_steps", "random")),
    ("step", -1, "step is -1; expected int of at least 0"),
    ("step", "3", "step is '3'; expected int"),
    ("model", [], "model is []; expected dict"),
    ("optimizer", {}, "optimizer.state is missing"),
    ("averaged", 3, "averaged is 3"),
    ("bad_steps", 0, "bad_steps is 0; expected Tensor"),
    ("random", [{}], "random.0.cpu is missing; expected Tensor"),
    ("random", {}, "random is {}; expected list"),
    ("streams", [{"clip": {"epoch": 0}}], "expected "),
    ("streams.0.clip.epoch", -1, "expected "),
    ("streams.0.clip.draws", "many", "expected "),
    ("streams.0.clip.workers", 0, "expected "),
    ("streams.0.clip.report", {"drawn": 1, "damaged": {"cut": 3}, "notes": {}}, "expected "),
]


@pytest.mark.parametrize(("path", "value", "message"), WRONG, ids=[f"{path} {value}" for path, value, _ in WRONG])
def test_a_state_that_lacks_a_part_does_not_load(
    tmp_path: Path, whole: dict[str, Any], path: str, value: Any, message: str
) -> None:
    broken = copy.deepcopy(whole)
    *parents, last = path.split(".")
    node: Any = broken
    for key in parents:
        node = node[int(key) if isinstance(node, list) else key]
    if value is ...:
        del node[last]
    else:
        node[last] = value
    with pytest.raises(UserError) as caught:
        fit(broken, State, "the state")
    assert message in str(caught.value)
    save_state(tmp_path, 1, whole, keep=2)
    save_state(tmp_path, 2, broken, keep=2)
    state, problems = load_state(tmp_path, schema=State)
    assert state is not None and torch.equal(state["bad_steps"], whole["bad_steps"]) and state["step"] == whole["step"]
    assert len(problems) == 1, "the newer one is told of"
