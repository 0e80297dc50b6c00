"""Views of images that are held in memory: drawn and made on the device, placed as those of data workers are."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from mmssl.data.collate import collate
from mmssl.errors import UserError
from mmssl.methods import cpc, jigsaw
from mmssl.numerics.geometry import apply, cell_centers
from mmssl.transforms.audio import AudioPreprocess
from mmssl.transforms.base import Geometric
from mmssl.transforms.color import Solarize
from mmssl.transforms.image import Crop, Flip, ImagePreprocess, to_tensor
from mmssl.transforms.proposals import Proposals
from mmssl.types import Batch, View
from mmssl.views import byol, simclr, swav
from mmssl.views.template import Views

sys.path.insert(0, str(Path(__file__).parents[1]))
from waits import DEVICE, pretended

WIDTH, HEIGHT = 40, 30


def ramp() -> Tensor:
    """An image whose red and green say where a pixel lies: 6 times x and y of its middle, of half a pixel."""
    down, across = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    return torch.stack([6 * across + 3, 6 * down + 3, torch.full_like(down, 9)]).to(torch.uint8)


def whole(count: int = 16, key: str = "image") -> Batch:
    return Batch({key: [ramp().expand(count, -1, -1, -1).clone()]}, extra={f"{key}_present": torch.ones(count) > 0})


def test_each_view_shows_the_place_that_it_says() -> None:
    torch.manual_seed(0)
    view = swav.view({"image": ImagePreprocess(20)}, small={"views": 3, "image": {"crop": {"size": 8}}})
    assert view.holds() == ("image", "image")
    shown = view.cut(whole())
    assert [x.shape[-1] for x in shown.views["image"]] == [20, 20, 8, 8, 8]
    assert len({tuple(place.flatten().tolist()) for place in shown.places["image"]}) == 5, "each view draws its own"
    mirrored = torch.stack([place[:, 0, 0] < 0 for place in shown.places["image"]])
    assert 0.2 < mirrored.float().mean() < 0.8
    for x, place in zip(shown.views["image"], shown.places["image"], strict=True):
        inner = slice(3, -3)  # at the edges a filter has one side only
        there = apply(place, cell_centers(x.shape[2:])).unflatten(1, x.shape[2:])
        seen = x[:, :2].float().permute(0, 2, 3, 1) / 6
        assert (seen - there)[:, inner, inner].abs().max() < 0.2


def test_without_a_crop_it_is_shown_as_it_is_judged_at_the_place_that_a_worker_says() -> None:
    prepare = ImagePreprocess(16, crop_ratio=0.8, interpolation="bilinear")
    view = Views(2, image=[Flip(p=(0.0, 1.0)), Solarize()])({"image": prepare})
    pixels = torch.randint(0, 256, (3, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    shown = view.cut(Batch({"image": [pixels.expand(3, -1, -1, -1)]}))
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    sample = view({"image": picture})
    for number, expected in enumerate(sample["image"]):
        assert (shown.views["image"][number].int() - expected.int()).abs().max() <= 1
        torch.testing.assert_close(shown.places["image"][number][2], sample["places"]["image"][number])
    plain = prepare(picture).int()
    assert (shown.views["image"][1].flip(3).int() - plain).abs().max() <= 1


def test_mean_spread_and_extent_are_those_of_data_workers() -> None:
    view, rows = simclr.view({"image": ImagePreprocess(16)}), 600
    pixels = np.random.default_rng(0).integers(0, 256, (10, 8, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    torch.manual_seed(0)
    random.seed(0)
    by_workers = collate([view({"image": picture}) for _ in range(rows)], view)
    held = view.cut(Batch({"image": [to_tensor(picture).expand(rows, -1, -1, -1)]}))
    for one, other in zip(by_workers.views["image"], held.views["image"], strict=True):
        means, spreads = (torch.stack([call(x.float()) for x in (one, other)]) for call in (torch.mean, torch.std))
        assert (means[0] - means[1]).abs() < 2.5 and (spreads[0] - spreads[1]).abs() < 2.5, (means, spreads)
    for one, other in zip(by_workers.places["image"], held.places["image"], strict=True):
        found = [torch.stack([p[:, 0, 0].abs(), p[:, 1, 1], p[:, 1, 2]]) for p in (one, other)]
        errors = sum((x.var(dim=1) / rows for x in found), torch.zeros(3)).sqrt()
        assert ((found[0].mean(dim=1) - found[1].mean(dim=1)).abs() < 4 * errors).all()


def test_the_rest_of_the_view_follows_on_the_device() -> None:
    """Steps on batches, those on the whole batch, and encoders that read the same image at another size."""
    prepare = {"image": ImagePreprocess(16), "image_small": ImagePreprocess(8)}
    view = byol.view(prepare)
    assert view.holds() == ("image", "image")
    batch = view.on_device(view.cut(whole()))
    assert [x.shape[-1] for x in batch.views["image"]] == [16, 16]
    assert [x.shape[-1] for x in batch.views["image_small"]] == [8, 8]
    assert batch.views["image"][0].dtype == torch.float32
    asked = jigsaw.method.view({"image": ImagePreprocess(24)}, puzzle={"permutations": 4})
    assert asked.on_device(asked.cut(whole())).target is not None


def test_nothing_waits_for_the_device() -> None:
    view = byol.view({"image": ImagePreprocess(16)})
    with pretended() as waits:
        for _ in range(2):  # the first may set things up
            shown = whole().to(DEVICE)
            del waits[:]
            view.cut(shown)
    assert not waits, waits


class Corner(Geometric):
    def draw(self, frame: Any) -> None:
        frame.cut(0, 0, 2, 2)


class Upper(Crop):
    """A crop of one's own that says how one frame is drawn, and not how a batch is."""

    def draw(self, frame: Any) -> None:
        frame.cut(0, 0, frame.box[2], frame.box[3] / 2)


class Plain(View):
    pass


IMAGE, SOUND = {"image": ImagePreprocess(16)}, {"audio": AudioPreprocess(1000, 0.5)}
REFUSED: list[tuple[View, str]] = [
    (Views(2, image=[Crop()])({**IMAGE, **SOUND}), "the task shows image, audio"),
    (Views(2)(SOUND), "the task shows audio"),
    (Views(2, image=[Crop()], fields={"mask": "mask"})(IMAGE), "the view has mask"),
    (Views(2, image=[Crop(), Proposals()])(IMAGE), "the view has boxes"),
    (Views(2, image=[Crop(), Corner()])(IMAGE), "corner draws for one image at a time; give it draw_each"),
    (Views(2, image=[Upper()])(IMAGE), "upper draws for one image at a time"),
    (Plain(IMAGE), "Plain makes its views in data workers alone"),
]


@pytest.mark.parametrize(("view", "message"), REFUSED, ids=lambda x: str(x)[:30])
def test_views_that_need_more_than_an_image_are_refused(view: View, message: str) -> None:
    with pytest.raises(UserError, match=f"in_memory.*{message}"):
        view.holds()


def test_a_view_with_a_call_of_its_own_is_refused() -> None:
    view = cpc.method.view({"image": ImagePreprocess(16)})
    kind = type("Own", (type(view),), {"__call__": lambda self, sample: sample})
    view.__class__ = kind
    with pytest.raises(UserError, match="Own makes its views in data workers alone"):
        view.holds()
