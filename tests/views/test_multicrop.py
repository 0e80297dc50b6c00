"""Small crops beside large ones, and views that are changed each in its own way."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from PIL import Image

from mmssl.data.collate import collate
from mmssl.errors import UserError
from mmssl.transforms.audio import AudioPreprocess
from mmssl.transforms.image import ImagePreprocess
from mmssl.types import Batch
from mmssl.views.asymmetric import Asymmetric
from mmssl.views.multicrop import MultiCrop

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
