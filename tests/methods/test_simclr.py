"""SimCLR and its second version against NT-Xent (Chen et al., ICML 2020, eq. 1), and their heads."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from mmssl import checkpoint
from mmssl.errors import UserError
from mmssl.methods import simclr
from mmssl.types import Features
from mmssl.views.simclr import view as simclr_view

sys.path.insert(0, str(Path(__file__).parent))
from settings import batch, build
from two_views import DIM, HERE, ROWS, defaults, detached, outline, same, shown, stir, two_encoders, unit


@pytest.mark.parametrize("kind", [simclr.SimCLR, simclr.SimCLRv2])
def test_each_view_finds_its_partner_among_all_other_views(kind: type[simclr.SimCLR]) -> None:
    encoders, batch = two_encoders(), shown()
    objective = kind(encoders, embed_dim=4, hidden=(9,), temperature=0.7, encoder="pulse")
    stir(objective)
    one, other, _ = encoders["pulse"](torch.cat(batch.views["pulse"])).pooled.split(ROWS)
    views = [unit(objective.head.layers(x)) for x in (one, other)]
    everyone = torch.cat([view[HERE] for view in views])
    logits = (everyone @ everyone.T / 0.7).fill_diagonal_(-torch.inf)
    expected = F.cross_entropy(logits, torch.arange(len(everyone)).roll(int(HERE.sum())))
    loss = objective(encoders, batch)
    same(loss.total, expected, objective, encoders["pulse"])
    detached(loss, "pulse", views[0])


def test_heads_have_as_many_hidden_layers_as_the_version_has_or_those_that_are_given() -> None:
    first, second = ([f"{DIM}-{DIM}", "norm", "relu"], [f"{DIM}-4", "norm"])
    for kind, depth in ((simclr.SimCLR, 1), (simclr.SimCLRv2, 2)):
        made = kind(two_encoders(), embed_dim=4, encoder="pulse")
        assert outline(made.head.layers) == first * depth + second
        given = kind(two_encoders(), embed_dim=4, hidden=(9, 8), encoder="pulse")
        assert outline(given.head.layers) == [f"{DIM}-9", "norm", "relu", "9-8", "norm", "relu", "8-4", "norm"]


def test_only_the_second_version_keeps_a_middle() -> None:
    first, second = (kind(two_encoders(), encoder="pulse") for kind in (simclr.SimCLR, simclr.SimCLRv2))
    assert first.spaces() == {"pulse": first.head}
    assert list(second.spaces()) == ["pulse", "pulse/middle"] and second.spaces()["pulse"] is second.head
    pooled = torch.randn(ROWS, DIM)
    middle = unit(second.head.layers[2](second.head.layers[1](second.head.layers[0](pooled))))
    torch.testing.assert_close(second.spaces()["pulse/middle"](Features(pooled)), middle)
    with pytest.raises(UserError, match="has no middle"):
        simclr.SimCLRv2(two_encoders(), hidden=(), encoder="pulse").spaces()


def test_simclr_v2_keeps_the_middle_of_its_head_as_a_space(tmp_path: Path) -> None:
    model = build("simclr:v2")
    head = model.objectives["simclr:v2"].head
    assert [layer.out_features for layer in head.layers if hasattr(layer, "out_features")] == [16, 16, 8]
    image = model.encoders["image"].eval()
    assert set(image.spaces) == {"simclr:v2", "simclr:v2_middle"}
    x = batch("simclr:v2").views["image"][0]
    with torch.no_grad():
        expected = F.normalize(head.layers[:3](image(x).pooled), dim=1)
        torch.testing.assert_close(image.embed(x, space="simclr:v2_middle"), expected)
        checkpoint.save_encoder(image, tmp_path)
        again = checkpoint.load_encoder(tmp_path)
        torch.testing.assert_close(again.embed(x, space="simclr:v2_middle"), expected)


def test_the_defaults_are_the_papers() -> None:
    """128 dimensions behind a layer as wide as the features; of the temperatures compared, 0.1 was the best."""
    paper = {"embed_dim": 128, "hidden": None, "temperature": 0.1, "encoder": None}
    assert defaults(simclr.SimCLR) == defaults(simclr.SimCLRv2) == paper
    assert simclr.method.view is simclr.v2.view is simclr_view
