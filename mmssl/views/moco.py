"""MoCo's two views: their colour is always jittered, without blur. He et al., CVPR 2020."""

from __future__ import annotations

from mmssl.transforms.color import ColorJitter, Grayscale
from mmssl.transforms.image import Crop, Flip
from mmssl.views.template import Views

COLORS = ColorJitter(p=1.0, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.4)

view = Views(2, image=[Crop(scale=(0.2, 1.0)), Flip(), COLORS, Grayscale()])
