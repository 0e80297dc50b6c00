"""BYOL's two views, changed differently: the first always blurred, the second at times solarized.

Grill et al., NeurIPS 2020; used since by Barlow Twins, MoBY and others.
"""

from __future__ import annotations

from mmssl.transforms.color import Blur, ColorJitter, Grayscale, Solarize
from mmssl.transforms.image import Crop, Flip
from mmssl.views.template import Views

COLORS = ColorJitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)

view = Views(2, image=[Crop(), Flip(), COLORS, Grayscale(), Blur(p=(1.0, 0.1)), Solarize(p=(0.0, 0.2))])
