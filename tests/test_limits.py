"""Limits: what they are, that one option raises them, and what an error says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mmssl import limits
from mmssl.cli import main
from mmssl.errors import DamagedError, UserError


@pytest.fixture(autouse=True)
def as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(limits.VARIABLE, "")


def test_a_limit_holds_from_the_next_number_on() -> None:
    most = limits.limit("picture_side")
    limits.check("picture_side", most, "an image")
    with pytest.raises(DamagedError, match="picture_side=65536.*--limits picture_side=65537") as caught:
        limits.check("picture_side", most + 1, "an image too long", "1 x 65537")
    assert caught.value.reason == "an image too long"
    with pytest.raises(UserError, match="too many: braces; the limit is shards=1000000;"):
        limits.refuse("shards", 2e6, "too many: braces")


def test_one_option_raises_them_here_and_in_processes_that_start() -> None:
    limits.set_limits("picture_side=1e5, sample_seconds=7")
    limits.check("picture_side", 1e5, "an image")
    command = "from mmssl.limits import limit; print(limit('sample_seconds'), limit('picture_side'), limit('shards'))"
    said = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["7.0", "100000.0", "1000000.0"]


@pytest.mark.parametrize("text", ["pixels=3", "picture_side", "picture_side=much", "picture_side=0", "shards=-1"])
def test_what_is_no_limit_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"there is no limit 'pixels'|expected a positive number"):
        limits.set_limits(text)


def test_command_line_sets_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shards", "show", "nowhere", "--limits", "shards=5", "--limits", "picture_side=9"]) == 2
    assert os.environ[limits.VARIABLE] == "shards=5,picture_side=9"
    assert main(["shards", "show", "nowhere", "--limits", "shard=5"]) == 2
    assert "did you mean 'shards'?" in capsys.readouterr().err


def test_the_page_on_trust_states_each_limit() -> None:
    page = (Path(__file__).parents[1] / "docs" / "trust.md").read_text()
    told = {
        name: float(value.replace(",", "")) for name, value in re.findall(r"^\| `(\w+)` \| ([\d,]+) \|", page, re.M)
    }
    assert told == limits.LIMITS
