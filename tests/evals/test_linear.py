"""Linear probes: the solvers against torch's own gradient, the choice of layer and setting, and what is read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from probing import blobs, judged, reference, sides
from torch.nn import functional as F

from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.evals.linear import Linear, held_out, select
from mmssl.evals.parts import solvers
from mmssl.evals.parts.labelled import Labelled
from mmssl.evals.parts.layers import Tapped
from mmssl.evals.parts.solvers import LBFGS, SGD, logistic, squared_hinge
from mmssl.types import Trained


def probe(shards: dict[str, dict[str, str]], **options: object) -> Linear:
    return Linear(**shards, **options)  # type: ignore[arg-type]


@pytest.fixture
def shards(tmp_path: Path) -> dict[str, dict[str, str]]:
    return sides(tmp_path, train=40, test=20)


def test_logistic_regression_is_at_its_optimum(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = blobs(60, 3, 4, spread=2.0)
    x, y = rows.x.double(), rows.y

    def loss(x: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(x @ w[:-1] + w[-1], y) + 0.01 * w[:-1].square().sum()

    expected = reference(x, y, loss=loss, shape=(5, 3))
    found = logistic(x, y, 3, decay=0.01, tolerance=1e-9)
    torch.testing.assert_close(found[:-1], expected[:-1], atol=2e-3, rtol=0)
    monkeypatch.setattr(solvers, "HELD", 30)
    torch.testing.assert_close(logistic(x, y, 3, decay=0.01, tolerance=1e-9), found, atol=1e-4, rtol=0)
    soft = logistic(x, F.one_hot(y, 3).double(), 3, decay=0.01, tolerance=1e-9)
    torch.testing.assert_close(soft, found, atol=1e-4, rtol=0)


@pytest.mark.parametrize("dim", [4, 40])
def test_svms_are_at_their_optimum(dim: int) -> None:
    rows = blobs(24, 3, dim, spread=2.0)
    x, y = rows.x.double().view(2, 12, dim), rows.y.view(2, 12)

    def loss(x: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        total = w.square().sum() / 2
        for number in range(3):
            sign = torch.where(y == number, 1.0, -1.0)
            hinge = (1 - sign * (x @ w[:-1, number] + w[-1, number])).clamp(min=0).square()
            total = total + (0.7 * torch.where(y == number, 2.0, 1.0) * hinge).sum()
        return total

    found = squared_hinge(x, y, 3, cost=0.7)
    for number in range(2):
        expected = reference(x[number], y[number], loss=loss, shape=(dim + 1, 3))
        torch.testing.assert_close(found[number], expected, atol=1e-3, rtol=0)


def test_every_rate_of_sgd_is_as_if_alone() -> None:
    rows = blobs(64, 4)
    together = SGD((0.01, 0.1), epochs=3, batch=16).fit(rows.x, rows.y, 4, (0.01, 0.1))
    alone = SGD((0.1,), epochs=3, batch=16).fit(rows.x, rows.y, 4, (0.1,))
    torch.testing.assert_close(together[1], alone[0])
    layer = torch.nn.Linear(8, 4)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    generator, step = torch.Generator().manual_seed(0), 0
    for _ in range(3):
        for part in torch.randperm(64, generator=generator).split(16):
            optimizer.param_groups[0]["lr"] = 0.1 * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / 12))).item()
            optimizer.zero_grad()
            F.cross_entropy(layer(rows.x[part]), rows.y[part]).backward()
            optimizer.step()
            step += 1
    torch.testing.assert_close(alone[0, :-1].T, layer.weight.detach(), atol=1e-5, rtol=1e-4)


def test_the_setting_is_chosen_on_a_tenth_that_is_not_the_test_set() -> None:
    rows = blobs(100, 4)
    assert held_out(100).sum() == 10 and held_out(1).sum() == 1
    assert select(rows.x, rows.y, 4, LBFGS((1e-3, 1e3)))[0] == 1e-3


@pytest.mark.parametrize("solver", ["lbfgs", "sgd"])
def test_figures(shards: dict[str, dict[str, str]], solver: str) -> None:
    known, asked = blobs(140, 7), blobs(70, 7, seed=1)
    found = judged(probe(shards, solver=solver), known, asked)
    assert list(found) == ["top1", "top5"]
    assert found["top1"].value > 0.95 and found["top1"].chance == 1 / 7 and found["top1"].n == 70
    assert found["top5"].chance == 5 / 7


def test_layers_are_judged_and_the_best_is_chosen(shards: dict[str, dict[str, str]]) -> None:
    torch.manual_seed(0)
    encoder = create_encoder("convnet", image_size=16, widths=[8, 16], depths=[1, 1], stem_stride=1).eval()
    with torch.no_grad():
        for parameter in encoder.blocks[1].parameters():
            parameter.zero_()  # the last stage forgets all
    found = dict(probe(shards, layers=("pooled", "stem")).run(Trained({"image": encoder})))
    assert found["pooled/top1"].value == 0.5
    assert (found["top1"].value, found["top1"].low) == (found["stem/top1"].value, found["stem/top1"].low)
    assert found["top1"].trivial == found["raw/top1"].value
    assert "random_init/stem/top1" in found and "raw/top1" in found and "raw/stem/top1" not in found
    assert found["raw/top1"].value == 1.0


def test_layers_are_averaged_over_their_grid() -> None:
    encoder = create_encoder("convnet", image_size=16, widths=[8, 16], depths=[1, 1], stem_stride=1).eval()
    x = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    tapped = Tapped(encoder, ["stem", "pooled", "blocks.0"])
    assert tapped.sizes == [8, 16, 8]
    with torch.inference_mode():
        stem = encoder.stem(encoder.normalize(x).contiguous(memory_format=torch.channels_last))
        torch.testing.assert_close(tapped.embed(x)[:, :8], stem.mean((2, 3)))
        torch.testing.assert_close(tapped.embed(x)[:, 8:24], encoder(x).pooled)
    vit = create_encoder("vit", image_size=16, patch_size=8, width=16, depth=2, heads=2).eval()
    caught = []
    vit.blocks.layers[0].register_forward_hook(lambda _, __, out: caught.append(out))
    with torch.inference_mode():
        found = Tapped(vit, ["blocks.layers.0"]).embed(x)
    torch.testing.assert_close(found, caught[-1][:, 1:].mean(1))  # without the class token
    with pytest.raises(UserError, match="no layer 'stemm'; did you mean 'stem'"):
        Tapped(encoder, ["stemm"])


@pytest.mark.parametrize("name", ["pointnet", "frames", "spectrogram", "transformer"])
def test_layers_of_every_modality_give_a_row_for_each_sample(name: str) -> None:
    small = {"name": "convnet", "image_size": 16, "widths": [8], "depths": [1], "stem_stride": 1}
    encoder, place = {
        "pointnet": lambda: (create_encoder("pointnet", widths=[8, 12]), "layers.0"),
        "frames": lambda: (create_encoder("frames", image=small, frames=3), "image.stem"),
        "spectrogram": lambda: (create_encoder("spectrogram", backbone={**small, "in_channels": 1}), "backbone.stem"),
        "transformer": lambda: (create_encoder("transformer", width=16, depth=1, heads=2, vocab_size=280), "blocks"),
    }[name]()
    encoder.eval()
    items = [encoder.preprocess.blank() for _ in range(2)]
    if name == "pointnet":
        items = [torch.randn(5, 3), torch.randn(7, 3)]
    tapped = Tapped(encoder, [place, "pooled"])
    with torch.inference_mode():
        found = tapped.embed(encoder.preprocess.collate(items))
    assert found.shape == (2, tapped.dim) and found.isfinite().all()


def test_limit_takes_samples_from_all_over_the_set(shards: dict[str, dict[str, str]]) -> None:
    sets = Labelled(**shards, label="label", limit=11)
    train, test = sets.rows(create_encoder("raw:image"))
    assert (len(train.y), len(test.y)) == (11, 11)
    whole = Labelled(**shards, label="label").rows(create_encoder("raw:image"))[0]
    places = [int((whole.x == row).all(1).nonzero()[0, 0]) for row in train.x]
    assert places == sorted(set(places)) and max(places) > 25 and set(train.y.tolist()) == {0, 1}
    with pytest.raises(UserError, match="limit is 0"):
        Labelled(**shards, label="label", limit=0)


def test_wrong_choices(shards: dict[str, dict[str, str]]) -> None:
    for wrong in ({"decays": ()}, {"rates": (0.0,)}, {"epochs": 0}, {"layers": ("stem",), "space": "clip"}):
        with pytest.raises(UserError):
            probe(shards, **wrong)
