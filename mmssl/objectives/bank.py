"""One row for each training sample: a memory bank of embeddings, or weights that are learnt."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl import dist
from mmssl.errors import UserError
from mmssl.losses.contrast import Contrast
from mmssl.numerics.constants import sent
from mmssl.objectives.accumulated import Accumulated


class SampleRows(nn.Module):
    """Rows (n, dim), one for each training sample: n is known once `reserve`, or weights that are loaded, tell it.

    learnt: whether they are a parameter.
    """

    rows: Tensor

    def __init__(self, dim: int, *, learnt: bool = True) -> None:
        super().__init__()
        empty = torch.empty(0, dim)
        if learnt:
            self.rows = nn.Parameter(empty)
        else:
            self.register_buffer("rows", empty)

    def reserve(self, samples: int | None) -> None:
        """Makes a random row for each of the training set's samples; UserError where they are not counted."""
        self.rows.data = torch.randn(counted(samples), self.rows.shape[1], device=self.rows.device) * 0.01

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        saved = state_dict.get(f"{prefix}rows")
        if saved is not None and not len(self.rows):
            self.rows.data = self.rows.data.new_empty(len(saved), self.rows.shape[1])
        super()._load_from_state_dict(state_dict, prefix, *rest)


def reserve(objective: nn.Module, samples: int | None) -> None:
    """Makes all the rows that an objective keeps of a training set of this many samples; None: they are not counted."""
    for module in objective.modules():
        if isinstance(module, SampleRows):
            module.reserve(samples)


def counted(samples: int | None) -> int:
    """Returns how many training samples there are; UserError where they are not counted."""
    if not samples:
        raise UserError(
            "the method keeps a row for each training sample, but these shards are not counted; "
            "use shards with an index.json, as `mmssl shards build` writes them"
        )
    return samples


class Scores(NamedTuple):
    """What `nce` takes: queries against their own rows and noise, the normaliser's logarithm, and how many samples."""

    contrast: Contrast
    log_z: Tensor
    samples: int


class Bank(SampleRows):
    """Remembers of every training sample the embedding of unit length that it had when it was last seen.

    momentum: how much of the old row stays. Wu et al., CVPR 2018.
    """

    log_z: Tensor
    writes: Tensor

    def __init__(self, dim: int, *, momentum: float = 0.5) -> None:
        super().__init__(dim, learnt=False)
        self.momentum = momentum
        self.register_buffer("log_z", torch.tensor(torch.inf))  # infinite until a batch tells
        self.register_buffer("writes", torch.zeros((), dtype=torch.long))
        self.noted = Accumulated()
        self._unread()

    def _unread(self) -> None:
        """Forgets what training knows of the two numbers, so that it does not wait for the device at every step."""
        self._written: int | None = None
        self._asked = self._estimated = False  # of the normaliser, and by a step that counts

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self._unread()

    def reserve(self, samples: int | None) -> None:
        super().reserve(samples)
        self.rows.data = F.normalize(self.rows, dim=1)

    def note(self, index: Tensor, new: Tensor, present: Tensor) -> None:
        """Keeps embeddings (B, dim) of the samples index (B,) that are present, in training, until `write`."""
        self.noted.add(index, new, present)

    @torch.no_grad()
    def write(self) -> None:
        """Moves the rows of what was noted, in all processes, towards it; of a sample noted twice the last counts."""
        noted = self.noted.take()
        if not noted:
            return
        index, new, present = (dist.gather(rows) for rows in noted)
        last, there = _last(index, present)
        moved = self.momentum * self.rows[index] + (1 - self.momentum) * new[last].to(self.rows.dtype)
        self.rows[index] = torch.where(there[:, None], F.normalize(moved, dim=1), self.rows[index])
        self._written = self._count() + 1
        self.writes += 1
        if self._asked:
            self._asked, self._estimated = False, bool(self.log_z.isfinite())

    def _count(self) -> int:
        """Returns how often the bank was written; training reads it once."""
        return int(self.writes) if self._written is None or not self.training else self._written

    def scores(self, queries: Tensor, index: Tensor, *, noise: int, temperature: float, present: Tensor) -> Scores:
        """Compares queries (B, dim) with their samples' rows and with `noise` random rows, one draw for all processes.

        The normaliser is estimated on the first batch, from the queries that are present, and stays as it is.
        """
        drawn = torch.Generator().manual_seed(self._count())  # the same on every process
        others = self.rows[sent(torch.randint(len(self.rows), (noise,), generator=drawn), self.rows.device)]
        contrast = Contrast(queries, others, 1 / temperature, own=self.rows[index])
        return Scores(contrast, self._log_z(contrast, present), len(self.rows))

    def _log_z(self, contrast: Contrast, present: Tensor) -> Tensor:
        """Returns the logarithm of the normaliser: n times the mean of exp(score), of the first batch's noise."""
        if self.training and self._estimated:
            return self.log_z.clone()
        self._asked = self.training
        if not self.log_z.isinf():
            return self.log_z.clone()
        sums = contrast.log_sums.others.detach().double().exp()[present]
        count, total = dist.total(torch.stack([present.sum(), sums.sum()]))
        if not count:
            return torch.zeros_like(self.log_z)
        found = (total / (count * len(contrast.keys))).log() + math.log(len(self.rows))
        if self.training:
            self.log_z.copy_(found)
        return found.to(self.log_z.dtype)


def _last(index: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Finds where each of samples index (n,) stands the last time that it is present (n,) bool, and whether it is ever.

    By sorting, so that how many different ones there are need not be known.
    """
    order = present.byte().argsort(stable=True)
    order = order[index[order].argsort(stable=True)]  # by sample, the present ones behind, the last at the end
    sorted_index, places = index[order], torch.arange(len(index), device=index.device)
    ends = torch.cat([sorted_index[1:] != sorted_index[:-1], present.new_ones(1)])
    end = torch.where(ends, places, len(index)).flip(0).cummin(dim=0).values.flip(0)
    last = torch.empty_like(order).index_copy_(0, order, order[end])
    return last, present[last]
