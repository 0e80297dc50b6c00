"""Run by torchrun from a test: runs of linear regression, and what each process was shown; written by rank."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from linear.plain import started, weights

from mmssl import dist, trainer


def main(recipes: str, out: str) -> None:
    torch.set_num_threads(1)
    dist.start("cpu")
    found = []
    for number, tree in enumerate(json.loads(recipes)):
        run = started(tree, Path(f"{out}.{number}"))
        before, lines = weights(run), []
        for _ in range(6):
            losses, waited = run.train_step()
            lines.append(run.figures(losses, waited, 1.0, 1))
        run.save()
        objective = run.model.named_objectives["fit"]
        epochs = [index for index, *_ in objective.of("epoch")]
        shown = [rows for rows, *_ in objective.of("forward")][1:]
        state = trainer.open_folder(run.folder, resume=True)
        again = started(tree, run.folder, state)
        found.append(
            {
                "before": before,
                "after": weights(run),
                "shown": shown,
                "epochs": epochs,
                "samples": [line["samples"] for line in lines],
                "seed": torch.initial_seed(),
                "rates": [line["lr"] for line in lines],
                "streams": len(state["streams"]),
                "places": [part["fit"]["report"]["drawn"] for part in state["streams"]],
                "again": again.streams["fit"].loader.rank,
            }
        )
    torch.save(found, f"{out}.rank{dist.rank()}")
    dist.barrier()
    dist.stop()
    dist.leave()


main(*sys.argv[1:])
