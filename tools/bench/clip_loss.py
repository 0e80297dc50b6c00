"""Measures CLIP's loss, forward and backward, of mmssl and of open_clip on the same embeddings, as a ratio.

python tools/bench/clip_loss.py [--batch 2048] [--dim 512] [--rounds 7] [--device cpu]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from open_clip.loss import ClipLoss, SigLipLoss
from torch import Tensor
from torch.nn import functional as F

from mmssl.losses.contrast import Contrast
from mmssl.losses.infonce import info_nce
from mmssl.losses.sigmoid import pairwise_sigmoid


def clip(x: Tensor, y: Tensor, scale: Tensor, _bias: Tensor) -> Tensor:
    """Both directions of InfoNCE."""
    return (info_nce(Contrast(x, y, scale)).mean() + info_nce(Contrast(y, x, scale)).mean()) / 2


def siglip(x: Tensor, y: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """The pairwise sigmoid loss."""
    return pairwise_sigmoid(Contrast(x, y, scale), bias=bias).mean()


PEERS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "clip": (clip, lambda x, y, scale, _bias: ClipLoss()(x, y, scale)),
    "siglip": (siglip, lambda x, y, scale, bias: SigLipLoss()(x, y, scale, bias)),
}


def seconds(loss: Callable[..., Tensor], given: list[Tensor]) -> float:
    """Returns the time of one forward and backward."""
    synchronize = torch.cuda.synchronize if given[0].is_cuda else lambda: None
    synchronize()
    began = time.perf_counter()
    torch.autograd.grad(loss(*given), given, allow_unused=True)
    synchronize()
    return time.perf_counter() - began


def main() -> None:
    """Prints the medians of rounds taken in turn, and their ratio."""
    command = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    command.add_argument("--batch", type=int, default=2048)
    command.add_argument("--dim", type=int, default=512)
    command.add_argument("--rounds", type=int, default=7)
    command.add_argument("--device", default="cpu")
    options = command.parse_args()
    embeddings = [F.normalize(torch.randn(options.batch, options.dim, device=options.device), dim=1) for _ in "xy"]
    given = [*embeddings, torch.tensor(10.0, device=options.device), torch.tensor(-10.0, device=options.device)]
    given = [leaf.requires_grad_() for leaf in given]
    for name, (ours, theirs) in PEERS.items():
        difference = (ours(*given) - theirs(*given)).abs().item()
        times = [(seconds(ours, given), seconds(theirs, given)) for _ in range(options.rounds + 1)][1:]
        mine, peers = (statistics.median(column) for column in zip(*times, strict=True))
        print(f"{name:>6}: mmssl {mine * 1e3:.0f} ms, open_clip {peers * 1e3:.0f} ms, ratio {mine / peers:.2f}", end="")
        print(f"; losses differ by {difference:.1e}")


if __name__ == "__main__":
    main()
