"""Run by torchrun from a test: runs of linear regression, and what each process was shown; written by rank."""

from __future__ import annotations

import errno
import json
import shutil
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import torch

sys.path.insert(0, str(Path(__file__).parent))
from linear.plain import started, weights

from mmssl import dist, run_folder, trainer
from mmssl.errors import UserError
from mmssl.lock import hold
from mmssl.run_folder import locked


def refused(run: trainer.Trainer) -> list[str]:
    """Returns what each process is told where one of them cannot go on."""
    told: list[str] = []

    def attempt(act: Callable[[], object]) -> None:
        try:
            act()
            told.append("")
        except UserError as error:
            told.append(str(error))

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with patch("os.fsync", full) if dist.rank() == 0 else nullcontext():
        attempt(run.save)
    with hold(run.folder) if dist.rank() == 1 else nullcontext():
        dist.barrier()
        attempt(lambda: locked(run.folder).__enter__())
        dist.barrier()
    with patch("torch.load", full if dist.rank() == 1 else torch.load):
        attempt(lambda: run_folder.open_folder(run.folder, resume=True))
    elsewhere = run.folder.with_name(f"{run.folder.name}.copy{dist.rank()}")
    shutil.copytree(run.folder, elsewhere)
    if dist.rank() == 1:
        shutil.copytree(elsewhere / "checkpoints" / "step_6", elsewhere / "checkpoints" / "step_5")
        state = torch.load(elsewhere / "checkpoints" / "step_6" / "state.pt", weights_only=True)
        torch.save({**state, "step": 5}, elsewhere / "checkpoints" / "step_5" / "state.pt")
        (elsewhere / "checkpoints" / "step_6" / "state.pt").write_bytes(b"half")
    attempt(lambda: run_folder.open_folder(elsewhere, resume=True))
    attempt(run.save)
    return told


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
        state = run_folder.open_folder(run.folder, resume=True)
        again = started(tree, run.folder, state)
        run.streams["fit"].loader._tally.lacking["silent", f"{dist.rank()}.tar"] = 3 + dist.rank()
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
                "counts": [run.counts(shards=shards)["fit"].plain() for shards in (True, False)],
                "again": again.streams["fit"].loader.rank,
            }
        )
    torch.save((found, refused(run)), f"{out}.rank{dist.rank()}")
    dist.barrier()
    dist.stop()
    dist.leave()


main(*sys.argv[1:])
