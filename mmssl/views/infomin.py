"""InfoMin: two views that share little but what is worth knowing; strong crops, colours and RandAugment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmssl.errors import UserError
from mmssl.transforms.rand_augment import rand_augment
from mmssl.types import Batch, Preprocess
from mmssl.views.pair import Pair


class InfoMin(Pair):
    """Changes pictures as Pair does, whose options these are, and then by RandAugment; for any method on two views.

    operations: how many are drawn for each picture; magnitude: how strong they are, 0 to 10.
    Tian et al., NeurIPS 2020 ("What makes for good views"), without the patches of their second branch.
    """

    def __init__(
        self,
        preprocess: Mapping[str, Preprocess],
        *,
        crop_scale: tuple[float, float] = (0.2, 1.0),
        operations: int = 2,
        magnitude: float = 10.0,
        **rest: Any,
    ) -> None:
        super().__init__(preprocess, crop_scale=crop_scale, **rest)
        if operations < 1 or not 0 <= magnitude <= 10:
            raise UserError(
                f"operations is {operations} and magnitude {magnitude}; expected at least 1, and 0 to 10; "
                "without them, choose the view pair"
            )
        if "image" not in preprocess:
            raise UserError(f"infomin changes pictures; the task shows {', '.join(preprocess)}, choose the view pair")
        self.operations, self.magnitude = operations, magnitude

    def varies(self, name: str) -> bool:
        return name == "image" or super().varies(name)

    def on_device(self, batch: Batch) -> Batch:
        batch = super().on_device(batch)
        options = {"operations": self.operations, "magnitude": self.magnitude}
        batch.views["image"] = [rand_augment(x, **options) for x in batch.views["image"]]  # type: ignore[arg-type]
        return batch


view = InfoMin
