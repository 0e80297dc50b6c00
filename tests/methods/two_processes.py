"""Run by torchrun from the tests: every method's gradients and state under DDP, written by rank 0."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as td

sys.path.insert(0, str(Path(__file__).parent))
from settings import SETTINGS, batch, build, pick

from mmssl import dist, parallel


def main(out: str) -> None:
    torch.set_num_threads(1)
    td.init_process_group("gloo")
    rank, found = td.get_rank(), {}
    for name in SETTINGS:
        model = build(name)
        whole = batch(name)
        mine = pick(whole, torch.arange(8).chunk(2)[rank])
        wrapped = parallel.wrap(model)
        total, _ = wrapped({name: mine})
        total.backward()
        td.all_reduce(total)
        model.objectives[name].after_step(model.encoders, 0.5)
        found[name] = {
            "loss": total.detach() / 2,
            "gradients": {key: p.grad for key, p in model.named_parameters() if p.grad is not None},
            "state": model.objectives[name].state_dict(),
        }
    if rank == 0:
        torch.save(found, out)
    td.barrier()  # a process that leaves early takes its sockets with it
    td.destroy_process_group()
    dist.leave()


main(sys.argv[1])
