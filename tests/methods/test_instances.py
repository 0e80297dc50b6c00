"""Exemplar: each sample is found among all, by formula; and what it, NPID and PIC need and show."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.methods import exemplar, npid, pic
from mmssl.objectives.bank import reserve
from mmssl.types import Batch

sys.path.insert(0, str(Path(__file__).parent))
from settings import batch, build


def seen(name: str) -> tuple[torch.nn.Module, torch.nn.Module, torch.Tensor, torch.Tensor]:
    """Returns the run, its objective, the first view's features and the samples' numbers."""
    model, shown = build(name), batch(name, missing=False)
    return model, model.objectives[name], model.encoders["image"](shown.views["image"][0]).pooled, shown.extra["index"]


def test_exemplar_is_a_softmax_over_samples() -> None:
    model, objective, _, index = seen("exemplar")
    views = batch("exemplar", missing=False).views["image"]
    scores = [objective.hidden(model.encoders["image"](view).pooled) @ objective.classes.rows.T for view in views]
    expected = sum(F.cross_entropy(x, index) for x in scores) / 2
    torch.testing.assert_close(model({"exemplar": batch("exemplar", missing=False)})[0], expected)


@pytest.mark.parametrize("make", [npid.NPID, pic.PIC, exemplar.Exemplar])
def test_samples_must_be_counted_and_saved_ones_load_without_being_told(make: type) -> None:
    encoders = {"image": create_encoder("convnet", image_size=16)}
    made = make(encoders)
    with pytest.raises(UserError, match="not counted"):
        reserve(made, None)
    reserve(made, 30)
    again = make(encoders)
    again.load_state_dict(made.state_dict())
    rows = [value for key, value in again.state_dict().items() if key.endswith("rows")]
    assert [len(value) for value in rows] == [30]


def test_exemplar_turns_pictures_on_the_device() -> None:
    preprocess = {"image": create_encoder("convnet", image_size=16).preprocess}
    x = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    still, tilted = (
        exemplar.method.view(preprocess, image={"color_jitter": None, "rotate": {"degrees": tilt}})
        .on_device(Batch({"image": [x]}))
        .views["image"][0]
        for tilt in (0.0, 20.0)
    )
    assert torch.equal(still, x)
    assert tilted.shape == x.shape and ((tilted - x / 255).abs() > 0.01).any(dim=(1, 2, 3)).all()


@pytest.mark.parametrize("method", [npid.method, pic.method, exemplar.method])
def test_one_view_is_shown(method: object) -> None:
    view = method.view({"image": create_encoder("convnet", image_size=16).preprocess})
    shown = view({"image": torch.randint(0, 256, (3, 40, 40), dtype=torch.uint8)})
    assert [x.shape for x in shown["image"]] == [(3, 16, 16)]
