"""k-means in bounded memory: Lloyd's iterations from a k-means++ start."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.errors import UserError

CHUNK = 2**24  # distances held at a time


def kmeans(x: Tensor, clusters: int, *, iterations: int = 100, seed: int = 0) -> Tensor:
    """Returns the centres (K, D), float32, that Lloyd's algorithm finds for points (N, D), or fewer steps on.

    The start is k-means++ (Arthur & Vassilvitskii, SODA 2007), drawn from the seed. A cluster that becomes empty
    moves to the point that lies farthest from its centre. Centres come in ascending order of their first coordinate.
    """
    if len(x) == 0 or not x.isfinite().all():
        raise UserError(f"k-means needs at least one point, and all of them finite; found {len(x)}")
    x = x.float()
    centres = _spread(x, clusters, torch.Generator().manual_seed(seed))
    before = None
    for _ in range(iterations):
        labels, distances = nearest(x, centres)
        if before is not None and torch.equal(labels, before):
            break
        before = labels
        counts = torch.bincount(labels, minlength=clusters)
        centres = torch.zeros_like(centres).index_add_(0, labels, x) / counts.clamp(min=1)[:, None]
        empty = (counts == 0).nonzero()[:, 0]
        far = distances.topk(min(len(empty), len(x))).indices
        centres[empty] = x[far.repeat(-(-len(empty) // max(1, len(far))))[: len(empty)]]
    return centres[centres[:, 0].argsort()]


def nearest(x: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Returns each point's (N, D) nearest centre (K, D): its number and the squared distance to it, (N,) each."""
    labels, distances = [], []
    for part in x.float().split(max(1, CHUNK // len(centres))):
        found = torch.cdist(part, centres, compute_mode="donot_use_mm_for_euclid_dist").min(dim=1)
        labels.append(found.indices)
        distances.append(found.values.square())
    return torch.cat(labels), torch.cat(distances)


def _spread(x: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    """Draws points, each with a chance that grows as its squared distance from those already drawn."""
    chosen = [x[int(torch.randint(len(x), (1,), generator=generator))]]
    distances = (x - chosen[0]).square().sum(dim=1)
    while len(chosen) < clusters:
        reach = distances.double().cumsum(0)
        point = torch.rand(1, generator=generator, dtype=torch.double).to(x.device) * reach[-1]
        chosen.append(x[min(int(torch.searchsorted(reach, point, right=True)), len(x) - 1)])
        distances = torch.minimum(distances, (x - chosen[-1]).square().sum(dim=1))
    return torch.stack(chosen)


def spherical_kmeans(x: Tensor, clusters: int, *, iterations: int = 10, seed: int = 0) -> Tensor:
    """Returns the centres (K, D) of unit length, float32, that points (N, D) of unit length gather around by cosine.

    The start is K of the points, drawn from the seed; the centre of a cluster that becomes empty stays where it is.
    Dhillon & Modha, 2001; as used by DeepCluster-v2 (Caron et al., NeurIPS 2020).
    """
    if len(x) < clusters:
        raise UserError(f"{len(x)} points do not make {clusters} clusters; ask for fewer")
    x = x.float()
    centres = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:clusters].to(x.device)]
    for _ in range(iterations):
        labels = most_similar(x, centres)
        sums = torch.zeros_like(centres).index_add_(0, labels, x)
        filled = torch.bincount(labels, minlength=clusters) > 0
        centres = torch.where(filled[:, None], F.normalize(sums, dim=1), centres)
    return centres


def most_similar(x: Tensor, centres: Tensor) -> Tensor:
    """Returns the number of the centre (K, D) with the largest product with each point (N, D); (N,)."""
    return torch.cat([(part.float() @ centres.T).argmax(dim=1) for part in x.split(max(1, CHUNK // len(centres)))])
