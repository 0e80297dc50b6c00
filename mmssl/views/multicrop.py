"""Multi-crop: two large views of a picture and several small ones of parts of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mmssl.errors import UserError
from mmssl.transforms import image
from mmssl.types import Preprocess, Sample
from mmssl.views.pair import Pair
from mmssl.views.single import Chance, chances


class MultiCrop(Pair):
    """Shows `views` large crops, the first in the list, and `small` small ones of side small_size.

    small_scale: their share of the area. small_size: pixels, by default 3/7 of the large ones', as 96 is of 224.
    They are recoloured as the last large view is, unless probabilities are given for one view more, which are theirs.
    Without small ones any modality can be shown. The rest as Pair has it. Caron et al., NeurIPS 2020 (SwAV).
    """

    def __init__(
        self,
        preprocess: Mapping[str, Preprocess],
        *,
        small: int = 6,
        small_size: int | None = None,
        small_scale: tuple[float, float] = (0.05, 0.14),
        crop_scale: tuple[float, float] = (0.14, 1.0),
        **rest: Any,
    ) -> None:
        if small < 0 or (small and set(preprocess) != {"image"}):
            raise UserError(f"small is {small} for {', '.join(preprocess)}; only pictures have small crops")
        self.small, self.small_scale = small, image.check_range("small_scale", small_scale, 0.01, 1.0)
        super().__init__(preprocess, crop_scale=crop_scale, **rest)
        if small:
            self.small_size = small_size or round(self.prepare["image"].size * 3 / 7)
            self.shows = {"image": self.views + small}
            self.chances += self.chances[-1:] * (small - 1)

    def _per_view(self, given: Mapping[str, Chance]) -> list[list[float]]:
        """Returns the probabilities of each large view, and behind them those of the small ones if there are any."""
        large = {name: value for name, value in given.items() if isinstance(value, tuple) and len(value) == self.views}
        whole = {**given, **{name: (*value, value[-1]) for name, value in large.items()}}
        found = [chances(name, value, self.views + 1) for name, value in whole.items()]
        return found if self.small else [each[:-1] for each in found]

    def check(self) -> None:
        super().check()
        alike = self.small_scale[0] == 1 and self.flip in (0, 1) and not self._recolored(self.chances[self.views :])
        if self.small > 1 and alike:
            raise UserError(f"nothing sets the {self.small} small crops apart, they are all alike; set small_scale")

    def blanks(self, modality: str) -> list[Tensor]:
        """Returns blank crops, small ones of their own size."""
        found = super().blanks(modality)
        large = found[: self.views]
        return large + [blank[..., : self.small_size, : self.small_size] for blank in found[self.views :]]

    def __call__(self, sample: Sample) -> Sample:
        shown = super().__call__(sample)
        if self.small and "image" in shown:
            picture = image.opened(sample["image"])
            shown["image"] += [self._crop(picture, self.small_size, self.small_scale) for _ in range(self.small)]
        return shown


view = MultiCrop
