"""Bars of evaluations: what they count, and where none is."""

from __future__ import annotations

from pathlib import Path

import pytest
from named import png, tar
from test_classes import RAW

from mmssl.data.shards import Source
from mmssl.evals.parts.progress import counted, passing, showing
from mmssl.judge import Judge


def test_a_pass_counts_samples_of_the_share(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = Source(**tar(tmp_path, [{"cls": n} for n in range(5)]))
    with showing(True):
        parts = passing(source, [[1, 2], [3]], world=2, each=len)
        assert [next(parts), *parts] == [[1, 2], [3]]
        said = capsys.readouterr().err
        assert "samples:   0%" in said and "0/3 " in said, "half of five"
        assert list(counted("ab", total=None, desc="steps", unit="step")) == ["a", "b"]
        assert "steps: 0step" in capsys.readouterr().err
    assert list(counted("ab", total=2, desc="steps", unit="step")) == ["a", "b"]
    assert not capsys.readouterr().err


@pytest.mark.parametrize("progress", [False, True])
def test_an_evaluation_shows_each_pass(tmp_path: Path, progress: bool, capsys: pytest.CaptureFixture[str]) -> None:
    sets = {
        side: tar(tmp_path / side, [{"png": png(("ant", "cat")[n % 2], n), "cls": n % 2} for n in range(count)])
        for side, count in (("train", 6), ("data", 4))
    }
    Judge({"knn": {**sets, "k": [1], "baselines": False}}, progress=progress).run(RAW)
    said = capsys.readouterr().err
    assert [text in said for text in ("knn:", "0/6 ", "0/4 ")] == [progress] * 3
