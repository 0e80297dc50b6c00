"""PixPro and PixContrast by their formulas (Xie et al., CVPR 2021, eqs. 1 to 5), a cell at a time."""

from __future__ import annotations

import sys
from collections.abc import Callable
from math import cos, pi
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.methods import pixcontrast, pixpro
from mmssl.methods.pixcontrast import PixContrast
from mmssl.methods.pixpro import PixPro
from mmssl.objectives.cell_pairs import CellPairs
from mmssl.types import Batch, Features
from mmssl.views import byol

sys.path.insert(0, str(Path(__file__).parent))
from by_hand import defaults, perceptron, same, shake, unit
from crops import Cells, matches, shown

Cost = Callable[[list[Tensor], list[Tensor], list[list[int]]], Tensor]


def made(kind: type[CellPairs], **options: Any) -> tuple[Cells, Any]:
    torch.manual_seed(0)
    encoder = Cells()
    objective = kind({"image": encoder}, **{"embed_dim": 6, "hidden": (7,), **options}).eval()
    shake(encoder, objective)
    return encoder, objective


def agreement(objective: PixPro, transform: Callable[[Tensor], Tensor]) -> Cost:
    def cost(mine: list[Tensor], taught: list[Tensor], near: list[list[int]]) -> Tensor:
        cosines = []
        for i, x in enumerate(mine):
            alike = [(unit(x) @ unit(y)).clamp(min=0) ** objective.propagation.sharpness for y in mine]
            smooth = sum(s * unit(transform(y)) for s, y in zip(alike, mine, strict=True))
            cosines += [unit(smooth) @ unit(taught[j]) for j in near[i]]
        return -torch.stack(cosines).mean()

    return cost


def contrast(temperature: float) -> Cost:
    def cost(mine: list[Tensor], taught: list[Tensor], near: list[list[int]]) -> Tensor:
        losses = []
        for i, x in enumerate(mine):
            shares = torch.stack([unit(x) @ unit(y) for y in taught]).div(temperature).exp()
            losses += [-(shares[near[i]].sum() / shares.sum()).log()] if near[i] else []
        return torch.stack(losses).mean()

    return cost


def by_formula(objective: CellPairs, encoder: Cells, batch: Batch, radius: float, cost: Cost) -> Tensor:
    """The mean over images that are present; one whose crops share nothing costs nothing."""
    views, teacher, images = batch.views["image"], objective.teacher, []
    for row in batch.extra["image_present"].nonzero()[:, 0].tolist():
        image = torch.zeros(())
        for mine in (0, 1):
            x = [objective.head.layers(c[None])[0] for c in encoder(views[mine]).tokens[row]]
            y = [teacher.head.layers(c[None])[0].detach() for c in teacher.encoder(views[1 - mine]).tokens[row]]
            near = matches(batch, row, mine, radius)
            image = image + (cost(x, y, near) if any(near) else 0)
        images.append(image)
    return torch.stack(images).mean()


@pytest.mark.parametrize(
    ("options", "radius", "layers"),
    [({}, 0.7, 1), ({"sharpness": 1.0, "radius": 1.3}, 1.3, 1), ({"layers": 0}, 0.7, 0), ({"layers": 2}, 0.7, 2)],
)
def test_propagated_cells_agree_with_the_teachers(options: dict[str, Any], radius: float, layers: int) -> None:
    encoder, objective = made(PixPro, **options)
    linear = [m for m in objective.propagation.transform if isinstance(m, torch.nn.Linear)]
    assert len(linear) == layers and all(m.in_features == m.out_features == 6 for m in linear)

    def transform(x: Tensor) -> Tensor:
        return objective.propagation.transform(x[None])[0] if layers == 2 else linear[0](x) if layers else x

    batch = shown()
    expected = by_formula(objective, encoder, batch, radius, agreement(objective, transform))
    loss = objective({"image": encoder}, batch)
    same(loss.total, expected, encoder, objective)
    embedded = objective.head.layers(encoder(batch.views["image"][0]).tokens.flatten(0, 1)).view(5, 9, 6).mean(dim=1)
    torch.testing.assert_close(loss.embeddings["image"], embedded.detach())
    matched = [sum(map(bool, matches(batch, row, 0, radius))) / 9 for row in (0, 1, 3, 4)]
    torch.testing.assert_close(loss.logs["matched"], torch.tensor(matched).mean())
    assert matched[1] == 0 and not loss.embeddings["image"].requires_grad


@pytest.mark.parametrize(("options", "temperature", "radius"), [({}, 0.3, 0.7), ({"temperature": 0.8, "radius": 1.2}, 0.8, 1.2)])
def test_cells_find_the_teachers(options: dict[str, Any], temperature: float, radius: float) -> None:
    encoder, objective = made(PixContrast, **options)
    batch = shown()
    expected = by_formula(objective, encoder, batch, radius, contrast(temperature))
    same(objective({"image": encoder}, batch).total, expected, encoder, objective)


@pytest.mark.parametrize("kind", [PixPro, PixContrast])
def test_whole_crops_count_by_their_weight(kind: type[CellPairs]) -> None:
    """As BYOL has it, with a mean over cells behind the predictor and behind the teacher's projection."""
    encoder, objective = made(kind, instance=0.4)
    batch, part = shown(), objective.instance
    alone = objective({"image": encoder}, batch).total
    objective.instance = None
    cells = objective({"image": encoder}, batch).total
    objective.instance = part
    costs = []
    for one, other in ((0, 1), (1, 0)):
        tokens = encoder(batch.views["image"][one]).tokens
        asked = part.predictor(part.head.layers(tokens.flatten(0, 1))).view(5, 9, 6).mean(dim=1)
        tokens = objective.teacher.encoder(batch.views["image"][other]).tokens
        goal = part.teacher.layers(tokens.flatten(0, 1)).view(5, 9, 6).mean(dim=1).detach()
        costs.append(-(unit(asked) * unit(goal)).sum(dim=1)[[0, 1, 3, 4]].mean())
    same(alone - cells, 0.4 * sum(costs), part, encoder) if False else None
    torch.testing.assert_close(alone - cells, 0.4 * sum(costs), rtol=1e-4, atol=1e-6)
