"""The toy world, made, learnt and judged in one go."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from mmssl.errors import UserError
from mmssl.judge import read_scores, table
from mmssl.prepare import prepare
from mmssl.trainer import train

RECIPE = "cross_modal/clip_bounce"


def demo(*, data: Path, out: Path, overrides: Sequence[str] = ()) -> None:
    """Makes the shards of datasets/bounce once, trains CLIP on them, and prints the table of results."""
    began = time.perf_counter()
    print(f"1/2 the toy world, in {data}", flush=True)
    if prepare("bounce", [str(data)]):
        raise UserError(f"the toy world could not be made in {data}; what is finished there stays")
    made = time.perf_counter()
    print(f"2/2 CLIP on its pictures and captions, in {out}", flush=True)
    shards = {
        "tasks.clip.data.shards": data / "train",
        "evals.shape.data.shards": data / "test_novel",
        "evals.color.data.shards": data / "test_novel",
        "evals.retrieval.data.shards": data / "test_seen",
    }
    train(RECIPE, [*(f"{key}={value}" for key, value in shards.items()), *overrides], out=out, resume=True)
    scores = {key: score for key, score in read_scores(out).items() if "class/" not in key}
    print("\nshape, color: zero-shot, on compositions of shape, colour and material that training never saw.")
    print(f"retrieval: among new scenes of compositions that it saw.\n\n{table(scores)}\n")
    print(f"world {made - began:.0f} s, training {time.perf_counter() - made:.0f} s; everything is in {out}")
