"""InfoNCE among the regions of images: find each region in the image's other view."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mmssl import dist
from mmssl.losses.contrast import Contrast

NUMBERS = 256  # of regions within an image


class Regions(NamedTuple):
    """Regions of a view: features (B, K, D) of unit length, and their numbers (B, K), from 0 to 255, in the image."""

    features: Tensor
    number: Tensor


def region_nce(
    queries: Regions, other: Regions, own: Regions, *, temperature: float, present: Tensor | None = None
) -> Tensor:
    """Cross-entropy of finding each region of a view in the other view, against all regions of all images, (B,).

    A query's positives are the regions of its number in the other view; regions of its number in its own view do not
    count, all others of both views and all processes are negatives. A region that is drawn n times weighs 1 / n, one
    that the other view does not show 0; of each image it is the mean over K. Float32, 0 for an absent one.
    Henaff et al., ICCV 2021 (DetCon).

    other, own: what the queries are compared with, of the image's other view and of their own.
    """
    rank, (rows, regions) = dist.rank(), queries.number.shape
    image = torch.arange(rows, device=queries.number.device)[:, None] + rank * rows
    asked = _flat(queries.features), (image * NUMBERS + queries.number).flatten()
    keep = None if present is None else dist.gather(present).repeat_interleave(regions)
    across, within = (_contrast(asked, keys, 1 / temperature, keep).log_sums for keys in (other, own))
    assert across.positive is not None
    positive, scores, found = across.positive
    everything = torch.stack([across.others, within.others, positive]).logsumexp(dim=0)
    losses = torch.where(found > 0, everything - scores / found.clamp(min=1), 0.0)
    times = (queries.number[:, :, None] == queries.number[:, None]).sum(dim=2)  # (B, K)
    return (losses.view(rows, regions) / times).mean(dim=1)


def _contrast(asked: tuple[Tensor, Tensor], keys: Regions, scale: float, keep: Tensor | None) -> Contrast:
    """Compares queries with the regions of a view of all processes; those of the same image and number are positive."""
    number, rows = dist.gather(keys.number), len(keys.number) * dist.world()
    labels = (torch.arange(rows, device=number.device)[:, None] * NUMBERS + number).flatten()
    everywhere = _flat(dist.gather_with_grad(keys.features.float()))
    return Contrast(asked[0], everywhere, scale, labels=(asked[1], labels), keep=keep)


def _flat(features: Tensor) -> Tensor:
    return features.float().flatten(0, 1)
