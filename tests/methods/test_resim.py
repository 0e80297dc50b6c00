"""ReSim by its formula (Xiao et al., ICCV 2021), a window at a time."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.methods import resim
from mmssl.methods.resim import ReSim
from mmssl.transforms.image import ImagePreprocess
from mmssl.types import Batch, Encoder, Features
from mmssl.views import moco_v2

sys.path.insert(0, str(Path(__file__).parent))
from by_hand import defaults, same, shake, unit
from crops import PRESENT, shown


class Halving(Encoder):
    """Maps of cells of 2, 4 and 8 pixels, of images of 24."""

    modality, dim = "image", 7

    def __init__(self) -> None:
        super().__init__()
        self.preprocess = ImagePreprocess(24)
        sizes = ((3, 4), (4, 5), (5, 7))
        self.parts = nn.ModuleList(nn.Sequential(nn.Conv2d(i, o, 2, 2), nn.Tanh()) for i, o in sizes)

    def maps(self, x: Tensor) -> list[Tensor]:
        found = []
        for part in self.parts:
            x = part(x)
            found.append(x)
        return found

    def forward(self, x: Tensor) -> Features:
        last = self.maps(x.float())[-1]
        return Features(last.mean((2, 3)), last.flatten(2).mT, grid=(3, 3))


def made(**options: Any) -> tuple[Halving, ReSim]:
    torch.manual_seed(0)
    encoder = Halving()
    given: dict[str, Any] = {
        "embed_dim": 6,
        "queue": 7,
        "momentum": 0.8,
        "width": 6,
        "cells": (4, 2),
        "windows": (9, 8),
        "steps": (7, 5),
    }
    objective = ReSim({"image": encoder}, **{**given, **options})
    shake(encoder, objective)
    return encoder, objective


def images() -> Batch:
    batch = shown()
    batch.views["image"] = [torch.randn(5, 3, 24, 24) for _ in range(2)]
    return batch


def levels(pyramid: Any, maps: list[Tensor]) -> list[Tensor]:
    """An FPN's maps of 4 and 2 pixels, from the coarsest down: 1x1 convolutions, sums, and 3x3 on two of them."""
    inner, outer = pyramid.layers.inner_blocks, pyramid.layers.layer_blocks
    top = inner[2][0](maps[2])
    middle = inner[1][0](maps[1]) + F.interpolate(top, scale_factor=2, mode="nearest")
    bottom = inner[0][0](maps[0]) + F.interpolate(middle, scale_factor=2, mode="nearest")
    return [outer[1][0](middle), outer[0][0](bottom)]


def line(start: float, end: float, cells: int) -> Tensor:
    points = (torch.arange(4000) + 0.5) / 4000 * (end - start) + start
    hats = (1 - (points[:, None] * cells - torch.arange(cells) - 0.5).abs()).clamp(min=0)
    return hats.sum(dim=0) / hats.sum()


def averaged(found: Tensor, box: tuple[float, float, float, float]) -> Tensor:
    """The mean of an interpolated map (D, H, W) over left, top, right, bottom in shares of its sides."""
    rows, columns = line(box[1], box[3], found.shape[1]), line(box[0], box[2], found.shape[2])
    return unit(torch.einsum("dhw,h,w->d", found, rows, columns))


def there(batch: Batch, row: int, box: tuple[float, ...]) -> tuple[float, ...]:
    """Returns where a box of the first crop lies in the second."""
    (a, _, left), (_, d, top) = batch.places["image"][0][row].tolist()
    (e, _, other_left), (_, h, other_top) = batch.places["image"][1][row].tolist()
    x = sorted((left + a * at - other_left) / e for at in box[::2])
    y = sorted((top + d * at - other_top) / h for at in box[1::2])
    return x[0], y[0], x[1], y[1]


def of_windows(
    mine: Tensor, goal: Tensor, batch: Batch, side: int, step: int, temperature: float
) -> tuple[Tensor, int]:
    """The mean over all windows that the other crop shows whole, and how many there are."""
    squares = torch.stack([
        unit(goal[row, :, i : i + 3, j : j + 3].mean((1, 2)))
        for row in PRESENT.nonzero()[:, 0].tolist()
        for i in range(goal.shape[2] - 2)
        for j in range(goal.shape[3] - 2)
    ])  # fmt: skip
    losses = []
    for row in PRESENT.nonzero()[:, 0].tolist():
        for y in range(0, 24 - side + 1, step):
            for x in range(0, 24 - side + 1, step):
                box = (x / 24, y / 24, (x + side) / 24, (y + side) / 24)
                other = there(batch, row, box)
                if min(other) < 0 or max(other) > 1:
                    continue
                q, k = averaged(mine[row], box), averaged(goal[row], other)
                scores = torch.cat([(q @ k)[None], squares @ q]) / temperature
                losses.append(F.cross_entropy(scores[None], torch.zeros(1, dtype=torch.long)))
    return torch.stack(losses).mean(), len(losses)


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.5, "hidden": (8,), "windows": (12, 6), "steps": (6, 9), "cells": (2, 4)}]
)
def test_crops_and_windows_find_their_keys(options: dict[str, Any]) -> None:
    encoder, objective = made(**options)
    batch, temperature = images(), options.get("temperature", 0.2)
    maps, goals = encoder.maps(batch.views["image"][0]), objective.teacher.encoder.maps(batch.views["image"][1])
    mine = levels(objective.pyramid, maps)
    taught = [each.detach() for each in levels(objective.teacher_pyramid, goals)]
    if options.get("cells") == (2, 4):
        mine, taught = mine[::-1], taught[::-1]
    q = unit(objective.head.layers(maps[-1].mean((2, 3))))
    k = unit(objective.teacher.head.layers(goals[-1].mean((2, 3)))).detach()
    scores = torch.cat([(q * k).sum(dim=1, keepdim=True), q @ objective.queue.rows.T], dim=1) / temperature
    expected, counts = F.cross_entropy(scores[PRESENT], torch.zeros(4, dtype=torch.long)), []
    for one, goal, side, step in zip(
        mine, taught, options.get("windows", (9, 8)), options.get("steps", (7, 5)), strict=True
    ):
        loss, count = of_windows(one, goal, batch, side, step, temperature)
        expected, counts = expected + loss, [*counts, count]
    found = objective({"image": encoder}, batch)
    same(found.total, expected, encoder, objective)
    every = [
        len(range(0, 24 - side + 1, step)) ** 2 for side, step in zip(objective.windows, objective.steps, strict=True)
    ]
    names = [f"shared_{stride}" for stride in options.get("cells", (4, 2))]
    shares = [count / 4 / all_ for count, all_ in zip(counts, every, strict=True)]
    torch.testing.assert_close([float(found.logs[name]) for name in names], shares)
    assert all(0 < share < 1 for share in shares)
    torch.testing.assert_close(found.embeddings["image"], q.detach())


def test_the_pyramid_follows_and_what_is_not_compared_has_no_weights() -> None:
    encoder, objective = made()
    was = [p.clone() for p in objective.teacher_pyramid.parameters()]
    objective.after_step({"image": encoder}, 0.5)
    for p, q, r in zip(objective.teacher_pyramid.parameters(), objective.pyramid.parameters(), was, strict=True):
        torch.testing.assert_close(p, 0.8 * r + 0.2 * q)
        assert not p.requires_grad
    assert isinstance(objective.pyramid.layers.layer_blocks[2], nn.Identity)


def test_options_and_defaults_are_the_papers() -> None:
    assert defaults(ReSim) == {
        "embed_dim": 128,
        "hidden": None,
        "temperature": 0.2,
        "queue": 65536,
        "momentum": 0.999,
        "width": 256,
        "cells": (16, 8),
        "windows": (48, 32),
        "steps": (32, 24),
        "encoder": None,
    }
    assert (resim.method.view, resim.method.objective) == (moco_v2.view, ReSim)
    with pytest.raises(UserError, match=r"cells is \(16, 8\); the encoder's maps have \[8\] pixels"):
        made(cells=(16, 8))
    with pytest.raises(UserError, match="expected pixels, one of each for each map"):
        made(steps=(7,))
    with pytest.raises(UserError, match="expected pixels, one of each for each map"):
        made(windows=(9, 0))
