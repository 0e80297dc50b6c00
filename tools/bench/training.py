"""Measures whole training steps of mmssl beside those of its peers, in turns in one run.

    python tools/bench/training.py [--device cpu] [--only simclr] [--batch 16] [--rounds 5] [--compile]

A step: changes on the device, forward, loss, backward, optimizer, moving averages. On a CPU both sides see as many
pictures, without changes of colour, channels last, and processor seconds count; each side has a process of its own, and
ours keeps freed memory, as the `mmssl` command does. On a GPU ours includes its changes of colour, both compute in
bf16, and images a second count. Peers: lightly's head and loss on timm's network (SimCLR), open_clip's model and loss
(CLIP); DINO has none.
"""

from __future__ import annotations

import argparse
import copy
import gc
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mmssl import names
from mmssl.console import keep_memory
from mmssl.encoders import create_encoder
from mmssl.multitask import MultiTask, compile_encoders
from mmssl.optim.groups import param_groups
from mmssl.types import Batch, Ragged

Step = Callable[[], None]
WORDS, CONTEXT = 49408, 77


@dataclass
class Row:
    """Work that is measured: encoders and options of ours, the view's sides in pixels, its peer, and what bounds it."""

    work: str
    method: str
    encoders: dict[str, dict[str, Any]]
    batch: int
    objective: dict[str, Any]
    peer: Callable[[Row, int, torch.device], tuple[nn.Module, Callable[[nn.Module], Tensor]]] | None
    sides: tuple[int, ...] = (224, 224)
    bound: str = "matmul"


def shown(row: Row, batch: int, device: torch.device) -> Batch:
    """Makes a batch of random pictures, and of texts of 8 to 32 words."""
    views: dict[str, list[Any]] = {}
    sides = row.sides[:1] if "text" in row.encoders else row.sides
    views["image"] = [torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8, device=device) for side in sides]
    if "text" in row.encoders:
        lengths = torch.randint(8, 33, (batch,))
        lengths[0] = 32
        views["text"] = [Ragged(torch.randint(1, WORDS, (batch, 32)), lengths, padded=True).to(device)]
    return Batch(views)


def stepping(model: nn.Module, loss: Callable[[], Tensor], device: torch.device, after: Step = lambda: None) -> Step:
    """Returns one step of AdamW on a loss, in bf16 on a GPU."""
    optimizer = names.build("optim", "adamw", param_groups(model), where="optim")

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext():
            total = loss()
        total.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        after()

    return step


def ours(row: Row, batch: int, device: torch.device, *, compiled: bool) -> Step:
    """Returns a step as the trainer makes it."""
    encoders = {key: create_encoder(**options) for key, options in row.encoders.items()}
    method, _ = names.resolve("methods", row.method)
    objective = method.objective(encoders, **row.objective)
    model = MultiTask(encoders, {row.method: objective}, {row.method: 1.0}).to(device)
    view = method.view({key: encoder.preprocess for key, encoder in encoders.items()})
    pictures = shown(row, batch, device)
    if compiled:
        compile_encoders(model)

    def loss() -> Tensor:
        given = Batch({key: list(views) for key, views in pictures.views.items()})
        given = view.on_device(given) if device.type == "cuda" else given
        total: Tensor = model({row.method: given})[0]
        return total

    return stepping(model, loss, device, lambda: objective.after_step(encoders, 0.5))


def lightly_simclr(row: Row, batch: int, device: torch.device) -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    """SimCLR of lightly's parts, each view in a pass of its own, as in its examples."""
    import timm
    from lightly.loss import NTXentLoss
    from lightly.models.modules.heads import SimCLRProjectionHead

    network = timm.create_model(row.encoders["image"]["name"].partition(":")[2], num_classes=0)
    dim = network.num_features
    model = nn.Sequential(network, SimCLRProjectionHead(dim, dim, 128)).to(device, memory_format=torch.channels_last)
    views = [torch.randn(batch, 3, 224, 224, device=device) for _ in range(2)]
    views = [view.contiguous(memory_format=torch.channels_last) for view in views]
    criterion = NTXentLoss(0.1)
    return model, lambda model: criterion(*(model(view) for view in views))


def open_clip(row: Row, batch: int, device: torch.device) -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    """CLIP of open_clip, texts of its fixed length."""
    import open_clip as peer

    model = peer.create_model("ViT-B-16").to(device)
    pictures = torch.randn(batch, 3, 224, 224, device=device)
    texts = torch.randint(1, WORDS, (batch, CONTEXT), device=device)
    criterion = peer.loss.ClipLoss()
    return model, lambda model: criterion(*model(pictures, texts))


VIT = {"name": "timm:vit_base_patch16_224"}
TEXT = {"name": "transformer", "width": 512, "depth": 12, "heads": 8, "vocab_size": WORDS, "context_length": CONTEXT}
CPU = [
    Row(
        "SimCLR ResNet-18 224 step",
        "simclr",
        {"image": {"name": "timm:resnet18"}},
        64,
        {"embed_dim": 128},
        lightly_simclr,
        bound="convolutions of oneDNN",
    )
]
CUDA = [
    Row(
        "SimCLR ResNet-50 224 step",
        "simclr",
        {"image": {"name": "timm:resnet50"}},
        256,
        {"embed_dim": 128},
        lightly_simclr,
        bound="memory bandwidth",
    ),
    Row(
        "CLIP ViT-B/16 step",
        "clip",
        {"image": VIT, "text": {**TEXT, "pool": "last", "causal": True}},
        512,
        {"embed_dim": 512},
        open_clip,
    ),
    Row(
        "DINO ViT-S/16 step, 2 + 8 crops",
        "dino",
        {"image": {"name": "vit:small"}},
        64,
        {},
        None,
        sides=(224, 224, *[96] * 8),
        bound="launches",
    ),
]


def rows(
    device: str = "cpu", *, batch: int | None = None, rounds: int = 5, only: str = "", compiled: bool | None = None
) -> Iterator[dict[str, Any]]:
    """Yields what was measured: work, ours, peer, ratio (above 1 ours is faster), its spread, bound, unit.

    compiled: our encoders; None: on a GPU once each way.
    """
    place = torch.device(device)
    ways = (False, True) if compiled is None and place.type == "cuda" else (bool(compiled),)
    for compile_ in ways:
        for row in CUDA if place.type == "cuda" else CPU:
            if only in row.method:
                yield measured(row, batch or row.batch, place, rounds, compiled=compile_)
                gc.collect()
                torch._dynamo.reset()
                torch.cuda.empty_cache()


def measured(row: Row, batch: int, device: torch.device, rounds: int, *, compiled: bool) -> dict[str, Any]:
    """Takes the sides in turns; the first of each does not count."""

    def our_step() -> Step:
        if device.type == "cpu":
            keep_memory()
        return ours(row, batch, device, compiled=compiled)

    def peer_step() -> Step:
        assert row.peer is not None
        model, loss = row.peer(row, batch, device)
        return stepping(model, lambda: loss(model), device)

    sides = {"ours": our_step} | ({"peer": peer_step} if row.peer is not None else {})
    steps = {side: timed(make, device, count=not compiled) for side, make in sides.items()}
    flops = {side: next(step) for side, step in steps.items()}
    found: dict[str, list[float]] = {side: [] for side in steps}
    for number in range(rounds + 1):
        for side, step in steps.items():
            spent = next(step)
            if number:
                found[side].append(spent)
    middle = {side: statistics.median(values) for side, values in found.items()}
    ratios = sorted(b / a for a, b in zip(found["ours"], found.get("peer", []), strict=False))
    images = device.type == "cuda"
    made = {
        "work": f"{row.work}, batch {batch}" + (", compiled" if compiled else ""),
        **{side: batch / value if images else value for side, value in middle.items()},
        "ratio": middle["peer"] / middle["ours"] if row.peer else None,
        "spread": (ratios[0], ratios[-1]) if ratios else None,
        "bound": row.bound,
        "unit": "images/s" if images else "s of one core",
        "tflops": flops["ours"] / middle["ours"] / 1e12,
    }
    return {"peer": None} | made


def timed(make: Callable[[], Step], device: torch.device, *, count: bool) -> Iterator[float]:
    """Yields the FLOPs of a first step, then what each further one takes, on a CPU in a process of its own.

    count: whether FLOPs are counted, which nothing can of a compiled step.
    """
    if device.type != "cpu":
        yield from taken(make(), device, count=count)
        return
    here, there = multiprocessing.Pipe()
    multiprocessing.get_context("fork").Process(target=serve, args=(make, device, there, count), daemon=True).start()
    there.close()
    while True:
        yield here.recv()
        here.send("next")


def serve(make: Callable[[], Step], device: torch.device, there: Connection, count: bool) -> None:
    """Sends what `taken` yields, each when it is asked for."""
    for value in taken(make(), device, count=count):
        there.send(value)
        there.recv()


def taken(step: Step, device: torch.device, *, count: bool) -> Iterator[float]:
    """Yields the FLOPs of a first step, then what each further one takes."""
    counter = FlopCounterMode(display=False)
    with counter if count else nullcontext():
        step()
    yield counter.get_total_flops()
    while True:
        yield seconds(step, device)


def seconds(step: Step, device: torch.device) -> float:
    """Returns what a step takes: processor time on a CPU, the clock's on a GPU."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    torch.cuda.synchronize() if device.type == "cuda" else None
    began = clock()
    step()
    torch.cuda.synchronize() if device.type == "cuda" else None
    return clock() - began


def main() -> None:
    """Prints each row as it comes."""
    command = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    command.add_argument("--device", default="cpu")
    command.add_argument("--only", default="", help="part of a method's name")
    command.add_argument("--batch", type=int, help="the row's own by default")
    command.add_argument("--rounds", type=int, default=5)
    command.add_argument("--threads", type=int, default=1)
    command.add_argument("--compile", action="store_true", help="compile our encoders, as train.compile does")
    options = command.parse_args()
    torch.set_num_threads(options.threads)
    given = copy.copy(vars(options))
    given.pop("threads")
    compiled = given.pop("compile")
    for row in rows(compiled=compiled, **given):
        print(row, flush=True)


if __name__ == "__main__":
    main()
