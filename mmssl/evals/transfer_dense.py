"""Segmentation: what class has each pixel, told by a linear layer on the encoder's cells?"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl import dist
from mmssl.data.in_workers import batches_in_workers
from mmssl.data.shards import Source
from mmssl.data.subset import counted, limited
from mmssl.encoders.raw import PREPROCESS
from mmssl.errors import UserError
from mmssl.evals.linear import DECAYS, held_out
from mmssl.evals.parts.masked import VOID, prepared
from mmssl.evals.parts.memory import recall
from mmssl.evals.parts.needs import Declared, EncoderNeed, Needs, require_encoder
from mmssl.evals.parts.progress import passing
from mmssl.evals.parts.report import no_samples_error, require, usable
from mmssl.evals.parts.score import bootstrap
from mmssl.evals.parts.solvers import LBFGS, logistic, with_bias
from mmssl.evals.parts.source import open_source, warn_of_overlap
from mmssl.evals.parts.stream import everywhere
from mmssl.evals.parts.untrained import untrained, warming
from mmssl.types import Encoder, Preprocess, Sample, Score, Trained

Cells = Callable[[Tensor], tuple[Tensor, tuple[int, ...]]]  # x -> cells (B, N, D) and their grid
SEEING = ("image", "video")
SIDE = 4  # pixels of a cell of the raw input


class TransferDense(Declared):
    """Mean IoU and share of right pixels, of the linear layer's scores scaled up to the pixels.

    The layer is a logistic regression that tells the share of each class among a cell's pixels. The interval is over
    samples. Trivial is the commonest class everywhere, chance a class drawn for each pixel.

    train: shards with masks to learn from.
    data: shards with masks to judge on.
    mask: the sample's key that holds them: a png (mask.png), or the arrays of an npz; 255 does not count.
    foreground: all classes but 0 are one, as for masks that number objects.
    cells: at most this many are learnt from, the same number of each sample.
    decays: of the layer's weights, of which the best on a tenth of the samples counts.
    encoder: its key, of images or videos.
    baselines: also judge the raw pixels of each cell, and the encoder with random weights.
    limit: samples of each set at most, drawn from a fixed seed.
    batch: samples embedded at a time.
    seed: of the cells that are learnt from.
    """

    def __init__(
        self,
        *,
        train: dict[str, Any],
        data: dict[str, Any],
        mask: str = "mask",
        foreground: bool = False,
        cells: int = 200_000,
        decays: tuple[float, ...] = DECAYS,
        encoder: str | None = None,
        baselines: bool = True,
        limit: int | None = None,
        batch: int = 32,
        seed: int = 0,
    ) -> None:
        if min(cells, batch) < 1 or not decays or min(decays) <= 0:
            raise UserError(f"transfer_dense has cells {cells}, batch {batch}, decays {decays}; expected more than 0")
        self.train, self.test = (limited(open_source(node), limit) for node in (train, data))
        self.mask, self.foreground, self.cells, self.encoder = mask, foreground, cells, encoder
        self.solver, self.baselines, self.batch, self.seed = LBFGS(decays), baselines, batch, seed
        self.what = repr((sorted(train.items()), limit))

    def needs(self, trained: Trained) -> Needs:
        fields = (require_encoder(trained, self.encoder, modalities=SEEING).preprocess.field, self.mask)
        return Needs(
            encoders={self.encoder: EncoderNeed(modalities=SEEING)},
            data={"train": (self.train, fields), "data": (self.test, fields)},
            counted=("train",),
        )

    def run(self, trained: Trained) -> Iterator[tuple[str, Score]]:
        """Yields mIoU and accuracy, and with baselines before them raw/ and random_init/."""
        encoder = require_encoder(trained, self.encoder, modalities=SEEING)
        warn_of_overlap(self.train, self.test)
        rivals: dict[str, Cells] = {}
        if self.baselines and encoder.modality in PREPROCESS:
            rivals["raw/"] = self._raw(encoder)
        if self.baselines:
            rivals["random_init/"] = _cells(recall((self.what, id(encoder)), lambda: self._fresh(encoder)))
        for prefix, cells in {**rivals, "": _cells(encoder)}.items():
            yield from ((f"{prefix}{name}", score) for name, score in self._judge(encoder, cells))

    def _judge(self, encoder: Encoder, cells: Cells) -> Iterator[tuple[str, Score]]:
        x, shares, owner = self._learnt_from(encoder, cells)
        classes = int((shares.sum(dim=0) > 0).nonzero().max()) + 1
        mean, deviation = x.mean(dim=0), x.std(dim=0, correction=0).clamp(min=1e-6)
        weight = self._fitted((x - mean) / deviation, shares[:, :classes], owner)
        found = []
        for pixels, truth in self._batches(self.test, encoder):
            with torch.inference_mode():
                rows, grid = cells(pixels)
                scores = with_bias((rows.float() - mean) / deviation) @ weight
            predicted = scaled(scores, grid, truth.shape[1:]).argmax(dim=1)
            found += [
                confusion(a, b, classes).cpu() for a, b in zip(predicted, truth.to(predicted.device), strict=True)
            ]
        mine = torch.stack(found) if found else torch.zeros(0, classes + 1, classes)
        every = dist.gather(mine)
        if not len(every):
            raise no_samples_error(f"no sample of {self.test.shards[0]} has a whole {encoder.modality} and {self.mask}")
        yield from scored(every, commonest=int(shares.sum(dim=0).argmax()))

    def _learnt_from(self, encoder: Encoder, cells: Cells) -> tuple[Tensor, Tensor, Tensor]:
        """Returns cells (N, D), the share of each class in them (N, 255), and the sample of each (N,)."""
        rows, shares, owner = [], [], []
        each, number = max(1, self.cells // sum(counted(self.train))), dist.rank()
        generator = torch.Generator().manual_seed(self.seed)
        for pixels, truth in self._batches(self.train, encoder):
            with torch.inference_mode():
                found, grid = cells(pixels)
            for cell, share in zip(found.float(), inside(truth.to(found.device), grid), strict=True):
                seen = (share.sum(dim=1) > 0).nonzero()[:, 0]
                seen = seen[torch.randperm(len(seen), generator=generator)[:each].to(seen.device)]
                rows.append(cell[seen].clone())
                shares.append(share[seen] / share[seen].sum(dim=1, keepdim=True))
                owner.append(torch.full((len(seen),), number))
                number += dist.world()
        if not any(dist.gather_objects(len(rows))):
            raise no_samples_error(
                f"no sample of {self.train.shards[0]} has a whole {encoder.modality} and {self.mask}"
            )
        return everywhere(rows, encoder.device), everywhere(shares, encoder.device), everywhere(owner, "cpu")

    def _fitted(self, x: Tensor, shares: Tensor, owner: Tensor) -> Tensor:
        """Returns the layer with the decay that is best on the cells of a tenth of the samples."""
        held = held_out(int(owner.max()) + 1)[owner].to(x.device)
        if held.all():
            return logistic(x, shares, shares.shape[1], decay=self.solver.settings[0])
        classes = shares.shape[1]
        tried = self.solver.fit(x[~held], shares[~held], classes, self.solver.settings)
        losses = [float(F.cross_entropy(with_bias(x[held]) @ weight, shares[held])) for weight in tried]
        best = losses.index(min(losses))
        return logistic(x, shares, classes, decay=self.solver.settings[best], start=tried[best])

    def _batches(self, source: Source, encoder: Encoder) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields what the encoder sees, on its device, and the classes of the pixels (B, T, H, W)."""
        keys, preprocess = (encoder.preprocess.field, self.mask), encoder.preprocess
        batches = batches_in_workers(
            source,
            keys,
            partial(_masked, preprocess=preprocess, keys=keys),
            partial(_collated, preprocess=preprocess),
            size=self.batch,
            rank=dist.rank(),
            world=dist.world(),
        )
        for made, batch in passing(source, batches, world=dist.world(), each=lambda part: len(part[0])):
            deque(usable(made), maxlen=0)  # reports those that are not
            if batch is not None:
                x, truth = batch
                if self.foreground:
                    truth = truth.where((truth == 0) | (truth == VOID), 1)
                yield x.to(encoder.device), truth

    def _fresh(self, encoder: Encoder) -> Encoder:
        fresh = untrained(encoder)
        with warming(fresh), torch.inference_mode():
            for number, (pixels, _) in enumerate(self._batches(self.train, encoder)):
                fresh(pixels)
                if number * self.batch > 512:
                    break
        return fresh

    def _raw(self, encoder: Encoder) -> Cells:
        """Describes each cell of the encoder's grid by the pixels in it, SIDE by SIDE."""
        cells = _cells(encoder)

        def raw(x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
            time, height, width = _full(cells(x[:1])[1])
            film = (x if x.ndim == 5 else x[:, :, None]).float()  # (B, 3, T, H, W)
            small = F.adaptive_avg_pool3d(film, (time, height * SIDE, width * SIDE)) / (
                255 if not x.is_floating_point() else 1
            )
            parts = small.unflatten(4, (width, SIDE)).unflatten(3, (height, SIDE))  # (B, 3, T, H, s, W, s)
            return parts.permute(0, 2, 3, 5, 1, 4, 6).flatten(4).flatten(1, 3), (time, height, width)

        return raw


def _masked(sample: Sample, *, preprocess: Preprocess, keys: Sequence[str]) -> tuple[Tensor, Tensor]:
    return prepared(preprocess, *require(sample, *keys))


def _collated(made: Sequence[tuple[Tensor, Tensor]], *, preprocess: Preprocess) -> tuple[Tensor, Tensor]:
    return preprocess.collate([x for x, _ in made]), torch.stack([classes for _, classes in made])


def _cells(encoder: Encoder) -> Cells:
    def cells(x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        features = encoder(x)
        if features.tokens is None or features.grid is None:
            raise UserError("segmentation looks at cells on a grid, and this encoder gives none; try convnet or vit")
        return features.tokens, features.grid

    return cells


def _full(grid: tuple[int, ...]) -> tuple[int, int, int]:
    return (1, grid[0], grid[1]) if len(grid) == 2 else (grid[0], grid[1], grid[2])


def inside(truth: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Counts the classes of the pixels (B, T, H, W) of each cell of a grid, void ones left out: (B, N, 255)."""
    ones = [torch.arange(n, device=truth.device) for n in truth.shape[1:]]
    place = [one * cells // len(one) for one, cells in zip(ones, _full(grid), strict=True)]
    _, height, width = _full(grid)
    cell = (place[0][:, None, None] * height + place[1][:, None]) * width + place[2]  # (T, H, W)
    count = int(cell.max()) + 1
    index = cell * (VOID + 1) + truth.long()
    counts = torch.zeros(len(truth), count * (VOID + 1), device=truth.device)
    counts.scatter_add_(1, index.flatten(1), torch.ones_like(index, dtype=counts.dtype).flatten(1))
    return counts.unflatten(1, (count, VOID + 1))[..., :VOID]


def scaled(scores: Tensor, grid: tuple[int, ...], size: torch.Size) -> Tensor:
    """Scales scores of cells (B, N, C) up to pixels, (B, C, T, H, W), linearly between the cells' centres."""
    return F.interpolate(scores.mT.unflatten(2, _full(grid)), size=tuple(size), mode="trilinear", align_corners=False)


def confusion(predicted: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Counts pixels by class and answer, (classes + 1, classes); the last row are those of classes never learnt."""
    known = truth.long().clamp(max=classes)[truth != VOID]
    pairs = torch.bincount(known * classes + predicted[truth != VOID], minlength=(classes + 1) * classes)
    return pairs.view(classes + 1, classes).double()


def scored(found: Tensor, *, commonest: int) -> Iterator[tuple[str, Score]]:
    """Scores the confusion (N, C + 1, C) of each sample."""
    total, classes = found.sum(dim=0), found.shape[2]
    pixels = total.sum(dim=1)  # of each class
    lazy, random = torch.zeros_like(total), pixels[:, None].expand_as(total) / classes
    lazy[:, commonest] = pixels
    for name, figure in (("mIoU", mean_iou), ("accuracy", accuracy)):

        def statistic(rows: Tensor, figure: Callable[[Tensor], Tensor] = figure) -> Tensor:
            several = rows[None] if rows.ndim == 1 else rows
            counts = torch.zeros(len(several), len(found), dtype=torch.double)
            counts.scatter_add_(1, several.long(), torch.ones_like(several))
            values = figure((counts @ found.flatten(1).cpu()).unflatten(1, found.shape[1:]))
            return values[0] if rows.ndim == 1 else values

        score = bootstrap(torch.arange(len(found)), chance=float(figure(random[None])), statistic=statistic)
        parts = per_class_iou(total) if figure is mean_iou else None
        yield name, replace(score, trivial=float(figure(lazy[None])), parts=parts)


def mean_iou(counts: Tensor) -> Tensor:
    """Returns the mean of intersection over union (R,) of the classes that there are, of confusions (R, C + 1, C)."""
    return _ious(counts).sum(dim=1) / (counts.sum(dim=2) > 0).sum(dim=1).clamp(min=1)


def per_class_iou(counts: Tensor) -> dict[str, float]:
    """Returns intersection over union of each learnt class that there is, of one confusion (C + 1, C)."""
    there = (counts.sum(dim=1)[:-1] > 0).nonzero()[:, 0].tolist()
    return {str(number): float(_ious(counts[None])[0, number]) for number in there}


def _ious(counts: Tensor) -> Tensor:
    """Returns (R, C), 0 for a class that is not there."""
    classes = counts.shape[2]
    right = counts[:, :classes].diagonal(dim1=1, dim2=2)
    there = counts.sum(dim=2)  # (R, C + 1)
    union = there[:, :classes] + counts.sum(dim=1) - right
    return torch.where(there[:, :classes] > 0, right / union.clamp(min=1), 0.0)


def accuracy(counts: Tensor) -> Tensor:
    """Returns the share of right pixels (R,) of confusions (R, C + 1, C)."""
    right = counts[:, : counts.shape[2]].diagonal(dim1=1, dim2=2)
    return right.sum(dim=1) / counts.sum(dim=(1, 2)).clamp(min=1)


evaluation = TransferDense
