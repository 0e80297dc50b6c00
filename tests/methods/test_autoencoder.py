"""Autoencoders against their formula, and what damage is shown."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.methods import autoencoder
from mmssl.methods.autoencoder import Autoencoder, Damage, Sparse
from mmssl.transforms.image import Crop, Flip, ImagePreprocess
from mmssl.types import Batch, View

sys.path.insert(0, str(Path(__file__).parent))
from picture_cells import PRESENT, PictureCells, check_embedding, compare, defaults, pictures

IMAGE = {"image": ImagePreprocess(size=16)}


def expected(objective: Autoencoder, raw: Tensor, truth: Tensor, error: str, sparsity: str) -> tuple[Tensor, Tensor]:
    """Returns the mean error and the sparsity of the samples that are present, as written in the sources."""
    code = {"none": raw, "kl": 1 / (1 + (-raw).exp()), "l1": raw.clamp(min=0)}[sparsity]
    apart = objective.decoder(code, (8, 12)) - truth
    each = apart.square() if error == "l2" else apart.abs()
    dense = code[PRESENT].mean()
    if sparsity == "kl":
        mean = code[PRESENT].mean(dim=0)
        dense = (0.2 * (0.2 / mean).log() + 0.8 * (0.8 / (1 - mean)).log()).mean()
    return each[PRESENT].mean(), dense


@pytest.mark.parametrize("error", ["l1", "l2"])
@pytest.mark.parametrize("sparsity", ["none", "kl", "l1"])
@pytest.mark.parametrize("views", [1, 2])
def test_the_sound_picture_is_drawn_from_a_code_of_the_shown_one(error: Any, sparsity: Any, views: int) -> None:
    encoder, full = PictureCells(), pictures(views=views)
    options: dict[str, Any] = {"code": 6, "start": 2, "widths": (4, 3), "sparse": 0.7, "rate": 0.2}
    objective = Autoencoder({"image": encoder}, error=error, sparsity=sparsity, **options)
    found = objective({"image": encoder}, full)
    (linear,) = objective.head.layers
    raw = F.linear(encoder(full.views["image"][0]).pooled, linear.weight, linear.bias)
    apart, dense = expected(objective, raw, full.views["image"][-1] / 255, error, sparsity)
    compare(found.total, apart + (0.7 * dense if sparsity != "none" else 0), encoder, objective)
    torch.testing.assert_close(found.logs["error"], apart)
    assert found.logs.keys() == ({"error"} if sparsity == "none" else {"error", "sparsity"})
    assert not any(value.requires_grad for value in found.logs.values())
    if sparsity != "none":
        torch.testing.assert_close(found.logs["sparsity"], dense)
    check_embedding(found, {"none": raw, "kl": raw.sigmoid(), "l1": F.relu(raw)}[sparsity])
    assert objective.spaces() == {"image": objective.head}


def test_the_decoder_starts_grey_from_the_code() -> None:
    objective = Autoencoder({"image": PictureCells()}, code=6, start=2, widths=(4, 3))
    assert objective.decoder.first.in_features == 6 and objective.decoder.first.out_features == 4 * 2 * 2
    assert objective.decoder.stages[-1].bias.tolist() == [0.5] * 3
    assert objective.head.config()["out"] == 6


def test_the_defaults() -> None:
    """masked: Vincent et al., ICML 2008, a quarter; rate: Ng, CS294A, 0.05; what codes are for is told by sizes."""
    assert defaults(Damage) == {"masked": 0.0, "noise": 0.0, "salt": 0.0}
    for name, damage in (("method", Damage()), ("sparse", Damage()), ("denoising", Damage(masked=0.25))):
        view = getattr(autoencoder, name).view(IMAGE)
        assert view.steps["image"] == [[Crop(scale=(0.35, 1.0), ratio=(1.0, 1.0)), Flip(p=0.5)]]
        assert view.after == [damage]
    assert defaults(Sparse) == defaults(Autoencoder) | {"code": 1024, "sparsity": "kl"}
    assert defaults(Autoencoder) == {
        "code": 128,
        "start": 7,
        "widths": (512, 256, 128, 64, 32),
        "error": "l2",
        "sparsity": "none",
        "sparse": 0.01,
        "rate": 0.05,
    }
    made = Sparse({"image": PictureCells()}, code=6, sparsity="l1", sparse=0.3, widths=(4,), start=2)
    assert (made.sparsity, made.sparse, made.head.config()["out"]) == ("l1", 0.3, 6)
    assert Sparse({"image": PictureCells()}, widths=(4,), start=1).decoder.first.in_features == 1024
    assert Sparse({"image": PictureCells()}, widths=(4,), start=1).sparsity == "kl"


@pytest.mark.parametrize(
    ("options", "refused"),
    [({"rate": r}, r in (0.0, 1.0)) for r in (0.0, 0.01, 0.99, 1.0)]
    + [({"sparse": 0.0}, False), ({"sparse": -0.1}, True)],
)
def test_shares_and_weights(options: dict[str, float], refused: bool) -> None:
    encoders = {"image": PictureCells()}
    if refused:
        with pytest.raises(UserError, match="a share between 0 and 1, and 0 or more"):
            Autoencoder(encoders, **options)
    else:
        Autoencoder(encoders, widths=(4,), **options)


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        ({"masked": 0.99, "salt": 0.99, "noise": 1.5}, False),
        ({"masked": 1.0}, True),
        ({"salt": 1.0}, True),
        ({"masked": -0.1}, True),
        ({"salt": -0.1}, True),
        ({"noise": -0.1}, True),
    ],
)
def test_damage_is_a_share(options: dict[str, float], refused: bool) -> None:
    if refused:
        with pytest.raises(UserError, match="expected shares below 1, and 0 or more"):
            autoencoder.method.view(IMAGE, damage=options)
    else:
        autoencoder.method.view(IMAGE, damage=options)


def shown(view: View, x: Tensor) -> list[Tensor]:
    return view.on_device(Batch({"image": [x]})).views["image"]


def test_noise_comes_first_then_black_then_grains() -> None:
    x = torch.randint(100, 156, (60, 3, 16, 16), dtype=torch.uint8)
    damaged, sound = shown(autoencoder.method.view(IMAGE, damage={"masked": 0.5, "salt": 0.3, "noise": 0.02}), x)
    torch.testing.assert_close(sound, x / 255)
    black, white = ((damaged == end).all(dim=1) for end in (0, 1))
    assert (black | (damaged != 0).all(dim=1)).all(), "a pixel, not a channel"
    assert black.float().mean().item() == pytest.approx(0.5 * 0.7 + 0.15, abs=0.02)
    assert white.float().mean().item() == pytest.approx(0.15, abs=0.02)
    rest = (damaged - sound).movedim(1, -1)[~(black | white)]
    assert rest.std().item() == pytest.approx(0.02, rel=0.03) and rest.mean().abs() < 1e-3
    assert (rest[:, 0] - rest[:, 1]).std() > 0.02, "each channel has its own noise"


@pytest.mark.parametrize("kind", ["masked", "noise", "salt"])
def test_each_damage_alone_shows_two_pictures(kind: str) -> None:
    x = torch.randint(1, 255, (4, 3, 16, 16), dtype=torch.uint8)
    damaged, sound = shown(autoencoder.method.view(IMAGE, damage={kind: 0.3}), x)
    assert torch.equal(sound, x / 255) and not torch.equal(damaged, sound)
    assert len(shown(autoencoder.method.view(IMAGE), x)) == 1


def test_what_other_steps_change_is_shown_and_drawn() -> None:
    for method in (autoencoder.method, autoencoder.denoising):
        view = method.view(IMAGE, damage={"noise": 0.1}, image={"grayscale": {"p": 1.0}})
        sound = shown(view, torch.rand(2, 3, 16, 16))[1]
        assert (sound - sound[:, :1]).abs().max() < 1e-5, "grey"
    assert autoencoder.denoising.view(IMAGE, damage={"masked": 0.4}).after == [Damage(masked=0.4)]
