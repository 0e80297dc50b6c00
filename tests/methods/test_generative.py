"""Methods that draw: what their views show, and their objectives against plain formulas."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl import names
from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.losses.soft_bins import soft_nll
from mmssl.methods import autoencoder, colorization, inpainting, split_brain, super_resolution
from mmssl.methods.colorization import Colorization
from mmssl.methods.inpainting import Inpainting
from mmssl.methods.split_brain import SplitBrain
from mmssl.methods.super_resolution import SuperResolution
from mmssl.nn.normalize import IMAGENET_MEAN
from mmssl.numerics.color import lab
from mmssl.transforms.image import ImagePreprocess
from mmssl.types import Batch, Encoder, View, evaluating

sys.path.insert(0, str(Path(__file__).parent))
from by_hand import epoch
from settings import batch, build

SIZE = 16
IMAGE = {"image": ImagePreprocess(size=SIZE)}
BOTH = {**IMAGE, "image_ab": ImagePreprocess(size=SIZE)}


def shown(view: View, pictures: Tensor) -> Batch:
    torch.manual_seed(0)
    return view.on_device(Batch({key: [pictures] for key in view.preprocess}))


def some(rows: int = 6) -> Tensor:
    return torch.randint(0, 256, (rows, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def encoders(*keys: str) -> dict[str, Encoder]:
    torch.manual_seed(0)
    return {key: create_encoder("convnet", image_size=SIZE, widths=(8,), depths=(1,)) for key in keys or ("image",)}


# Autoencoder


def test_damage_is_what_the_options_say() -> None:
    pictures = some(40).clamp(1, 254)
    (only,) = shown(autoencoder.method.view(IMAGE), pictures).views["image"]
    torch.testing.assert_close(only, pictures / 255)
    damaged, sound = shown(autoencoder.denoising.view(IMAGE), pictures).views["image"]
    torch.testing.assert_close(sound, pictures / 255)
    black = (damaged == 0).all(dim=1)
    assert 0.23 < black.float().mean() < 0.27
    assert torch.equal(damaged.movedim(1, -1)[~black], sound.movedim(1, -1)[~black])
    noisy, sound = shown(autoencoder.method.view(IMAGE, damage={"noise": 0.1}), pictures).views["image"]
    assert 0.099 < (noisy - sound).std() < 0.101
    grains, sound = shown(autoencoder.method.view(IMAGE, damage={"salt": 0.2}), pictures).views["image"]
    changed = (grains != sound).any(dim=1)
    assert 0.18 < changed.float().mean() < 0.22
    assert 0.45 < (grains.movedim(1, -1)[changed] == 1).all(dim=1).float().mean() < 0.55
    with pytest.raises(UserError, match="masked is 1.0"):
        autoencoder.method.view(IMAGE, damage={"masked": 1.0})


@pytest.mark.parametrize("name", ["autoencoder", "autoencoder:denoising", "autoencoder:sparse"])
def test_autoencoders_draw_the_sound_picture_from_the_code(name: str) -> None:
    model, full = build(name), batch(name, missing=False)
    objective = model.objectives[name]
    views = full.views["image"]
    raw = objective.head.project(model.encoders["image"](views[0]).pooled)
    code = raw.sigmoid() if name.endswith("sparse") else raw
    truth = views[-1] / 255
    expected = (objective.decoder(code, (16, 16)) - truth).square().mean()
    if name.endswith("sparse"):
        mean = code.mean(dim=0)
        rate = 0.05
        apart = rate * (rate / mean).log() + (1 - rate) * ((1 - rate) / (1 - mean)).log()
        expected = expected + 0.1 * apart.mean()
    torch.testing.assert_close(objective(model.encoders, full).total, expected)


def test_l1_sparsity_is_the_mean_size_behind_a_relu() -> None:
    made, _ = names.resolve("methods", "autoencoder:sparse")
    nets = encoders()
    objective = made.objective(nets, code=8, sparsity="l1", sparse=0.5, start=4, widths=(8,)).eval()
    full = batch("autoencoder", missing=False)
    with evaluating(*nets.values()):
        loss = objective(nets, full)
        code = F.relu(objective.head.project(nets["image"](full.views["image"][0]).pooled))
    torch.testing.assert_close(loss.total, loss.logs["error"] + 0.5 * code.mean())
    with pytest.raises(UserError, match="rate is 1.0"):
        made.objective(nets, rate=1.0)


# Colorization


def test_the_lightness_is_shown_and_the_colours_of_cells_are_asked_for() -> None:
    pictures = some()
    made = shown(colorization.method.view(IMAGE, lightness={"cell": 4}), pictures)
    (grey,) = made.views["image"]
    torch.testing.assert_close(grey[:, :2], grey[:, 1:])
    torch.testing.assert_close(lab(grey), F.pad(lab(pictures)[:, :1], (0, 0, 0, 0, 0, 2)), rtol=1e-3, atol=1e-2)
    wanted = lab(pictures)[:, 1:].unflatten(3, (4, 4)).unflatten(2, (4, 4)).mean((3, 5))
    torch.testing.assert_close(made.extra["colors"], wanted)
    view = colorization.method.view(IMAGE, lightness={"gray": False})
    assert torch.equal(shown(view, pictures).views["image"][0], pictures)
    with pytest.raises(UserError, match="cells of 5"):
        colorization.method.view(IMAGE, lightness={"cell": 5})


def stream(colors: Tensor) -> Iterator[Batch]:
    while True:
        yield Batch({"image": [torch.zeros(len(colors), 3, SIZE, SIZE)]}, None, {"colors": colors})


def test_colorization_learns_how_common_colours_are() -> None:
    colors = torch.zeros(10, 2, 4, 4)
    colors[9] = 60.0
    objective = Colorization(encoders(), widths=(8,), learn_from=1000)
    objective.before_epoch({}, epoch(batches=lambda: stream(colors)))
    centers, weights = objective.bins.centers, objective.bins.weights
    grey, rare = ((centers == torch.tensor(place)).all(dim=1).nonzero().item() for place in ([0, 0], [60, 60]))
    never = (centers == torch.tensor([-50.0, 50.0])).all(dim=1).nonzero().item()
    assert weights[grey] < weights[rare] < weights[never]
    found = Colorization(encoders(), bins=2, neighbors=1, widths=(8,), learn_from=1000)
    found.before_epoch({}, epoch(batches=lambda: stream(colors)))
    assert found.bins.centers.tolist() == [[0, 0], [60, 60]]


@pytest.mark.parametrize("target", ["bins", "l2"])
def test_colorization_learns_to_colour(target: Any) -> None:
    """Dark images are green and bright ones red."""
    nets = encoders()
    objective = Colorization(nets, target=target, bins=2, neighbors=1, widths=(8,))
    shade = torch.arange(16)[:, None, None, None] / 16 + torch.zeros(16, 3, SIZE, SIZE)
    green, red = torch.tensor([[[-40.0]], [[40.0]]]), torch.tensor([[[50.0]], [[30.0]]])
    colors = torch.where(shade[:, :2, :4, :4] < 0.5, green, red)
    full = Batch({"image": [shade]}, None, {"colors": colors})
    objective.before_epoch({}, epoch(batches=lambda: repeat(full)))
    optimizer = torch.optim.AdamW([*objective.parameters(), *nets["image"].parameters()], lr=0.03)
    for _ in range(30):
        loss = objective(nets, full)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    assert loss.answers["correct"].mean() > 0.9
    with torch.no_grad():
        decoded = objective.decode(nets, shade, size=(4, 4))
    assert (decoded - colors).abs().mean() < 12


def test_colorization_is_the_mean_of_the_bins_loss() -> None:
    model, full = build("colorization"), batch("colorization", missing=False)
    objective = model.objectives["colorization"]
    logits = objective.decoder(model.encoders["image"](full.views["image"][0]), (4, 4))
    dense = torch.zeros_like(logits)
    for row, colors in enumerate(full.extra["colors"].movedim(1, -1)):
        for i in range(4):
            for j in range(4):
                squared = (objective.bins.centers - colors[i, j]).square().sum(dim=1)
                near = squared.argsort()[:2]
                dense[row, near, i, j] = (-squared[near] / 50).softmax(dim=0)
    torch.testing.assert_close(objective(model.encoders, full).total, F.cross_entropy(logits, dense))


# Split brain


def test_each_half_sees_what_the_other_is_asked_for() -> None:
    pictures = some()
    made = shown(split_brain.method.view(BOTH, halves={"cell": 4}), pictures)
    split = lab(pictures)
    lightness, colors = (lab(made.views[key][0]) for key in ("image", "image_ab"))
    torch.testing.assert_close(lightness, F.pad(split[:, :1], (0, 0, 0, 0, 0, 2)), rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(
        colors, torch.cat([torch.full_like(split[:, :1], 50), split[:, 1:]], dim=1), atol=0.05, rtol=0
    )
    torch.testing.assert_close(made.extra["lightness"], F.avg_pool2d(split[:, :1], 4))
    torch.testing.assert_close(made.extra["colors"], F.avg_pool2d(split[:, 1:], 4))
    whole = shown(split_brain.method.view(BOTH, halves={"split": False}), pictures)
    assert all(torch.equal(whole.views[key][0], pictures) for key in BOTH)
    view = split_brain.method.view(BOTH)
    assert view.reads == ("image",) and "image_ab" not in view({"image": some(1)[0]})
    assert view({}) == {}
    with pytest.raises(UserError, match=r"\[16, 8\] pixels"):
        split_brain.method.view({**IMAGE, "image_ab": ImagePreprocess(size=8)})


def test_split_brain_is_the_sum_of_both_halves() -> None:
    model, full = build("split_brain"), batch("split_brain", missing=False)
    objective = model.objectives["split_brain"]
    seen = {key: model.encoders[key](full.views[key][0]) for key in ("image", "image_ab")}
    colors = soft_nll(
        objective.decoders["image"](seen["image"], (4, 4)), *objective.colors.target(full.extra["colors"])
    ).mean()
    logits = objective.decoders["image_ab"](seen["image_ab"], (4, 4))
    bins = (full.extra["lightness"][:, 0] / 20).long().clamp(max=4)
    found = objective(model.encoders, full)
    torch.testing.assert_close(found.total, colors + F.cross_entropy(logits, bins))
    assert SplitBrain(encoders("image", "image_ab"), widths=(8,)).lightness.centers[:, 0].tolist()[:2] == [0.5, 1.5]


@pytest.mark.parametrize("part", ["lightness", "color"])
def test_an_encoder_of_the_same_half_sees_at_judging_what_it_saw_in_training(part: str) -> None:
    torch.manual_seed(0)
    inner = {"name": "convnet", "image_size": SIZE, "widths": (8,), "depths": (1,)}
    encoder = create_encoder("lab", part=part, image=inner).eval()
    key = "image" if part == "lightness" else "image_ab"
    seen = shown(split_brain.method.view(BOTH), some()).views[key][0]
    torch.testing.assert_close(encoder(seen).pooled, encoder(some()).pooled, rtol=1e-3, atol=1e-3)


# Inpainting


def test_the_hole_in_the_middle_and_the_blocks() -> None:
    pictures = some(200)
    made = shown(inpainting.method.view(IMAGE, holes={"blocks": 0, "hole": 0.5}), pictures)
    holed, whole = made.views["image"]
    holes = made.extra["holes"]
    assert holes[:, 0, 4:12, 4:12].all() and holes.sum() == 200 * 64
    torch.testing.assert_close(whole, pictures / 255)
    torch.testing.assert_close(holed[:, :, 6, 6], torch.tensor(IMAGENET_MEAN).expand(200, -1))
    outside = (holes == 0).expand_as(whole)
    assert torch.equal(holed[outside], whole[outside])
    blocks = shown(inpainting.method.view(IMAGE, holes={"blocks": 4, "hole": 0.5}), pictures).extra["holes"]
    areas = blocks.sum((1, 2, 3))
    assert areas.max() == 64 and areas.min() >= 16 and len(areas.unique()) > 10
    assert blocks.mean(dim=0).min() > 0, "anywhere"
    with pytest.raises(UserError, match="blocks is -1"):
        inpainting.method.view(IMAGE, holes={"blocks": -1})


def test_inpainting_counts_the_hole_and_a_border_more() -> None:
    nets = encoders()
    objective = Inpainting(nets, overlap=1, border=10.0, error="l1", widths=(8, 8)).eval()
    made = shown(inpainting.method.view(IMAGE, holes={"blocks": 0, "hole": 0.25}), some())
    with evaluating(*nets.values()):
        found = objective(nets, made)
        drawn = objective.decoder(nets["image"](made.views["image"][0]), (SIZE, SIZE))
    apart = (drawn - made.views["image"][1]).abs().mean(dim=1)
    inner, outer = apart[:, 6:10, 6:10].sum((1, 2)), apart[:, 5:11, 5:11].sum((1, 2))
    expected = (inner + 10 * (outer - inner)) / (16 + 10 * 20)
    torch.testing.assert_close(found.total, expected.mean())
    assert found.logs.keys() == {"error"}, "no adversary unless it is asked for"


def test_adversarial_totals_are_weighed_sums() -> None:
    for name, share in (("inpainting", 0.9), ("super_resolution", 1.0)):
        model, full = build(name), batch(name, missing=False)
        found = model.objectives[name](model.encoders, full)
        weight = model.objectives[name].adversarial
        logs = found.logs
        torch.testing.assert_close(found.total, share * logs["error"] + weight * logs["fooling"] + logs["judging"])
    with pytest.raises(UserError, match="adversarial is -1"):
        SuperResolution(encoders(), adversarial=-1)


# Super-resolution


def test_small_pictures_lack_detail() -> None:
    pictures = some()
    small, whole = shown(super_resolution.method.view(IMAGE, shrink={"factor": 4}), pictures).views["image"]
    assert small.shape == whole.shape and small.min() >= 0 and small.max() <= 1
    assert small.std() < 0.6 * whole.std()
    view = super_resolution.method.view(IMAGE, shrink={"factor": 4, "enlarge": False})
    tiny, _ = shown(view, pictures).views["image"]
    assert tiny.shape == (6, 3, 4, 4)
    with pytest.raises(UserError, match="shrunk by 3"):
        super_resolution.method.view(IMAGE, shrink={"factor": 3})


@pytest.mark.parametrize("enlarge", [True, False])
def test_super_resolution_draws_what_is_missing(enlarge: bool) -> None:
    nets = encoders()
    objective = SuperResolution(nets, widths=(8, 8)).eval()
    made = shown(super_resolution.method.view(IMAGE, shrink={"factor": 4, "enlarge": enlarge}), some())
    small, whole = made.views["image"]
    with evaluating(*nets.values()):
        found = objective(nets, made)
        drawn = objective.decoder(nets["image"](small), (SIZE, SIZE))
    blurred = small if enlarge else F.interpolate(small, (SIZE, SIZE), mode="bicubic")
    error = (blurred + drawn - whole).square().mean()
    torch.testing.assert_close(found.total, error)
    torch.testing.assert_close(found.logs["gained"], 1 - error / (blurred - whole).square().mean())
