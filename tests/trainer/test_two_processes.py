"""Two processes train to the weights of one that is shown the same batches."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from linear.plain import NAMES, loop, made, same, started, weights


def all_are_told(told: Sequence[Sequence[str]]) -> None:
    """Where one process cannot go on, each ends with the same line; and so does the next that can."""
    assert told[0] == [line.replace("two.3.copy1", "two.3.copy0") for line in told[1]]
    full, used, unread, differ, saved = told[0]
    assert full.startswith("step 6 cannot be saved: No space left on device at ") and "two.3/encoders/row/" in full
    assert re.search(r"two\.3 is in use by process \d+ on ", used)
    assert unread.startswith("rank 1: ") and "step_6/state.pt cannot be read: No space left" in unread
    assert "processes find different checkpoints in" in differ and "step 6 on rank 0 and 5 on rank 1" in differ
    assert saved == ""


def test_two_processes_train_to_the_same_weights_as_one(
    rows: Path, tmp_path: Path, two_processes: Callable[..., str]
) -> None:
    full = {"fit": {"batch": 24}}  # all rows in each step, so that it does not matter who has which
    runs = [
        made(rows, train={"accumulate": 2, "clip_grad": 0.5, "warmup": 2}, optim={"momentum": 0.5}),
        made(rows, tasks=full, train={"samples": 144, "seed": 5}, optim={"weight_decay": 0.1}),
        made(rows, tasks={"fit": {"batch": 24, "view": {"absent": 3}}}, train={"samples": 144, "accumulate": 2}),
        made(rows, train={"freeze": {"row": 0.5}}),
    ]
    two_processes(Path(__file__).with_name("two_runs.py"), json.dumps(runs), tmp_path / "two")
    found, told = zip(*(torch.load(tmp_path / f"two.rank{rank}", weights_only=True) for rank in range(2)), strict=True)
    all_are_told(told)
    for first, second in zip(*found, strict=True):
        same(first["before"], second["before"])
        same(first["after"], second["after"])
        assert first["samples"] == second["samples"] and first["rates"] == second["rates"]
        assert [int(part["epochs"][0].shape[0]) for part in (first, second)] == [12, 12]
        assert sorted(torch.cat([first["epochs"][0], second["epochs"][0]]).tolist()) == list(range(24))
        counted = [part["counts"] for part in (first, second)]
        assert counted[0] == counted[1], "those of both"
        assert [one["drawn"] for one in counted[0]] == [sum(first["places"])] * 2
        assert [one["lacking"] for one in counted[0]] == [{"silent": {"0.tar": 3, "1.tar": 4}}, {"silent": {"": 7}}]
        assert first["streams"] == 2 and (first["again"], second["again"]) == (0, 1)
    first, second = found[0][0], found[1][0]
    assert all(len(part) == 2 for part in first["shown"])
    shown = [[*first["shown"][i : i + 2], *second["shown"][i : i + 2]] for i in range(0, 12, 2)]
    same(first["after"], loop(first["before"], {"fit": shown}, clip=0.5, warmup=2, momentum=0.5).weights)
    assert [found[rank][1]["seed"] for rank in range(2)] == [6, 7]
    alone = started(runs[1], tmp_path / "one")
    same(weights(alone), found[0][1]["before"])
    for _ in range(6):
        alone.train_step()
    same(weights(alone), found[0][1]["after"])
    both = [torch.cat([found[0][2]["shown"][i], found[1][2]["shown"][i]]) for i in range(12)]
    assert {len(part) for part in both} == {6}
    start = found[0][2]["before"]
    same(found[0][2]["after"], loop(start, {"fit": [both[i : i + 2] for i in range(0, 12, 2)]}).weights)
    first, second = found[0][3], found[1][3]
    shown = [[*parts] for parts in zip(first["shown"], second["shown"], strict=True)]
    same(first["after"], loop(first["before"], {"fit": shown}, held=dict.fromkeys(NAMES, 3)).weights)


def test_a_batch_that_two_parts_cannot_share(rows: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tasks.fit: batch is 8; expected a multiple of processes x accumulate = 3"):
        started(made(rows, train={"accumulate": 3}), tmp_path)
