"""A task that finds no whole sample says so, logs no loss, and is not said to have collapsed."""

from __future__ import annotations

import copy
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image

from mmssl import dist, train
from mmssl.log import RunLog
from mmssl.numerics.monitors import monitors


def torn(folder: Path, *, whole: int = 0) -> Path:
    """Writes a tar of 60 images, and after them 60 texts, as a tar that is sorted by extension reads."""
    with webdataset.TarWriter(str(folder / "torn.tar")) as writer:
        for number in range(60):
            stream = io.BytesIO()
            Image.fromarray(np.full((16, 16, 3), number * 4, np.uint8)).save(stream, "PNG")
            text = {"txt": f"number {number}"} if number < whole else {}
            writer.write({"__key__": f"a{number}", "png": stream.getvalue(), **text})
        for number in range(60):
            writer.write({"__key__": f"b{number}", "txt": f"number {number}"})
    return folder / "torn.tar"


def run(
    color_recipe: dict[str, Any], folder: Path, shards: Path, capsys: pytest.CaptureFixture[str], **tasks: Any
) -> tuple[str, list[dict[str, Any]]]:
    recipe = copy.deepcopy(color_recipe) | {"evals": {}}
    recipe["tasks"]["clip"]["data"]["shards"] = str(shards)
    recipe["tasks"] |= tasks
    samples = 60 * sum(task["batch"] for task in recipe["tasks"].values())
    recipe["train"] = {"samples": samples, "precision": "fp32", "log_every": 1}
    train(recipe, out=folder / "run", progress=False)
    said = capsys.readouterr()
    return said.out + said.err, [json.loads(x) for x in (folder / "run" / "metrics.jsonl").read_text().splitlines()]


def test_a_run_without_any_pair_says_so_and_logs_no_loss(
    color_recipe: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said, lines = run(color_recipe, tmp_path, torn(tmp_path), capsys)
    for count in (20, 60):  # once on the way, and at the end
        told = f"clip: none of its {count} batches had a whole sample to learn from, so it has no loss: image in "
        assert said.count(told) == 1
    assert "text in 5" in said or "text in 4" in said
    assert said.count("clip: 1 of 1 batches had no whole sample to learn from so far; such a step logs no loss") == 1
    assert [line["clip/lacking"] for line in lines] == [16 * line["step"] for line in lines]
    report = json.loads((tmp_path / "run" / "data_report.json").read_text())["clip"]
    assert not report["damaged"] and set(report["lacking"]) == {"a sample without text", "a sample without image"}
    assert sum(sum(shards.values()) for shards in report["lacking"].values()) == report["drawn"] == 960
    for reason, shards in report["lacking"].items():
        assert f"clip: {reason}: {sum(shards.values())} of 960 samples" in said
    assert "collapsed" not in said and "stayed at" not in said
    assert len(lines) == 60
    assert not [key for line in lines for key in line if "loss" in key or key == "total" or key.startswith("image")]


def test_of_two_tasks_the_whole_one_is_logged_alone(
    color_recipe: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = copy.deepcopy(color_recipe["tasks"]["clip"])
    other["method"] = {"name": "simclr", "objective": {"embed_dim": 8, "encoder": "image"}}
    said, lines = run(color_recipe, tmp_path, torn(tmp_path), capsys, simclr=other)
    assert "clip: none of its 60 batches" in said and "simclr: none" not in said
    assert all(line["total"] == pytest.approx(line["simclr/loss"], abs=1e-5) for line in lines)
    assert {key for line in lines for key in line if key.startswith("clip")} == {"clip/lacking"}


def test_few_pairs_are_told_at_the_end_and_blanks_are_no_collapse(
    color_recipe: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said, lines = run(color_recipe, tmp_path, torn(tmp_path, whole=6), capsys)
    with_loss = [line for line in lines if "loss" in line]
    assert 0 < len(with_loss) < 54
    assert f"clip: {60 - len(with_loss)} of 60 batches had no whole sample to learn from" in said
    assert "collapsed" not in said


def test_a_whole_run_says_nothing(
    color_recipe: dict[str, Any], color_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said, lines = run(color_recipe, tmp_path, color_shards, capsys)
    assert "whole sample" not in said and "no sample counted" not in said
    assert all("loss" in line for line in lines)


def test_means_tell_over_how_many_rows_they_are() -> None:
    with dist.counting() as counts:
        dist.mean(torch.ones(5))
        dist.mean(torch.ones(5), torch.tensor([True, False, True, False, False]))
        dist.mean(torch.ones(2), torch.zeros(2))
        with dist.counting() as inner:
            dist.note(3, torch.device("cpu"))
    dist.mean(torch.ones(7))
    assert [float(count) for count in counts] == [5, 2, 0] and [float(count) for count in inner] == [3]


def test_monitors_leave_stand_ins_out() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(40, 6), torch.randn(40, 6)
    x[20:], y[:10] = 1.0, 1.0  # the stand-ins of what is missing
    present = {"a": torch.arange(40) < 20, "b": torch.arange(40) >= 10}
    found = monitors({"a": x, "b": y}, present)
    expected = monitors({"a": x[:20]}) | monitors({"b": y[10:]})
    both = monitors({"a": x[10:20], "b": y[10:20]})
    expected |= {key: value for key, value in both.items() if key.startswith("a-b")}
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value)
    assert monitors({"a": x, "b": y}, {"a": present["a"] & False, "b": present["b"]}).keys() == {
        "b/std",
        "b/rank",
        "b/uniformity",
    }


def test_what_is_no_number_is_null_in_the_log(tmp_path: Path) -> None:
    with RunLog(tmp_path, name="x", recipe={}) as log:
        log.write(1, {"loss": float("nan"), "lr": 0.1, "norm": float("inf")})

    def refuse(name: str) -> None:
        raise AssertionError(name)

    line = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert line == {"step": 1, "loss": None, "lr": 0.1, "norm": None}
