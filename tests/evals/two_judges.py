"""Judges an encoder by two probes in every process, prints their figures and what they left out: run by a test.

Between them stands an evaluation that fails on the second of two processes while the first waits for it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import torch

from mmssl import dist
from mmssl.encoders import create_encoder
from mmssl.judge import Judge
from mmssl.types import Evaluation, Score, Trained


class Odd(Evaluation):
    """Adds up over processes; fails on one of several."""

    def __init__(self, *, fails: bool = True) -> None:
        self.fails = fails

    def run(self, trained: Trained) -> Iterator[tuple[str, Score]]:
        if self.fails and dist.rank() == 1:
            raise ValueError("of this process alone")
        value = float(dist.total(torch.ones(()))) * 2 / dist.world()
        yield "total", Score(value, value, value, 0.0, 1)


if __name__ == "__main__":  # data workers import it too
    torch.set_num_threads(1)
    dist.start("cpu")
    torch.manual_seed(0)
    encoder = create_encoder("convnet", image_size=16, widths=[8, 16], depths=[1, 1], stem_stride=1).eval()
    sets = json.loads(sys.argv[1])
    quick = {"epochs": 3, "batch": 8, "workers": 0, "flip": 0.0, "lr": 0.01, "crop_scale": [0.9, 1.0]}
    judge = Judge({"linear": {**sets, "baselines": False}, "finetune": {**sets, **quick, "baselines": False}})
    finetune = judge.evaluations.pop("finetune")
    judge.evaluations |= {"odd": Odd(), "after": Odd(fails=False), "finetune": finetune}
    scores = judge.run(Trained({"image": encoder}))
    if dist.rank() == 0:
        remarks = judge.remarks()
        left_out = {
            "left_out": {"linear": remarks["left_out"]["linear"]},
            "warnings": remarks["warnings"]["odd"],
        }
        print(json.dumps({key: score.value for key, score in scores.items()} | left_out))
    dist.barrier()  # a process that leaves early takes its sockets with it
    dist.stop()
    dist.leave()
