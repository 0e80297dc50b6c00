"""SimCLR's two views: cropped, mirrored, recoloured and blurred. Chen et al., ICML 2020."""

from __future__ import annotations

from mmssl.transforms.color import Blur, ColorJitter, Grayscale
from mmssl.transforms.image import Crop, Flip
from mmssl.views.template import Views

view = Views(2, image=[Crop(), Flip(), ColorJitter(), Grayscale(), Blur()])
