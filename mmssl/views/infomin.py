"""InfoMin: two views that share little but what is worth knowing; strong crops, colours and RandAugment.

Tian et al., NeurIPS 2020 ("What makes for good views"), without the patches of their second branch.
"""

from __future__ import annotations

from mmssl.transforms.color import Blur, ColorJitter, Grayscale
from mmssl.transforms.image import Crop, Flip
from mmssl.transforms.rand_augment import RandAugment
from mmssl.views.template import Views

view = Views(2, image=[Crop(scale=(0.2, 1.0)), Flip(), ColorJitter(), Grayscale(), Blur(), RandAugment()])
