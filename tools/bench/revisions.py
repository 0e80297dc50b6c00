"""Trains the same recipes with two revisions, in turns, and compares loss curves and throughput.

    git worktree add ../before REVISION
    python tools/bench/revisions.py ../before . --data data/cifar10/train image/simclr_cifar10 image/mae_cifar10

Each recipe is the revision's own, so that options may have other names. The first tree trains with seeds 0, 1 and 2,
whose spread says what chance does to a curve; the second with seed 0. A curve is the mean loss of each tenth of a run.
It is within the spread where at each tenth it lies no further from the mean of the three than twice their largest
deviation anywhere. Throughput is the median samples per second of the steps after the first fifth, in one process on
`--threads` threads, and its ratio is the median over `--turns` turns, in which either tree goes first in its turn.
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
import json, sys
from pathlib import Path

import mmssl
from mmssl import recipe

name, data, steps, batch, seed, threads, out = json.loads(sys.argv[1])
made = recipe.load(name)
changes = [f"tasks.{key}.data.shards={data}" for key in made.tasks if data]
changes += [f"tasks.{key}.batch={batch}" for key in made.tasks if batch]
per_step = (batch or 0) * len(made.tasks) or made.per_step
changes += [f"train.samples={steps * per_step}", "train.log_every=1", f"train.seed={seed}", "evals={}"]
changes += [f"train.threads={threads}", "train.warmup=10"]
mmssl.train(name, changes, out=out, progress=False)
lines = [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]
speeds = [line["samples_per_second"] for line in lines[len(lines) // 5:]]
print(json.dumps({"loss": [line["loss"] for line in lines], "speed": sorted(speeds)[len(speeds) // 2]}))
"""


def train(tree: Path, given: list[object]) -> dict[str, Any]:
    """Trains in a process of its own with the tree's package; returns the losses, and the median samples per second."""
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

    old = [run(before, seed) for seed in range(3)]
    curves = [tenths(each["loss"]) for each in old]
    middle = [statistics.fmean(values) for values in zip(*curves, strict=True)]
    spread = max(max(abs(value - mean) for value in values) for *values, mean in zip(*curves, middle, strict=True))
    new = run(after, 0)
    furthest = max(abs(a - b) for a, b in zip(tenths(new["loss"]), middle, strict=True))
    ratios = []
    for turn in range(options.turns):
        pair = [before, after][:: 1 if turn % 2 else -1]
        speeds = {tree: run(tree, 0)["speed"] for tree in pair}
        ratios.append(speeds[after] / speeds[before])
    speed = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})" if ratios else "-"
    verdict = "within" if furthest <= 2 * spread else "OUTSIDE"
    return f"| {name} | {verdict} | {furthest:.4f} of {spread:.4f} | {tenths(new['loss'])[-1]:.4f} | {speed} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--data", help="shards for all tasks, by default those of the recipe")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=0, help="by default the recipe's")
    parser.add_argument("--turns", type=int, default=3, help="of the comparison of throughput")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    print("| recipe | curve | furthest, of the spread | last tenth | speed, after / before |")
    print("|---|---|---|---|---|")
    for name in options.recipes:
        print(compare(name, options.before, options.after, options), flush=True)


if __name__ == "__main__":
    main()
