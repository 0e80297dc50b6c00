"""Trains the recipes whose figures are about carrying over, and prints one table: on films, rooms, speakers, styles.

    python tools/carry_over.py [--only color_tracking words ...] [--out runs/carry_over] [--seeds 0 1]

Needs the shards that each recipe names in its first lines. Runs that are finished are not made again, interrupted ones
go on, and one that fails leaves the others to go on. The table is written to OUT/table.md as it grows: each figure
beside what needs no learning and random weights, the goal, and on what it was trained, chosen and judged. `long` is for
a GPU and not among what is made by default.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmssl.judge import read_scores
from mmssl.types import Score


@dataclass(frozen=True)
class Task:
    """Recipes and the figures that they are trained for.

    figures: title -> name in results.json. split: what was trained on; what settings were chosen on; what is judged.
    """

    recipes: tuple[str, ...]
    figures: dict[str, str]
    goal: str
    split: str
    changes: tuple[str, ...] = ()


LONG = ("simclr", "moco_v2", "byol", "simsiam", "barlow_twins", "vicreg", "swav", "dino")
STYLES = ("outline", "grey", "palette", "coarse", "hue")
TASKS = {
    "color_tracking": Task(
        ("cross_modal/color_tracking_davis",),
        {"J&F": "propagate/J&F"},
        "first mask copied + 0.10",
        "films of other sources; their held-out films; DAVIS",
    ),
    "scans": Task(
        ("cross_modal/pointcontrast_scans",),
        {"hit ratio": "register/hit_ratio", "15 to 30 degrees apart": "register/hit_ratio_angle_15-30"},
        "1.5 x FPFH beyond 15 degrees",
        "a stretch of the path; another; a third",
        ("evals.register.data.shards=data/scans/test", "evals.register.limit=50"),
    ),
    "sync": Task(
        ("cross_modal/avts_grid",),
        {kind: f"audio_visual/{kind}" for kind in ("easy", "hard", "super_hard")},
        "beyond the linear model",
        "clips of one speaker; the same clips as are judged; other clips",
    ),
    "words": Task(
        ("cross_modal/lit_emoji",),
        {
            "image to name, R@5": "retrieval/image-text/R@5",
            "name to image, R@5": "retrieval/text-image/R@5",
            "name of which no word was in training": "unseen/top1",
            **{f"name in style {style}, R@5": f"{style}/image-text/R@5" for style in STYLES},
            **{f"nearest picture in style {style}": f"nearest_{style}/k1" for style in STYLES},
        },
        "R@5 0.40; unseen names 0.10; beyond raw pixels",
        "training names; validation names, and that coarse had failed on test; test names, styles never drawn",
    ),
    "sound": Task(
        ("audio/simclr_environment", "audio/byol_environment"),
        {"5-NN": "knn/k5"},
        "random weights + 0.10",
        "folds 2 to 5; other sets; fold 1",
    ),
    "long": Task(
        tuple(f"image/{name}_cifar10_long" for name in LONG),
        {"200-NN": "knn/k200"},
        "published - 0.02",
        "50,000 images; nothing, as published; 4,000 test images",
    ),
}


def main() -> int:
    """Trains what is not finished yet; returns how many runs failed."""
    command = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    command.add_argument("overrides", nargs="*", metavar="key=value")
    command.add_argument("--only", nargs="+", choices=TASKS, default=[name for name in TASKS if name != "long"])
    command.add_argument("--out", type=Path, default=Path("runs/carry_over"))
    command.add_argument("--seeds", nargs="+", type=int, default=[0])
    options = command.parse_args()
    runs = [
        (TASKS[name], recipe, seed) for seed in options.seeds for name in options.only for recipe in TASKS[name].recipes
    ]
    failed = 0
    for task, recipe, seed in runs:
        failed += train(task, recipe, seed, out=options.out, overrides=options.overrides)
        (options.out / "table.md").write_text(table(runs, options.out))
    print(table(runs, options.out))
    return failed


def folder_of(recipe: str, seed: int, out: Path) -> Path:
    """Returns the folder of a recipe's run."""
    return out / f"{recipe.split('/')[1]}_{seed}"


def train(task: Task, recipe: str, seed: int, *, out: Path, overrides: Sequence[str]) -> bool:
    """Trains one recipe and says so; returns whether it failed."""
    folder = folder_of(recipe, seed, out)
    if any(figure in read_scores(folder) for figure in task.figures.values()):
        return False
    out.mkdir(parents=True, exist_ok=True)
    line = [sys.executable, "-m", "mmssl", "train", recipe, f"train.seed={seed}", *task.changes, *overrides]
    began, log = time.time(), folder.with_suffix(".log")
    with log.open("w") as file:
        done = subprocess.run(
            [*line, "--out", str(folder), "--resume", "--quiet"], stdout=file, stderr=file, check=False
        )
    said = (log.read_text().splitlines() or [""])[-1]
    print(f"{recipe}: {f'failed: {said}' if done.returncode else f'{time.time() - began:.0f} s'}", flush=True)
    return done.returncode != 0


def table(runs: Sequence[tuple[Task, str, int]], out: Path) -> str:
    """Lays out the figures of all finished runs as Markdown."""
    lines = [
        "| recipe, seed | figure | value | nothing learnt | random weights | goal | trained on; chosen on; judged on |",
        "|---|---|---|---|---|---|---|",
    ]
    for task, recipe, seed in runs:
        scores = read_scores(folder_of(recipe, seed, out))
        for title, name in task.figures.items():
            if name not in scores:
                continue
            key, figure = name.split("/", 1)
            random = scores.get(f"{key}/random_init/{figure}")
            floor = scores[name].trivial
            cells = [f"`{recipe}`, {seed}", title, shown(scores[name]), "" if floor is None else f"{floor:.3f}"]
            lines.append(f"| {' | '.join([*cells, shown(random), task.goal, task.split])} |")
    return "\n".join(lines) + "\n"


def shown(score: Score | None) -> str:
    """Returns a figure with its 95% interval."""
    return f"{score.value:.3f} ({score.low:.3f} - {score.high:.3f})" if score else ""


if __name__ == "__main__":
    sys.exit(main())
