"""Colorization against its formula: bins that are learnt, weights of rare colours, and what cells are asked for."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mmssl.errors import UserError
from mmssl.methods import colorization
from mmssl.methods.colorization import Colorization, Lightness
from mmssl.numerics.color import lab
from mmssl.transforms.image import Crop, Flip, ImagePreprocess
from mmssl.types import Batch

sys.path.insert(0, str(Path(__file__).parent))
from by_hand import epoch
from picture_cells import PRESENT, PictureCells, check_embedding, compare, defaults, pictures

IMAGE = {"image": ImagePreprocess(size=16)}
PALETTE = torch.tensor([[-40.0, 10.0], [-20.0, 0.0], [5.0, 30.0], [60.0, -10.0]])  # in order of a, as k-means has them


def colored() -> Batch:
    """Images with 2 x 3 cells of the palette's colours; those of absent samples are of no sample's."""
    full = pictures()
    colors = PALETTE[torch.randint(4, (6, 2, 3), generator=torch.Generator().manual_seed(1))].movedim(-1, 1)
    colors[~PRESENT] = 100.0
    full.extra["colors"] = colors
    return full


def learnt(encoder: PictureCells, batch: Batch, **options: Any) -> Colorization:
    given = {"bins": 4, "neighbors": 2, "sigma": 20.0, "uniform": 0.3, "widths": (4, 3), "learn_from": 192}
    objective = Colorization({"image": encoder}, **{**given, **options})
    objective.before_epoch({}, epoch(batches=lambda: repeat(batch)))  # all of eight batches
    return objective


def weights(colors: Tensor, centers: Tensor, sigma: float, uniform: float) -> Tensor:
    """Returns what each bin counts, by the shares of the cells (N, 2) that lie on its centre. Zhang et al., eq. 4."""
    shares = torch.stack([(colors == c).all(dim=1).double().mean() for c in centers])
    smooth = torch.zeros(len(centers), dtype=torch.double)
    for j in range(len(centers)):
        kernel = torch.stack([(-(c - centers[j]).double().square().sum() / (2 * sigma**2)).exp() for c in centers])
        smooth += shares[j] * kernel / kernel.sum()
    raw = 1 / ((1 - uniform) * smooth + uniform / len(centers))
    return (raw / (smooth * raw).sum()).float()


def test_the_loss_is_the_weighed_cross_entropy_of_shared_bins() -> None:
    encoder, full = PictureCells(), colored()
    objective = learnt(encoder, full)
    colors = full.extra["colors"]
    cells = colors[PRESENT].movedim(1, -1).flatten(0, -2)
    torch.testing.assert_close(objective.bins.centers, PALETTE)
    expected = weights(cells, PALETTE, 20.0, 0.3)
    torch.testing.assert_close(objective.bins.weights, expected)
    found = objective({"image": encoder}, full)
    features = encoder(full.views["image"][0])
    logits = objective.decoder(features, (2, 3))
    assert [m.out_channels for m in objective.decoder.stages if hasattr(m, "out_channels")] == [4, 3, 4]
    losses, right = torch.zeros(6, 2, 3), torch.zeros(6, 2, 3)
    for row in range(6):
        for i in range(2):
            for j in range(3):
                squared = (PALETTE - colors[row, :, i, j]).square().sum(dim=1)
                near = squared.argsort()[:2]
                share = (-squared[near] / (2 * 20.0**2)).exp() / (-squared[near] / (2 * 20.0**2)).exp().sum()
                p = logits[row, :, i, j].softmax(dim=0)
                losses[row, i, j] = -expected[near[0]] * (share * p[near].log()).sum()
                right[row, i, j] = p.argmax() == near[0]
    compare(found.total, losses.mean((1, 2))[PRESENT].mean(), encoder, objective)
    check_said(found, right.mean((1, 2)))
    check_embedding(found, features.pooled)


def check_said(found: Any, right: Tensor) -> None:
    assert len(right[PRESENT].unique()) > 1, "some are answered rightly"
    told = torch.where(PRESENT, right, torch.nan)
    torch.testing.assert_close(found.answers["correct"], told, equal_nan=True)
    torch.testing.assert_close(found.logs["accuracy"], right[PRESENT].mean())


def test_the_loss_of_values_is_the_squared_error_in_parts_of_110() -> None:
    encoder, full = PictureCells(), colored()
    objective = learnt(encoder, full, target="l2")
    with torch.no_grad():
        objective.decoder.stages[-1].weight.mul_(50)  # so that some cells are answered rightly
    found = objective({"image": encoder}, full)
    features, colors = encoder(full.views["image"][0]), full.extra["colors"]
    drawn = objective.decoder(features, (2, 3))
    assert drawn.shape == (6, 2, 2, 3)
    losses = (drawn - colors / 110).square().mean((1, 2, 3))
    compare(found.total, losses[PRESENT].mean(), encoder, objective)

    def nearest(values: Tensor) -> Tensor:
        return (values.movedim(1, -1)[..., None, :] - PALETTE).square().sum(dim=-1).argmin(dim=-1)

    right = (nearest(drawn * 110) == nearest(colors)).float().mean((1, 2))
    assert 0 < right[PRESENT].mean() < 1
    check_said(found, right)
    decoded = objective.decode({"image": encoder}, full.views["image"][0], size=(4, 5))
    torch.testing.assert_close(decoded, 110 * objective.decoder(features, (4, 5)))


def test_bins_decode_to_their_annealed_mean() -> None:
    """Zhang et al., ECCV 2016, eq. 5, with a temperature of 0.38."""
    encoder, full = PictureCells(), colored()
    objective = learnt(encoder, full)
    decoded = objective.decode({"image": encoder}, full.views["image"][0], size=(4, 5))
    logits = objective.decoder(encoder(full.views["image"][0]), (4, 5))
    p = torch.exp(logits.log_softmax(dim=1) / 0.38)
    expected = torch.einsum("bkhw,kc->bchw", p / p.sum(dim=1, keepdim=True), PALETTE)
    torch.testing.assert_close(decoded, expected)


def test_learning_takes_no_more_batches_and_cells_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    assert colorization.LEARN_BATCHES == 1000
    taken: list[int] = []

    def stream() -> Iterator[Batch]:
        while True:
            taken.append(len(taken))
            yield colored()

    objective = Colorization({"image": PictureCells()}, bins=4, neighbors=2, widths=(4,), learn_from=24)
    objective.before_epoch({}, epoch(batches=stream))
    assert len(taken) == 6, "an eighth of 24, and one, of each"
    taken.clear()
    monkeypatch.setattr(colorization, "LEARN_BATCHES", 3)
    objective.before_epoch({}, epoch(batches=stream))
    assert len(taken) == 3


def test_bins_without_a_number_are_the_grids_and_stay() -> None:
    objective = Colorization({"image": PictureCells()}, widths=(4,), learn_from=24)
    before = objective.bins.centers.clone()
    assert before.shape == (261, 2) and objective.decoder.stages[-1].out_channels == 261
    full = colored()
    full.extra["colors"] = torch.full((6, 2, 2, 3), 10.0)
    objective.before_epoch({}, epoch(batches=lambda: repeat(full)))
    assert torch.equal(objective.bins.centers, before)
    assert objective.bins.weights.argmin() == (before == 10).all(dim=1).nonzero(), "common colours count least"
    assert objective.decoder.stages[-1].kernel_size == (1, 1)


@pytest.mark.parametrize(("uniform", "refused"), [(0.0, True), (0.01, False), (1.0, False), (1.01, True)])
def test_no_weight_is_endless(uniform: float, refused: bool) -> None:
    if refused:
        with pytest.raises(UserError, match=f"uniform is {uniform}; expected more than 0"):
            Colorization({"image": PictureCells()}, uniform=uniform)
    else:
        Colorization({"image": PictureCells()}, uniform=uniform, widths=(4,))


def test_the_defaults_are_the_papers() -> None:
    """Zhang et al., ECCV 2016, section 2.2: 5 neighbours, sigma 5, lambda 1/2."""
    assert defaults(Colorization) == {
        "target": "bins",
        "bins": None,
        "neighbors": 5,
        "sigma": 5.0,
        "uniform": 0.5,
        "widths": (256, 256, 128),
        "learn_from": 200_000,
    }
    assert defaults(Lightness) == {"cell": 4, "gray": True}
    view = colorization.method.view(IMAGE)
    assert view.steps["image"] == [[Crop(scale=(0.35, 1.0), ratio=(1.0, 1.0)), Flip(p=0.5)]]
    assert view.guards == {"grey": {"lightness": {"gray": False}}}


@pytest.mark.parametrize("gray", [True, False])
def test_colours_are_averaged_over_cells_and_hidden(gray: bool) -> None:
    x = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    made = colorization.method.view(IMAGE, lightness={"cell": 8, "gray": gray}).on_device(Batch({"image": [x]}))
    whole = lab(x)
    for i in range(2):
        for j in range(2):
            cell = whole[:, 1:, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8]
            torch.testing.assert_close(made.extra["colors"][:, :, i, j], cell.mean((2, 3)))
    (shown,) = made.views["image"]
    if gray:
        torch.testing.assert_close(lab(shown)[:, :1], whole[:, :1], rtol=1e-3, atol=1e-2)
        assert lab(shown)[:, 1:].abs().max() < 0.05 and (shown - shown[:, :1]).abs().max() < 1e-3
    else:
        assert torch.equal(shown, x)


def test_cells_divide_pictures() -> None:
    with pytest.raises(UserError, match="of 16 pixels do not divide into cells of 5; set view.lightness.cell"):
        colorization.method.view(IMAGE, lightness={"cell": 5})
    view = colorization.method.view(IMAGE, lightness={"cell": 16}, image={"grayscale": {"p": 1.0}})
    made = view.on_device(Batch({"image": [torch.rand(2, 3, 16, 16)]}))
    assert made.extra["colors"].abs().max() < 0.05, "the colours that are left are asked for"


def test_the_loss_is_in_float32() -> None:
    encoder, full = PictureCells(), colored()
    for target in ("bins", "l2"):
        objective = learnt(encoder, full, target=target)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert objective({"image": encoder}, full).total.dtype == torch.float32
