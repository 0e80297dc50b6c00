"""Signs of health and collapse, read off embeddings."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional as F


@torch.no_grad()
def monitors(embeddings: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Measures each modality's embeddings (B, D) and each pair of modalities, row i of all being one sample.

    present: modality -> the samples that have it (B,); the stand-ins of others are alike and tell nothing.

    std: mean over dimensions of the standard deviation of normalised embeddings, 1/sqrt(D) when spread
    evenly and 0 when collapsed. rank: effective rank (Roy & Vetterli, 2007; RankMe, Garrido et al., ICML 2023).
    alignment, uniformity: Wang & Isola, ICML 2020. gap: distance of the centroids (Liang et al., NeurIPS 2022).
    """
    logs: dict[str, Tensor] = {}
    there = {name: torch.ones(len(x), dtype=torch.bool, device=x.device) for name, x in embeddings.items()}
    there |= {name: rows for name, rows in (present or {}).items() if name in there and len(rows) == len(there[name])}
    normalised = {name: F.normalize(x.float(), dim=1) for name, x in embeddings.items()}
    for name, whole in normalised.items():
        x = whole[there[name]]
        if len(x) < 2:
            continue
        logs[f"{name}/std"] = x.std(dim=0).mean()
        logs[f"{name}/rank"] = effective_rank(x)
        logs[f"{name}/uniformity"] = uniformity(x)
    for (a, x), (b, y) in combinations(normalised.items(), 2):
        if x.shape != y.shape:
            continue
        both = there[a] & there[b]
        if both.sum() > 1:
            logs[f"{a}-{b}/alignment"] = (x - y)[both].square().sum(dim=1).mean()
            logs[f"{a}-{b}/gap"] = (x[both].mean(dim=0) - y[both].mean(dim=0)).norm()
    return logs


@torch.no_grad()
def assignment_entropy(assigned: Tensor) -> Tensor:
    """Returns how evenly clusters are used: 1 where all are alike or nothing is assigned, 0 where one takes all.

    assigned: soft assignments (B, K), or how many samples each cluster has (K,).
    """
    counts = assigned.float().sum(dim=0) if assigned.ndim == 2 else assigned.float()
    shares = counts / counts.sum().clamp(min=1e-12)
    even = torch.special.entr(shares).sum() / math.log(max(2, len(shares)))
    return torch.where(counts.sum() > 0, even, 1.0)


class Alarm:
    """Notices in the lines of a log that features have collapsed or that nothing is learnt, and says so once a run.

    lines: a sign must stand in this many in a row, for many runs begin with one.
    """

    def __init__(self, lines: int) -> None:
        self.lines, self.rung = lines, False
        self.seen: Counter[tuple[str, str]] = Counter()

    def look(self, task: str, logs: Mapping[str, float], sizes: Mapping[str, int]) -> str | None:
        """Returns what is to be said after one more line of a task's figures.

        logs: as Loss.logs and `monitors` name them, with `loss`.
        sizes: dimensions of each of the embeddings.
        """
        signs = {**_collapsed(logs, sizes), **_idle(logs)}
        for name in [key[1] for key in self.seen if key[0] == task and key[1] not in signs]:
            del self.seen[task, name]
        for name, meaning in signs.items():
            self.seen[task, name] += 1
            if self.seen[task, name] >= self.lines and not self.rung:
                self.rung = True
                return f"{task}: for {self.lines} lines of the log, {meaning}"
        return None


def _collapsed(logs: Mapping[str, float], sizes: Mapping[str, int]) -> dict[str, str]:
    """Returns the signs of collapse: name -> what it means."""
    found = {}
    for name, size in sizes.items():
        even = size**-0.5
        std, rank = logs.get(f"{name}/std", even), logs.get(f"{name}/rank", float(size))
        if std < 0.02 * even or (rank < 1.1 and size > 2):
            found[name] = (
                f"all samples have had nearly the same {name} embedding (std {std:.1e}, where {even:.1e} is spread "
                f"evenly; effective rank {rank:.1f}). The features have collapsed: they tell nothing apart, "
                "however low the loss. Try a lower optim.lr, and look at what keeps the method from collapsing: "
                "negatives and temperature, stop-gradient and predictor, centring, weights of variance and redundancy"
            )
    if logs.get("assignment_entropy", 1.0) < 0.05:
        found["assignment"] = (
            "nearly all samples have been assigned to one cluster (assignment_entropy "
            f"{logs['assignment_entropy']:.2f} of 1). The clusters have collapsed: telling them teaches nothing. Try a "
            "lower optim.lr, fewer clusters, or what evens them out: epsilon, centring, rebalanced sampling"
        )
    return found


def _idle(logs: Mapping[str, float]) -> dict[str, str]:
    chance = logs.get("chance_loss")
    if chance is None or abs(logs["loss"] - chance) > 0.02 * chance:
        return {}
    return {
        "idle": f"the loss has stayed at {chance:.2f}, which is what guessing gives: nothing is learnt yet. Try "
        "another optim.lr or a longer train.warmup, and check that what is shown can be answered (view, data)"
    }


def effective_rank(x: Tensor) -> Tensor:
    """Returns exp of the entropy of the normalised singular values of (B, D): between 1 and min(B, D)."""
    values = torch.linalg.svdvals(x.float())
    p = values / values.sum().clamp(min=1e-12)
    return torch.exp(-(p * p.clamp(min=1e-12).log()).sum())


def uniformity(x: Tensor) -> Tensor:
    """Returns log mean exp(-2 |x_i - x_j|^2) over the pairs of normalised rows (B, D); lower is more even."""
    squared = torch.pdist(x.float()).square()
    return squared.mul(-2).logsumexp(dim=0) - torch.log(torch.tensor(float(len(squared)), device=x.device))
