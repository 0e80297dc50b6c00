"""The table of tools/carry_over.py: figures that recipes measure, as runs have left them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from mmssl.recipe import load

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import carry_over


@pytest.mark.parametrize("name", carry_over.TASKS)
def test_recipes_are_shipped_and_measure_the_figures(name: str) -> None:
    task = carry_over.TASKS[name]
    for recipe in task.recipes:
        judged = load(recipe, [*task.changes]).evals
        assert {figure.split("/")[0] for figure in task.figures.values()} <= {*judged}


def test_table_lays_out_what_runs_have_left(tmp_path: Path) -> None:
    task = carry_over.TASKS["sync"]
    folder = carry_over.folder_of("cross_modal/avts_grid", 3, tmp_path)
    folder.mkdir(parents=True)
    figure = {"value": 0.75, "low": 0.7, "high": 0.8, "chance": 0.5, "n": 9}
    scores = {
        "audio_visual/hard": {**figure, "trivial": 0.625},
        "audio_visual/random_init/hard": {**figure, "value": 0.5},
    }
    (folder / "results.json").write_text(json.dumps({"samples": 10, "evaluations": {}, "scores": scores}))
    runs = [(task, "cross_modal/avts_grid", 3), (task, "cross_modal/avts_grid", 4)]
    rows = carry_over.table(runs, tmp_path).splitlines()[2:]
    assert [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows] == [
        [
            "`cross_modal/avts_grid`, 3",
            "hard",
            "0.750 (0.700 - 0.800)",
            "0.625",
            "0.500 (0.700 - 0.800)",
            task.goal,
            task.split,
        ]
    ]


def test_a_run_that_is_finished_is_not_made_again(tmp_path: Path) -> None:
    folder = carry_over.folder_of("image/simclr_cifar10_long", 0, tmp_path)
    folder.mkdir(parents=True)
    figure = {"value": 0.8, "low": 0.7, "high": 0.9, "chance": 0.1, "n": 9}
    (folder / "results.json").write_text(json.dumps({"samples": 1, "evaluations": {}, "scores": {"knn/k200": figure}}))
    failed = carry_over.train(
        carry_over.TASKS["long"], "image/simclr_cifar10_long", 0, out=tmp_path, overrides=["nothing=1"]
    )
    assert not failed
    assert not folder.with_suffix(".log").exists()


def test_a_run_that_fails_is_counted_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = carry_over.TASKS["sync"]
    assert carry_over.train(task, "cross_modal/avts_grid", 0, out=tmp_path, overrides=["optim.speed=1"])
    assert "speed" in capsys.readouterr().out
