"""Colorization: say what colour each place of a grey image has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl import dist
from mmssl.errors import UserError
from mmssl.losses.pixels import pixel_error
from mmssl.losses.soft_bins import soft_nll
from mmssl.nn.decoder import Decoder
from mmssl.numerics.bins import Bins, ab_grid, sampled
from mmssl.numerics.color import as_unit, lab, srgb
from mmssl.transforms.base import OnBatch
from mmssl.transforms.image import Crop, Flip
from mmssl.types import Batch, Encoder, Epoch, Loss, Method, Objective, Reconstruction
from mmssl.views.template import Views

LEARN_BATCHES = 1000  # at most, for how common colours are
REACH = 110.0  # of a and b


@dataclass(kw_only=True)
class Lightness(OnBatch):
    """Shows the grey image of the same lightness, and adds a and b of Lab of each cell as `colors` (B, 2, h, w).

    Colours that other steps change are the ones to be found. The encoder `lab` with part lightness sees no more when
    it is judged, on images in colour, than here.

    cell: side, in pixels, of the squares whose colour is averaged.
    gray: off, the network is shown the colours that it is asked for.
    """

    single = True
    cell: int = 4
    gray: bool = True

    def check(self, preprocess: Mapping[str, Any]) -> None:
        size = preprocess["image"].size
        if size % self.cell:
            raise UserError(f"images of {size} pixels do not divide into cells of {self.cell}; set view.lightness.cell")

    def on_batch(self, batch: Batch) -> Batch:
        (picture,) = batch.views["image"]
        split = lab(picture)
        batch.extra["colors"] = F.avg_pool2d(split[:, 1:], self.cell)
        if self.gray:
            batch.views["image"] = [srgb(F.pad(split[:, :1], (0, 0, 0, 0, 0, 2)))]
        return batch


class Colorization(Objective):
    """Asks for the bin of each cell's colour, softly, the rare ones weighed up. Zhang et al., ECCV 2016.

    target: bins, or the values of a and b themselves (l2).
    bins: how many, by k-means on the training stream; null has those that sRGB reaches on a grid of 10.
    neighbors: how many of the nearest bins share a colour.
    sigma: width of the Gaussian by which they share it, in units of a and b.
    uniform: between 0, where bins count by how rare they are, and 1, where all count alike (the paper's lambda).
    widths: channels of the decoder's stages, each of which doubles the side of the encoder's grid.
    learn_from: cells of the training stream on which bins, and how common each is, are found.
    """

    modalities = ("image",)

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        target: Literal["bins", "l2"] = "bins",
        bins: int | None = None,
        neighbors: int = 5,
        sigma: float = 5.0,
        uniform: float = 0.5,
        widths: Sequence[int] = (256, 256, 128),
        learn_from: int = 200_000,
    ) -> None:
        super().__init__(encoders)
        if not 0 < uniform <= 1:
            raise UserError(f"uniform is {uniform}; expected more than 0, so that no bin's weight is endless, up to 1")
        self.target, self.find, self.uniform, self.learn_from = target, bins is not None, uniform, learn_from
        self.bins = Bins(torch.zeros(bins, 2) if bins else ab_grid(), neighbors=neighbors, sigma=sigma)
        out = len(self.bins.centers) if target == "bins" else 2
        self.decoder = Decoder(encoders["image"].dim, out=out, widths=widths, kernel=1)

    def before_epoch(self, encoders: Mapping[str, Encoder], epoch: Epoch) -> None:
        """Finds, before the first, the bins, where their number is given, and how common each is."""
        if epoch.number:
            return
        cells = (b.extra["colors"][b.present("image")].movedim(1, -1).flatten(0, -2) for b in epoch.batches())
        self.bins.learn(
            sampled(islice(cells, LEARN_BATCHES), self.learn_from).to(self.bins.centers.device),
            find=self.find,
            uniform=self.uniform,
        )

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        (shown,), colors, present = batch.views["image"], batch.extra["colors"], batch.present("image")
        features = encoders["image"](shown)
        drawn = self.decoder(features, colors.shape[2:])
        if self.target == "bins":
            bins, shares, weights = self.bins.target(colors)
            losses = soft_nll(drawn, bins, shares, weights)
            hits = drawn.argmax(dim=1) == bins[:, 0]
        else:
            losses = pixel_error(drawn, colors / REACH)
            hits = self.bins.numbers(drawn * REACH) == self.bins.numbers(colors)
        right = hits.float().mean((1, 2)).where(present, torch.nan)
        return Loss(
            dist.mean(losses, present),
            {"accuracy": right.nanmean()},
            {"image": features.pooled.detach()},
            {"correct": right},
        )

    def reconstruct(self, encoders: Mapping[str, Encoder], batch: Batch) -> Reconstruction:
        """What is drawn, and the truth of each cell, stands with the lightness of what is shown."""
        (shown,), size = batch.views["image"], batch.views["image"][0].shape[2:]
        true = F.interpolate(batch.extra["colors"], size, mode="bilinear", align_corners=False)
        colors = self.decode(encoders, shown, size=size), true
        return Reconstruction(as_unit(shown), *(srgb(torch.cat([lab(shown)[:, :1], ab], dim=1)) for ab in colors))

    def decode(self, encoders: Mapping[str, Encoder], shown: Tensor, *, size: Sequence[int]) -> Tensor:
        """Returns a and b (B, 2, height, width) of grey images: of bins their annealed mean."""
        drawn = self.decoder(encoders["image"](shown), size)
        return self.bins.annealed_mean(drawn) if self.target == "bins" else drawn * REACH


STEPS = [Crop(scale=(0.35, 1.0), ratio=(1.0, 1.0)), Flip()]
GUARDS = {"grey": {"lightness": {"gray": False}}}

method = Method(Views(1, image=STEPS, after=[Lightness()], guards=GUARDS), Colorization)
