"""Trains every small recipe for images and prints one table: kNN and linear accuracy at equal sample budget.

    python tools/small_images.py [--only simclr_cifar10 byol_cifar10 ...] [--out runs/small] [--jobs 2] [OVERRIDES]

Needs data/cifar10. Runs that are finished are not made again, interrupted ones go on. OVERRIDES are for all of them,
such as train.samples=20_000. The table is written to OUT/table.md as it grows, best first. Beside each method stand the
random weights of its own network, once the first recipe by name with that network is trained.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path

from mmssl import names
from mmssl.judge import read_scores
from mmssl.recipe import load
from mmssl.types import Score

SETS = "train: {shards: data/cifar10/train}, data: {shards: data/cifar10/test}"
KNOWN = [name.removeprefix("image/") for name in names.list_names("configs") if name.endswith("_cifar10")]
FIRST, SECOND = "dvae_cifar10", "beit_cifar10"  # the second is trained on what the first has learnt
FIGURES = {"5-NN": "knn/k5", "20-NN": "knn/k20", "linear": "linear/top1"}


@cache
def judged(recipe: str) -> tuple[str, str]:
    """Returns the key of the encoder that a recipe judges, and its network."""
    made = load(f"image/{recipe}")
    key = made.evals["knn"].get("encoder", "image")
    return key, repr(made.encoders[key.removesuffix("_teacher")])


def measures_random(recipe: str) -> bool:
    """Whether a recipe is the first with its network, whose run measures the baselines too."""
    return recipe == next(name for name in KNOWN if judged(name)[1] == judged(recipe)[1])


def main() -> int:
    """Trains what is not finished yet; returns how many recipes failed."""
    command = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    command.add_argument("overrides", nargs="*", metavar="key=value")
    command.add_argument("--only", nargs="+", choices=KNOWN, default=KNOWN, metavar="RECIPE")
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
    sets = f"{SETS}, encoder: {judged(recipe)[0]}, baselines: {str(measures_random(recipe)).lower()}"
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
    runs = {results.parent.name: read_scores(results.parent) for results in sorted(out.glob("*/results.json"))}
    runs = {name: scores for name, scores in runs.items() if all(figure in scores for figure in FIGURES.values())}
    random = {judged(name)[1]: scores for name, scores in runs.items() if baseline("random_init", "20-NN") in scores}
    rows: dict[str, list[Score | None]] = {}
    for name, scores in runs.items():
        budget = json.loads((out / name / "results.json").read_text())["samples"]
        own = random.get(judged(name)[1], {}).get(baseline("random_init", "20-NN"))
        rows[f"{name}, {budget:,} samples"] = [*(scores[figure] for figure in FIGURES.values()), own]
        raw = [scores.get(baseline("raw", title)) for title in FIGURES]
        if all(raw):
            rows["raw pixels"] = [*raw, None]
    ordered = sorted(rows.items(), key=lambda row: -float(row[1][1] or 0))
    lines = [f"| | {' | '.join(FIGURES)} | 20-NN, random weights |", "|---" * (2 + len(FIGURES)) + "|"]
    for title, row in ordered:
        cells = [f"{score.value:.3f} ({score.low:.3f} - {score.high:.3f})" if score else "" for score in row]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def baseline(kind: str, title: str) -> str:
    """Returns the name of a baseline's figure."""
    return FIGURES[title].replace("/", f"/{kind}/")


if __name__ == "__main__":
    sys.exit(main())
