"""Runs from shards to results: whole, killed and resumed, in one process and in two."""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import webdataset
import yaml
from forked import Command

from mmssl import create_encoder, train
from mmssl.checkpoint import steps
from mmssl.errors import UserError
from mmssl.judge import evaluate, load_encoders, read_scores
from mmssl.nn.head import Projection
from mmssl.stopping import Stopping
from mmssl.types import evaluating


def figures(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(steps(folder / "checkpoints")[0] / "state.pt", weights_only=True)["model"]


def same_weights(a: Path, b: Path) -> None:
    mine, theirs = weights(a), weights(b)
    assert mine.keys() == theirs.keys()
    for key, value in mine.items():
        torch.testing.assert_close(value, theirs[key], rtol=0, atol=0, msg=key)


def with_train(recipe: dict[str, Any], **options: Any) -> dict[str, Any]:
    recipe = copy.deepcopy(recipe)
    recipe["train"] |= options
    return recipe


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, color_recipe: dict[str, Any]) -> Path:
    """A run without interruption."""
    return train(color_recipe, out=tmp_path_factory.mktemp("whole") / "run", progress=False)


def test_a_run_learns_and_leaves_what_it_promises(whole: Path) -> None:
    for name in ("recipe.yaml", "results.json", "metrics.jsonl", "tensorboard", "data_report.json"):
        assert (whole / name).exists(), name
    assert [path.name for path in steps(whole / "checkpoints")] == ["step_20", "step_18"]
    assert {p.name for p in (whole / "encoders" / "text").iterdir()} == {
        "model.safetensors",
        "config.json",
        "tokenizer.json",
    }
    scores = read_scores(whole)
    top1 = scores["zero_shot/top1"]
    assert top1.value > 0.6 and top1.low <= top1.value <= top1.high and top1.chance == 0.25 and top1.n == 64
    lines = figures(whole)
    assert lines[-1]["step"] == 20 and lines[0]["loss"] > [line for line in lines if "loss" in line][-1]["loss"]
    for key in ("temperature", "image/std", "text/rank", "image-text/alignment", "image-text/gap", "data_wait", "lr"):
        assert key in lines[-2] or key in lines[-1], key


def test_evaluating_the_saved_run_gives_the_figures_of_the_trainer(whole: Path) -> None:
    before = read_scores(whole)
    again = evaluate(whole, evals=["zero_shot"])
    assert again["zero_shot/top1"] == before["zero_shot/top1"]
    assert read_scores(whole).keys() == before.keys()
    assert json.loads((whole / "results.json").read_text())["samples"] == 320
    with pytest.raises(UserError, match="no evaluation 'zeroshot'; did you mean 'zero_shot'"):
        evaluate(whole, evals=["zeroshot"])


def test_the_same_seed_gives_the_same_run(whole: Path, color_recipe: dict[str, Any], tmp_path: Path) -> None:
    same_weights(whole, train(color_recipe, out=tmp_path / "again", progress=False))


def test_a_run_stopped_between_checkpoints_continues_bit_by_bit(
    whole: Path, color_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmssl import trainer

    real = trainer.Trainer.train_step

    def stops(self: Any) -> Any:
        if self.step == 14:
            raise RuntimeError("power cut")
        return real(self)

    monkeypatch.setattr(trainer.Trainer, "train_step", stops)
    with pytest.raises(RuntimeError, match="power cut"):
        train(color_recipe, out=tmp_path / "run", progress=False)
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"is not empty; continue it with --resume"):
        train(color_recipe, out=tmp_path / "run", progress=False)
    newest = steps(tmp_path / "run" / "checkpoints")[0]
    (newest / "state.pt").write_bytes((newest / "state.pt").read_bytes()[:1000])  # the older one must serve
    train(color_recipe, out=tmp_path / "run", resume=True, progress=False)
    same_weights(whole, tmp_path / "run")
    trained = [line["step"] for line in figures(tmp_path / "run") if "loss" in line]
    assert trained == sorted(set(trained))


KILLED_AT_STEP_30 = """
import signal, sys
from mmssl import checkpoint
from mmssl.cli import main

real = checkpoint.save_state
def save_and_die(folder, step, *rest, **options):
    real(folder, step, *rest, **options)
    if step == 30:
        signal.raise_signal(signal.SIGKILL)

checkpoint.save_state = save_and_die
main(sys.argv[1:])
"""


def test_sigkill_and_the_same_command_with_resume(color_recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe = with_train(color_recipe, samples=1600, save_every=160)
    file, run = tmp_path / "r.yaml", tmp_path / "run"
    file.write_text(yaml.safe_dump(recipe))
    words = ["train", str(file), "--out", str(run), "--quiet", "--resume"]
    assert Command(["-c", KILLED_AT_STEP_30, *words]).wait() == -signal.SIGKILL
    assert [path.name for path in steps(run / "checkpoints")] == ["step_30", "step_20"]
    done = Command(["-m", "mmssl", *words])
    assert done.wait() == 0, done.stderr[-2000:]
    assert steps(run / "checkpoints")[0].name == "step_100"
    assert [line["step"] for line in figures(run) if "loss" in line] == list(range(4, 101, 4))
    assert "zero_shot/top1" in done.stdout


def test_two_processes_train_as_one_run(color_recipe: dict[str, Any], tmp_path: Path) -> None:
    file, run = tmp_path / "r.yaml", tmp_path / "run"
    file.write_text(yaml.safe_dump(with_train(color_recipe, accumulate=2, threads=1)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "mmssl", "train", str(file), "--out", str(run)]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr
    assert read_scores(run)["zero_shot/top1"].n == 64
    assert read_scores(run)["zero_shot/top1"].value > 0.5
    state = torch.load(steps(run / "checkpoints")[0] / "state.pt", weights_only=True)
    assert len(state["streams"]) == 2


def test_processes_that_see_other_shards_are_all_told(
    color_recipe: dict[str, Any], color_shards: Path, tmp_path: Path, two_processes: Callable[..., str]
) -> None:
    """As on two machines, of which one lacks a file, has half of one, or has them under another folder."""
    shards = sorted(color_shards.glob("*.tar"))
    for name, mine in {"lacking0": shards, "lacking1": shards[:3], "elsewhere0": shards, "elsewhere1": shards}.items():
        (tmp_path / name).mkdir()
        for shard in mine:
            shutil.copy(shard, tmp_path / name)
    shutil.copytree(tmp_path / "elsewhere0", tmp_path / "half0")
    shutil.copytree(tmp_path / "elsewhere0", tmp_path / "half1")
    with webdataset.TarWriter(str(tmp_path / "half1" / shards[1].name)) as writer:
        for number in range(6):
            writer.write({"__key__": str(number), "txt": "red", "png": b""})
    runs = []
    for shards_of_rank in ("lackingRANK/*.tar", "halfRANK", "lackingRANK/part-000{0..3}.tar", "elsewhereRANK"):
        recipe = with_train(color_recipe, samples=16, threads=1, device="cpu") | {"evals": {}}
        recipe["tasks"]["clip"]["data"]["shards"] = str(tmp_path / shards_of_rank)
        runs.append(recipe)
    (tmp_path / "runs.json").write_text(json.dumps(runs))
    two_processes(Path(__file__).parent / "two_sets.py", tmp_path / "runs.json")
    told, other = (json.loads((tmp_path / f"runs.json.rank{rank}").read_text()) for rank in range(2))
    assert told == other
    lacking, half, absent, elsewhere = told
    name = "part-0003.tar (16 samples)"
    assert f"tasks.clip: ranks see different shards, 4 on rank 0 and 3 on rank 1: rank 0 alone has {name}; " in lacking
    assert "rank 0 alone has part-0001.tar (16 samples); rank 1 alone has part-0001.tar (6 samples)" in half
    assert absent.startswith("rank 1: there is no shard") and "part-0003.tar" in absent
    assert elsewhere == ""


def test_a_batch_of_one_is_too_small_for_batch_norm(
    color_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = with_train(color_recipe, samples=32, accumulate=4) | {"evals": {}}
    recipe["encoders"] = {"image": recipe["encoders"]["image"]}
    recipe["tasks"]["clip"] |= {"batch": 4, "method": {"name": "simclr", "view": {"views": 2}}}
    recipe["tasks"]["dim"] = {**recipe["tasks"]["clip"], "method": {"name": "rotation", "objective": {"hidden": [4]}}}
    del recipe["tasks"]["clip"]
    train(recipe, out=tmp_path / "four", progress=False)  # four turns of each image are four rows
    recipe["tasks"]["dim"]["method"] = {"name": "relative_position", "objective": {"hidden": [4]}}
    recipe["tasks"]["dim"]["method"]["view"] = {"neighbors": {"patch": 8, "gap": 0, "jitter": 0}}
    with pytest.raises(
        UserError,
        match=r"one sample has no variance for BatchNorm: tasks.dim.batch is 4, shared by 1 process\(es\) x accumulate "
        "4; expected at least 8",
    ):
        train(recipe, out=tmp_path / "one", progress=False)
    recipe["train"]["accumulate"] = 2
    train(recipe, out=tmp_path / "two", progress=False)


def test_the_saved_encoder_embeds_as_the_trainer_did(color_recipe: dict[str, Any], tmp_path: Path) -> None:
    from mmssl import dist, recipe, trainer

    made = recipe.check(copy.deepcopy(color_recipe))
    run = trainer.Trainer(made, tmp_path, device=dist.start("cpu"), state=None)
    for _ in range(4):
        run.train_step()
    run.save()
    loaded = load_encoders(tmp_path)
    pictures = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8)
    captions = ["a red square", "something blue", "nothing", "é 🙂", "a " * 90]
    for key, raws in (("image", pictures), ("text", captions)):
        for space in (None, "clip"):
            ours = run.model.encoders[key].encode(raws, space=space)
            torch.testing.assert_close(loaded[key].encode(raws, space=space), ours, rtol=0, atol=1e-5)


def test_steps_look_up_no_names_and_what_is_judged_is_made_when_something_is_due(
    color_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmssl import dist, loop, names, recipe, trainer

    made = recipe.check(copy.deepcopy(color_recipe))
    run = trainer.Trainer(made, tmp_path, device=dist.start("cpu"), state=None)
    trained, asked = run.trained, []
    monkeypatch.setattr(run, "trained", lambda: asked.append(run.samples) or trained())
    for looked_up in ("resolve", "list_names"):
        monkeypatch.setattr(names, looked_up, lambda *a, **b: pytest.fail("a name is looked up in a step"))
    monkeypatch.setattr(run, "save", lambda: None)
    with Stopping() as stop:
        loop._loop(run, stop, progress=False)
    assert asked == [160, 320]


def test_an_evaluation_that_cannot_be_run_costs_no_report(color_recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe = with_train(color_recipe, samples=64)
    shards = recipe["tasks"]["clip"]["data"]["shards"]
    data = {"train": {"shards": shards}, "data": {"shards": shards}, "encoder": "image", "baselines": False}
    recipe["evals"]["few_shot"] = {**data, "ways": 5}  # there are four colours
    with pytest.raises(UserError, match=r"evals\.few_shot: few_shot draws 5 classes.*stand in .*results\.json"):
        train(recipe, out=tmp_path / "run", progress=False)
    assert json.loads((tmp_path / "run/data_report.json").read_text())["clip"]["drawn"] == 64
    assert read_scores(tmp_path / "run")["zero_shot/top1"].n == 64


def test_frozen_encoders_stay_with_their_running_statistics(color_recipe: dict[str, Any], tmp_path: Path) -> None:
    runs = [
        train(with_train(color_recipe, freeze=["image"], samples=n), out=tmp_path / str(n), progress=False)
        for n in (16, 64)
    ]
    a, b = (weights(run) for run in runs)
    image = [key for key in a if key.startswith("encoders.image.")]
    assert any("running_mean" in key for key in image)
    assert all(torch.equal(a[key], b[key]) for key in image)
    head = "objectives.clip.heads.text.layers.0.weight"
    assert not torch.equal(a[head], b[head])


def test_what_a_task_holds_steady_keeps_its_rate(color_recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe = with_train(color_recipe, samples=160) | {"evals": {}}
    recipe["encoders"] = {"image": recipe["encoders"]["image"]}
    recipe["tasks"] = {"simsiam": recipe["tasks"]["clip"]}
    recipe["tasks"]["simsiam"]["method"] = {"objective": {"embed_dim": 8, "hidden": [8], "bottleneck": 4}}
    folder = train(recipe, out=tmp_path / "run", progress=False)
    state = torch.load(steps(folder / "checkpoints")[0] / "state.pt", weights_only=True)
    rates = {group.get("final_lr"): group["lr"] for group in state["optimizer"]["param_groups"]}
    assert rates[1.0] == recipe["optim"]["lr"]
    assert rates[None] < 0.1 * recipe["optim"]["lr"]


def test_evaluating_covers_heads_with_batch_norm_and_puts_everything_back() -> None:
    encoder = create_encoder("vit", image_size=16, patch_size=8, width=16, depth=1, heads=2)
    encoder.spaces["clip"] = Projection(16, out=8, hidden=(12,))
    with evaluating(encoder):
        assert not any(part.training for part in (encoder, *encoder.spaces["clip"].modules()))
    assert all(part.training for part in (*encoder.modules(), *encoder.spaces["clip"].modules()))


def test_a_run_that_collapses_is_warned_of_once(
    color_recipe: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmssl.methods.clip import CLIP

    real = CLIP.forward

    def same(self: Any, encoders: Any, batch: Any) -> Any:
        loss = real(self, encoders, batch)
        loss.embeddings = {name: torch.ones_like(x) for name, x in loss.embeddings.items()}
        return loss

    monkeypatch.setattr(CLIP, "forward", same)
    train({**with_train(color_recipe, log_every=1), "evals": {}}, out=tmp_path / "run", progress=False)
    said = capsys.readouterr()
    assert (said.out + said.err).count("The features have collapsed") == 1


def test_a_teacher_is_judged_and_saved_beside_the_network(color_shards: Path, tmp_path: Path) -> None:
    sets = {side: {"shards": str(color_shards), "fields": {"label": "cls"}} for side in ("train", "data")}
    view = {"small": {"views": 1, "image": {"crop": {"size": 8}, "blur": None}}, "image": {"blur": None}}
    objective = {"prototypes": 8, "bottleneck": 4, "hidden": [8], "momentum": 0.5}
    made = {
        "encoders": {"image": {"name": "convnet", "image_size": 16, "widths": [8, 16], "depths": [1, 1]}},
        "tasks": {
            "dino": {
                "data": {"shards": str(color_shards), "workers": 0},
                "method": {"view": view, "objective": objective},
                "batch": 16,
            }
        },
        "optim": {"lr": 0.01},
        "train": {"samples": 64, "precision": "fp32"},
        "evals": {"knn": {**sets, "encoder": "image_teacher", "k": [5], "baselines": False}},
    }
    run = train(made, out=tmp_path / "run", progress=False)
    saved = load_encoders(run)
    assert set(saved) == {"image", "image_teacher"}
    weights = [encoder.state_dict()["stem.0.weight"] for encoder in saved.values()]
    assert not torch.equal(*weights)
    before = read_scores(run)["knn/k5"]
    assert evaluate(run)["knn/k5"] == before  # loads the objective too, with a teacher of its own

    made["tasks"]["again"] = {**made["tasks"]["dino"], "method": {**made["tasks"]["dino"]["method"], "name": "dino"}}
    with pytest.raises(
        UserError,
        match="task 'again' gives an encoder 'image_teacher', but there is one of that name among those of task 'dino'",
    ):
        train(made, out=tmp_path / "two", progress=False)
