"""What the tests of probes share: features of blobs, an evaluation that reads them, and shards with labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset
from torch import Tensor

from mmssl.evals.parts.labelled import Embedded, Labelled, Probe
from mmssl.modalities import image
from mmssl.types import Encoder

Nodes = dict[str, dict[str, Any]]


def blobs(count: int, classes: int, dim: int = 8, *, spread: float = 0.5, seed: int = 0) -> Embedded:
    """Gaussian blobs around axes, class after class in turn."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % classes
    return Embedded(3 * torch.eye(dim)[y] + spread * torch.randn(count, dim, generator=generator), y)


class Known(Labelled):
    """Stands in for sets that are embedded already."""

    def __init__(self, known: Embedded, asked: Embedded) -> None:
        self.known, self.asked = known, asked

    def read(self, encoder: Encoder, places: Any) -> dict[str, tuple[Embedded, Embedded]]:
        return dict.fromkeys(places, (self.known, self.asked))


class Anything(torch.nn.Module):
    """Stands in for an encoder whose features are known."""

    device = torch.device("cpu")


def judged(probe: Probe, known: Embedded, asked: Embedded) -> dict[str, Any]:
    """Returns what a probe makes of known features."""
    probe.sets = Known(known, asked)
    return dict(probe.judge(Anything(), probe.places))  # type: ignore[arg-type]


def sides(folder: Path, **counts: int) -> Nodes:
    """Writes images of 16 pixels that are brighter on the left (class 1) or on the right (class 0)."""
    noise = np.random.default_rng(0)
    for split, count in counts.items():
        with webdataset.TarWriter(str(folder / f"{split}.tar")) as tar:
            for number in range(count):
                pixels = noise.integers(0, 120, (16, 16, 3))
                pixels[:, slice(0, 8) if number % 2 else slice(8, 16)] += 100
                tar.write({"__key__": str(number), "png": image.encode(pixels.astype(np.uint8)), "cls": number % 2})
    return {name: {"shards": str(folder / f"{split}.tar")} for name, split in (("train", "train"), ("data", "test"))}


def reference(x: Tensor, y: Tensor, *, loss: Any, shape: tuple[int, ...], steps: int = 20) -> Tensor:
    """Minimises a loss of weights by torch's own gradient."""
    weight = torch.zeros(shape, dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=100, line_search_fn="strong_wolfe", tolerance_change=1e-14)

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(x, y, weight)
        value.backward()
        return value

    for _ in range(steps):
        optimizer.step(closure)
    return weight.detach()
