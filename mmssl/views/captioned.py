"""An image and its caption, which still tells left from right when the image is mirrored."""

from __future__ import annotations

import re
from collections.abc import Mapping

from mmssl.errors import UserError
from mmssl.transforms.color import ColorJitter
from mmssl.transforms.image import Crop, Flip
from mmssl.types import Preprocess, Sample
from mmssl.views.composed import Composed
from mmssl.views.template import Views

SIDES = {"left": "right", "right": "left"}
WORD = re.compile(r"\b(left|right)\b", re.IGNORECASE)


class Captioned(Composed):
    """Shows one image and one of its captions.

    swap: whether left and right change places in the caption of a mirrored image.
    """

    def __init__(self, preprocess: Mapping[str, Preprocess], template: Views, *, swap: bool = True) -> None:
        super().__init__(preprocess, template)
        if {"image", "text"} - set(preprocess):
            raise UserError(f"this view shows an image and its text, found {', '.join(preprocess)}")
        self.swap = swap

    def __call__(self, sample: Sample) -> Sample:
        shown = super().__call__(sample)
        if self.swap and "image" in shown and "text" in shown:
            mirrored = shown["places"]["image"][0][0, 0] < 0
            shown["text"] = [swapped(text) if mirrored else text for text in shown["text"]]
        return shown


def swapped(text: str) -> str:
    """Exchanges the words left and right, and keeps capitals."""

    def other(found: re.Match[str]) -> str:
        word = SIDES[found[0].lower()]
        return word.upper() if found[0].isupper() else word.capitalize() if found[0][0].isupper() else word

    return WORD.sub(other, text)


COLORS = ColorJitter(p=0.8, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)  # captions name colours

view = Views(1, fixed=True, kind=Captioned, image=[Crop(scale=(0.2, 1.0)), Flip(), COLORS])
