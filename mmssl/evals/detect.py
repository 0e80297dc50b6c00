"""Object detection by transfer: an encoder inside Faster or Mask R-CNN finds the objects of images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from mmssl import dist
from mmssl.data.in_workers import in_workers
from mmssl.errors import UserError
from mmssl.evals.parts.average_precision import average_precision, require_pycocotools
from mmssl.evals.parts.boxes import Boxed, annotated
from mmssl.evals.parts.detectors import Detector
from mmssl.evals.parts.needs import Needs
from mmssl.evals.parts.report import no_samples_error, require, usable
from mmssl.evals.parts.transfer import Network, Transfer
from mmssl.types import Encoder, Sample, Score, Trained, View


@dataclass(kw_only=True, eq=False)
class Detect(Transfer):
    """COCO's AP, AP50 and AP75 of boxes, and with masks mask_AP, ..., fine-tuned or frozen, by torchvision's detectors.

    Images are shown whole, their longer side scaled to `size`, and judged at that size. Samples have annotations as
    COCO has them; the categories are those of either set. As a judge of representations: He et al., CVPR 2020. Parts
    are the categories. The other options are those of every Transfer. Needs pycocotools.

    detector: "fpn" looks at a pyramid of the encoder's maps, "c4" at its last but one, and the encoder's last stage at
        each proposal; of a ViT "fpn" alone.
    masks: Mask R-CNN in place of Faster R-CNN.
    annotations: the sample's key that holds the list of annotations, as annotations.json does.
    size: side of the images in pixels, by default what the encoder reads.
    width: channels of the pyramid's levels and, four times as many, of the heads.
    proposals: of each image that the heads learn from in a step; twice as many, at most 1,000, are judged.
    """

    lr: float = 5e-4
    detector: Literal["fpn", "c4"] = "fpn"
    masks: bool = False
    annotations: str = "annotations"
    size: int | None = None
    width: int = 256
    proposals: int = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.width, self.proposals) < 1 or (self.size is not None and self.size < 16):
            raise UserError(
                f"detect has size {self.size}, width {self.width}, proposals {self.proposals}; expected a size of at "
                "least 16 pixels, and numbers above 0"
            )

    @property
    def fields(self) -> tuple[str, ...]:
        return (self.annotations,)

    def needs(self, trained: Trained) -> Needs:
        require_pycocotools()
        return super().needs(trained)

    def run(self, trained: Trained) -> Iterator[tuple[str, Score]]:
        """Yields AP, AP50 and AP75, with masks those of masks too, and with baselines before them random_init/."""
        require_pycocotools()
        self.categories = self._categories()
        yield from super().run(trained)

    def _categories(self) -> list[Any]:
        """Returns the categories of both sets, in order."""
        found: set[Any] = set()
        for source in (self.learnt, self.judged):
            read = partial(_named, key=self.annotations)
            made = in_workers(source, (self.annotations,), read, size=64, rank=dist.rank(), world=dist.world())
            for one in usable(made):
                found |= one.value or set()
        every = set().union(*dist.gather_objects(found))
        if not every:
            raise no_samples_error(f"no sample of {self.learnt.shards[0]} has an object under {self.annotations}")
        return sorted(every, key=lambda category: (isinstance(category, str), category))

    def view(self, encoder: Encoder, *, training: bool) -> View:
        return Boxed(
            encoder.preprocess,
            size=self._side(encoder),
            key=self.annotations,
            categories=self.categories,
            masks=self.masks,
            flip=self.flip if training else 0.0,
        )

    def _side(self, encoder: Encoder) -> int:
        return self.size or encoder.preprocess.blank().shape[-1]

    def network(self, encoder: Encoder) -> Network:
        return Detector(
            encoder,
            self.detector,
            len(self.categories),
            size=self._side(encoder),
            masks=self.masks,
            width=self.width,
            proposals=self.proposals,
            frozen=self.frozen,
        )

    def scores(self, answers: list[Any]) -> Iterator[tuple[str, Score]]:
        yield from average_precision(answers, self.categories, "bbox")
        if self.masks:
            yield from ((f"mask_{name}", score) for name, score in average_precision(answers, self.categories, "segm"))


def _named(sample: Sample, *, key: str) -> set[Any]:
    (given,) = require(sample, key)
    return {thing.category for thing in annotated(given)}


evaluation = Detect
