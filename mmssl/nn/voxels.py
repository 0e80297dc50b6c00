"""Occupied voxels in plain PyTorch: sorted keys, coarser grids, and the pairs that a kernel joins."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product

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

    steps: (offset, inputs (P,), outputs (P,)), no voxel twice in one step. size: the kernel's number of offsets.
    rows: how many outputs there are. centre: the offset that joins every voxel to itself and is in no step; None
    between two grids.
    """

    steps: list[Step]
    size: int
    rows: int
    centre: int | None = None

    @cached_property
    def table(self) -> tuple[Tensor, Tensor]:
        """Inputs and outputs of every offset, (2, size, longest) int32 and -1 behind, and their numbers (size,)."""
        counts = [0] * self.size
        for offset, inputs, _ in self.steps:
            counts[offset] += len(inputs)
        pairs = self.steps[0][1].new_full((2, self.size, max(counts)), -1, dtype=torch.int32)
        filled = [0] * self.size
        for offset, inputs, outputs in self.steps:
            place = slice(filled[offset], filled[offset] + len(inputs))
            pairs[0, offset, place], pairs[1, offset, place] = inputs.int(), outputs.int()
            filled[offset] = place.stop
        return pairs, torch.tensor(counts, dtype=torch.int32, device=pairs.device)

    def turned(self, rows: int) -> Rulebook:
        """Returns the rules, between two grids, of the transposed convolution, which has this many outputs."""
        return Rulebook([(offset, outputs, inputs) for offset, inputs, outputs in self.steps], self.size, rows)


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
                self._rules[wanted] = self.rules(kernel, stride).turned(len(self))
            else:
                self._rules[wanted] = self._within(kernel) if stride == 1 else self._between(kernel)
        return self._rules[wanted]

    def _within(self, kernel: int) -> Rulebook:
        centre = kernel**3 // 2
        steps = []
        for offset, inputs, outputs in _match(self.keys, self.keys, _offsets(kernel)[:centre]):
            steps += [(offset, inputs, outputs), (kernel**3 - 1 - offset, outputs, inputs)]
        return Rulebook(steps, kernel**3, len(self), centre)

    def _between(self, kernel: int) -> Rulebook:
        coarse = self.coarser()
        coords = coarse.coords
        coords[:, 1:] *= 2
        return Rulebook(_match(self.keys, _pack(coords), _offsets(kernel)), kernel**3, len(coarse))


def _pack(coords: Tensor) -> Tensor:
    cloud, x, y, z = coords.unbind(1)
    return cloud << 3 * BITS | x + MARGIN << 2 * BITS | y + MARGIN << BITS | z + MARGIN


def _halved(coords: Tensor) -> Tensor:
    return torch.cat([coords[:, :1], coords[:, 1:] >> 1], dim=1)


def _offsets(kernel: int) -> list[int]:
    """Returns what each cell of a kernel adds to a key, the last axis fastest."""
    cells = range(-(kernel // 2), kernel // 2 + 1) if kernel % 2 else range(kernel)
    return [(x << 2 * BITS) + (y << BITS) + z for x, y, z in product(cells, repeat=3)]


def _match(keys: Tensor, starts: Tensor, offsets: list[int]) -> list[Step]:
    """Finds start + offset among the ascending keys: steps of (offset's number, index of key, index of start)."""
    places, hits = [], []
    place = before = None
    for offset in offsets:
        wanted = starts + offset
        if place is None or before is None or offset != before + 1:  # else z + 1 follows z, and needs no search
            place = torch.searchsorted(keys, wanted)
        hit = keys[place.clamp(max=len(keys) - 1)] == wanted
        places.append(place)
        hits.append(hit)
        place, before = place + hit, offset
    return _steps(places, hits)


def _steps(places: list[Tensor], hits: list[Tensor]) -> list[Step]:
    if not places:
        return []
    table = torch.stack(hits)  # (offsets, starts)
    counts = table.sum(1).tolist()
    inputs, outputs = torch.stack(places)[table], table.nonzero()[:, 1]
    steps = []
    for offset, pair in enumerate(zip(inputs.split(counts), outputs.split(counts), strict=True)):
        size = max(len(pair[0]), 1) if table.is_cuda else CHUNK
        steps += [(offset, *part) for part in zip(*(side.split(size) for side in pair), strict=True) if len(part[0])]
    return steps
