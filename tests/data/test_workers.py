"""Worker processes start in any way and make the same batches, are never forked beside CUDA, and end with their run."""

from __future__ import annotations

import copy
import gc
import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numbered
import numpy as np
import pytest
import torch
from numbered import loader, number_set, numbers, write_tar
from PIL import Image

from mmssl import create_encoder, train
from mmssl.data.full_pass import FullPass
from mmssl.data.loader import Loader
from mmssl.data.shards import Source
from mmssl.data.writer import build_from
from mmssl.errors import UserError
from mmssl.types import Batch, Sample
from mmssl.views.composed import Composed
from mmssl.views.simclr import view as simclr_view


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Forces a start method."""
    before = multiprocessing.get_start_method(allow_none=True)
    yield lambda method: multiprocessing.set_start_method(method, force=True)
    multiprocessing.set_start_method(before, force=True)


class Forked(numbered.Shown):
    """Shows a 1 in place of a sample's number where this process was forked from the test's."""

    def __call__(self, sample: Sample) -> Sample:
        return {"text": [float(hasattr(numbered, "parent")), 0.0]}


@pytest.mark.parametrize(("method", "cuda", "forked"), [("fork", False, 1), ("fork", True, 0), ("forkserver", True, 0)])
def test_no_worker_is_forked_from_a_process_that_uses_cuda(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    start: Callable[[str], None],
    method: str,
    cuda: bool,
    forked: int,
) -> None:
    source = Source(shards=number_set(tmp_path / "a", [8]))
    monkeypatch.setattr(numbered, "parent", True, raising=False)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: cuda)
    start(method)
    view = Forked({"text": numbered.Numbers()})
    assert numbers(Loader(source, view, batch=4, workers=2).epoch(0)) == [forked] * 8
    sweep = FullPass(source, view.preprocess, batch=4)
    monkeypatch.setattr(sweep, "view", Forked(view.preprocess))
    assert numbers(sweep.batches(workers=1)) == [forked] * 8


class MultiView(Composed):
    """A View of the user's own, on images and words."""


def several(folder: Path) -> Loader:
    """Makes a loader whose samples need a tokenizer, a View of the user's own, and counts of damage and notes."""
    samples = []
    for number in range(24):
        stream = io.BytesIO()
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(stream, "PNG")
        picture = b"no image" if number % 6 == 0 else stream.getvalue()
        captions = [f"a first caption of {number} " * 9, f"a second of {number}"]
        samples.append({"__key__": str(number), "png": picture, "json": json.dumps({"captions": captions}).encode()})
    write_tar(folder / "a.tar", samples)
    text = create_encoder("transformer", width=8, depth=1, heads=2, context_length=24, vocab_size=270)
    text.learn_preprocess(["a first caption", "a second"])
    image = create_encoder("convnet", image_size=16, widths=[8], depths=[1])
    source = Source(shards=str(folder / "a.tar"), fields={"text": "json.captions"})
    view = MultiView({"image": image.preprocess, "text": text.preprocess}, simclr_view)
    return Loader(source, view, batch=4, workers=2, max_damaged=0.5)


def test_batches_and_counts_are_the_same_however_workers_start(tmp_path: Path, start: Callable[[str], None]) -> None:
    found: list[tuple[list[Batch], Any]] = []
    for method in ("fork", "forkserver"):
        start(method)
        own = several(tmp_path)
        found.append((list(own.epoch(0)), own.report()))
    (batches, report), (others, their_report) = found
    assert report == their_report and report["damaged"] and report["notes"]
    for mine, theirs in zip(batches, others, strict=True):
        assert mine.views.keys() == theirs.views.keys() == {"image", "text"}
        for key, views in mine.views.items():
            for x, y in zip(views, theirs.views[key], strict=True):
                both = [each if isinstance(each, torch.Tensor) else each.values for each in (x, y)]
                assert torch.equal(*both)
        assert all(torch.equal(value, theirs.extra[key]) for key, value in mine.extra.items())


def test_what_cannot_be_sent_to_workers_is_named(tmp_path: Path, start: Callable[[str], None]) -> None:
    own = loader(number_set(tmp_path / "a", [8]), batch=4, workers=1)
    own.view.change = lambda x: x  # type: ignore[attr-defined]
    start("forkserver")
    with pytest.raises(UserError, match=r"cannot be sent to workers: .*lambda.*workers: 0"):
        next(own.epoch(0))


def test_a_worker_that_imports_a_script_does_not_start_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, color_recipe: dict[str, Any]
) -> None:
    own = loader(number_set(tmp_path / "a", [8]), batch=4, workers=1)
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    for begin in (
        lambda: next(own.epoch(0)),
        lambda: train(color_recipe, out=tmp_path / "run", progress=False),
        lambda: build_from(str, 3, tmp_path / "shards", workers=2),
    ):
        with pytest.raises(UserError, match="put what starts the run under `if __name__ == '__main__':`"):
            begin()
    assert not (tmp_path / "run").exists() and not (tmp_path / "shards").exists()


ENDLESS = """
import multiprocessing, os, re, sys, time
from mmssl.data.crew import Crew

def pids(watch):
    yield os.getpid()
    re.match(r"(a+)+$", "a" * 80 + "b")  # for years, and without letting other threads run

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    made = Crew([pids, pids])
    print(next(made), next(made), flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere one that is stuck ends with the time of its sample")
@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_workers_end_when_the_process_they_work_for_is_killed_also_stuck_ones(tmp_path: Path, method: str) -> None:
    script = tmp_path / "endless.py"
    script.write_text(ENDLESS)
    with subprocess.Popen([sys.executable, str(script), method], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        pids = [int(word) for word in process.stdout.readline().split()]
        os.kill(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while any(map(runs, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    left = list(filter(runs, pids))
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert len(set(pids)) == 2 and not left


OWN = """
import multiprocessing, signal, time
from multiprocessing import forkserver
from pathlib import Path
from mmssl.data.workers import start_context

if __name__ == "__main__":
    multiprocessing.set_start_method("forkserver")
    start_context()  # starts the server
    status = Path(f"/proc/{forkserver._forkserver._forkserver_pid}/status")
    lines = status.read_text().splitlines() if status.exists() else []  # on Linux
    print([int(line.split()[1], 16) >> (signal.SIGTERM - 1) & 1 for line in lines if line.startswith("SigBlk")] or [1])
    process = multiprocessing.Process(target=time.sleep, args=(600,))
    process.start()
    process.terminate()
    process.join(60)
    print(process.exitcode)
    process.kill()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no server there")
def test_the_server_of_workers_has_sigterm_blocked_and_a_process_of_ones_own_ends_of_it(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    done = subprocess.run([sys.executable, str(tmp_path / "own.py")], capture_output=True, text=True)
    assert done.stdout == f"[1]\n{-signal.SIGTERM}\n", done.stderr


def runs(pid: int) -> bool:
    """Tells whether a process is there and has not ended, though nobody may have asked for its exit code yet."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_a_run_stops_its_workers_itself(color_recipe: dict[str, Any], tmp_path: Path) -> None:
    """Not the garbage collector."""
    color_recipe = copy.deepcopy(color_recipe)
    color_recipe["tasks"]["clip"]["data"]["workers"] = 1
    color_recipe |= {"train": {"samples": 16, "precision": "fp32"}, "evals": {}}
    gc.disable()
    try:
        train(color_recipe, out=tmp_path / "run", progress=False)
        assert not multiprocessing.active_children()
    finally:
        gc.enable()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_workers_live_beside_cuda_tensors_in_cycles(tmp_path: Path) -> None:
    """A fork of this process would destroy the tensors, in a context that it has not."""
    for number in range(10):
        cycle: list[Any] = [torch.ones(1000, device="cuda")]
        cycle.append(cycle)
        del cycle
        gc.disable()
        try:
            own = loader(number_set(tmp_path / str(number), [40]), batch=4, workers=2)
            own.view = Collecting(own.view.preprocess)
            assert sorted(numbers(own.epoch(0))) == list(range(40))
        finally:
            gc.enable()


class Collecting(numbered.Shown):
    """Collects garbage before it shows a sample."""

    def __call__(self, sample: Sample) -> Sample:
        gc.collect()
        return super().__call__(sample)
