"""Kills a run of two processes at random moments, goes on with it until its end, and compares that with a run unkilled.

    python tools/kills.py [--kills 100] [--seed 0] [--steps 240]

A small run of two gloo processes with data workers, started by torchrun, saves every fourth step. Whom a signal hits is
drawn for each kill: SIGKILL one rank, both, a data worker, torchrun, or every process at once as a power cut does;
SIGTERM one rank or torchrun. So is when: at any moment from the first new step on, which is within a save for a good
part, or in one case of eight at any moment of the start. What is left of the run must end within two minutes. Then the
same command goes on with it, and runs follow each other until there were this many kills. Each must end bit for bit as
the unkilled one: weights, optimizer, encoders, where the data stands. The objective keeps which samples each step was
shown in a buffer, which must hold every sample once for each epoch. Exit code 1 where anything differs.
"""

from __future__ import annotations

import argparse
import atexit
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from mmssl import dist
from mmssl.checkpoint import steps
from mmssl.data.writer import build_from
from mmssl.methods.vicreg import VICReg
from mmssl.methods.vicreg import method as vicreg
from mmssl.modalities.image import encode
from mmssl.types import Batch, Encoder, Loss, Method

SAMPLES, BATCH, SAVE_EVERY = 48, 8, 4
WINDOW = 60  # steps within which a kill comes
PATIENCE = 120.0  # seconds in which what a kill leaves must have ended
KINDS = {  # what is killed: how often, of 12
    "rank": 3,
    "ranks": 1,
    "worker": 2,
    "torchrun": 1,
    "all": 2,
    "SIGTERM rank": 2,
    "SIGTERM torchrun": 1,
}


class Recorded(VICReg):
    """VICReg that keeps which samples every step was shown; `steps`: of the run."""

    def __init__(self, encoders: Mapping[str, Encoder], *, steps: int) -> None:
        super().__init__(encoders, embed_dim=8, hidden=[8])
        self.register_buffer("shown", torch.full((steps, BATCH), -1))
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        self.now = dist.gather(batch.extra["index"])
        return super().forward(encoders, batch)

    def after_step(self, encoders: Mapping[str, Encoder], progress: float) -> None:
        self.shown[int(self.step)] = self.now
        self.step += 1
        Path(os.environ["KILLS_SIGN"]).touch()


method = Method(vicreg.view, Recorded)


def picture(number: int) -> dict[str, bytes]:
    """Makes one sample: a noisy image."""
    pixels = np.random.default_rng(number).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    return {"png": encode(Image.fromarray(pixels), format="png")}


def recipe(shards: str, count: int) -> dict[str, Any]:
    """Returns the run, of `count` steps."""
    return {
        "name": "kills",
        "encoders": {"image": {"name": "convnet", "image_size": 16, "widths": [8], "depths": [1]}},
        "tasks": {
            "recorded": {
                "data": {"shards": shards, "workers": 2},
                "batch": BATCH,
                "method": {"name": "tools.kills:method", "objective": {"steps": count}},
            }
        },
        "train": {
            "samples": count * BATCH,
            "save_every": SAVE_EVERY * BATCH,
            "log_every": 5,
            "ema": 0.9,
            "device": "cpu",
            "precision": "fp32",
            "threads": 1,
            "timeout": 60.0,
        },
    }


class Attempt:
    """One start of the run's command by torchrun."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.run = folder, folder / "run"
        self.sign, self.log = folder / "sign", folder / "log"
        self.sign.unlink(missing_ok=True)
        words = ["train", folder.parent / "kills.yaml", "--out", self.run, "--quiet", "--resume"]
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "mmssl"]
        said = {"KILLS_SIGN": str(self.sign), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*launch, *words],
                stdout=log,
                stderr=log,
                env={**os.environ, **said, "PYTHONPATH": path},
                start_new_session=True,
            )
        atexit.register(self.process.kill)  # where this tool is interrupted

    def wait_for_step(self) -> None:
        """Waits until the run has made a step, or has ended."""
        while not self.sign.exists() and self.process.poll() is None:
            time.sleep(0.01)

    def kill(self, kind: str, draw: random.Random) -> list[int]:
        """Signals what the kind says; returns the processes of the run, none where there is none of that kind yet."""
        children = family()
        ranks = [pid for pid in children.get(self.process.pid, []) if "mmssl" in words_of(pid)]
        below = [pid for rank in ranks for pid in descendants(rank, children)]
        everyone = [self.process.pid, *descendants(self.process.pid, children)]
        victims = {
            "rank": draw.sample(ranks, min(1, len(ranks))),
            "ranks": ranks,
            "worker": draw.sample(below, min(1, len(below))),
            "torchrun": [self.process.pid],
            "all": everyone,
        }[kind.split()[-1]]
        for pid in victims:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM if kind.startswith("SIGTERM") else signal.SIGKILL)
        return everyone if victims else []

    def gone(self, everyone: list[int]) -> bool:
        """Waits for the end of what is left; whether it came in time. What stays is killed."""
        deadline = time.monotonic() + PATIENCE
        left = everyone
        while left and time.monotonic() < deadline:
            self.process.poll()
            left = [pid for pid in left if words_of(pid)]
            time.sleep(0.05)
        for pid in left:
            print(f"still there after {PATIENCE:.0f} s: {words_of(pid)}")
            os.kill(pid, signal.SIGKILL)
        self.process.wait()
        return not left


def family() -> dict[int, list[int]]:
    """Returns process -> its children, of all on this machine."""
    found: dict[int, list[int]] = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = int(file.read_text().rpartition(")")[2].split()[1])
            found.setdefault(parent, []).append(int(file.parent.name))
    return found


def descendants(pid: int, children: Mapping[int, list[int]]) -> list[int]:
    mine = children.get(pid, [])
    return [*mine, *(below for child in mine for below in descendants(child, children))]


def words_of(pid: int) -> str:
    """Returns a living process's command, "" for one that has ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


def whole(folder: Path) -> tuple[Path, float, float]:
    """Makes the run unkilled; returns its folder, and how long its start and a step took."""
    folder.mkdir()
    began = time.monotonic()
    attempt = Attempt(folder)
    attempt.wait_for_step()
    started = time.monotonic()
    if attempt.process.wait() != 0:
        raise SystemExit(f"the unkilled run failed:\n{attempt.log.read_text()}")
    count = state(attempt.run)["step"]
    return attempt.run, started - began, (time.monotonic() - started) / count


def broken(folder: Path, draw: random.Random, start: float, step: float, most: int) -> tuple[Counter[str], list[str]]:
    """Makes the run with at most this many kills; returns how often each kind came, and what was wrong."""
    folder.mkdir()
    kinds: Counter[str] = Counter()
    wrong: list[str] = []
    while True:
        attempt = Attempt(folder)
        early, everyone = draw.random() < 1 / 8, []
        while not everyone and kinds.total() < most and attempt.process.poll() is None:
            if early:
                time.sleep(draw.uniform(0, start))
            else:
                attempt.wait_for_step()
                time.sleep(draw.uniform(0, WINDOW * step))
            early, kind = False, draw.choices([*KINDS], weights=[*KINDS.values()])[0]
            everyone = attempt.kill(kind, draw) if attempt.process.poll() is None else []
        if not everyone:
            if (code := attempt.process.wait()) != 0:
                wrong.append(f"ended with code {code}")
            return kinds, wrong
        kinds[kind] += 1
        if not attempt.gone(everyone):
            wrong.append(f"processes stayed after {kind}")


def state(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(steps(run / "checkpoints")[0] / "state.pt", weights_only=True)
    return found


def differences(one: Path, other: Path) -> list[str]:
    """Says in what two ended runs differ, and whether the second was shown every sample once in each epoch."""
    mine, theirs = state(one), state(other)
    found = [key for key in mine if key != "random" and not equal(mine[key], theirs[key])]
    for file in sorted(path.relative_to(one) for path in one.rglob("*.safetensors")):
        found += [] if (one / file).read_bytes() == (other / file).read_bytes() else [str(file)]
    shown = next(value for key, value in theirs["model"].items() if key.endswith("shown"))
    every = torch.arange(SAMPLES).expand(shown.numel() // SAMPLES, -1)
    return [*found, *([] if torch.equal(shown.view(-1, SAMPLES).sort().values, every) else ["samples shown"])]


def equal(one: Any, other: Any) -> bool:
    """Whether two trees of plain values and tensors are the same bit for bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def main() -> int:
    """Prints how often what was killed, and what came of it."""
    command = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    command.add_argument("--kills", type=int, default=100)
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--steps", type=int, default=240, help="of each run; its epochs have 6")
    options = command.parse_args()
    draw, kinds, wrong, runs, began = random.Random(options.seed), Counter[str](), 0, 0, time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        build_from(picture, SAMPLES, folder / "shards", workers=1)
        (folder / "kills.yaml").write_text(yaml.safe_dump(recipe(str(folder / "shards"), options.steps)))
        reference, start, step = whole(folder / "whole")
        print(f"unkilled: {start:.1f} s to the first step, {1000 * step:.0f} ms a step with its saves", flush=True)
        while kinds.total() < options.kills:
            target = folder / "broken"
            came, faults = broken(target, draw, start, step, options.kills - kinds.total())
            faults = faults or differences(reference, target / "run")
            kinds, wrong, runs = kinds + came, wrong + bool(faults), runs + 1
            print(
                f"run {runs}: {came.total()} kills; {'; '.join(faults) or 'bit-equal, every sample once'}", flush=True
            )
            if faults:
                print((target / "log").read_text()[-4000:])
            shutil.rmtree(target)
    each = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    print(
        f"{kinds.total()} kills in {runs} runs ({each}), {wrong} of them wrong; seed {options.seed}, "
        f"{(time.monotonic() - began) / 60:.0f} min"
    )
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main())
