"""The intra-modal term of a joint space: each modality's two views find each other as well."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.methods.clip import CLIP
from mmssl.types import Batch
from mmssl.views.single import view as single_view

sys.path.insert(0, str(Path(__file__).parent))
from settings import build, plain


def both_ways(x: Tensor, y: Tensor) -> Tensor:
    logits = x @ y.T / 0.07
    labels = torch.arange(len(x))
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def test_equals_the_formula_in_value_and_gradient() -> None:
    model = build("clip")
    encoders = model.named_encoders
    made = CLIP(encoders, embed_dim=8, intra_modal=0.5)
    batch = plain(("image", "text"), 6, views=2)
    batch.views["image"][1] = 255 - batch.views["image"][1]
    batch.views["text"][1].values[:] = batch.views["text"][1].values.flip(1)
    (image, image_again), (text, text_again) = (
        [made.heads[name](encoders[name](view)) for view in batch.views[name]] for name in ("image", "text")
    )
    inside = (both_ways(image, image_again) + both_ways(text, text_again)) / 2
    expected = both_ways(image, text) + 0.5 * inside
    loss = made(encoders, batch)
    torch.testing.assert_close(loss.total, expected)
    assert {"loss_image-image_again", "loss_text_again-text"} <= set(loss.logs) and set(loss.embeddings) == {
        "image",
        "text",
    }
    weights = [*made.heads.parameters(), *model.encoders.parameters()]
    for ours, theirs in zip(
        torch.autograd.grad(loss.total, weights), torch.autograd.grad(expected, weights), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_absent_samples_do_not_count() -> None:
    model = build("clip")
    made = CLIP(model.named_encoders, embed_dim=8, intra_modal=1.0)
    full = plain(("image", "text"), 6, views=2)
    full.extra["image_present"] = torch.tensor([True, True, False, True, True, False])
    noisy = full.map(lambda x: x.clone())
    for view in noisy.views["image"]:
        view[~full.extra["image_present"]] = 1
    losses = [made(model.named_encoders, batch).total for batch in (full, noisy)]
    torch.testing.assert_close(losses[0], losses[1])


def test_one_view_is_too_few() -> None:
    model = build("clip")
    batch: Batch = plain(("image", "text"), 4)
    CLIP(model.named_encoders, embed_dim=8)(model.named_encoders, batch)
    with pytest.raises(UserError, match="give the task's view views: 2"):
        CLIP(model.named_encoders, embed_dim=8, intra_modal=1.0)(model.named_encoders, batch)


def test_single_shows_as_many_views_as_asked() -> None:
    encoders = build("clip").named_encoders
    preprocess = {name: encoder.preprocess for name, encoder in encoders.items()}
    made = single_view(preprocess, views=2, image={"crop": {"scale": (0.3, 0.6)}})
    assert made.shows == {"image": 2, "text": 2}
    image = torch.randint(0, 256, (3, 40, 40), dtype=torch.uint8)
    shown = made({"image": image, "text": ["a ball", "balls"]})
    assert not shown["image"][0].equal(shown["image"][1]) and set(shown["text"]) <= {"a ball", "balls"}
    with pytest.raises(UserError, match="views is 0"):
        single_view(preprocess, views=0)
