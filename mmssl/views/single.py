"""One view: a crop that keeps nearly all of an image, since captions name sides and colours."""

from __future__ import annotations

from mmssl.transforms.image import Crop
from mmssl.views.template import Views

view = Views(1, image=[Crop(scale=(0.9, 1.0), ratio=(1.0, 1.0))])
