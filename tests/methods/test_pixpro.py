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

from mmssl.errors import UserError
from mmssl.methods import pixcontrast, pixpro
from mmssl.methods.pixcontrast import PixContrast
from mmssl.methods.pixpro import PixPro
from mmssl.objectives.cell_pairs import CellPairs
from mmssl.types import Batch, Features
from mmssl.views import byol

sys.path.insert(0, str(Path(__file__).parent))
from by_hand import defaults, same, shake, unit
from crops import PRESENT, Cells, matches, shown

Cost = Callable[[list[Tensor], list[Tensor], list[list[int]]], Tensor]


def made(kind: type[CellPairs], **options: Any) -> tuple[Cells, Any]:
    torch.manual_seed(0)
    encoder = Cells()
    objective = kind({"image": encoder}, **{"embed_dim": 6, "hidden": (7,), **options}).eval()
    shake(encoder, objective)
    with torch.no_grad():
        encoder.layer.weight.mul_(30)  # so that cells point into opposite directions, too
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
    cells = unit(objective.head.project_tokens(encoder(batch.views["image"][0])))
    assert 0.05 < (cells @ cells.mT < 0).float().mean() < 0.9, "some cells are unlike"
    expected = by_formula(objective, encoder, batch, radius, agreement(objective, transform))
    loss = objective({"image": encoder}, batch)
    same(loss.total, expected, encoder, objective)
    embedded = objective.head.layers(encoder(batch.views["image"][0]).tokens.flatten(0, 1)).view(5, 9, 6).mean(dim=1)
    torch.testing.assert_close(loss.embeddings["image"], embedded.detach())
    matched = [sum(map(bool, matches(batch, row, 0, radius))) / 9 for row in (0, 1, 3, 4)]
    torch.testing.assert_close(loss.logs["matched"], torch.tensor(matched).mean())
    assert matched[1] == 0 and not loss.embeddings["image"].requires_grad


@pytest.mark.parametrize(
    ("options", "temperature", "radius"), [({}, 0.3, 0.7), ({"temperature": 0.8, "radius": 1.2}, 0.8, 1.2)]
)
def test_cells_find_the_teachers(options: dict[str, Any], temperature: float, radius: float) -> None:
    encoder, objective = made(PixContrast, **options)
    batch = shown()
    expected = by_formula(objective, encoder, batch, radius, contrast(temperature))
    same(objective({"image": encoder}, batch).total, expected, encoder, objective)


def whole(objective: Any, encoder: Cells, batch: Batch) -> Tensor:
    """BYOL's loss of whole crops, with means over cells behind the predictor and behind the teacher's projection."""
    part, views, costs = objective.instance, batch.views["image"], []
    for one, other in ((0, 1), (1, 0)):
        asked = part.predictor(part.head.layers(encoder(views[one]).tokens.flatten(0, 1))).view(5, 9, 6).mean(dim=1)
        goal = part.teacher.layers(objective.teacher.encoder(views[other]).tokens.flatten(0, 1)).view(5, 9, 6)
        costs.append(-(unit(asked) * unit(goal.mean(dim=1).detach())).sum(dim=1)[PRESENT].mean())
    return sum(costs, torch.zeros(()))


def test_whole_crops_count_by_their_weight() -> None:
    encoder, objective = made(PixContrast, instance=0.4)
    batch = shown()
    cells = by_formula(objective, encoder, batch, 0.7, contrast(0.3))
    expected = cells + 0.4 * whole(objective, encoder, batch)
    same(objective({"image": encoder}, batch).total, expected, encoder, objective)


def test_the_teachers_follow_ever_slower() -> None:
    encoder, objective = made(PixPro, momentum=0.8, instance=1.0)
    pairs = [
        (objective.teacher.encoder, encoder),
        (objective.teacher.head, objective.head),
        (objective.instance.teacher, objective.instance.head),
    ]
    before = [[p.clone() for p in old.parameters()] for old, _ in pairs]
    objective.after_step({"image": encoder}, 1 / 3)
    decay = 1 - (1 - 0.8) * (cos(pi / 3) + 1) / 2
    for (old, new), was in zip(pairs, before, strict=True):
        for p, q, r in zip(old.parameters(), new.parameters(), was, strict=True):
            torch.testing.assert_close(p, decay * r + (1 - decay) * q)
            assert not p.requires_grad
    assert objective.spaces() == {"image": objective.head}


def test_heads_have_norm_and_biases_as_the_authors_have() -> None:
    _, objective = made(PixPro, hidden=(7,), instance=1.0)
    for layers in (objective.head.layers, objective.instance.head.layers, objective.instance.predictor):
        assert [type(m).__name__ for m in layers] == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
        assert layers[0].out_features == 7 and layers[-1].out_features == 6 and layers[-1].bias is not None


def test_what_cannot_be_compared_is_refused() -> None:
    encoder, objective = made(PixPro)
    batch = shown()
    batch.places.clear()
    with pytest.raises(UserError, match="compares places, and its view does not say where"):
        objective({"image": encoder}, batch)
    encoder.forward = lambda x: Features(x.mean((2, 3)), x.flatten(2).mT)  # type: ignore[assignment]
    with pytest.raises(UserError, match="lie on no grid"):
        objective({"image": encoder}, shown())
    with pytest.raises(UserError, match=r"radius is 0\.0 and instance 0\.0; expected"):
        made(PixContrast, radius=0.0)
    with pytest.raises(UserError, match=r"instance -1\.0; expected"):
        made(PixPro, instance=-1.0)
    with pytest.raises(UserError, match=r"sharpness is 0\.5 and layers 1; expected at least 1"):
        made(PixPro, sharpness=0.5)


def test_defaults_are_the_papers() -> None:
    alike = {"embed_dim": 256, "hidden": (2048,), "radius": 0.7, "momentum": 0.99, "instance": 0.0, "encoder": None}
    assert defaults(PixPro) == alike | {"sharpness": 2.0, "layers": 1}
    assert defaults(PixContrast) == alike | {"temperature": 0.3}
    assert pixpro.method.view is pixcontrast.method.view is byol.view
    assert (pixpro.method.objective, pixcontrast.method.objective) == (PixPro, PixContrast)
