"""A run that mixes sources: what its logs count, also after a resume among another number of processes."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from mmssl import dist, train
from mmssl.trainer import _streams


@pytest.fixture
def mixed(color_recipe: dict[str, Any], color_shards: Path) -> dict[str, Any]:
    """The run of CLIP on three of the shards by 3, and on the last one by 1."""
    recipe = copy.deepcopy(color_recipe)
    recipe["tasks"]["clip"]["data"] = {
        "sources": [
            {"shards": f"{color_shards}/part-{{0000..0002}}.tar", "weight": 3, "name": "many"},
            {"shards": f"{color_shards}/part-0003.tar", "weight": 1, "fields": {"text": "txt"}, "name": "few"},
        ],
        "workers": 0,
    }
    return {**recipe, "evals": {}, "train": {**recipe["train"], "samples": 192}}


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_log_counts_each_sources_samples_also_after_a_resume(
    mixed: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = train(mixed, out=tmp_path / "whole", progress=False)
    counts = [(line["samples"], line["clip/samples/many"], line["clip/samples/few"]) for line in lines(whole)]
    assert counts == [(64, 48, 16), (128, 96, 32), (192, 144, 48)]
    assert "clip: 48 of 192 samples are of few" in capsys.readouterr().out
    assert json.loads((whole / "data_report.json").read_text())["clip"]["sources"] == {"many": 144, "few": 48}
    short = train(mixed, ["train.samples=96"], out=tmp_path / "part", progress=False)
    again = train(mixed, out=short, resume=True, progress=False)
    assert [line["clip/samples/few"] for line in lines(again)][-1] == 48


def test_counts_of_all_processes_are_kept_by_another_number_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def state(few: int, reason: str) -> dict[str, Any]:
        report = {"drawn": 10, "damaged": {reason: {"a.tar": 1}}, "notes": {}, "sources": {"few": few, "many": 9 - few}}
        return {"clip": {"epoch": few, "report": report}}

    told = [state(2, "bad"), state(4, "worse")]
    assert _streams(told[:1]) == told[0]
    both = _streams(told)["clip"]
    assert both["epoch"] == 2
    assert both["report"] == {
        "drawn": 20,
        "damaged": {"bad": {"a.tar": 1}, "worse": {"a.tar": 1}},
        "notes": {},
        "sources": {"few": 6, "many": 12},
    }
    monkeypatch.setattr(dist, "world", lambda: 3)
    monkeypatch.setattr(dist, "rank", lambda: 1)
    assert _streams(told)["clip"] == {"epoch": 4, "report": {"drawn": 0, "damaged": {}, "notes": {}}}
