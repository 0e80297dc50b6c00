"""DINO's two large views, changed differently, and eight small ones.

Caron et al., ICCV 2021. The scales are for a ViT; a ResNet has 0.14 to 1 and 0.05 to 0.14.
"""

from __future__ import annotations

from mmssl.transforms.color import Blur, ColorJitter, Grayscale, Solarize
from mmssl.transforms.image import Crop, Flip
from mmssl.views.template import Views

COLORS = (Flip(), ColorJitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1), Grayscale())

view = Views(
    2,
    image=[Crop(scale=(0.4, 1.0)), *COLORS, Blur(p=(1.0, 0.1)), Solarize(p=(0.0, 0.2))],
    small=Views(8, image=[Crop(scale=(0.05, 0.4), size=3 / 7), *COLORS, Blur(p=0.5)]),
)
