"""What is peculiar to the views of mmssl/views: seeds, RandAugment last, and colours of each view's own."""

from __future__ import annotations

import pytest
import torch

from mmssl.errors import UserError
from mmssl.methods import dino
from mmssl.transforms import color, rand_augment
from mmssl.transforms.image import ImagePreprocess
from mmssl.transforms.video import VideoPreprocess
from mmssl.types import Batch
from mmssl.views import byol, infomin, mae

PREPROCESS = {"image": ImagePreprocess(16)}
QUIET = {"color_jitter": None, "grayscale": None, "blur": None}


def test_each_sample_has_a_seed_of_31_bits() -> None:
    view = mae.view(PREPROCESS, image={"solarize": {"p": 1.0}})
    batch = view.on_device(Batch({"image": [torch.full((5000, 3, 1, 1), 255, dtype=torch.uint8)]}))
    seeds = batch.extra["seed"]
    assert seeds.shape == (5000,)
    assert seeds.dtype == torch.int64
    assert 0 <= seeds.min() < 2**21
    assert 2**31 - 2**21 < seeds.max() < 2**31
    assert len(seeds.unique()) > 4990
    assert batch.views["image"][0].eq(0).all(), "the other steps are taken, too"


def test_absent_samples_have_a_seed_too() -> None:
    present = torch.tensor([True, False, True])
    batch = Batch({"image": [torch.zeros(3, 3, 1, 1)]}, extra={"image_present": present})
    view = mae.view(PREPROCESS)
    assert len(view.on_device(batch).extra["seed"]) == 3
    torch.manual_seed(1)
    first = view.on_device(batch).extra["seed"]
    torch.manual_seed(1)
    assert view.on_device(batch).extra["seed"].equal(first)


def test_infomin_changes_pictures_on_the_device() -> None:
    view = infomin.view(PREPROCESS, image=QUIET)
    shown = view({"image": torch.randint(0, 256, (3, 40, 40), dtype=torch.uint8)})
    assert [x.shape for x in shown["image"]] == [(3, 16, 16)] * 2
    before = torch.randint(0, 256, (32, 3, 16, 16), dtype=torch.uint8)
    after = view.on_device(Batch({"image": [before, before]})).views["image"]
    changed = [((x - before / 255).abs() > 1e-3).any(dim=(1, 2, 3)) for x in after]
    assert all(c.sum() > 8 for c in changed) and not changed[0].all()
    assert not torch.equal(*after)


def test_rand_augment_comes_last_on_floats_with_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    place = torch.eye(2, 3).expand(4, 2, 3)
    monkeypatch.setattr(rand_augment, "rand_augment", lambda x, **how: (x + 2, calls.append(how) or place))
    options = {"rand_augment": None, "solarize": {"p": 1.0}}  # left out, so that it is added behind solarize
    view = infomin.view(PREPROCESS, image=QUIET | {"rand_augment": {"operations": 3, "magnitude": 4.0}})
    view.on_device(Batch({"image": [torch.zeros(2, 3, 4, 4)] * 2}))
    assert calls == [{"operations": 3, "magnitude": 4.0}]  # both views at once
    last = infomin.view.changed({"image": QUIET | options}).changed({"image": {"rand_augment": {}}})(PREPROCESS)
    batch = last.on_device(Batch({"image": [torch.ones(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)]}))
    assert [x.unique().tolist() for x in batch.views["image"]] == [[2.0], [2.0]], "solarized, and then changed"


def test_infomin_without_it_is_for_videos_too() -> None:
    film = {"video": VideoPreprocess(8, frames=2)}
    with pytest.raises(UserError, match=r"rand_augment is no step for video; .* by view.video.rand_augment=null"):
        infomin.view(film)
    infomin.view(film, video={"rand_augment": None}).check()


def test_only_the_second_of_byols_views_is_solarized() -> None:
    torch.manual_seed(0)
    view = byol.view(PREPROCESS, image=QUIET | {"solarize": {"p": (0.0, 1.0)}})
    white = torch.full((4, 3, 28, 28), 255, dtype=torch.uint8)
    first, second = view.on_device(Batch({"image": [white, white]})).views["image"]
    assert (first == 1).all() and (second == 0).all()


def test_views_that_change_alike_change_in_one_pass_and_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    solarize = color.solarize
    monkeypatch.setattr(color, "solarize", lambda x, **options: (taken.append(len(x)), solarize(x, **options))[1])
    steps = {"image": QUIET | {"solarize": {"p": 1.0}}}
    view = dino.method.view(PREPROCESS, **steps, small=steps)
    sizes = [8] * 2 + [4] * 8
    views = [torch.full((2, 3, side, side), 200 + number, dtype=torch.uint8) for number, side in enumerate(sizes)]
    changed = view.on_device(Batch({"image": list(views)})).views["image"]
    assert taken == [4, 16]
    for number, (x, side) in enumerate(zip(changed, sizes, strict=True)):
        torch.testing.assert_close(x, torch.full((2, 3, side, side), 1 - (200 + number) / 255))
