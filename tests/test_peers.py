"""A rank that dies, hangs or fails, or never comes: the others end with one line, and none is left."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as td
import yaml

from mmssl import peers
from mmssl.errors import UserError
from mmssl.peers import Peers, _Signs

sys.path.append(str(Path(__file__).parent))
from pair import Pair

GO_ON = "`--resume` goes on from the newest checkpoint"


@pytest.fixture
def words(color_recipe: dict[str, Any], tmp_path: Path) -> list[str]:
    """The command that trains two processes, with a long timeout."""
    recipe = copy.deepcopy(color_recipe)
    recipe["train"] |= {"device": "cpu", "threads": 1, "timeout": 300.0, "save_every": 64}
    recipe["evals"] = {}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    return ["train", str(tmp_path / "r.yaml"), "--out", str(tmp_path / "run"), "--quiet"]


@pytest.mark.parametrize(("to", "hosted"), [(1, False), (0, False), (1, True)])
def test_when_a_rank_is_killed_the_other_says_which_and_ends(
    to: int, hosted: bool, words: list[str], tmp_path: Path
) -> None:
    pair = Pair(tmp_path, words, happens="SIGKILL", to=to, hosted=hosted)
    pid = pair.processes[to].pid
    assert pair.codes()[to] == -signal.SIGKILL and pair.codes()[1 - to] == 2
    [line] = pair.lines()
    assert line.startswith(f"mmssl: rank {to} (process {pid} on ") and line.endswith(f") died; {GO_ON}")


def test_when_the_rank_that_holds_the_store_is_killed_the_other_ends(words: list[str], tmp_path: Path) -> None:
    pair = Pair(tmp_path, words, happens="SIGKILL", to=0, hosted=True)
    assert pair.codes() == [-signal.SIGKILL, 2]
    [line] = pair.lines()
    assert line.startswith("mmssl: rank 0 ") and ("died" in line or "does not answer" in line)


def test_a_rank_that_hangs_is_named_and_all_end(words: list[str], tmp_path: Path) -> None:
    pair = Pair(tmp_path, [*words, "train.timeout=10"], happens="endless")
    pid = pair.processes[1].pid
    assert pair.codes() == [2, 2]
    [line] = pair.lines()
    assert line.startswith(f"mmssl: rank 1 (process {pid} on ")
    assert line.endswith(f") kept the others waiting for 10 s (train.timeout); {GO_ON}")


def test_a_mistake_that_one_rank_meets_ends_all_with_its_line(words: list[str], tmp_path: Path) -> None:
    pair = Pair(tmp_path, words, happens="mistake")
    assert pair.codes() == [2, 2]
    assert pair.lines() == [
        "mmssl: rank 1: 9 of 9 samples are unusable",
        "mmssl: 9 of 9 samples are unusable",
    ]


def test_a_fault_of_one_rank_ends_the_other_with_a_line(words: list[str], tmp_path: Path) -> None:
    pair = Pair(tmp_path, words, happens="bug")
    assert pair.codes() == [2, 1]
    assert pair.said(0) == "mmssl: rank 1 failed, KeyError: 'bug'\n"
    assert pair.said(1).splitlines()[-1] == "KeyError: 'bug'"


def test_too_many_bad_steps_end_every_rank_with_the_same_line(words: list[str], tmp_path: Path) -> None:
    pair = Pair(tmp_path, words, happens="nan", to=-1)
    assert pair.codes() == [2, 2]
    first, second = pair.lines()
    assert first == second and first.startswith("mmssl: 1000 steps had gradients that are not finite")


@pytest.mark.parametrize(
    ("rank", "line"),
    [
        (0, "mmssl: 1 of 2 processes came within 1 s (train.timeout); missing: rank 1"),
        (1, "mmssl: rank 1 found nobody at 127.0.0.1:"),
    ],
)
def test_a_rank_that_does_not_come_is_named(rank: int, line: str, words: list[str], tmp_path: Path) -> None:
    pair = Pair(tmp_path, [*words, "train.timeout=1"], hosted=True, ranks=[rank])
    assert pair.codes() == [2]
    assert [said[: len(line)] for said in pair.lines()] == [line]


ORPHAN = """
import os, sys, time
if os.fork():
    sys.stdin.read()
else:
    from mmssl.peers import end_with_launcher
    end_with_launcher()
    print(os.getpid(), flush=True)
    time.sleep(600)
"""


def test_a_process_ends_when_its_launcher_is_killed() -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", ORPHAN], stdin=pipe, stdout=pipe, stderr=pipe, text=True) as launcher:
        assert launcher.stdout and launcher.stderr
        orphan = int(launcher.stdout.readline())
        launcher.kill()
        said = launcher.stderr.read()  # to its end, when nobody has it open
    assert said.splitlines()[-1] == f"mmssl: torchrun (process {launcher.pid}) is gone; {GO_ON}"
    assert ends(orphan)


def ends(pid: int) -> bool:
    """Whether a process ends within a minute."""
    deadline = time.monotonic() + 60
    while peers.is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not peers.is_alive(pid)


class Ended(Exception):
    """Stands in for the end of a process."""


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> list[Peers]:
    """Two ranks in this process, that have met."""
    server = td.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(server.port))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("GROUP_RANK", "0")
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    made = []
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        made.append(Peers(timeout=50.0, prefix="test"))
        made[-1].progress = lambda: 3
    others = threading.Thread(target=made[1].meet)
    others.start()
    made[0].meet()
    others.join()
    made[0].held = server  # type: ignore[attr-defined]
    return made


def test_who_is_silent_or_behind_is_named_after_the_timeout_only(pair: list[Peers]) -> None:
    first, second = pair
    mine, theirs = _Signs(2), _Signs(2)
    for _ in range(3):  # equal work may take as long as it takes
        assert second._look(theirs, 49.0) == "" and first._look(mine, 49.0) == ""
    first.progress = lambda: 4
    assert second._look(theirs, 49.0) == "" and first._look(mine, 49.0) == "", "behind, but not for long"
    assert second._look(theirs, 2.0) == ""
    second.progress = lambda: 4
    second._look(theirs, 1.0)
    assert first._look(mine, 49.0) == "", "it has come"
    assert first._look(mine, 49.0) == "" and mine.silent[1] == 49
    text = f"rank 1 (process {os.getpid()} on {os.uname().nodename}) gave no sign of life for 51 s; {GO_ON}"
    assert first._look(mine, 2.0) == text and second._look(theirs, 0.0) == text


def test_who_waits_longest_is_not_to_blame(pair: list[Peers]) -> None:
    first, second = pair
    first.progress = lambda: 4
    mine, theirs = _Signs(2), _Signs(2)
    said = ""
    for _ in range(4):
        assert not said
        second._look(theirs, 20.0)
        said = first._look(mine, 20.0) or ""
    assert said.startswith("rank 1 ") and f"kept the others waiting for 50 s (train.timeout); {GO_ON}" in said


def test_a_broken_connection_without_a_dead_process_ends_the_run_as_well(pair: list[Peers]) -> None:
    first, second = pair
    first.broken.set()
    first.reason = "rank 0 lost its connection"
    mine, theirs, said = _Signs(2), _Signs(2), [""]
    while not said[-1]:
        second._look(theirs, 1.0)
        said.append(first._look(mine, 1.0) or "")
    assert said[-1] == f"rank 0 lost its connection; {GO_ON}" and peers.QUIET < len(said) < peers.QUIET + 10


def test_what_was_told_first_stays_and_the_end_of_a_done_rank_is_no_death(
    pair: list[Peers], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = pair
    monkeypatch.setattr(peers, "is_alive", lambda pid: False)
    second.watch(lambda: 3)
    second.left.set()
    second.close()
    assert first._look(_Signs(2), 1.0) == ""
    second.tell(UserError("no more samples"))
    second.tell(KeyboardInterrupt())
    second.tell(SystemExit(0))
    assert first._look(_Signs(2), 1.0) == "rank 1: no more samples"


def test_a_process_that_ends_by_itself_is_left_alone(
    pair: list[Peers], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def end(code: int) -> None:
        raise Ended(code)

    monkeypatch.setattr(peers, "leave", end)
    monkeypatch.setattr(peers, "GRACE", 0.2)
    first, second = pair
    first.left.set()
    first._end("something")  # returns
    first.left.clear()
    for peer in (first, second):
        with pytest.raises(Ended, match="2"):
            peer._end("something")
    assert capsys.readouterr().err == "mmssl: something\n", "once on a machine"


def test_a_group_is_refused_without_what_torchrun_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="not RANK, MASTER_ADDR, MASTER_PORT; start several processes with torchrun"):
        Peers(timeout=1.0)
    with pytest.raises(UserError, match="train.timeout is 0; expected seconds, more than 0"):
        Peers(timeout=0.0)


def test_which_processes_live() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert peers.is_alive(os.getpid()) and peers.is_alive(child.pid)
    child.kill()
    assert ends(child.pid), "though nobody has asked for its code"
    child.communicate()
    assert not peers.is_alive(child.pid)
