"""Split-brain autoencoder: one half draws colours from brightness, the other brightness from colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl import dist
from mmssl.errors import UserError
from mmssl.losses.soft_bins import soft_nll
from mmssl.nn.decoder import Decoder
from mmssl.numerics.bins import Bins, ab_grid, sampled
from mmssl.numerics.color import lab, srgb
from mmssl.transforms.base import OnBatch
from mmssl.transforms.image import Crop, Flip
from mmssl.types import Batch, Encoder, Epoch, Loss, Method, Objective, reading
from mmssl.views.template import Views

LEARN_BATCHES = 1000  # at most, for the clusters of colour
EVEN = 50.0  # the lightness that all colours are shown with
ASKED = ("colors", "lightness")  # of the first encoder, and of the second


@dataclass(kw_only=True)
class Halves(OnBatch):
    """Shows an image without its colour to the first encoder, and with its lightness made even to the second.

    What each half is asked for is added, averaged over cells: `colors` (B, 2, h, w), a and b of Lab, and `lightness`
    (B, 1, h, w). Encoders `lab`, with part lightness and part color, see no more of whole images when they are judged
    than here.

    cell: side, in pixels, of the squares that are averaged.
    split: off, both see the whole image.
    """

    single = True
    cell: int = 4
    split: bool = True

    def check(self, preprocess: Mapping[str, Any]) -> None:
        sizes = [prepare.size for prepare in preprocess.values()]
        if len(sizes) != 2 or sizes[0] != sizes[1] or sizes[0] % self.cell:
            raise UserError(f"encoders of images of {sizes} pixels, in cells of {self.cell}; expected two of one size")

    def on_batch(self, batch: Batch) -> Batch:
        first, second = batch.views
        (picture,) = batch.views[first]
        lightness, colors = lab(picture).split([1, 2], dim=1)
        batch.extra |= {"lightness": F.avg_pool2d(lightness, self.cell), "colors": F.avg_pool2d(colors, self.cell)}
        if self.split:
            gray, even = torch.zeros_like(colors), torch.full_like(lightness, EVEN)
            batch.views[first] = [srgb(torch.cat([lightness, gray], dim=1))]
            batch.views[second] = [srgb(torch.cat([even, colors], dim=1))]
        return batch


class SplitBrain(Objective):
    """Asks each half for the bin of what the other sees, cell by cell. Zhang et al., CVPR 2017.

    Of the run's encoders of images the first sees lightness, the second colour. They need not be alike; the paper's
    features are those of both, side by side.

    bins: of colour, by k-means on cells of the training stream; null has those that sRGB reaches on a grid of 10.
    neighbors: how many of the nearest bins share a colour.
    sigma: width of the Gaussian by which they share it, in units of a and b.
    lightness_bins: of lightness.
    widths: channels of the decoders' stages, each of which doubles the side of the encoder's grid.
    learn_from: cells that k-means takes.
    """

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        bins: int | None = None,
        neighbors: int = 5,
        sigma: float = 5.0,
        lightness_bins: int = 100,
        widths: Sequence[int] = (256, 256, 128),
        learn_from: int = 50_000,
    ) -> None:
        super().__init__(encoders)
        if lightness_bins < 2:
            raise UserError(f"lightness_bins is {lightness_bins}; expected at least 2")
        self.uses = tuple(key for key, encoder in encoders.items() if encoder.modality == "image")[:2]
        if len(self.uses) < 2:
            raise UserError(f"split_brain needs two encoders of images; the run has {reading(encoders)}")
        self.asked = dict(zip(self.uses, ASKED, strict=True))  # what each is asked for
        self.find, self.learn_from = bins is not None, learn_from
        middles = (torch.arange(lightness_bins)[:, None] + 0.5) * 100 / lightness_bins
        self.colors = Bins(torch.zeros(bins, 2) if bins else ab_grid(), neighbors=neighbors, sigma=sigma)
        self.lightness = Bins(middles, neighbors=1)
        outs = {"colors": len(self.colors.centers), "lightness": lightness_bins}
        self.decoders = nn.ModuleDict(
            {
                key: Decoder(encoders[key].dim, out=outs[asked], widths=widths, kernel=1)
                for key, asked in self.asked.items()
            }
        )

    def before_epoch(self, encoders: Mapping[str, Encoder], epoch: Epoch) -> None:
        """Finds, before the first, the bins of colour where their number is given."""
        if epoch.number or not self.find:
            return
        cells = (b.extra["colors"][b.present(self.uses[0])].movedim(1, -1).flatten(0, -2) for b in epoch.batches())
        found = sampled(islice(cells, LEARN_BATCHES), self.learn_from).to(self.colors.centers.device)
        self.colors.learn(found, find=True, uniform=1.0)

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        one, other = self.uses
        present = batch.present(one) & batch.present(other)
        bins = {"colors": self.colors, "lightness": self.lightness}
        totals, rights, embeddings = [], {}, {}
        for key, asked in self.asked.items():
            features, truth = encoders[key](batch.views[key][0]), batch.extra[asked]
            logits = self.decoders[key](features, truth.shape[2:])
            classes, shares, weights = bins[asked].target(truth)
            totals.append(dist.mean(soft_nll(logits, classes, shares, weights), present))
            hits = logits.argmax(dim=1) == classes[:, 0]
            rights[asked] = hits.float().mean((1, 2)).where(present, torch.nan)
            embeddings[key] = features.pooled.detach()
        logs = {f"{asked}_accuracy": right.nanmean() for asked, right in rights.items()}
        correct: Tensor = torch.stack(list(rights.values())).mean(dim=0)
        return Loss(torch.stack(totals).sum(), logs, embeddings, {"correct": correct, **rights})


STEPS = [Crop(scale=(0.35, 1.0), ratio=(1.0, 1.0)), Flip()]
GUARDS = {"split": {"halves": {"split": False}}}

method = Method(Views(1, image=STEPS, after=[Halves()], guards=GUARDS), SplitBrain)
