"""Measures CLIP's and SigLIP's losses, forward and backward, beside open_clip's on the same embeddings.

python tools/bench/clip_loss.py [--batches 1024 4096] [--dim 512] [--rounds 7] [--device cpu] [--bf16]

Rounds are taken in turn, in CPU time on a CPU; a ratio is the median of the rounds', with their quartiles. Memory is
what a process of its own needs at most beside inputs and gradients, as Linux tells it.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from open_clip.loss import ClipLoss, SigLipLoss
from timing import show
from torch import Tensor
from torch.nn import functional as F

from mmssl.losses.contrast import Contrast
from mmssl.losses.infonce import info_nce_both_ways
from mmssl.losses.sigmoid import pairwise_sigmoid
from mmssl.losses.tiles import SIDE

Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # embeddings of both sides, scale, bias


def losses(*, bf16: bool) -> dict[str, tuple[Loss, Loss]]:
    """Returns of each name our loss and open_clip's."""

    def clip(x: Tensor, y: Tensor, scale: Tensor, _bias: Tensor) -> Tensor:
        one, other = info_nce_both_ways(Contrast(x, y, scale, bf16=bf16))
        return (one.mean() + other.mean()) / 2

    def siglip(x: Tensor, y: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        return pairwise_sigmoid(Contrast(x, y, scale, bf16=bf16), bias=bias).mean()

    def low(x: Tensor) -> Tensor:
        return x.bfloat16() if bf16 else x  # as under autocast

    return {
        "InfoNCE": (clip, lambda x, y, scale, _bias: ClipLoss()(low(x), low(y), low(scale))),
        "SigLIP": (siglip, lambda x, y, scale, bias: SigLipLoss()(low(x), low(y), low(scale), low(bias))),
    }


def inputs(batch: int, dim: int, device: str) -> list[Tensor]:
    """Returns embeddings of unit length, scale and bias, with gradients."""
    torch.manual_seed(0)
    embeddings = [F.normalize(torch.randn(batch, dim, device=device), dim=1) for _ in "xy"]
    given = [*embeddings, torch.tensor(10.0, device=device), torch.tensor(-10.0, device=device)]
    return [leaf.requires_grad_() for leaf in given]


def seconds(loss: Loss, given: list[Tensor]) -> float:
    """Returns the time of one forward and backward."""
    clock, wait = (time.perf_counter, torch.cuda.synchronize) if given[0].is_cuda else (time.process_time, lambda: None)
    wait()
    began = clock()
    torch.autograd.grad(loss(*given), given, allow_unused=True)
    wait()
    return clock() - began


def resident(which: str) -> float:
    """Returns the MB of memory that this process has (VmRSS), or had at most (VmHWM, which getrusage may inherit)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(which)) / 1024


def extra(name: str, peer: int, batch: int, dim: int, device: str, bf16: bool) -> float:
    """Returns the MB that a forward and backward need at most beside inputs and gradients, in this process."""
    given = inputs(batch, dim, device)
    loss, small = losses(bf16=bf16)[name][peer], inputs(512, dim, device)
    torch.autograd.grad(loss(*small), small, allow_unused=True)  # what libraries allocate once
    gradients = 2 * batch * dim * 4
    if device == "cpu":
        before = resident("VmRSS")
        torch.autograd.grad(loss(*given), given, allow_unused=True)
        return resident("VmHWM") - before - gradients / 2**20
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    torch.autograd.grad(loss(*given), given, allow_unused=True)
    return (torch.cuda.max_memory_allocated() - before - gradients) / 2**20


def extra_apart(*given: Any) -> float:
    """Returns `extra` of a process of its own, since a process's peak never falls."""
    folder = str(Path(__file__).parent)
    call = f"import sys; sys.path.append({folder!r}); import clip_loss; print(clip_loss.extra(*{given!r}))"
    done = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return float(done.stdout)


def rows(
    batches: Sequence[int] = (1024, 4096, 32768),
    dim: int = 512,
    rounds: int = 7,
    device: str = "cpu",
    bf16: bool | None = None,
) -> Iterator[dict[str, Any]]:
    """Yields a row of time and one of memory for each loss and batch: ratio is the peer's figure over ours.

    bf16: whether both multiply in bfloat16; None: on CUDA once each way.
    """
    ways = (False, True) if bf16 is None and device == "cuda" else (bool(bf16),)
    for batch, bf16 in itertools.product(batches, ways):
        for name, pair in losses(bf16=bf16).items():
            given = inputs(batch, dim, device)
            turns = 2 if batch > 16384 and device == "cpu" else rounds
            times = [[seconds(loss, given) for loss in pair] for _ in range(turns + 1)][1:]
            ratios = sorted(peer / ours for ours, peer in times)
            ours, peer = (statistics.median(column) * 1e3 for column in zip(*times, strict=True))
            work = f"{name} B = {batch:,}, D = {dim}{', bf16' if bf16 else ''}"
            spread = (ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4])
            row = {
                "work": f"{work}: time",
                "against": "open_clip",
                "ours": ours,
                "peer": peer,
                "ratio": statistics.median(ratios),
            }
            yield {
                **row,
                "work": f"{work}: time",
                "bound": "matmul: four products, three where 2**20 scores suffice",
                "unit": "ms",
                "spread": spread,
            }
            memory = extra_apart if device == "cpu" else extra
            ours, peer = (memory(name, which, batch, dim, device, bf16) for which in (0, 1))
            row = {
                "work": f"{work}: memory",
                "against": "open_clip",
                "ours": ours,
                "peer": peer,
                "ratio": peer / max(ours, 1e-3),
            }
            yield {**row, "bound": f"tiles of {SIDE[device]:,} by {SIDE[device]:,}", "unit": "MB", "spread": None}


def main() -> None:
    """Prints the rows."""
    command = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    command.add_argument("--batches", type=int, nargs="+", default=[1024, 4096])
    command.add_argument("--dim", type=int, default=512)
    command.add_argument("--rounds", type=int, default=7)
    command.add_argument("--device", default="cpu")
    command.add_argument("--bf16", action="store_true", help="both multiply in bfloat16", default=None)
    show(rows(**vars(command.parse_args())))


if __name__ == "__main__":
    main()
