"""DINO by its formula (Caron et al., ICCV 2021), written in plain torch from its own heads."""

from __future__ import annotations

import sys
from math import cos, pi
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.encoders import create_encoder
from mmssl.methods import dino
from mmssl.methods.dino import DINO
from mmssl.transforms.color import Blur, ColorJitter, Grayscale, Solarize
from mmssl.transforms.image import Crop, Flip
from mmssl.types import Batch

sys.path.insert(0, str(Path(__file__).parent))
from by_hand import Tiny, defaults, perceptron, pictures, same, shake, unit

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


def made(**options: Any) -> tuple[Tiny, DINO]:
    encoder = Tiny()
    objective = DINO({"image": encoder}, **OPTIONS | options)
    shake(objective.head, objective.teacher, objective.prototypes, objective.teacher_prototypes)
    objective.centre.copy_(torch.randn(5))
    return encoder, objective


def scores(x: Tensor, head: Any, prototypes: Any, *, norm: bool) -> Tensor:
    """Cosines of the embedding with the prototypes, times their lengths."""
    embedded = unit(perceptron(head, x, act=F.gelu, norm=norm))
    found = embedded @ unit(prototypes.directions).T
    return found if prototypes.lengths is None else found * prototypes.lengths


def taught(objective: DINO, shown: Batch, *, norm: bool) -> list[Tensor]:
    """What the teacher says of the two large views; both pass through its encoder."""
    teacher = objective.teacher
    return [
        scores(teacher.encoder(x).pooled, teacher.head, objective.teacher_prototypes, norm=norm).detach()
        for x in shown.views["image"][:2]
    ]


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("lengths", [False, True])
def test_the_loss_is_the_papers_in_value_and_gradient(norm: bool, lengths: bool) -> None:
    encoder, objective = made(norm=norm, lengths=lengths)
    objective.after_step({"image": encoder}, 0.1)
    shake(objective.teacher, objective.teacher_prototypes)
    objective.centre.copy_(torch.randn(5))
    shown = pictures([4, 4, 2, 2], 6, absent=[1, 4])
    found = objective({"image": encoder}, shown)

    sharp = 0.2 + (0.5 - 0.2) * 0.1 / 0.4
    targets = taught(objective, shown, norm=norm)
    said = [scores(encoder(x).pooled, objective.head, objective.prototypes, norm=norm) for x in shown.views["image"]]
    losses = []
    for t in range(2):
        for s in range(4):
            for row in (0, 2, 3, 5) if s != t else ():
                p = ((targets[t][row] - objective.centre) / sharp).softmax(dim=0)
                losses.append(-(p * (said[s][row] / 0.3).log_softmax(dim=0)).sum())
    same(found.total, torch.stack(losses).mean(), encoder, objective)

    embedded = unit(perceptron(objective.head, encoder(shown.views["image"][0]).pooled, act=F.gelu, norm=norm))
    torch.testing.assert_close(found.embeddings["image"], embedded.detach())
    assert not found.embeddings["image"].requires_grad
    rows = torch.cat([x[[0, 2, 3, 5]] for x in targets])
    shares = ((rows - objective.centre) / sharp).softmax(dim=1).mean(dim=0)
    torch.testing.assert_close(found.logs["assignment_entropy"], -(shares * shares.log()).sum() / torch.tensor(5).log())
    torch.testing.assert_close(found.logs["teacher_temperature"], torch.tensor(sharp))
    assert not objective.teacher_prototypes.directions.requires_grad


@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
def test_what_follows_the_network(progress: float) -> None:
    encoder, objective = made(lengths=True)
    shown = pictures([4, 4, 2], 6, absent=[1, 4])
    told = objective({"image": encoder}, shown).logs["teacher_temperature"]
    targets = taught(objective, shown, norm=False)
    centre = objective.centre.clone()
    pairs = [
        (objective.teacher.encoder, encoder),
        (objective.teacher.head, objective.head),
        (objective.teacher_prototypes, objective.prototypes),
    ]
    before = [[p.clone() for p in old.parameters()] for old, _ in pairs]
    objective.after_step({"image": encoder}, progress)
    decay = 1 - (1 - 0.8) * (cos(pi * progress) + 1) / 2
    for (old, new), was in zip(pairs, before, strict=True):
        for p, q, r in zip(old.parameters(), new.parameters(), was, strict=True):
            torch.testing.assert_close(p, decay * r + (1 - decay) * q)
    average = torch.cat([x[[0, 2, 3, 5]] for x in targets]).mean(dim=0)
    torch.testing.assert_close(objective.centre, 0.7 * centre + 0.3 * average)
    torch.testing.assert_close(told, torch.tensor(0.2), msg="what was told stays")


def test_the_centre_stays_where_nothing_was_seen() -> None:
    encoder, objective = made()
    centre = objective.centre.clone()
    objective.after_step({"image": encoder}, 0.1)
    assert objective.centre.equal(centre), "no batch yet"
    objective.eval()({"image": encoder}, pictures([4, 4], 3))
    objective.after_step({"image": encoder}, 0.1)
    assert objective.centre.equal(centre), "an evaluation leaves no trace"
    objective.train()({"image": encoder}, pictures([4, 4], 3, absent=[0, 1, 2]))
    objective.after_step({"image": encoder}, 0.1)
    assert objective.centre.equal(centre), "no sample has an image"
    objective({"image": encoder}, pictures([4, 4], 3, absent=[0, 1]))
    objective.after_step({"image": encoder}, 0.1)
    assert not objective.centre.isclose(centre).any(), "one has"


def test_the_temperature_rises_and_the_prototypes_thaw_in_their_time() -> None:
    encoder, objective = made(frozen=0.25)
    found = []
    for progress in (None, 0.0, 0.2, 0.25, 0.4, 0.9):
        if progress is not None:
            objective.after_step({"image": encoder}, progress)
        found.append((round(float(objective.temperature), 5), float(objective.prototypes.trainable)))
    assert found == [(0.2, 0.0), (0.2, 0.0), (0.35, 0.0), (0.3875, 1.0), (0.5, 1.0), (0.5, 1.0)]
    assert DINO({"image": encoder}, **OPTIONS).prototypes.trainable == 1, "frozen: 0"


def test_a_new_teacher_is_the_network_without_drop_path() -> None:
    vit = create_encoder("vit", image_size=8, patch_size=4, width=8, depth=2, heads=2, drop_path=0.5)
    objective = DINO({"image": vit}, **OPTIONS)
    x = torch.rand(6, 3, 8, 8)
    (first,), (second,) = objective.teacher([x], 6), objective.teacher([x], 6)
    assert first.equal(second)
    torch.testing.assert_close(first, objective.head.project(vit.eval()(x).pooled).detach())
    assert not any(p.requires_grad for p in objective.teacher.parameters())
    for mine, theirs in zip(objective.teacher_prototypes.parameters(), objective.prototypes.parameters(), strict=True):
        assert mine.equal(theirs) and not mine.requires_grad
    assert not objective.centre.any()
    assert objective.extra_encoders() == {"image_teacher": objective.teacher.encoder}
    assert objective.spaces() == {"image": objective.head}
    named = {"a": Tiny(), "b": Tiny()}
    other = DINO(named, **OPTIONS, encoder="b")
    assert other.uses == ("b",) and list(other.extra_encoders()) == ["b_teacher"] and list(other.spaces()) == ["b"]


def test_defaults_are_the_papers() -> None:
    """main_dino.py: out_dim, head of 3 layers of 2048 and a bottleneck of 256, norm_last_layer, temperatures (ViT-S
    after 30 of 300 epochs), momentum_teacher, freeze_last_layer, center_momentum; DataAugmentationDINO.
    """
    assert defaults(DINO) == {
        "prototypes": 65536,
        "bottleneck": 256,
        "hidden": (2048, 2048),
        "norm": False,
        "lengths": False,
        "student_temperature": 0.1,
        "teacher_temperature": (0.04, 0.07),
        "warmup": 0.1,
        "memory": 0.9,
        "momentum": 0.996,
        "frozen": 1 / 300,
        "encoder": None,
    }
    jitter = ColorJitter(p=0.8, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)
    alike = [Flip(p=0.5), jitter, Grayscale(p=0.2)]
    first, second, *small = dino.method.view({"image": Tiny().preprocess}).steps["image"]
    assert first == [Crop(scale=(0.4, 1.0)), *alike, Blur(p=1.0), Solarize(p=0.0)]
    assert second == [Crop(scale=(0.4, 1.0)), *alike, Blur(p=0.1), Solarize(p=0.2)]
    assert small == [[Crop(scale=(0.05, 0.4), size=3 / 7), *alike, Blur(p=0.5)]] * 8
    assert dino.method.objective is DINO


def test_the_views_options_are_passed_on() -> None:
    large: dict[str, Any] = {"crop": {"scale": (0.3, 0.9)}, "color_jitter": {"hue": 0.05}, "flip": {"p": 0.9}}
    large |= {"blur": {"p": 0.6}, "solarize": {"p": [0.7, 0.8]}}
    small = {"views": 1, "image": {"crop": {"scale": (0.1, 0.2), "size": 3}, "blur": None}}
    first, second, third = dino.method.view({"image": Tiny().preprocess}, image=large, small=small).steps["image"]
    jitter = ColorJitter(p=0.8, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.05)
    assert first == [Crop(scale=(0.3, 0.9)), Flip(p=0.9), jitter, Grayscale(), Blur(p=0.6), Solarize(p=0.7)]
    assert second == [*first[:-1], Solarize(p=0.8)]
    assert third[0] == Crop(scale=(0.1, 0.2), size=3) and [type(s) for s in third[1:]] == [Flip, ColorJitter, Grayscale]
