"""EsViT by its formula (Li et al., ICLR 2022, eqs. 1 and 2), a region at a time."""

from __future__ import annotations

import sys
from math import cos, pi
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.methods import esvit
from mmssl.methods.esvit import EsViT
from mmssl.views import dino

sys.path.insert(0, str(Path(__file__).parent))
from by_hand import defaults, perceptron, pictures, same, shake, unit
from picture_cells import PictureCells

OPTIONS: dict[str, Any] = {
    "prototypes": 5,
    "bottleneck": 4,
    "hidden": (7, 3),
    "student_temperature": 0.3,
    "teacher_temperature": (0.2, 0.5),
    "warmup": 0.4,
    "memory": 0.7,
    "momentum": 0.8,
    "frozen": 0.0,
}
ROWS = [0, 2, 3, 5]  # that are present


def made(**options: Any) -> tuple[PictureCells, EsViT]:
    torch.manual_seed(0)
    encoder = PictureCells()
    objective = EsViT({"image": encoder}, **OPTIONS | options)
    shake(objective, encoder)
    for centre in (objective.centre, objective.region_centre):
        centre.copy_(torch.randn(5))
    return encoder, objective


def scores(x: Tensor, head: Any, prototypes: Any) -> Tensor:
    """Cosines of the embedding with the prototypes, times their lengths."""
    found = unit(perceptron(head, x, act=F.gelu)) @ unit(prototypes.directions).T
    return found if prototypes.lengths is None else found * prototypes.lengths


def entropy(target: Tensor, centre: Tensor, sharp: float, said: Tensor) -> Tensor:
    """The cross-entropy of one distribution with another."""
    return -(((target - centre) / sharp).softmax(dim=0) * (said / 0.3).log_softmax(dim=0)).sum()


@pytest.mark.parametrize("options", [{}, {"weight": 0.3, "lengths": False}])
def test_views_and_regions_say_what_the_teacher_says(options: dict[str, Any]) -> None:
    encoder, objective = made(**options)
    shown = pictures([16, 16, 8], 6, absent=[1, 4])
    teacher, weight = objective.teacher, options.get("weight", 0.5)
    seen = [encoder(x) for x in shown.views["image"]]
    taught = [teacher.encoder(x) for x in shown.views["image"][:2]]
    losses, used = [], set()
    for s in range(3):
        for t in range(2):
            for row in ROWS if s != t else []:
                target = scores(taught[t].pooled[row], teacher.head, objective.teacher_prototypes).detach()
                said = scores(seen[s].pooled[row], objective.head, objective.prototypes)
                whole, regions = entropy(target, objective.centre, 0.2, said), []
                for token in seen[s].tokens[row]:
                    match = int((unit(taught[t].tokens[row]) @ unit(token)).argmax())
                    used.add(match)
                    goal = taught[t].tokens[row, match]
                    target = scores(goal, objective.teacher_region_head, objective.teacher_region_prototypes).detach()
                    said = scores(token, objective.region_head, objective.region_prototypes)
                    regions.append(entropy(target, objective.region_centre, 0.2, said))
                losses.append((1 - weight) * whole + weight * torch.stack(regions).mean())
    assert len(used) > 3, "the case tells regions apart"
    found = objective({"image": encoder}, shown)
    same(found.total, torch.stack(losses).mean(), encoder, objective)


@pytest.mark.parametrize("progress", [0.0, 0.3])
def test_what_follows_the_network(progress: float) -> None:
    encoder, objective = made(frozen=0.2)
    shown = pictures([16, 16, 8], 6, absent=[1, 4])
    objective({"image": encoder}, shown)
    taught = torch.cat([objective.teacher.encoder(x).tokens[ROWS].flatten(0, 1) for x in shown.views["image"][:2]])
    average = scores(taught, objective.teacher_region_head, objective.teacher_region_prototypes).mean(dim=0)
    centre = objective.region_centre.clone()
    pairs = [
        (objective.teacher_region_head, objective.region_head),
        (objective.teacher_region_prototypes, objective.region_prototypes),
        (objective.teacher.encoder, encoder),
    ]
    before = [[p.clone() for p in old.parameters()] for old, _ in pairs]
    objective.after_step({"image": encoder}, progress)
    decay = 1 - (1 - 0.8) * (cos(pi * progress) + 1) / 2
    for (old, new), was in zip(pairs, before, strict=True):
        for p, q, r in zip(old.parameters(), new.parameters(), was, strict=True):
            torch.testing.assert_close(p, decay * r + (1 - decay) * q)
            assert not p.requires_grad
    torch.testing.assert_close(objective.region_centre, 0.7 * centre + 0.3 * average.detach())
    assert float(objective.region_prototypes.trainable) == (progress >= 0.2)


def test_both_kinds_of_prototypes_begin_frozen() -> None:
    fresh = EsViT({"image": PictureCells()}, **OPTIONS | {"frozen": 0.2})
    assert not fresh.prototypes.trainable and not fresh.region_prototypes.trainable


def test_options_and_defaults_are_the_papers() -> None:
    """As the authors' command for Swin-T: norm_last_layer false, teacher_temp 0.07 after 30 of 300 epochs."""
    assert defaults(EsViT) == {
        "prototypes": 65536,
        "bottleneck": 256,
        "hidden": (2048, 2048),
        "norm": False,
        "lengths": True,
        "student_temperature": 0.1,
        "teacher_temperature": (0.04, 0.07),
        "warmup": 0.1,
        "memory": 0.9,
        "momentum": 0.996,
        "frozen": 1 / 300,
        "weight": 0.5,
        "encoder": None,
    }
    assert (esvit.method.view, esvit.method.objective) == (dino.view, EsViT)
    _, objective = made(norm=True)
    assert [type(m).__name__ for m in objective.region_head.layers][1:3] == ["BatchNorm1d", "GELU"]
    with pytest.raises(UserError, match=r"weight is 1\.5; expected the share"):
        made(weight=1.5)
