"""ProtoNCE: find the prototype of each sample's cluster, dense clusters being asked for more closely."""

from __future__ import annotations

import torch
from torch import Tensor

from mmssl.losses.contrast import Contrast
from mmssl.losses.infonce import info_nce


def proto_nce(
    queries: Tensor, prototypes: Tensor, concentration: Tensor, labels: Tensor, *, negatives: int | None = None
) -> Tensor:
    """Cross-entropy of finding a query's prototype among others, each product divided by the other's concentration.

    queries (B, D), prototypes (K, D) of unit length, concentration (K,), labels (B,). negatives: besides the queries'
    own, this many prototypes drawn at random are compared, None for all. Returns (B,), float32.
    Li et al., ICLR 2021 (PCL).
    """
    keep = None
    if negatives is not None and negatives < len(prototypes):
        drawn = torch.randperm(len(prototypes), device=queries.device)[:negatives]
        compared = torch.cat([labels, drawn])
        places = torch.arange(len(compared), device=queries.device)
        first = places.new_full((len(prototypes),), len(places))
        first = first.scatter_reduce_(0, compared, places, "amin")[compared]  # of those that are compared twice
        keep = first == places
        prototypes, concentration, labels = prototypes[compared], concentration[compared], first[: len(labels)]
    scaled = prototypes.float() / concentration.float()[:, None]
    return info_nce(Contrast(queries, scaled, positives=labels, keep=keep))


def concentrations(distances: Tensor, labels: Tensor, clusters: int, *, temperature: float, smoothing: float) -> Tensor:
    """Returns each cluster's concentration (K,): small for many samples near their centre, on average `temperature`.

    It is the mean of the samples' distances (N,) to their centres, over log(count + smoothing); clusters of one sample
    take the largest found, and all are cut to the range from the 10th to the 90th hundredth. Li et al., ICLR 2021.
    """
    counts = torch.bincount(labels, minlength=clusters)
    sums = distances.new_zeros(clusters).index_add_(0, labels, distances)
    found = sums / counts.clamp(min=1) / (counts + smoothing).log()
    found = torch.where(counts > 1, found, found[counts > 1].max() if (counts > 1).any() else 1.0)
    found = found.clamp(*torch.quantile(found, found.new_tensor([0.1, 0.9])))
    return temperature * found / found.mean().clamp(min=1e-12)
