"""Small crops beside large ones, and views that are changed each in its own way."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from mmssl.views.asymmetric import Asymmetric
from mmssl.views.multicrop import MultiCrop
from PIL import Image

from mmssl.data.collate import collate
from mmssl.errors import UserError
from mmssl.transforms.audio import AudioPreprocess
from mmssl.transforms.image import ImagePreprocess
from mmssl.types import Batch

PREPROCESS = {"image": ImagePreprocess(28)}


def test_large_crops_come_first_and_small_ones_have_their_size() -> None:
    random.seed(0)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8))
    shown = MultiCrop(PREPROCESS, small=3)({"image": picture})["image"]
    assert [tuple(view.shape) for view in shown] == [(3, 28, 28)] * 2 + [(3, 12, 12)] * 3


def test_a_sample_without_a_picture_has_blank_crops_of_both_sizes() -> None:
    view = MultiCrop(PREPROCESS, small=2)
    batch = collate([view({"image": Image.new("RGB", (40, 40), "red")}), {}], view)
    assert [tuple(x.shape) for x in batch.views["image"]] == [(2, 3, 28, 28)] * 2 + [(2, 3, 12, 12)] * 2
    assert batch.present("image").tolist() == [True, False]
    assert not any(x[1].any() for x in batch.views["image"])


def test_small_crops_are_changed_as_the_last_large_one_or_in_their_own_way() -> None:
    as_last = MultiCrop(PREPROCESS, small=3, blur=(1.0, 0.1))
    assert [each["blur"] for each in as_last.chances] == [1.0, 0.1, 0.1, 0.1, 0.1]
    own = MultiCrop(PREPROCESS, small=3, blur=(1.0, 0.1, 0.5), solarize=0.2)
    assert [each["blur"] for each in own.chances] == [1.0, 0.1, 0.5, 0.5, 0.5]
    assert [each["solarize"] for each in own.chances] == [0.2] * 5
    none = MultiCrop({"audio": AudioPreprocess(8000, 0.5)}, small=0, blur=(1.0, 0.1, 0.5))
    assert [each["blur"] for each in none.chances] == [1.0, 0.1]
    with pytest.raises(UserError, match="blur is"):
        MultiCrop(PREPROCESS, small=3, blur=(1.0, 0.1, 0.5, 0.5))
    with pytest.raises(UserError, match="only pictures have small crops"):
        MultiCrop({"audio": AudioPreprocess(8000, 0.5)}, small=3)


def test_only_the_second_of_two_asymmetric_views_is_solarized() -> None:
    torch.manual_seed(0)
    view = Asymmetric(PREPROCESS, color_jitter=0.0, grayscale=0.0, blur=0.0, solarize=(0.0, 1.0))
    white = torch.full((4, 3, 28, 28), 255, dtype=torch.uint8)
    first, second = view.on_device(Batch({"image": [white, white]})).views["image"]
    assert (first == 1).all() and (second == 0).all()


def test_boxes_of_large_and_small_crops(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def drawn(width: int, height: int, **how: object) -> tuple[int, int, int, int]:
        asked.append(how)
        return 0, 0, width, height

    monkeypatch.setattr("mmssl.transforms.image.random_box", drawn)
    options = {"crop_scale": (0.3, 0.9), "small_scale": (0.1, 0.2), "crop_ratio": (0.8, 1.1), "small_size": 9}
    shown = MultiCrop(PREPROCESS, small=3, views=2, **options)({"image": Image.new("RGB", (40, 30))})["image"]
    large, small = ({"scale": scale, "ratio": (0.8, 1.1)} for scale in ((0.3, 0.9), (0.1, 0.2)))
    assert asked == [large] * 2 + [small] * 3
    assert [x.shape[-1] for x in shown] == [28, 28, 9, 9, 9]
    assert [x.shape[-1] for x in MultiCrop(PREPROCESS, small=3, **options).blanks("image")] == [28, 28, 9, 9, 9]


@pytest.mark.parametrize(("size", "small_size"), [(224, 96), (28, 12), (100, 43)])
def test_small_crops_are_three_sevenths_of_the_large_ones(size: int, small_size: int) -> None:
    made = MultiCrop({"image": ImagePreprocess(size)}, small=4)
    assert made.small_size == small_size
    assert made.shows == {"image": 6}
    assert len(made.chances) == 6


def test_small_crops_are_flipped_and_recoloured_too() -> None:
    halves = np.zeros((28, 28, 3), np.uint8)
    halves[:, 14:] = 255
    whole = {"crop_scale": (1.0, 1.0), "small_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0)}
    made = MultiCrop(PREPROCESS, small=2, flip=1.0, **whole)
    for shown in made({"image": Image.fromarray(halves)})["image"]:
        assert shown[..., 0].min() > 250
        assert shown[..., -1].max() < 5
    own = MultiCrop(PREPROCESS, small=2, color_jitter=0.0, grayscale=0.0, blur=0.0, solarize=(0.0, 0.0, 1.0), **whole)
    white = [torch.full((2, 3, 4, 4), 255, dtype=torch.uint8)] * 4
    assert [float(x.mean()) for x in own.on_device(Batch({"image": white})).views["image"]] == [1, 1, 0, 0]


def test_bounds_of_small_crops() -> None:
    assert MultiCrop(PREPROCESS, small=0).shows == {"image": 2}
    MultiCrop(PREPROCESS, small_scale=(0.01, 1.0))
    for options, message in (
        ({"small": -1}, "small is -1 for image"),
        ({"small_scale": (0.009, 0.5)}, "small_scale is"),
        ({"small_scale": (0.5, 1.1)}, "small_scale is"),
    ):
        with pytest.raises(UserError, match=message):
            MultiCrop(PREPROCESS, **options)
    sound = MultiCrop({"audio": AudioPreprocess(8000, 0.5)}, small=0)
    assert sound.blanks("audio")[0].equal(torch.zeros(4000))
    assert len(sound.blanks("audio")) == 2
