"""What a run asks of views, objectives and evaluations, how often and when; and what it leaves and takes up again."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from linear.model import Fit, Peek
from linear.plain import loop as plain_loop
from linear.plain import made, parts, same, started, weights
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mmssl import checkpoint, dist, load_encoder, loop, parallel, recipe, run_folder, train, trainer
from mmssl.errors import UserError
from mmssl.judge import Judge, read_scores
from mmssl.objectives.queue import Queue
from mmssl.types import Loss, Score

HARD = {  # everything that a run must take up again
    "encoder": {"dropout": 0.5},
    "tasks": {"fit": {"view": {"noise": 0.5}, "objective": {"bad": [1], "head": {"final_lr": 1.0}}}},
    "optim": {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.1},
    "train": {"samples": 96, "ema": 0.8, "warmup": 2, "accumulate": 2},
}


def fit(run: trainer.Trainer) -> Any:
    return run.model.objectives["fit"]


def kinds(run: trainer.Trainer) -> str:
    """Returns what the objective was asked, one letter each."""
    return "".join(name[0] for name, _ in fit(run).events)


def test_views_and_objectives_see_how_far_training_is(rows: Path, tmp_path: Path) -> None:
    run = started(made(rows, train={"accumulate": 2}), tmp_path)
    for _ in range(6):
        run.train_step()
    seen = [progress for _, progress, _ in fit(run).of("forward")]
    assert seen == pytest.approx([0] + [step / 6 for step in range(6) for _ in range(2)])
    told = fit(run).of("after")
    assert [progress for progress, _ in told] == pytest.approx([(step + 1) / 6 for step in range(6)])


def test_after_step_sees_the_weights_that_the_step_made(rows: Path, tmp_path: Path) -> None:
    run = started(made(rows), tmp_path)
    before = weights(run)
    run.train_step()
    found = plain_loop(before, {"fit": [parts(run)[:1]]}, steps=6)
    torch.testing.assert_close(fit(run).of("after")[0][1], found.weights["encoders.row.layer.weight"])


def test_before_epoch_comes_before_each_pass_and_shows_the_whole_set_in_order(rows: Path, tmp_path: Path) -> None:
    run = started(made(rows, tasks={"fit": {"view": {"noise": 3.0}}}), tmp_path)
    for _ in range(6):
        run.train_step()
    assert kinds(run) == "tef" + "fa" * 3 + "e" + "fa" * 3, "the trial step is the first"
    assert fit(run).numbers == [0, 1]
    source = np.random.default_rng(0).normal(size=(24, 3))
    for index, shown, encoders in fit(run).of("epoch"):
        assert index.tolist() == list(range(24))
        assert torch.equal(shown, torch.from_numpy(source)), "as the preprocessing shows it, not the view"
        assert encoders["row"] is run.model.encoders["row"]


def test_batches_that_are_taken_before_the_first_pass_are_spent(rows: Path, tmp_path: Path) -> None:
    plain = started(made(rows), tmp_path)
    for _ in range(6):
        plain.train_step()
    run = started(made(rows, tasks={"fit": {"objective": {"take": 2}}}), tmp_path)
    for _ in range(4):
        run.train_step()
    assert kinds(run) == "tef" + "fa" + "e" + "fa" * 3 and fit(run).numbers == [0, 1]
    (taken,) = fit(run).of("taken")
    for mine, theirs in zip([*taken, *parts(run)], parts(plain), strict=True):
        assert torch.equal(mine, theirs)


def test_a_pass_shows_every_row_once(rows: Path, tmp_path: Path) -> None:
    run = started(made(rows), tmp_path)
    for _ in range(6):
        run.train_step()
    numbers = torch.cat([index for _, _, index in fit(run).of("forward")][1:]).tolist()
    assert sorted(numbers[:24]) == sorted(numbers[24:]) == list(range(24))
    assert numbers[:24] != numbers[24:]


def test_accumulated_parts_are_one_whole_batch(rows: Path, tmp_path: Path) -> None:
    found = []
    for pieces in (1, 2, 8):
        run = started(made(rows, train={"accumulate": pieces, "clip_grad": 0.3, "warmup": 1}), tmp_path)
        for _ in range(6):
            run.train_step()
        found.append(weights(run))
    same(found[1], found[0])
    same(found[2], found[0])


def test_the_trial_step_leaves_no_trace(rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(5)
    run = started(made(rows, encoder={"dropout": 0.5}), tmp_path)
    assert run.model.encoders["row"].passes == 0
    assert not run.model.encoders["row"].unused.requires_grad
    assert all(p.grad is None for p in run.model.parameters())
    assert set(weights(run)) == {k for k, _ in run.model.named_parameters()} - {"encoders.row.unused"}
    assert "frozen, since no task's loss reaches them: encoders.row.unused\n" in capsys.readouterr().out


@pytest.mark.parametrize(("seed", "expected"), [(0, 1), (7, 8)])
def test_the_seed_makes_the_weights_and_what_steps_draw(seed: int, expected: int, rows: Path, tmp_path: Path) -> None:
    run = started(made(rows, train={"seed": seed}), tmp_path)
    assert torch.initial_seed() == expected
    torch.manual_seed(seed)
    layer = torch.nn.Linear(3, 2).double()
    assert torch.equal(run.model.encoders["row"].layer.weight, layer.weight)


@pytest.mark.parametrize(
    ("samples", "steps", "lines"),
    [(1, 1, 10), (15, 1, 10), (16, 2, 10), (48, 6, 10), (320, 40, 10), (512, 64, 16), (3232, 404, 100)],
)
def test_how_many_steps_and_how_many_lines_alarm(
    samples: int, steps: int, lines: int, rows: Path, tmp_path: Path
) -> None:
    run = started(made(rows, train={"samples": samples}), tmp_path)
    assert (run.steps, run.alarm.lines, run.samples) == (steps, lines, 0)
    run.train_step()
    assert run.samples == 8


@pytest.mark.parametrize(
    ("precision", "able", "half"),
    [("fp32", True, False), ("bf16", False, True), ("auto", True, True), ("auto", False, False)],
)
def test_precision(
    precision: str, able: bool, half: bool, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dist, "computes_bf16", lambda device: able)
    run = started(made(rows, train={"precision": precision}), tmp_path)
    run.model.encoders["row"].autocast.clear()
    seen = []
    monkeypatch.setattr(
        run,
        "wrapped",
        lambda batches: seen.append(torch.is_autocast_enabled("cpu")) or (torch.zeros((), requires_grad=True), {}),
    )
    monkeypatch.setattr(run, "_apply_gradients", lambda: None)
    run.train_step()
    assert (run.bf16, seen) == (half, [half])


def test_bad_steps_are_counted_and_too_many_stop_the_run(rows: Path, tmp_path: Path) -> None:
    tree = made(rows, tasks={"fit": {"objective": {"bad": [0, 2]}}}, train={"max_bad_steps": 2})
    folder = train(tree, out=tmp_path / "two", progress=False)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line.get("skipped_steps", 0) for line in lines] == [1, 1, 2, 2, 2, 2]
    tree["tasks"]["fit"]["method"]["objective"]["bad"] = [0, 2, 3]
    with pytest.raises(UserError, match=r"3 steps had gradients that are not finite \(train.max_bad_steps is 2\)"):
        train(tree, out=tmp_path / "three", progress=False)


def test_frozen_and_given_weights(rows: Path, tmp_path: Path) -> None:
    first = train(made(rows), out=tmp_path / "first", progress=False)
    given = load_encoder(first / "encoders" / "row", trust_code=True)
    options = {"freeze": ["row"], "start": {"row": str(first / "encoders" / "row")}}
    run = started(made(rows, encoder={"dropout": 0.5}, train=options), tmp_path / "second")
    assert not run.model.encoders["row"].training
    for _ in range(3):
        run.train_step()
    assert weights(run).keys() == {"objectives.fit.head.weight", "objectives.fit.head.bias"}
    assert torch.equal(run.model.encoders["row"].layer.weight, given.layer.weight)


def test_absent_samples_count_neither_in_the_loss_nor_in_the_monitors(rows: Path, tmp_path: Path) -> None:
    run = started(made(rows, tasks={"fit": {"view": {"absent": 3}}}), tmp_path)
    before = weights(run)
    losses, waited = run.train_step()
    line = run.figures(losses, waited, 1.0, 1)
    assert len(parts(run)[0]) == 5
    found = plain_loop(before, {"fit": [parts(run)[:1]]}, steps=6)
    same(weights(run), found.weights)
    assert line["loss"] == pytest.approx(found.losses[0]["fit"]) and line["twice"] == pytest.approx(2 * line["loss"])
    features = torch.nn.functional.linear(
        parts(run)[0], before["encoders.row.layer.weight"], before["encoders.row.layer.bias"]
    )
    unit = (features / features.norm(dim=1, keepdim=True)).numpy()
    assert line["row/std"] == pytest.approx(unit.std(axis=0, ddof=1).mean())


def test_a_task_without_a_whole_sample_is_not_in_the_log(rows: Path, tmp_path: Path) -> None:
    tasks = {"fit": {}, "none": {"view": {"absent": 8}, "weight": 5.0}}
    run = started(made(rows, tasks=tasks), tmp_path)
    losses, waited = run.train_step()
    line = run.figures(losses, waited, 1.0, 1)
    assert not [key for key in line if key.startswith("none")]
    assert line["total"] == line["fit/loss"] == pytest.approx(losses["fit"].total.item())
    run = started(made(rows, tasks={"one": {"view": {"absent": 7}}}), tmp_path)
    assert {"total", "loss"} <= run.figures(*run.train_step(), 1.0, 1).keys(), "one sample is enough"
    run = started(made(rows, tasks={"none": {"view": {"absent": 8}}}), tmp_path)
    assert not {"total", "loss"} & run.figures(*run.train_step(), 1.0, 1).keys()


def test_a_line_of_the_log_tells_speed_and_waiting_since_the_last(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that is a second later whenever it is asked: twice a step, one of them waiting, and at a line."""
    clock = iter(range(10_000))
    for file in (loop, trainer):
        monkeypatch.setattr(file, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    folder = train(made(rows, train={"log_every": 4, "samples": 80}), out=tmp_path / "run", progress=False)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 8, 10]
    assert [line["samples"] for line in lines] == [32, 64, 80]
    for line, steps in zip(lines, (4, 4, 2), strict=True):
        assert line["samples_per_second"] == pytest.approx(8 * steps / (2 * steps + 1), abs=1e-5)
        assert line["data_wait"] == pytest.approx(steps / (2 * steps + 1), abs=1e-5)


@pytest.mark.parametrize(
    ("options", "saved"),
    [
        ({"save_every": 16}, [2, 4, 6]),
        ({"save_every": 24}, [3, 6]),
        ({"save_every": 1}, [1, 2, 3, 4, 5, 6]),
        ({"save_every": 40}, [5, 6]),
        ({}, [1, 2, 3, 4, 5, 6]),
        ({"samples": 160}, [2, 4, 6, 8, 10, 12, 14, 16, 18, 20]),
    ],
)
def test_checkpoints_are_written_as_often_as_asked_and_at_the_end(
    options: dict[str, int], saved: list[int], rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[int] = []
    monkeypatch.setattr(trainer.Trainer, "save", lambda self: found.append(self.step))
    train(made(rows, train=options), out=tmp_path / "run", progress=False)
    assert found == saved


def test_the_newest_checkpoints_are_kept(rows: Path, tmp_path: Path) -> None:
    folder = train(made(rows, train={"save_every": 8, "keep": 3}), out=tmp_path / "run", progress=False)
    assert [path.name for path in checkpoint.steps(folder / "checkpoints")] == ["step_6", "step_5", "step_4"]


def test_evaluations_run_when_they_are_due_on_the_average(rows: Path, tmp_path: Path) -> None:
    peek = {"name": "linear.model:evaluation"}
    evals = {"often": {**peek, "every": 16}, "odd": {**peek, "every": 20, "at": 1}, "end": {**peek, "at": 2}}
    tree = made(rows, evals=evals, train={"ema": 0.5, "log_every": 100}, encoder={"dropout": 0.5})
    folder = train(tree, out=tmp_path / "run", progress=False)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    told = {key: [line["step"] for line in lines if f"{key}/weight" in line] for key in evals}
    assert told == {"often": [2, 4, 6], "odd": [3, 5, 6], "end": [6]}
    average = load_encoder(folder / "encoders" / "row", trust_code=True).layer.weight.flatten()
    scores = read_scores(folder)
    assert [scores[f"{key}/weight"].value for key in evals] == pytest.approx(average[:3].tolist())
    assert scores["often/weight"].chance == 0.0, "in evaluation mode"
    results = json.loads((folder / "results.json").read_text())
    assert (folder / "data_report.json").is_file()
    assert results["samples"] == 48 and results["recipe"] == "rows" and results["seed"] == 0
    state = torch.load(folder / "checkpoints" / "step_6" / "state.pt", weights_only=True)
    assert torch.equal(state["averaged"]["encoders.row.layer.weight"].flatten(), average)
    assert not torch.equal(state["model"]["encoders.row.layer.weight"].flatten(), average)


@pytest.mark.parametrize(
    ("every", "samples", "step", "last", "due"),
    [
        (16, 16, 8, False, True),
        (16, 15, 8, False, False),
        (16, 24, 8, False, False),
        (16, 31, 8, False, False),
        (16, 32, 8, False, True),
        (16, 33, 8, False, True),
        (3, 8, 8, False, True),
        (100, 8, 8, False, False),
        (100, 8, 8, True, True),
        (None, 100, 8, False, False),
        (None, 100, 8, True, True),
    ],
)
def test_an_evaluation_falls_due_at_the_samples_it_is_asked_for(
    every: int | None, samples: int, step: int, last: bool, due: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = Judge({"peek": {"name": "linear.model:evaluation", "every": every}})
    score = Score(1.0, 0.0, 2.0, 0.5, 3)
    monkeypatch.setattr(judge, "run", lambda trained, keys, stop: dict.fromkeys(keys, score) if trained == "it" else {})
    assert judge.due(lambda: "it", samples, step, last=last) == ({"peek": score} if due else {})


def test_every_figure_of_an_evaluation_is_shown(rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {"cat": 0.5, "dog": 0.75}
    scores = [
        ("top1", Score(0.5, 0.25, 0.75, 0.125, 8, parts=parts)),
        ("top5", Score(1.0, 1.0, 1.0, 0.5, 8, trivial=0.625)),
    ]
    monkeypatch.setattr(Peek, "run", lambda self, trained: iter(scores))
    tree = made(rows, evals={"peek": {"name": "linear.model:evaluation"}}, train={"log_every": "16 samples"})
    folder = train(tree, out=tmp_path / "run", progress=False)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 6]
    assert lines[-1] == {"step": 6, "peek/top1": 0.5, "peek/top5": 1.0}
    shown = EventAccumulator(str(folder / "tensorboard")).Reload()
    tags = [tag for tag in shown.Tags()["scalars"] if tag.startswith("peek/")]
    one = {"": 0.5, "/low": 0.25, "/high": 0.75, "/chance": 0.125, "/parts/cat": 0.5, "/parts/dog": 0.75}
    five = {"": 1.0, "/low": 1.0, "/high": 1.0, "/chance": 0.5, "/trivial": 0.625}
    expected = {f"peek/{key}{name}": v for key, each in (("top1", one), ("top5", five)) for name, v in each.items()}
    assert {tag: shown.Scalars(tag)[0].value for tag in tags} == expected


def resumed(tree: dict[str, Any], folder: Path, after: int) -> trainer.Trainer:
    """Returns a run that was saved after some steps and taken up by a new trainer."""
    run = started(tree, folder)
    for _ in range(after):
        run.train_step()
    run.save()
    torch.manual_seed(99)
    state = run_folder.open_folder(folder, resume=True)
    assert state is not None
    return started(tree, folder, state)


@pytest.mark.parametrize("after", [1, 3, 5])  # before, where and after the part trains
def test_a_frozen_part_is_taken_up_as_it_was(after: int, rows: Path, tmp_path: Path) -> None:
    groups = {"row": {"lr": 0.02, "warmup": 4}, "heads": {"final_lr": 0.5}}
    tree = made(rows, optim={"momentum": 0.9, "weight_decay": 0.1, "groups": groups}, train={"freeze": {"row": 0.5}})
    tree["encoders"]["row"]["dropout"] = 0.5
    whole = started(tree, tmp_path / "whole")
    for _ in range(6):
        whole.train_step()
    run = resumed(tree, tmp_path / "run", after)
    assert run.model.encoders["row"].layer.weight.requires_grad == run.model.encoders["row"].training == (after >= 3)
    for _ in range(after, 6):
        run.train_step()
    for key, value in run.model.state_dict().items():
        assert torch.equal(value, whole.model.state_dict()[key]), key
    assert run.learning == whole.learning and run.learning.keys() == {"lr/row", "lr/heads"}


@pytest.mark.parametrize("after", [2, 3, 6])  # in the middle of a pass, and at its end
def test_a_run_taken_up_again_is_the_same_run(after: int, rows: Path, tmp_path: Path) -> None:
    tree = made(rows, **HARD)
    whole = started(tree, tmp_path / "whole")
    rates = []
    for _ in range(12):
        whole.train_step()
        rates.append([group["lr"] for group in whole.optimizer.param_groups])
    run = resumed(tree, tmp_path / "run", after)
    assert (run.step, run.samples, float(run.bad_steps)) == (after, 8 * after, 1.0)
    fit(run).done = after  # the test's own counter of steps
    for step in range(after, 12):
        run.train_step()
        assert [group["lr"] for group in run.optimizer.param_groups] == rates[step]
    assert fit(run).numbers == [step // 3 for step in range(after, 12) if step % 3 == 0]
    assert [progress for _, progress, _ in fit(run).of("forward")][1:] == pytest.approx(
        [step / 12 for step in range(after, 12) for _ in range(2)]
    )
    assert kinds(run).count("e") == sum(step % 3 == 0 for step in range(after, 12))
    for mine, theirs in ((run.model, whole.model), (run.averaged, whole.averaged)):
        for key, value in mine.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[key]), key
    assert float(run.bad_steps) == float(whole.bad_steps) == 1.0


def test_an_average_that_is_asked_for_later_begins_at_the_weights(rows: Path, tmp_path: Path) -> None:
    tree = made(rows, train={"samples": 96})
    run = started(tree, tmp_path)
    for _ in range(6):
        run.train_step()
    run.save()
    later = made(rows, train={"samples": 96, "ema": 0.9})
    run = started(later, tmp_path, run_folder.open_folder(tmp_path, resume=True))
    same(dict(run.averaged.named_parameters()), dict(run.model.named_parameters()))


def test_another_recipe_does_not_fit_a_run(rows: Path, tmp_path: Path) -> None:
    run = started(made(rows), tmp_path)
    run.save()
    state = run_folder.open_folder(tmp_path, resume=True)
    with pytest.raises(UserError, match="was trained by another recipe, its weights do not fit: .*more.head"):
        started(
            made(rows, tasks={"fit": {}, "more": {}}),
            tmp_path,
            {**state, "streams": [dict.fromkeys(("fit", "more"), state["streams"][0]["fit"])]},
        )


def test_overrides_change_a_copy_of_plain_values(rows: Path, tmp_path: Path) -> None:
    tree = made(rows)
    folder = train(tree, ["optim.lr=0.02", "train.samples=8"], out=tmp_path / "run", progress=False)
    assert tree == made(rows)
    saved = yaml.safe_load((folder / "recipe.yaml").read_text())
    assert (saved["optim"]["lr"], saved["train"]["samples"]) == (0.02, 8)
    (tmp_path / "rows.yaml").write_text(yaml.safe_dump(tree))
    folder = train(tmp_path / "rows.yaml", ["train.samples=16"], out=tmp_path / "file", progress=False)
    assert next(path.name for path in checkpoint.steps(folder / "checkpoints")) == "step_2"


def test_a_run_is_in_runs_by_default_with_the_threads_it_asks_for(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    assert train(made(rows, train={"samples": 8}), progress=False) == Path("runs/rows")
    assert asked == [] and (tmp_path / "runs/rows/checkpoints/step_1/state.pt").is_file()
    assert train(made(rows, train={"samples": 8, "threads": 3}), out=Path("mine"), progress=False) == Path("mine")
    assert asked == [3]


def test_a_folder_that_holds_something_is_not_begun_in(rows: Path, tmp_path: Path) -> None:
    assert run_folder.open_folder(tmp_path / "new", resume=False) is None
    assert run_folder.open_folder(tmp_path / "new", resume=True) is None
    (tmp_path / "empty").mkdir()
    assert run_folder.open_folder(tmp_path / "empty", resume=False) is None
    (tmp_path / "empty" / "a").touch()
    with pytest.raises(UserError, match="empty is not empty; continue it with --resume"):
        run_folder.open_folder(tmp_path / "empty", resume=False)
    assert run_folder.open_folder(tmp_path / "empty", resume=True) is None


def test_a_process_that_the_saved_run_lacked_takes_a_part_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    for rank, part in enumerate(["a", "b", "c", "a", "b"]):
        monkeypatch.setattr(dist, "rank", lambda rank=rank: rank)
        assert trainer._mine(["a", "b", "c"]) == part


def test_what_a_run_needs_is_asked_before_it_starts(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evals = {"peek": {"name": "linear.model:evaluation", "fail": "check"}}
    with pytest.raises(UserError, match="evals.peek: nothing fits"):
        train(made(rows, evals=evals), out=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(loop, "refuse_import", lambda: (_ for _ in ()).throw(UserError("imported")))
    with pytest.raises(UserError, match="imported"):
        train(made(rows), out=tmp_path / "run", progress=False)


def test_a_run_begins_with_what_it_rests_on(rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = made(rows)
    run = started(tree, tmp_path / "run")
    saved: list[Path] = []
    monkeypatch.setattr(run.model.encoders["row"], "save_files", saved.append)
    run.write_start()
    assert yaml.safe_load((tmp_path / "run/recipe.yaml").read_text())["optim"] == tree["optim"]
    assert saved == [tmp_path / "run/encoders/row"] and saved[0].is_dir()


def test_the_learnt_preprocessing_is_there_before_the_first_step(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(self: trainer.Trainer) -> None:
        assert (self.folder / "recipe.yaml").is_file() and (self.folder / "encoders/row").is_dir()
        raise RuntimeError("power cut")

    closed: list[str] = []
    monkeypatch.setattr(trainer.Trainer, "train_step", stop)
    monkeypatch.setattr(trainer.Trainer, "close", lambda self: closed.append("run"))
    monkeypatch.setattr(dist, "stop", lambda: closed.append("group"))
    with pytest.raises(RuntimeError, match="power cut"):
        train(made(rows), out=tmp_path / "run", progress=False)
    assert closed == ["run", "group"]


def test_closing_stops_every_stream(rows: Path, tmp_path: Path) -> None:
    run = started(made(rows, tasks={"fit": {}, "more": {}}), tmp_path)
    run.close()
    for stream in run.streams.values():
        with pytest.raises(StopIteration):
            next(stream.batches)


def test_compiling(rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from linear.model import Row

    compiled: list[Any] = []
    monkeypatch.setattr(Row, "compile", lambda self: compiled.append(self))
    started(made(rows), tmp_path)
    assert not compiled
    run = started(made(rows, train={"compile": True}), tmp_path)
    assert compiled == [run.model.encoders["row"]]


@pytest.mark.parametrize("several", [False, True])
def test_signs_are_looked_for_in_each_tasks_own_figures(
    several: bool, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = started(made(rows, tasks={"fit": {}, "more": {}} if several else None), tmp_path)
    looked: list[Any] = []
    run.alarm = SimpleNamespace(look=lambda *args: looked.append(args) or f"{args[0]} collapsed")  # type: ignore[assignment]
    run.wholeness = SimpleNamespace(look=lambda task, logs: f"{task} lacks {sorted(logs)}")  # type: ignore[assignment]
    prefix = "fit/" if several else ""
    values = {f"{prefix}loss": 0.5, f"{prefix}row/std": 0.1}
    loss = Loss(torch.zeros(()), logs={"twice": torch.zeros(())}, embeddings={"row": torch.zeros(4, 2)})
    run.warn({"fit": loss, "more": loss} if several else {"fit": loss}, values)
    assert looked == [("fit", {"loss": 0.5, "row/std": 0.1}, {"row": 2})]
    lines = ["fit lacks ['twice']", "fit collapsed", *(["more lacks ['twice']"] if several else [])]
    assert capsys.readouterr().out.splitlines()[-len(lines) :] == lines


def test_notes_are_told_once_of_each_kind(rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = started(made(rows), tmp_path)
    run.streams["fit"].loader._tally.notes = Counter({"cut": 3})
    capsys.readouterr()
    run.tell_notes(run.counts())
    run.streams["fit"].loader._tally.notes = Counter({"cut": 5, "long": 1})
    run.streams["fit"].loader._tally.lacking = Counter({("silent", "a"): 1, ("silent", "b"): 1})
    run.tell_notes(run.counts())
    told = [
        "fit: cut: 3 so far; the total stands in data_report.json",
        "fit: silent: 2 so far; the total stands in data_report.json",
        "fit: long: 1 so far; the total stands in data_report.json",
    ]
    assert capsys.readouterr().out.splitlines() == told


def test_the_last_report_says_what_was_left_out(rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = started(made(rows), tmp_path)
    tally = run.streams["fit"].loader._tally
    tally.drawn, tally.notes, tally.damaged = 50, Counter({"cut": 3}), Counter({("torn", "a"): 1, ("torn", "b"): 2})
    run.wholeness = SimpleNamespace(end=lambda task: f"{task}: half empty")  # type: ignore[assignment]
    capsys.readouterr()
    loop._report(run, run.counts())
    assert capsys.readouterr().out.splitlines() == [
        "fit: torn: 3 of 50 samples",
        "fit: cut: 3 of 50 samples",
        "fit: half empty",
    ]
    report = json.loads((tmp_path / "data_report.json").read_text())["fit"]
    assert report["drawn"] == 50 and report["damaged"] == {"torn": {"a": 1, "b": 2}} and report["notes"] == {"cut": 3}


def test_everything_is_saved(rows: Path, tmp_path: Path) -> None:
    run = started(made(rows, tasks={"fit": {}, "more": {}}, train={"ema": 0.5}), tmp_path)
    for _ in range(2):
        run.train_step()
    run.save()
    average = run.averaged.state_dict()
    saved = load_encoder(tmp_path / "encoders" / "row", trust_code=True)
    assert torch.equal(saved.layer.weight, average["encoders.row.layer.weight"])
    from safetensors.torch import load_file

    for task in ("fit", "more"):
        heads = load_file(tmp_path / "objectives" / f"{task}.safetensors")
        assert heads.keys() == {"head.weight", "head.bias"}
        assert torch.equal(heads["head.weight"], average[f"objectives.{task}.head.weight"])
    state = torch.load(tmp_path / "checkpoints/step_2/state.pt", weights_only=True)
    assert set(state) == {"step", "model", "optimizer", "averaged", "bad_steps", "streams", "random"}
    assert state["step"] == 2 and [s["fit"]["batches"] for s in state["streams"]] == [2]


def test_the_bar_counts_samples(rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bars: list[dict[str, Any]] = []

    class Bar:
        def __init__(self, **options: Any) -> None:
            bars.append(options | {"updates": [], "closed": False, "said": []})

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *error: object) -> None:
            bars[-1]["closed"] = True

        def update(self, number: int) -> None:
            bars[-1]["updates"].append(number)

        def set_postfix(self, **values: str) -> None:
            bars[-1]["said"].append(values)

        write = staticmethod(print)

    monkeypatch.setattr(loop, "tqdm", Bar)
    looked: list[tuple[str, int]] = []
    monkeypatch.setattr(trainer.Trainer, "tell_notes", lambda self, counts: looked.append(("notes", self.step)))
    monkeypatch.setattr(trainer.Trainer, "warn", lambda self, *_: looked.append(("signs", self.step)))
    tree = made(rows, train={"log_every": 2})
    train(tree, out=tmp_path / "run", progress=True)
    (bar,) = bars
    assert (bar["total"], bar["initial"], bar["desc"], bar["disable"], bar["closed"]) == (48, 0, "rows", False, True)
    assert looked == [(what, step) for step in (2, 4, 6) for what in ("notes", "signs")], "at each line of the log"
    assert bar["updates"] == [8] * 6 and len(bar["said"]) == 3
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [said["loss"] for said in bar["said"]] == [f"{line['total']:.3f}" for line in lines]
    assert [said["data_wait"] for said in bar["said"]] == [f"{line['data_wait']:.0%}" for line in lines]
    train(tree, out=tmp_path / "run", resume=True, progress=False)
    assert (bars[1]["initial"], bars[1]["disable"], bars[1]["updates"]) == (48, True, [])


def test_a_run_is_taken_up_only_when_that_is_asked_for(rows: Path, tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(UserError, match="is not empty"):
        loop.fit(recipe.check(made(rows)), out=tmp_path)
    with pytest.raises(UserError, match="is not empty"):
        train(made(rows), out=tmp_path)


def test_a_deterministic_run_asks_torch_for_it_and_puts_it_back(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    seen = []
    real = trainer.Trainer.train_step
    monkeypatch.setattr(
        trainer.Trainer,
        "train_step",
        lambda run: (
            seen.append((torch.are_deterministic_algorithms_enabled(), "CUBLAS_WORKSPACE_CONFIG" in os.environ))
            or real(run)
        ),
    )
    for deterministic in (False, True):
        train(made(rows, train={"deterministic": deterministic}), out=tmp_path / str(deterministic), progress=False)
        assert set(seen) == {(deterministic, deterministic)}
        assert not torch.are_deterministic_algorithms_enabled()
        seen.clear()


def test_what_cannot_be_deterministic_is_told_before_the_run(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: Any) -> None:
        raise RuntimeError("upsample does not have a deterministic implementation, but you set that. You can ...")

    monkeypatch.setattr(parallel, "freeze_idle", forbidden)
    with pytest.raises(UserError, match=r"^upsample does not have .*; train with train.deterministic=false$"):
        train(made(rows), out=tmp_path / "run", progress=False)


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_a_queue_takes_all_parts_of_a_step_and_none_of_the_trial(
    accumulate: int, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, forward, whole = Fit.__init__, Fit.forward, []

    def begin(self: Fit, *args: Any, **options: Any) -> None:
        start(self, *args, **options)
        self.queue = Queue(30, 3)

    def note(self: Fit, encoders: Any, batch: Any) -> Loss:
        self.queue.note(batch.views["row"][0])
        whole.append(batch.views["row"][0].float())
        return forward(self, encoders, batch)

    monkeypatch.setattr(Fit, "__init__", begin)
    monkeypatch.setattr(Fit, "forward", note)
    monkeypatch.setattr(Fit, "after_step", lambda self, *_: self.queue.write())
    run = started(made(rows, train={"accumulate": accumulate}), tmp_path)
    whole.clear()
    run.train_step()
    queue = run.model.objectives["fit"].queue
    assert len(whole) == accumulate and queue.place == run.per_step
    assert torch.equal(queue.rows[: run.per_step], torch.cat(whole))
