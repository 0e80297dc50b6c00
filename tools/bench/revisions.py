"""Trains the same recipes with two revisions, in turns, and compares loss curves and throughput.

    git worktree add ../before REVISION
    python tools/bench/revisions.py ../before . --data data/cifar10/train image/simclr_cifar10 image/mae_cifar10

Each recipe is the revision's own, so that options may have other names. Both trees train with seeds 0, 1 and 2, in
turns. A curve is the mean loss of each tenth of a run. The second tree's are within the spread where the mean of its
three lies, at each tenth, no further from the mean of the first tree's three than the largest deviation of one of those
from their mean anywhere. Throughput is in samples per second of processor time, the median step after the first fifth,
in one process without data workers on `--threads` threads; its ratio is the median of the three, with the range.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

RUN = """
import json, sys, time
from pathlib import Path

import mmssl
from mmssl import recipe, trainer

name, data, steps, batch, seed, threads, out = json.loads(sys.argv[1])
made = recipe.load(name)
changes = [f"tasks.{key}.data.shards={data}" for key in made.tasks if data]
changes += [f"tasks.{key}.batch={batch}" for key in made.tasks if batch]
per_step = (batch or 0) * len(made.tasks) or made.per_step
changes += [f"train.samples={steps * per_step}", "train.log_every=1", f"train.seed={seed}", "evals={}"]
changes += [f"train.threads={threads}", "train.warmup=10"]
changes += [f"tasks.{key}.data.workers=0" for key in made.tasks]
times = []

def timed(self, real=trainer.Trainer.train_step):
    times.append(time.process_time())
    return real(self)

trainer.Trainer.train_step = timed
mmssl.train(name, changes, out=out, progress=False)
lines = [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]
taken = [after - before for before, after in zip(times, times[1:])][len(times) // 5:]
speed = per_step / sorted(taken)[len(taken) // 2]
print(json.dumps({"loss": [line["loss"] for line in lines], "speed": speed}))
"""


def train(tree: Path, given: list[object]) -> dict[str, Any]:
    """Trains in a process of its own with the tree's package; returns the losses, and the samples per second."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", RUN, json.dumps([*given, str(Path(folder) / "run")])]
        environment = {**os.environ, "PYTHONPATH": str(tree.resolve())}
        done = subprocess.run(command, capture_output=True, text=True, cwd=tree, env=environment)
    if done.returncode:
        raise SystemExit(f"{tree}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def tenths(losses: list[float]) -> list[float]:
    """Returns the mean of each tenth."""
    size = max(1, len(losses) // 10)
    return [statistics.fmean(losses[i : i + size]) for i in range(0, size * 10, size)]


def compare(name: str, before: Path, after: Path, options: argparse.Namespace) -> str:
    """Returns a line about one recipe."""
    data = str(Path(options.data).resolve()) if options.data else ""

    def run(tree: Path, seed: int) -> dict[str, Any]:
        return train(tree, [name, data, options.steps, options.batch, seed, options.threads])

    runs: dict[Path, list[dict[str, Any]]] = {before: [], after: []}
    for seed in range(3):
        for tree in [before, after][:: 1 if seed % 2 else -1]:
            runs[tree].append(run(tree, seed))
    curves = {tree: [tenths(each["loss"]) for each in found] for tree, found in runs.items()}
    means = {tree: [statistics.fmean(values) for values in zip(*found, strict=True)] for tree, found in curves.items()}
    spread = max(
        abs(value - mean) for curve in curves[before] for value, mean in zip(curve, means[before], strict=True)
    )
    furthest = max(abs(a - b) for a, b in zip(means[after], means[before], strict=True))
    ratios = [new["speed"] / old["speed"] for new, old in zip(runs[after], runs[before], strict=True)]
    verdict = "within" if furthest <= spread else "OUTSIDE"
    ends = f"{means[before][-1]:.4f} / {means[after][-1]:.4f}"
    speed = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
    return f"| {name} | {verdict} | {furthest:.4f} of {spread:.4f} | {ends} | {speed} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--data", help="shards for all tasks, by default those of the recipe")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=0, help="by default the recipe's")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    print("| recipe | curve | furthest, of the spread | last tenth, before / after | speed, after / before |")
    print("|---|---|---|---|---|")
    for name in options.recipes:
        print(compare(name, options.before, options.after, options), flush=True)


if __name__ == "__main__":
    main()
