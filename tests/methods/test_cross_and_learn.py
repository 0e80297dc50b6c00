"""Cross and Learn by its formula (Sayed et al., GCPR 2018): agreement across modalities, diversity within each."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.methods.cross_and_learn import CrossAndLearn
from mmssl.nn.head import Rectified
from mmssl.transforms.flow import FlowPreprocess
from mmssl.types import Batch, Encoder, Features

sys.path.insert(0, str(Path(__file__).parent))
from by_hand import Tiny, defaults, pictures, same, shake


class Seeing(Tiny):
    """A picture to 6 numbers in each of 2 x 2 cells."""

    def forward(self, x: Tensor) -> Features:
        cells = self.layer(4 * x.float() - 2).tanh()
        return Features(cells.mean(dim=(2, 3)), cells.flatten(2).mT, (2, 2))


class Moving(Seeing):
    """Flow of two steps likewise."""

    modality = "flow"

    def __init__(self) -> None:
        super().__init__()
        self.preprocess = FlowPreprocess(size=16, frames=2)

    def forward(self, x: Tensor) -> Features:
        return super().forward(x[:, 0, :, :4, :4].repeat(1, 2, 1, 1)[:, :3])


def made(**options: Any) -> tuple[dict[str, Encoder], CrossAndLearn]:
    torch.manual_seed(3)
    encoders: dict[str, Encoder] = {"image": Seeing(), "flow": Moving()}
    objective = CrossAndLearn(encoders, **{"embed_dim": 8, "dropout": 0.0, **options})
    shake(objective)
    return encoders, objective


def shown(rows: int, *, without: tuple[int, ...] = ()) -> Batch:
    batch = pictures([4], rows, absent=without)
    batch.views["flow"] = [torch.randn(rows, 2, 2, 4, 4, generator=torch.Generator().manual_seed(8))]
    batch.extra["flow_present"] = torch.ones(rows, dtype=torch.bool)
    return batch


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / (a.square().sum() * b.square().sum()).sqrt()


@pytest.mark.parametrize("diversity, cells", [(0.5, True), (0.2, True), (0.2, False)])
def test_frame_and_flow_agree_and_two_films_do_not(diversity: float, cells: bool) -> None:
    encoders, objective = made(diversity=diversity, cells=cells)
    batch, rows = shown(6, without=(2,)), [0, 1, 3, 4, 5]
    fc6 = {}
    for key, head in (("image", objective.image), ("flow", objective.flow)):
        _, layer, _ = head.layers
        features = encoders[key](batch.views[key][0])
        read = features.tokens.reshape(6, 4 * 6) if cells else features.pooled
        fc6[key] = F.linear(read, layer.weight, layer.bias).clamp(min=0)
    total, agree, alike = torch.zeros(()), [], []
    for row, other in zip(rows, [1, 3, 4, 5, 0], strict=True):
        agree.append(cosine(fc6["image"][row], fc6["flow"][row]))
        alike += [cosine(fc6[key][row], fc6[key][other]) for key in fc6]
        # the authors' loss, whose w is 1 - diversity: (1 - w) false - w true, of two each
        total = total + diversity * (alike[-2] + alike[-1]) - 2 * (1 - diversity) * agree[-1]
    found = objective(encoders, batch)
    same(found.total, total / 5 + 2 * (1 - diversity), objective, encoders["image"], encoders["flow"])
    assert float(found.logs["agreement"]) == pytest.approx(float(torch.stack(agree).mean().detach()), rel=1e-5)
    assert float(found.logs["likeness"]) == pytest.approx(float(torch.stack(alike).mean().detach()), rel=1e-5)
    assert (found.embeddings["image"] >= 0).all() and found.embeddings["flow"].norm(dim=1) == pytest.approx(1)


def test_a_film_alone_has_no_other_one() -> None:
    encoders, objective = made()
    found = objective(encoders, shown(3, without=(0, 2)))
    expected = 1 - found.logs["agreement"]
    torch.testing.assert_close(found.total.detach(), expected)


def test_defaults_are_the_authors() -> None:
    """main.py and exp_pt.py: fc6 of CaffeNet, weight_pos and dropout 0.5."""
    assert defaults(CrossAndLearn) == {"embed_dim": 4096, "cells": True, "dropout": 0.5, "diversity": 0.5}


def test_the_head_drops_what_it_reads() -> None:
    torch.manual_seed(0)
    head = Rectified(64, out=8, dropout=0.9)
    x = Features(torch.rand(1, 64))
    assert not torch.equal(head(x), head(x)) and head.config() == {"dim": 64, "out": 8, "dropout": 0.9, "cells": False}
    head.eval()
    expected = F.linear(x.pooled, head.layers[1].weight, head.layers[1].bias).clamp(min=0)
    torch.testing.assert_close(head(x), expected / expected.norm())
