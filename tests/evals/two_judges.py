"""Judges an encoder by two probes in every process, prints their figures and what they left out: run by a test."""

from __future__ import annotations

import json
import sys

import torch

from mmssl import dist
from mmssl.encoders import create_encoder
from mmssl.judge import Judge
from mmssl.types import Trained

if __name__ == "__main__":  # data workers import it too
    torch.set_num_threads(1)
    dist.start("cpu")
    torch.manual_seed(0)
    encoder = create_encoder("convnet", image_size=16, widths=[8, 16], depths=[1, 1], stem_stride=1).eval()
    sets = json.loads(sys.argv[1])
    quick = {"epochs": 3, "batch": 8, "workers": 0, "flip": 0.0, "lr": 0.01, "crop_scale": [0.9, 1.0]}
    judge = Judge({"linear": {**sets, "baselines": False}, "finetune": {**sets, **quick, "baselines": False}})
    scores = judge.run(Trained({"image": encoder}))
    if dist.rank() == 0:
        left_out = {"left_out": {"linear": judge.remarks()["left_out"]["linear"]}}
        print(json.dumps({key: score.value for key, score in scores.items()} | left_out))
    dist.barrier()  # a process that leaves early takes its sockets with it
    dist.stop()
    dist.leave()
