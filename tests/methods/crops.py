"""An encoder of cells, and two crops of five images, for methods that match places."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl.transforms.image import ImagePreprocess
from mmssl.types import Batch, Encoder, Features

SIDE = 3  # cells
PRESENT = torch.tensor([True, True, False, True, True])


class Cells(Encoder):
    """A linear layer on the averages of 3 x 3 cells; it has no state."""

    modality, dim = "image", 5

    def __init__(self) -> None:
        super().__init__()
        self.preprocess, self.layer = ImagePreprocess(12), nn.Linear(3, self.dim)

    def forward(self, x: Tensor) -> Features:
        cells = self.layer(F.adaptive_avg_pool2d(x, SIDE).flatten(2).mT)
        return Features(cells.mean(dim=1), cells, grid=(SIDE, SIDE))


def shown() -> Batch:
    """Two crops: the second image's share nothing, the third is absent, a crop of the fourth is mirrored."""
    places = torch.tensor([
        [[[32.0, 0, 0], [0, 32, 0]], [[16.0, 0, 8], [0, 24, 4]]],
        [[[16.0, 0, 0], [0, 16, 0]], [[12.0, 0, 40], [0, 12, 40]]],
        [[[32.0, 0, 0], [0, 32, 0]], [[32.0, 0, 0], [0, 32, 0]]],
        [[[-20.0, 0, 30], [0, 20, 5]], [[24.0, 0, 6], [0, 16, 3]]],
        [[[30.0, 0, 2], [0, 28, 1]], [[28.0, 0, 6], [0, 30, 3]]],
    ])  # fmt: skip
    return Batch(
        {"image": [torch.randn(5, 3, 12, 12) for _ in range(2)]},
        extra={"image_present": PRESENT},
        places={"image": list(places.unbind(1))},
    )


def matches(batch: Batch, row: int, mine: int, radius: float) -> list[list[int]]:
    """Returns the cells of the other view that match each cell of one: Xie et al., CVPR 2021, eq. 1, cell by cell."""
    found = []
    for i in range(SIDE**2):
        near = []
        for j in range(SIDE**2):
            centres, diagonals = [], []
            for view, cell in ((mine, i), (1 - mine, j)):
                (a, _, left), (_, d, top) = batch.places["image"][view][row].tolist()
                centres.append((left + a * (cell % SIDE + 0.5) / SIDE, top + d * (cell // SIDE + 0.5) / SIDE))
                diagonals.append(math.hypot(a / SIDE, d / SIDE))
            near += [j] if math.dist(*centres) <= radius * max(diagonals) else []
        found.append(near)
    return found
