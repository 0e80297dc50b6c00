"""Small crops beside large ones."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mmssl.data.collate import collate
from mmssl.errors import UserError
from mmssl.transforms.audio import AudioPreprocess
from mmssl.transforms.image import ImagePreprocess
from mmssl.types import Batch
from mmssl.views.swav import view

PREPROCESS = {"image": ImagePreprocess(28)}
WHOLE = {"crop": {"scale": (1.0, 1.0), "ratio": (1.0, 1.0)}}


def test_large_crops_come_first_and_small_ones_have_their_size() -> None:
    random.seed(0)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8))
    shown = view(PREPROCESS, small={"views": 3})({"image": picture})["image"]
    assert [tuple(x.shape) for x in shown] == [(3, 28, 28)] * 2 + [(3, 12, 12)] * 3


def test_a_sample_without_a_picture_has_blank_crops_of_both_sizes() -> None:
    made = view(PREPROCESS, small={"views": 2})
    batch = collate([made({"image": Image.new("RGB", (40, 40), "red")}), {}], made)
    assert [tuple(x.shape) for x in batch.views["image"]] == [(2, 3, 28, 28)] * 2 + [(2, 3, 12, 12)] * 2
    assert batch.present("image").tolist() == [True, False]
    assert not any(x[1].any() for x in batch.views["image"])
    assert [tuple(x.shape) for x in batch.places["image"]] == [(2, 2, 3)] * 4


def test_small_crops_are_changed_in_their_own_way() -> None:
    own = view(PREPROCESS, image={"blur": {"p": (1.0, 0.1)}}, small={"views": 3, "image": {"blur": {"p": 0.3}}})
    assert [steps[-1].p for steps in own.steps["image"]] == [1.0, 0.1, 0.3, 0.3, 0.3]
    each = view(PREPROCESS, small={"views": 3, "image": {"blur": {"p": [0.2, 0.3, 0.4]}}})
    assert [steps[-1].p for steps in each.steps["image"]] == [0.5, 0.5, 0.2, 0.3, 0.4]
    for options in ({"image": {"blur": {"p": (1.0, 0.1, 0.5)}}}, {"small": {"image": {"blur": {"p": (1.0, 0.1)}}}}):
        with pytest.raises(UserError, match="blur.p is"):
            view(PREPROCESS, **options)


def test_what_has_no_small_steps_has_no_small_views() -> None:
    sound = view({"audio": AudioPreprocess(8000, 0.5)} | PREPROCESS)
    assert sound.shows == {"audio": 2, "image": 8}
    assert [x.shape for x in sound.blanks("audio")] == [(4000,)] * 2
    assert view(PREPROCESS, small=None).shows == {"image": 2}


def test_boxes_of_large_and_small_crops(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def drawn(width: int, height: int, **how: object) -> tuple[int, int, int, int]:
        asked.append(how)
        return 0, 0, width, height

    monkeypatch.setattr("mmssl.transforms.image.random_box", drawn)
    large, small = ({"scale": scale, "ratio": (0.8, 1.1)} for scale in ((0.3, 0.9), (0.1, 0.2)))
    made = view(PREPROCESS, image={"crop": large}, small={"views": 3, "image": {"crop": small | {"size": 9}}})
    shown = made({"image": Image.new("RGB", (40, 30))})["image"]
    assert asked == [large] * 2 + [small] * 3
    assert [x.shape[-1] for x in shown] == [28, 28, 9, 9, 9]
    assert [x.shape[-1] for x in made.blanks("image")] == [28, 28, 9, 9, 9]


@pytest.mark.parametrize(("size", "small_size"), [(224, 96), (28, 12), (100, 43)])
def test_small_crops_are_three_sevenths_of_the_large_ones(size: int, small_size: int) -> None:
    made = view({"image": ImagePreprocess(size)}, small={"views": 4})
    assert [x.shape[-1] for x in made.blanks("image")] == [size] * 2 + [small_size] * 4
    assert made.shows == {"image": 6}


def test_small_crops_are_flipped_and_recoloured_too() -> None:
    halves = np.zeros((28, 28, 3), np.uint8)
    halves[:, 14:] = 255
    steps: dict[str, Any] = WHOLE | {"flip": {"p": 1.0}}
    for shown in view(PREPROCESS, image=steps, small={"views": 2, "image": steps})({"image": Image.fromarray(halves)})[
        "image"
    ]:
        assert shown[..., 0].min() > 250
        assert shown[..., -1].max() < 5
    quiet = {"color_jitter": None, "grayscale": None, "blur": None}
    own = view(PREPROCESS, image=quiet, small={"views": 2, "image": quiet | {"solarize": {"p": 1.0}}})
    white = [torch.full((2, 3, 4, 4), 255, dtype=torch.uint8)] * 4
    assert [float(x.mean()) for x in own.on_device(Batch({"image": white})).views["image"]] == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"views": -1}, "small.views is -1; expected int of at least 1"),
        ({"views": 0}, "small.views is 0"),
        ({"image": {"crop": {"scale": (0.009, 0.5)}}}, "small.image.crop: crop.scale is"),
        ({"image": {"crop": {"scale": (0.5, 1.1)}}}, "small.image.crop: crop.scale is"),
    ],
)
def test_bounds_of_small_crops(options: Any, message: str) -> None:
    view(PREPROCESS, small={"views": 1, "image": {"crop": {"scale": (0.01, 1.0)}}})
    with pytest.raises(UserError, match=message):
        view(PREPROCESS, small=options)
