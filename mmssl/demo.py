"""The toy world, made, learnt and judged in one go."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from mmssl import recipe
from mmssl.errors import UserError
from mmssl.judge import read_scores, table
from mmssl.loop import train
from mmssl.prepare import prepare
from mmssl.types import Score

RECIPE = "cross_modal/five"
SHOWN = {  # figure -> what it tells a newcomer
    "shape/top1": "shape of what an image shows, by words (zero-shot)",
    "color/top1": "its colour, by words (zero-shot)",
    "sync/easy": "is the sound this video's, or another's?",
    "sync/hard": "is it in sync, or 0.5 s and more off?",
    "register/hit_ratio": "points matched within 10 cm between two scans",
    "order/accuracy": "four shuffled frames put in order",
    "propagate/J&F": "masks carried through grey videos (J&F)",
}


def demo(*, data: Path, out: Path, overrides: Sequence[str] = ()) -> tuple[str, dict[str, Score]]:
    """Makes the shards of datasets/bounce once, trains five tasks on them; returns results as text and as scores."""
    began = time.perf_counter()
    print(f"1/2 the toy world, in {data}", flush=True)
    if prepare("bounce", [str(data)]):
        raise UserError(f"the toy world could not be made in {data}; what is finished there stays")
    made = time.perf_counter()
    print(f"2/2 five tasks on its images, words, videos, sounds and scans, in {out}", flush=True)
    train(RECIPE, [*shards(data), *overrides], out=out, resume=True)
    scores = read_scores(out)
    found = {f"{title}  [{key}]": scores[key] for key, title in SHOWN.items() if key in scores}
    text = (
        "\nOn scenes that training never saw; shape and colour in compositions that it never saw.\n\n"
        f"{table(found)}\n\n"
        "trivial: what an answer without learning reaches, best of those measured; results.json holds the rest.\n"
        f"world {made - began:.0f} s, training {time.perf_counter() - made:.0f} s; everything is in {out}"
    )
    return text, scores


def shards(data: Path) -> list[str]:
    """Returns the overrides that point the recipe's tasks and evaluations at a folder of shards."""
    made = recipe.load(RECIPE)
    nodes = {f"tasks.{key}": recipe.split_data(task.data, where=key)[0] for key, task in made.tasks.items()}
    nodes |= {f"evals.{key}": node["data"] for key, node in made.evals.items()}
    return [f"{key}.data.shards={data / Path(node['shards']).name}" for key, node in nodes.items()]
