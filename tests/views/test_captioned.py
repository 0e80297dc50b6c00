"""An image and its caption: left and right change places with the image, and nothing else of the text does."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mmssl.encoders.bpe import byte_tokenizer
from mmssl.errors import UserError
from mmssl.transforms.image import ImagePreprocess
from mmssl.transforms.text import TextPreprocess
from mmssl.views.captioned import swapped, view

PREPROCESS = {"image": ImagePreprocess(8), "text": TextPreprocess(byte_tokenizer())}
HALVES = Image.fromarray(np.repeat(np.array([[0] * 8 + [255] * 8], np.uint8), 16, axis=0)).convert(
    "RGB"
)  # light: right


@pytest.mark.parametrize("swap", [True, False])
@pytest.mark.parametrize("p", [0.0, 1.0])
def test_the_text_says_where_the_light_is(p: float, swap: bool) -> None:
    shown = view(PREPROCESS, swap=swap, image={"flip": {"p": p}, "crop": {"scale": [1.0, 1.0], "ratio": [1.0, 1.0]}})(
        {"image": HALVES, "text": "Light on the right."}
    )
    side = "left" if shown["image"][0][0, 4, 0] > 128 else "right"
    assert side == ("left" if p else "right")
    assert shown["text"] == [f"Light on the {side if swap else 'right'}."]


def test_words_alone_are_exchanged() -> None:
    assert swapped("Left, RIGHT; leftover bright Right-hand left") == "Right, LEFT; leftover bright Left-hand right"


def test_what_it_needs_and_what_may_be_missing() -> None:
    with pytest.raises(UserError, match="an image and its text, found image"):
        view({"image": PREPROCESS["image"]})
    made = view(PREPROCESS, image={"flip": {"p": 1.0}})
    assert made({"text": "left"})["text"] == ["left"] and "text" not in made({"image": HALVES})


def test_steps_are_the_papers() -> None:
    """Desai & Johnson, and their code: crops of 0.2 to 1, half mirrored, colours 0.4, 0.4, 0.4, 0.1 for 0.8."""
    crop, flip, colors = view.modalities["image"]
    assert (crop.scale, crop.ratio, flip.p) == ((0.2, 1.0), (3 / 4, 4 / 3), 0.5)
    assert (colors.p, colors.brightness, colors.contrast, colors.saturation, colors.hue) == (0.8, 0.4, 0.4, 0.4, 0.1)
