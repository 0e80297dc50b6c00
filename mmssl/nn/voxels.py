"""Occupied voxels in plain PyTorch: sorted keys, coarser grids, and the pairs that a kernel joins."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from mmssl.errors import UserError

BITS = 16  # of a key for each of x, y and z; those above hold the cloud
MARGIN = 2  # free cells around the coordinates, so that a kernel's reach never runs into the next field
SPAN = 2**BITS - 2 * MARGIN
CLOUDS = 2 ** (63 - 3 * BITS)
CHUNK = 4096  # pairs at a time on a CPU, so that what is gathered and multiplied stays in its cache

Step = tuple[int, Tensor, Tensor]


@dataclass(frozen=True)
class Rulebook:
    """Which input voxel each offset of a kernel joins to which output voxel.

    table: (offsets, outputs) int64, the input, or the number of inputs where there is none; no input twice in a row.
    inputs: how many there are.
    centre: the offset that joins every voxel to itself; None between two grids.
    """

    table: Tensor
    inputs: int
    centre: int | None = None

    @property
    def rows(self) -> int:
        """How many outputs there are."""
        return self.table.shape[1]

    @cached_property
    def turned(self) -> Rulebook:
        """The rules from the outputs to the inputs."""
        table = self.table.new_full((len(self.table), self.inputs + 1), self.rows)
        table.scatter_(1, self.table, torch.arange(self.rows, device=table.device).expand_as(self.table))
        return Rulebook(table[:, :-1], self.rows, self.centre)

    @cached_property
    def columns(self) -> Tensor:
        """The inputs of each output, offset by offset, (outputs * offsets,)."""
        return self.table.t().reshape(-1)

    @cached_property
    def pairs(self) -> list[tuple[Tensor, Tensor]]:
        """Inputs (P,) and outputs (P,) of each offset, none for the centre."""
        hit = self.table < self.inputs
        if self.centre is not None:
            hit[self.centre] = False
        counts, found = hit.sum(1).tolist(), hit.flatten().nonzero()[:, 0]
        inputs, outputs = self.table.flatten().index_select(0, found), found.remainder(self.rows)
        return list(zip(inputs.split(counts), outputs.split(counts), strict=True))

    @cached_property
    def steps(self) -> list[Step]:
        """The pairs in pieces of at most CHUNK: offset, inputs, outputs."""
        return [
            (offset, inputs, outputs)
            for offset, pair in enumerate(self.pairs)
            for inputs, outputs in zip(*(side.split(CHUNK) for side in pair), strict=True)
            if len(inputs)
        ]


class Sites:
    """The occupied voxels of a batch of clouds on one grid, in ascending order, with what follows from them.

    keys: (N,) int64, distinct: cloud, x, y, z packed from the highest bits to the lowest.
    """

    def __init__(self, keys: Tensor) -> None:
        self.keys = keys
        self._coarser: Sites | None = None
        self._rules: dict[tuple[int, int, bool], Rulebook] = {}

    @classmethod
    def of(cls, coords: Tensor) -> tuple[Sites, Tensor]:
        """Takes int64 rows of cloud, x, y, z (P, 4), none negative; returns the sites and each row's index (P,).

        Raises UserError for coordinates that a key has no room for.
        """
        if len(coords):
            low, high = coords.min(), coords[:, 1:].max()
            if low < 0 or high >= SPAN or coords[:, 0].max() >= CLOUDS:
                raise UserError(
                    f"voxels lie between {int(low)} and {int(high)}, in {int(coords[:, 0].max()) + 1} clouds; there is"
                    f" room for 0 to {SPAN - 1} in {CLOUDS} clouds: take larger voxels or smaller clouds"
                )
        keys, index = torch.unique(_pack(coords), return_inverse=True)
        return cls(keys), index

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def coords(self) -> Tensor:
        """Cloud, x, y, z of every voxel, (N, 4) int64."""
        fields = [self.keys >> 3 * BITS]
        fields += [(self.keys >> shift * BITS & (2**BITS - 1)) - MARGIN for shift in (2, 1, 0)]
        return torch.stack(fields, dim=1)

    def coarser(self) -> Sites:
        """The occupied voxels of twice the size."""
        if self._coarser is None:
            self._coarser = Sites(torch.unique(_pack(_halved(self.coords))))
        return self._coarser

    def rules(self, kernel: int, stride: int = 1, *, transposed: bool = False) -> Rulebook:
        """Returns the rules of a convolution on these voxels, or with stride 2 from them to the coarser ones.

        An odd kernel is centred, an even one begins at its voxel. transposed: from the coarser voxels to these.
        """
        wanted = (kernel, stride, transposed)
        if wanted not in self._rules:
            if transposed:
                self._rules[wanted] = self.rules(kernel, stride).turned
            else:
                self._rules[wanted] = self._within(kernel) if stride == 1 else self._between(kernel)
        return self._rules[wanted]

    def _within(self, kernel: int) -> Rulebook:
        """Searches for the offsets before the centre; those behind it join the same pairs the other way."""
        centre, count = kernel**3 // 2, len(self)
        before = Rulebook(_match(self.keys, self.keys, kernel, kernel**2 // 2 + 1)[:centre], count)
        own = torch.arange(count, device=self.keys.device)[None]
        return Rulebook(torch.cat([before.table, own, before.turned.table.flip(0)]), count, centre)

    def _between(self, kernel: int) -> Rulebook:
        coords = self.coarser().coords
        coords[:, 1:] *= 2
        return Rulebook(_match(self.keys, _pack(coords), kernel, kernel**2), len(self))


def _pack(coords: Tensor) -> Tensor:
    cloud, x, y, z = coords.unbind(1)
    return cloud << 3 * BITS | x + MARGIN << 2 * BITS | y + MARGIN << BITS | z + MARGIN


def _halved(coords: Tensor) -> Tensor:
    return torch.cat([coords[:, :1], coords[:, 1:] >> 1], dim=1)


def _match(keys: Tensor, starts: Tensor, kernel: int, lines: int) -> Tensor:
    """Finds start + offset among the N ascending keys, (lines * kernel, starts); N where there is none.

    The offsets of a line along the last axis follow each other, so that one search finds all of them.
    """
    first = -(kernel // 2) if kernel % 2 else 0
    cells = torch.arange(first, first + kernel, device=keys.device)
    offsets = ((cells[:, None] << 2 * BITS) + (cells << BITS)).flatten()[:lines] + first
    wanted = starts + offsets[:, None]
    place = torch.searchsorted(keys, wanted)
    found = []
    for _ in range(kernel):
        hit = keys[place.clamp(max=len(keys) - 1)] == wanted
        found.append(place.where(hit, len(keys)))
        place, wanted = place + hit, wanted + 1
    return torch.stack(found, dim=1).flatten(0, 1)
