"""Unsupervised segmentation: do the clusters of an encoder's cells follow the classes of the pixels?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl import dist
from mmssl.data.in_workers import batches_in_workers
from mmssl.data.subset import limited
from mmssl.errors import UserError
from mmssl.evals.parts.masked import VOID, prepared
from mmssl.evals.parts.matched import commonest, hungarian, scored
from mmssl.evals.parts.memory import recall
from mmssl.evals.parts.needs import Declared, EncoderNeed, Needs, require_encoder
from mmssl.evals.parts.report import no_samples_error, require, usable
from mmssl.evals.parts.source import open_source
from mmssl.evals.parts.untrained import untrained, warming
from mmssl.nn.class_attention import ClassAttention, foreground
from mmssl.numerics.communities import communities, neighborhood
from mmssl.numerics.kmeans import kmeans, most_similar, nearest, spherical_kmeans
from mmssl.types import Encoder, Preprocess, Sample, Score, Trained

MASS = 0.65  # of the attention that the foreground holds


@dataclass
class Cells:
    """Cells of all images: features (n, N, D), their grid, classes of pixels (n, S, S), which are attended (n, N)."""

    features: Tensor
    grid: tuple[int, int]
    truth: Tensor
    front: Tensor | None


class ClusterDense(Declared):
    """Mean IoU of clusters of cells with classes of pixels, by k-means of the judged set's own cells.

    mIoU has as many clusters as classes, each of which gets one (the Hungarian method); mIoU_over_K has K, each of
    which gets the class of most of its pixels. With a class token there are two steps of post-processing: mIoU_cbfe
    clusters the foreground alone, which is those of many clusters whose cells the class token attends to; mIoU_cd
    divides it into parts, and joins parts that often lie beside each other (community detection). Clusters that get no
    class are background, 0. Chance shuffles the cells; trivial is all background. Ziegler & Asano, CVPR 2022 (Leopart),
    whose authors choose precision, parts, edge and markov_time by labelled masks of the training set, and read the
    attention of DINO. Both ways of matching are their code's; what is beside what is counted on the grid of cells.

    data: shards with masks.
    mask: the sample's key that holds them: a png (mask.png), or the arrays of an npz; 255 does not count.
    foreground: all classes but 0 are one, as for masks that number objects.
    over: numbers of clusters of over-clustering.
    pca: dimensions that features are reduced to, each scaled to deviation 1 before.
    side: pixels of the masks that are judged, at most.
    extract: clusters that the foreground is found from.
    precision: mean share of the attended cells that a cluster has in an image, from which it is foreground.
    parts: clusters of the foreground that are joined.
    edge: probability that a part lies beside another one, both ways, from which they are linked.
    markov_time: of the map equation: the longer, the fewer and larger the objects.
    iterations: of k-means.
    encoder: its key, of images.
    baselines: also judge the encoder with random weights.
    limit: samples at most, drawn from a fixed seed.
    batch: samples embedded at a time.
    seed: of k-means.
    """

    def __init__(
        self,
        *,
        data: dict[str, Any],
        mask: str = "mask",
        foreground: bool = False,
        over: tuple[int, ...] = (),
        pca: int = 50,
        side: int = 100,
        extract: int = 200,
        precision: float = 0.4,
        parts: int = 149,
        edge: float = 0.09,
        markov_time: float = 2.0,
        iterations: int = 50,
        encoder: str | None = None,
        baselines: bool = True,
        limit: int | None = None,
        batch: int = 32,
        seed: int = 0,
    ) -> None:
        if min(pca, side, iterations, batch) < 1 or min(extract, parts, *over) < 2:
            raise UserError(
                f"cluster_dense has pca {pca}, side {side}, iterations {iterations} and batch {batch}, extract "
                f"{extract}, parts {parts} and over {over}; expected at least 1, and 2 clusters"
            )
        self.source, self.mask, self.one_class, self.over = limited(open_source(data), limit), mask, foreground, over
        self.pca, self.side, self.extract, self.precision, self.parts = pca, side, extract, precision, parts
        self.edge, self.markov_time, self.iterations, self.encoder = edge, markov_time, iterations, encoder
        self.baselines, self.batch, self.seed = baselines, batch, seed
        self.what = repr((sorted(data.items()), limit))

    def needs(self, trained: Trained) -> Needs:
        fields = (require_encoder(trained, self.encoder, modalities=("image",)).preprocess.field, self.mask)
        return Needs(encoders={self.encoder: EncoderNeed(modalities=("image",))}, data={"data": (self.source, fields)})

    def run(self, trained: Trained) -> Iterator[tuple[str, Score]]:
        """Yields the figures, and with baselines before them random_init/."""
        encoder = require_encoder(trained, self.encoder, modalities=("image",))
        rivals = (
            {"random_init/": recall((self.what, id(encoder)), lambda: self._fresh(encoder))} if self.baselines else {}
        )
        for prefix, each in {**rivals, "": encoder}.items():
            yield from ((f"{prefix}{name}", score) for name, score in self._judge(self._seen(each)))

    def _judge(self, cells: Cells) -> Iterator[tuple[str, Score]]:
        classes = int(cells.truth[cells.truth != VOID].max()) + 1
        x = principal(cells.features.flatten(0, 1), self.pca)
        scored_by = partial(scored, cells.truth, cells.grid, classes=classes)
        yield "mIoU", scored_by(self._clustered(x, classes).view(len(cells.truth), -1), match=hungarian)
        for count in self.over:
            yield f"mIoU_over_{count}", scored_by(self._clustered(x, count).view(len(cells.truth), -1), match=commonest)
        if cells.front is None or classes < 2:
            return
        front = self._extracted(x, cells.front)
        if not front.any():
            return
        shape, inner = front.shape, front.flatten()
        objects = torch.zeros(len(inner), dtype=torch.long, device=x.device)
        objects[inner] = 1 + self._clustered(x[inner], classes - 1)
        yield "mIoU_cbfe", scored_by(objects.view(shape), match=hungarian)
        parts = torch.zeros_like(objects)
        parts[inner] = 1 + self._clustered(x[inner], self.parts)
        yield "mIoU_cd", scored_by(self._joined(parts.view(shape), cells.grid), match=hungarian)

    def _clustered(self, x: Tensor, count: int) -> Tensor:
        """Returns the cluster of each row, at most as many as rows."""
        return nearest(x, kmeans(x, min(count, len(x)), iterations=self.iterations, seed=self.seed))[0]

    def _extracted(self, x: Tensor, attended: Tensor) -> Tensor:
        """Returns which cells (n, N) belong to clusters whose cells the class token attends to."""
        x = F.normalize(x, dim=1)
        centres = spherical_kmeans(x, min(self.extract, len(x)), iterations=self.iterations, seed=self.seed)
        labels = most_similar(x, centres).view(attended.shape)
        count = int(labels.max()) + 1
        there, inside = (torch.zeros(len(labels), count, device=x.device) for _ in range(2))
        there.scatter_add_(1, labels, torch.ones_like(labels, dtype=there.dtype))
        inside.scatter_add_(1, labels, attended.to(inside.dtype))
        precision = (inside / there.clamp(min=1)).sum(dim=0) / (there > 0).sum(dim=0).clamp(min=1)  # (K,)
        return (precision >= self.precision)[labels]

    def _joined(self, parts: Tensor, grid: tuple[int, int]) -> Tensor:
        """Returns the object (n, N) of each cell's part, 0 for those that are linked to none."""
        beside = neighborhood(parts.unflatten(1, grid).cpu().numpy(), int(parts.max()) + 1)
        linked = np.where((beside >= self.edge) & (self.edge <= beside.T), np.minimum(beside, beside.T), 0.0)
        found = 1 + communities(linked, markov_time=self.markov_time)
        found[linked.sum(axis=1) == 0] = 0
        return torch.from_numpy(found).to(parts.device)[parts]

    def _seen(self, encoder: Encoder) -> Cells:
        """Returns the cells of all images, over all processes."""
        attention = _attention(encoder)
        rows, truths, fronts, grid = [], [], [], (0, 0)
        for pixels, truth in self._batches(encoder):
            with torch.inference_mode():
                features, looked = attention(encoder, pixels) if attention else (encoder(pixels), None)
            if features.tokens is None or features.grid is None:
                raise UserError(
                    "segmentation looks at cells on a grid, and this encoder gives none; try convnet or vit"
                )
            grid = (features.grid[0], features.grid[1])
            rows.append(features.tokens.float())
            truths.append(truth[:, 0][:, _every(truth.shape[2], self.side)][:, :, _every(truth.shape[3], self.side)])
            if looked is not None:
                fronts.append(foreground(looked, grid, mass=MASS))
        grids = [each for each in dist.gather_objects(grid) if each[0]]
        if not grids:
            raise no_samples_error(f"no sample of {self.source.shards[0]} has a whole image and {self.mask}")
        if not rows:
            raise UserError(f"cluster_dense has fewer samples than processes, {dist.world()}; use fewer")
        front = dist.gather(torch.cat(fronts)) if attention else None
        return Cells(dist.gather(torch.cat(rows)), grids[0], dist.gather(torch.cat(truths)), front)

    def _batches(self, encoder: Encoder) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields what the encoder sees, on its device, and the classes of the pixels (B, 1, H, W)."""
        keys, preprocess = (encoder.preprocess.field, self.mask), encoder.preprocess
        batches = batches_in_workers(
            self.source,
            keys,
            partial(_masked, preprocess=preprocess, keys=keys),
            partial(_collated, preprocess=preprocess),
            size=self.batch,
            rank=dist.rank(),
            world=dist.world(),
        )
        for made, batch in batches:
            for _ in usable(made):  # reports those that are not
                pass
            if batch is not None:
                x, truth = batch
                truth = truth.where((truth == 0) | (truth == VOID), 1) if self.one_class else truth
                yield x.to(encoder.device), truth

    def _fresh(self, encoder: Encoder) -> Encoder:
        fresh = untrained(encoder)
        with warming(fresh), torch.inference_mode():
            for number, (pixels, _) in enumerate(self._batches(encoder)):
                fresh(pixels)
                if number * self.batch > 512:
                    break
        return fresh


def _attention(encoder: Encoder) -> ClassAttention | None:
    try:
        return ClassAttention(encoder)
    except UserError:
        return None


def _masked(sample: Sample, *, preprocess: Preprocess, keys: Sequence[str]) -> tuple[Tensor, Tensor]:
    return prepared(preprocess, *require(sample, *keys))


def _collated(made: Sequence[tuple[Tensor, Tensor]], *, preprocess: Preprocess) -> tuple[Tensor, Tensor]:
    return preprocess.collate([x for x, _ in made]), torch.stack([classes for _, classes in made])


def _every(pixels: int, most: int) -> Tensor:
    """Returns at most so many of a line of pixels, evenly spaced."""
    count = min(pixels, most)
    return ((torch.arange(count) + 0.5) * pixels / count).long()


def principal(x: Tensor, dims: int) -> Tensor:
    """Returns rows (N, D), each dimension scaled to mean 0 and deviation 1, in their widest directions (N, dims)."""
    x = (x - x.mean(dim=0)) / x.std(dim=0, correction=0).clamp(min=1e-6)
    if x.shape[1] <= dims:
        return x
    widest = torch.linalg.eigh((x.T @ x).double()).eigenvectors[:, -dims:]
    return x @ widest.to(x.dtype)


evaluation = ClusterDense
