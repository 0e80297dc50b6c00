"""Multi-crop: two large views of an image and several small ones of parts of it. Caron et al., NeurIPS 2020 (SwAV).

Small crops have 3/7 of the side of the large ones, as 96 is of 224.
"""

from __future__ import annotations

from mmssl.transforms.color import Blur, ColorJitter, Grayscale
from mmssl.transforms.image import Crop, Flip
from mmssl.views.template import Views

COLORS = (Flip(), ColorJitter(), Grayscale(), Blur())

view = Views(
    2,
    image=[Crop(scale=(0.14, 1.0)), *COLORS],
    small=Views(6, image=[Crop(scale=(0.05, 0.14), size=3 / 7), *COLORS]),
)
