"""Which weights train, by which options and from when."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmssl.errors import UserError
from mmssl.multitask import MultiTask
from mmssl.optim.groups import GroupOptions
from mmssl.types import Encoder, Features, Objective
from mmssl.weights import Frozen, group_options, still, weights_until


class Image(Encoder):
    """A stem, two blocks with BatchNorm and dropout, and a norm."""

    modality = "image"

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(3, 4)
        self.blocks = nn.Sequential(
            *(nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), nn.Dropout(0.5)) for _ in range(2))
        )
        self.norm = nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Features:
        return Features(self.norm(self.blocks(self.stem(x))))


class Task(Objective):
    """Owns a head, and a copy of the encoder."""

    def __init__(self, encoders: Mapping[str, Encoder]) -> None:
        super().__init__(encoders)
        self.head = nn.Linear(4, 2)
        self.teacher = copy.deepcopy(encoders["image"]).requires_grad_(False)


def built(until: Mapping[str, float] | None = None) -> MultiTask:
    encoders: dict[str, Encoder] = {"image": Image()}
    still(encoders, until or {})
    return MultiTask(encoders, {"clip": Task(encoders)}, {"clip": 1.0})


def by_name(model: MultiTask, **groups: GroupOptions) -> dict[str, dict[str, Any]]:
    found = group_options(model, {key.replace("__", "."): value for key, value in groups.items()})
    return {key: found[id(p)] for key, p in model.named_parameters() if id(p) in found}


def test_options_are_those_of_the_part_on_those_around_it() -> None:
    found = by_name(
        built(),
        image__blocks__1=GroupOptions(weight_decay=0.5),
        image=GroupOptions(lr=1e-3, warmup=7),
        heads__clip__head=GroupOptions(final_lr=1.0),
    )
    image = {"lr": 1e-3, "lr_scale": 1.0, "warmup": 7, "part": "image"}
    assert found["encoders.image.stem.weight"] == found["encoders.image.blocks.0.0.0.weight"] == image
    inner = {**image, "weight_decay": 0.5, "part": "image.blocks.1"}
    assert found["encoders.image.blocks.1.0.0.bias"] == found["encoders.image.blocks.1.0.1.weight"] == inner
    assert found["objectives.clip.head.weight"] == {"final_lr": 1.0, "part": "heads.clip.head"}
    assert len(found) == 14 and not any("teacher" in key for key in found)


def test_layers_have_rates_by_their_depth_unless_a_part_has_its_own() -> None:
    found = by_name(built(), image=GroupOptions(layer_decay=0.5), image__norm=GroupOptions(lr=3.0))
    scales = {key.removeprefix("encoders.image."): options["lr_scale"] for key, options in found.items()}
    assert [scales[f"{part}.weight"] for part in ("stem", "blocks.0.0.0", "blocks.1.0.1")] == [0.125, 0.25, 0.5]
    assert found["encoders.image.norm.bias"] == {"lr": 3.0, "lr_scale": 1.0, "part": "image.norm"}
    assert "lr" not in found["encoders.image.stem.bias"]


def test_what_is_refused() -> None:
    with pytest.raises(UserError, match=r"^optim\.groups: image has no part 'block'; did you mean 'blocks'\?$"):
        by_name(built(), image__block=GroupOptions())
    with pytest.raises(UserError, match=r"^optim\.groups: heads has no part 'clop'; did you mean 'clip'\?$"):
        by_name(built(), heads__clop=GroupOptions())
    for name in ("heads", "image__blocks"):
        with pytest.raises(
            UserError, match=rf"^optim\.groups\.{name.replace('__', '.')}\.layer_decay counts the layers"
        ):
            by_name(built(), **{name: GroupOptions(layer_decay=0.5)})
    with pytest.raises(UserError, match=r"^train\.freeze: image\.blocks has no parts '0-2'; it has 0 to 1$"):
        built({"image.blocks.0-2": 1.0})


def modes(encoder: Image) -> list[bool]:
    """Tells whether the stem, the BatchNorm and the dropout of each block, and the norm are in training mode."""
    blocks = [part.training for block in encoder.blocks for part in (block[0][1], block[1])]
    return [encoder.stem.training, *blocks, encoder.norm.training]


def trained(model: MultiTask) -> set[str]:
    return {key.removeprefix("encoders.image.") for key, p in model.named_parameters() if p.requires_grad}


def test_a_frozen_part_keeps_its_statistics_as_do_its_copies_until_its_time() -> None:
    until = {"image.blocks": 0.5, "image.blocks.0": 1.0, "image.stem.bias": 0.25}
    model = built(until)
    everything = trained(model)
    encoder = model.encoders["image"]
    teacher = model.objectives["clip"].teacher
    for weight, share in weights_until(model.named_encoders, until).items():
        weight.requires_grad_(share < 1)
    frozen = Frozen(model, until)
    first = {key for key in everything if key.startswith("blocks.0")}
    second = {key for key in everything if key.startswith("blocks.1")}
    assert len(first) == len(second) == 4
    assert frozen.release(0.0) == [] and trained(model) == everything - first - second - {"stem.bias"}
    assert modes(encoder) == modes(teacher) == [True, False, False, False, False, True]
    before = [norm.running_mean.clone() for norm in (encoder.blocks[0][0][1], encoder.blocks[1][0][1])]
    encoder(torch.randn(8, 3))
    assert all(torch.equal(a, block[0][1].running_mean) for a, block in zip(before, encoder.blocks, strict=True))
    assert frozen.release(0.4999) == ["image.stem.bias"] and trained(model) == everything - first - second
    assert frozen.release(0.5) == ["image.blocks"] and trained(model) == everything - first
    assert modes(encoder) == modes(teacher) == [True, False, False, True, True, True]
    encoder(torch.randn(8, 3))
    assert torch.equal(before[0], encoder.blocks[0][0][1].running_mean)
    assert not torch.equal(before[1], encoder.blocks[1][0][1].running_mean)
    assert frozen.release(0.999) == []
    assert not any(p.requires_grad for p in teacher.parameters())


def test_what_no_loss_reaches_stays_frozen() -> None:
    model = built({"image": 0.5})
    model.encoders["image"].norm.requires_grad_(False)
    frozen = Frozen(model, {"image": 0.5})
    frozen.release(0.75)
    assert not model.encoders["image"].norm.weight.requires_grad and model.encoders["image"].stem.weight.requires_grad
