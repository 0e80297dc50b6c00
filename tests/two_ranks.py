"""Run by torchrun from the tests: what each collective gives on each of two ranks, written by rank."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch

from mmssl import dist


def main(out: str) -> None:
    torch.set_num_threads(1)
    assert not dist.is_on() and (dist.rank(), dist.world()) == (0, 1)
    device = dist.start("cpu")
    rank = dist.rank()
    assert dist.start("cpu") == device, "starting twice is starting once"
    found: dict[str, Any] = {"place": (rank, dist.world(), str(device), dist.is_on())}
    with dist.alone():
        found["alone"] = (dist.rank(), dist.world(), dist.is_on(), dist.total(torch.ones(1)))

    torch.manual_seed(0)
    w = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    x = torch.randn(6, 3, dtype=torch.float64)[3 * rank : 3 * rank + 3]
    keys = dist.gather_with_grad((w.T @ x.T).T)  # not contiguous
    found["keys"] = keys.detach()
    logits = (x @ w) @ keys.T
    loss = torch.nn.functional.cross_entropy(logits, torch.arange(3) + 3 * rank)
    loss.backward()
    found["gradient"], found["loss"] = w.grad, loss.detach()

    rows = torch.arange(6.0).reshape(3, 2)[: 1 + rank] + 10 * rank  # one row and two
    found["rows"] = dist.gather(rows.requires_grad_()).detach()
    found["objects"] = dist.gather_objects({"rank": rank})
    mine = torch.tensor([1.0 + rank], requires_grad=True)
    found["total"], found["mine"] = dist.total(mine), mine.detach()

    values = torch.tensor([1.0, 2.0, torch.nan, 4.0]) * (1 + rank)
    values.requires_grad_()
    weight = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 1]])[rank].bool()
    with dist.counting() as counts:
        mean = dist.mean(values, weight)
        nothing = dist.mean(values, torch.zeros(4))
        whole = dist.mean(values[:2])
        shares = dist.mean(values, torch.tensor([0.25, 0.5, 0.0, 0.0]))
    mean.backward(retain_graph=True)
    found["mean"], found["values"] = mean.detach(), values.grad
    found["others"] = torch.stack([nothing, whole, shares]).detach()
    found["counts"] = torch.stack(counts)
    later = dist.start_max(3 - rank)
    found["largest"] = (dist.start_max(rank)(), later())
    dist.barrier()
    torch.save(found, f"{out}.{rank}")
    dist.barrier()
    dist.stop()
    assert not torch.distributed.is_initialized()
    os.environ["WORLD_SIZE"] = "1"
    dist.leave()


main(sys.argv[1] if len(sys.argv) > 1 else str(Path.cwd() / "ranks"))
