"""Pasting against torch's antialiased scaling, pixel by pixel; boxes by their shape, size and place."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.transforms.base import check_range
from mmssl.transforms.color import ColorJitter, Grayscale
from mmssl.transforms.image import ImagePreprocess
from mmssl.transforms.paste import Paste, resampling
from mmssl.types import Batch
from mmssl.views.template import Views

SIDE = 24


def shown(rows: int, views: int = 2) -> Batch:
    """Foregrounds cut 40 wide and 20 high (mirrored), and backgrounds of one value a sample."""
    front = [torch.rand(rows, 3, SIDE, SIDE) for _ in range(views)]
    back = [
        ((torch.arange(rows) + 1.0) / 100 + v / 2)[:, None, None, None].expand(-1, 3, SIDE, SIDE) for v in range(views)
    ]
    place = torch.tensor([[-40.0, 0, 50], [0, 20.0, 5]]).repeat(rows, 1, 1)
    return Batch({"image": [*front, *back]}, places={"image": [place] * (2 * views)})


def test_a_foreground_lies_scaled_in_its_box_on_another_samples_background() -> None:
    torch.manual_seed(0)
    batch = shown(50)
    front = batch.views["image"][:2]
    made = Paste(size=(0.4, 0.9)).on_batch(batch)
    assert len(made.views["image"]) == 2 and "image" not in made.places
    for view, (images, ragged) in enumerate(zip(made.views["image"], made.fields["image"]["boxes"], strict=True)):
        assert ragged.lengths.tolist() == [1] * 50
        shift = set()
        for b in range(50):
            left, top, right, bottom = (int(edge) for edge in ragged.values[b])
            inner = F.interpolate(front[view][b : b + 1], (bottom - top, right - left), mode="bilinear", antialias=True)
            torch.testing.assert_close(images[b, :, top:bottom, left:right], inner[0], rtol=1e-4, atol=1e-5)
            outside = torch.ones(SIDE, SIDE, dtype=torch.bool)
            outside[top:bottom, left:right] = False
            (value,) = images[b, :, outside].unique()
            shift.add((round(float(value - view / 2) * 100) - 1 - b) % 50)
        assert len(shift) == 1 and shift != {0}, "a background is another sample's"
        size = (ragged.values[:, 2:] - ragged.values[:, :2]) / SIDE
        assert ((size[:, 0] / size[:, 1] - 2).abs() < 0.35).all(), "as wide as it was cut, up to whole pixels"
        longer = size.amax(dim=1)
        assert 0.68 < longer.mean() < 0.78, "the longer of two numbers from 0.4 to 0.9, on average 0.73"
        assert longer.max() <= 0.9 + 0.5 / SIDE and longer.min() >= 0.4 - 0.5 / SIDE and longer.std() > 0.05
        assert ragged.values[:, 0].min() == 0 and ragged.values[:, 2].max() == SIDE, "anywhere, up to the border"


def test_weights_are_those_of_an_antialiased_linear_filter() -> None:
    line = torch.rand(1, 1, 1, 20)
    for start, end in ((0.0, 7.0), (3.0, 23.0), (1.0, 24.0)):
        weights = resampling(torch.tensor([start]), torch.tensor([end]), 20, SIDE)[0]
        wanted = F.interpolate(line, (1, int(end - start)), mode="bilinear", antialias=True)[0, 0, 0]
        found = weights @ line[0, 0, 0]
        torch.testing.assert_close(found[int(start) : int(end)], wanted, rtol=1e-4, atol=1e-5)
        assert not found[: int(start)].any() and not found[int(end) :].any()


def test_colours_behind_it_change_foreground_and_background_alike() -> None:
    view = Views(1, image=[], background=Views(1, image=[]), after=[Paste(), Grayscale(p=(1.0,)), ColorJitter(p=0.0)])
    made = view({"image": ImagePreprocess(size=SIDE)})
    pasted = made.on_device(shown(5, views=1))
    (image,) = pasted.views["image"]
    assert (image[:, 0] - image[:, 2]).abs().max() < 1e-6 and image.std() > 0.05
    assert len(pasted.fields["image"]["boxes"]) == 1
    colored = view.changed({"grayscale": None})({"image": ImagePreprocess(size=SIDE)}).on_device(shown(5, views=1))
    assert (colored.views["image"][0][:, 0] - colored.views["image"][0][:, 2]).abs().max() > 0.1


def test_what_it_cannot_do_is_refused() -> None:
    with pytest.raises(UserError, match="as many foregrounds as backgrounds; 3 views are shown"):
        batch = shown(4)
        batch.views["image"].pop()
        Paste().on_batch(batch)
    with pytest.raises(UserError, match=r"paste\.size is"):
        Paste(size=(0.5, 1.2))
    assert Paste().size == check_range("", (0.5, 1.0), 0, 1), "from 128 to 256 of 256 pixels"
