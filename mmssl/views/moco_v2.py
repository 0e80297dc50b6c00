"""MoCo v2's two views: SimCLR's, jittered half as much, on larger crops. Chen et al., 2020."""

from __future__ import annotations

from mmssl.transforms.color import Blur, ColorJitter, Grayscale
from mmssl.transforms.image import Crop, Flip
from mmssl.views.template import Views

COLORS = ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)

view = Views(2, image=[Crop(scale=(0.2, 1.0)), Flip(), COLORS, Grayscale(), Blur()])
