"""Trains every small recipe for pictures and prints one table: kNN and linear accuracy at equal sample budget.

    python tools/small_images.py [--only simclr_cifar10 byol_cifar10 ...] [--out runs/small] [--jobs 2] [OVERRIDES]

Needs data/cifar10. Runs that are finished are not made again, interrupted ones go on. OVERRIDES are for all of them,
such as train.samples=20_000. The table is written to OUT/table.md as it grows, best first.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from mmssl import names
from mmssl.judge import read_scores
from mmssl.recipe import load
from mmssl.types import Score

SETS = "train: {shards: data/cifar10/train}, data: {shards: data/cifar10/test}"
FIRST, SECOND = "dvae_cifar10", "beit_cifar10"  # the second is trained on what the first has learnt
FIGURES = {"5-NN": "knn/k5", "20-NN": "knn/k20", "linear": "linear/top1"}


def main() -> int:
    """Trains what is not finished yet; returns how many recipes failed."""
    known = [name.removeprefix("image/") for name in names.list_names("configs") if name.endswith("_cifar10")]
    command = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    command.add_argument("overrides", nargs="*", metavar="key=value")
    command.add_argument("--only", nargs="+", choices=known, default=known, metavar="RECIPE")
    command.add_argument("--out", type=Path, default=Path("runs/small"))
    command.add_argument("--jobs", type=int, default=2, help="runs at a time")
    options = command.parse_args()
    order = sorted(options.only, key=lambda name: (name == SECOND, name != FIRST))
    with ThreadPoolExecutor(options.jobs) as pool:
        failed = sum(pool.map(partial(train, out=options.out, jobs=options.jobs, overrides=options.overrides), order))
    print(table(options.out))
    return failed


def train(recipe: str, *, out: Path, jobs: int, overrides: list[str]) -> bool:
    """Trains one recipe and says so; returns whether it failed."""
    folder = out / recipe
    if all(figure in read_scores(folder) for figure in FIGURES.values()):
        return False
    folder.parent.mkdir(parents=True, exist_ok=True)
    threads = max(1, (os.cpu_count() or 1) // jobs)
    judged = load(f"image/{recipe}").evals["knn"].get("encoder", "image")
    sets = f"{SETS}, encoder: {judged}, baselines: {str(recipe == 'simclr_cifar10').lower()}"
    changes = [
        f"train.threads={threads}",
        f"evals.knn={{{sets}, k: [5, 20, 200]}}",
        f"evals.linear={{{sets}}}",
        *([f"train.start.image_tokenizer={out / FIRST}/encoders/image"] if recipe == SECOND else []),
    ]
    line = [sys.executable, "-m", "mmssl", "train", f"image/{recipe}", *changes, *overrides]
    began = time.time()
    with (out / f"{recipe}.log").open("w") as log:
        done = subprocess.run([*line, "--out", str(folder), "--resume", "--quiet"], stdout=log, stderr=log, check=False)
    print(f"{recipe}: {'failed, see its log' if done.returncode else f'{time.time() - began:.0f} s'}", flush=True)
    (out / "table.md").write_text(table(out))
    return done.returncode != 0


def table(out: Path) -> str:
    """Lays out the figures of all finished runs as Markdown, with the baselines among them."""
    rows: dict[str, dict[str, Score]] = {}
    for results in sorted(out.glob("*/results.json")):
        scores = read_scores(results.parent)
        budget = f"{json.loads(results.read_text())['samples']:,} samples"
        titles = {"": f"{results.parent.name}, {budget}", "raw/": "raw pixels", "random_weights/": "random weights"}
        for prefix, title in titles.items():
            found = {key: scores.get(figure.replace("/", f"/{prefix}")) for key, figure in FIGURES.items()}
            if all(found.values()):
                rows[title] = {key: score for key, score in found.items() if score}
    ordered = sorted(rows.items(), key=lambda row: -row[1]["20-NN"].value)
    lines = [f"| | {' | '.join(FIGURES)} |", "|---" * (1 + len(FIGURES)) + "|"]
    for title, row in ordered:
        cells = [f"{score.value:.3f} ({score.low:.3f} - {score.high:.3f})" for score in row.values()]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
