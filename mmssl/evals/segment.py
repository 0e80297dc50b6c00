"""Semantic segmentation by transfer: an encoder and a fully convolutional head tell the class of every pixel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl import dist
from mmssl.data.in_workers import in_workers
from mmssl.evals.parts.masked import VOID
from mmssl.evals.parts.report import no_samples_error, require, usable
from mmssl.evals.parts.transfer import Dense, DenseTransfer, Network
from mmssl.evals.transfer_dense import confusion, scored
from mmssl.modalities import image
from mmssl.transforms.fields import Kind
from mmssl.types import Batch, Encoder, Sample, Score


@dataclass(kw_only=True, eq=False)
class Segment(DenseTransfer):
    """Mean IoU and share of right pixels, fine-tuned or frozen; cross-entropy is averaged over each image's pixels.

    Long et al., CVPR 2015; as a judge of representations: He et al., CVPR 2020. The interval is over samples. Trivial
    is the commonest class of the training set everywhere, chance a class drawn for each pixel. Parts of mIoU are the
    classes, by number. The other options are those of every DenseTransfer.

    mask: the sample's key that holds the class of each pixel, an image such as mask.png; 255 does not count.
    foreground: all classes but 0 are one, as for masks that number objects.
    """

    mask: str = "mask"
    foreground: bool = False

    def aligned(self) -> dict[str, Kind]:
        return {self.mask: "mask"}

    def network(self, encoder: Encoder) -> Network:
        counts = self._counted()
        self.commonest = int(counts.argmax())
        return _Segmenter(encoder, int(counts.nonzero().max()) + 1, self)

    def _counted(self) -> Tensor:
        """Returns how many pixels of the training set are of each class (255,)."""
        made = in_workers(
            self.learnt, (self.mask,), partial(_counts, key=self.mask), size=16, rank=dist.rank(), world=dist.world()
        )
        counts = sum((one.value for one in usable(made) if one.value is not None), np.zeros(VOID))
        total = dist.total(torch.from_numpy(counts))
        if not total.any():
            raise no_samples_error(f"no sample of {self.learnt.shards[0]} has a whole {self.mask}")
        return torch.stack([total[0], total[1:].sum()]) if self.foreground else total

    def scores(self, answers: list[Any]) -> Iterator[tuple[str, Score]]:
        """Yields mIoU and accuracy."""
        return scored(torch.stack(answers), commonest=self.commonest)


class _Segmenter(Dense):
    def __init__(self, encoder: Encoder, classes: int, options: Segment) -> None:
        super().__init__(encoder, classes, options)
        self.classes, self.mask, self.foreground = classes, options.mask, options.foreground

    def loss(self, batch: Batch) -> Tensor:
        truth = self._truth(batch)
        losses = F.cross_entropy(self(batch.views["image"][0]), truth, ignore_index=VOID, reduction="none")
        return (losses.sum(dim=(1, 2)) / (truth != VOID).sum(dim=(1, 2)).clamp(min=1)).mean()

    def answers(self, batch: Batch) -> list[Any]:
        told = self(batch.views["image"][0]).argmax(dim=1)
        return [confusion(a, b, self.classes).cpu() for a, b in zip(told, self._truth(batch), strict=True)]

    def _truth(self, batch: Batch) -> Tensor:
        truth: Tensor = batch.fields["image"][self.mask][0]
        return truth.where((truth == 0) | (truth == VOID), 1) if self.foreground else truth


def _counts(sample: Sample, *, key: str) -> np.ndarray:
    (mask,) = require(sample, key)
    classes = image.values(mask) if hasattr(mask, "getpixel") else np.asarray(mask)
    return np.bincount(classes.astype(np.int64).ravel().clip(0, VOID), minlength=VOID + 1)[:VOID].astype(np.float64)


evaluation = Segment
