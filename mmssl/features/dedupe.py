"""Near duplicates among features: which rows resemble one that is kept."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from mmssl.errors import UserError
from mmssl.features.files import Table
from mmssl.files import replacing

BLOCK = 1024  # rows compared at a time
TILE = 16_384  # rows that they are compared with at a time
ROUNDING = 1e-6  # of a cosine in float32: equal rows count as 1


@dataclass(slots=True)
class Duplicates:
    """kept: (N,) of each row the kept one that it is most like, itself where it is kept. similarity: (N,) to that."""

    table: Table
    threshold: float
    kept: np.ndarray
    similarity: np.ndarray

    def groups(self) -> dict[int, list[int]]:
        """Returns kept row -> its near duplicates, the most similar first; only where there are any."""
        found: dict[int, list[int]] = {}
        for row in np.flatnonzero(self.kept != np.arange(len(self.kept))).tolist():
            found.setdefault(int(self.kept[row]), []).append(row)
        return {keep: sorted(rows, key=lambda row: -self.similarity[row]) for keep, rows in sorted(found.items())}

    def keep(self) -> list[int]:
        """Returns the rows that are kept."""
        return np.flatnonzero(self.kept == np.arange(len(self.kept))).tolist()

    def summary(self) -> str:
        """Says it in a line."""
        kept, groups = len(self.keep()), len(self.groups())
        found = f"{len(self.kept) - kept} near duplicates in {groups} groups"
        return f"{len(self.kept)} rows: {kept} kept, {found} (cosine >= {self.threshold:g})"

    def plain(self) -> dict[str, Any]:
        """Returns everything as JSON has it."""
        groups = [
            {
                "keep": self.table.plain(keep),
                "duplicates": [
                    {**self.table.plain(row), "similarity": round(float(self.similarity[row]), 6)} for row in rows
                ],
            }
            for keep, rows in self.groups().items()
        ]
        return {"rows": len(self.kept), "kept": len(self.keep()), "threshold": self.threshold, "groups": groups}

    def write_groups(self, path: Path) -> None:
        """Writes CSV, a row for each member of a group: group, keep (1 or 0), similarity, name and window."""
        with replacing(path) as temporary, temporary.open("x", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["group", "keep", "similarity", *self.table.plain(0)])
            for number, (keep, rows) in enumerate(self.groups().items()):
                for row in (keep, *rows):
                    told = self.table.plain(row).values()
                    writer.writerow([number, int(row == keep), f"{self.similarity[row]:.6f}", *told])

    def write_keep(self, path: Path) -> None:
        """Writes the names of what is kept, one a line; behind a tab each where its window starts and ends."""
        with replacing(path) as temporary, temporary.open("x", encoding="utf-8") as file:
            for row in self.keep():
                file.write("\t".join(map(str, self.table.plain(row).values())) + "\n")


@torch.no_grad()
def near_duplicates(table: Table, threshold: float = 0.95, *, progress: bool = False) -> Duplicates:
    """Goes through the rows in order and keeps each that no kept one resembles by this cosine or more.

    So each row that is not kept is that similar to the one that stands for it. Exact; BLOCK x TILE cosines are held at
    a time. UserError for a threshold that is no cosine above 0.
    """
    if not 0 < threshold <= 1:
        raise UserError(f"threshold is {threshold:g}; expected a cosine above 0, at most 1")
    count = len(table.features)
    kept, similarity = np.arange(count), np.ones(count, np.float32)
    with tqdm(desc="dedupe", total=count, unit="row", disable=not progress) as bar:
        for start in range(0, count, BLOCK):
            block = table.rows(start, start + BLOCK)
            best, of = _nearest_kept(table, block, kept, start)
            own = (block @ block.T).numpy()
            free = np.zeros(len(block), bool)  # those of the block that are kept
            for row in range(len(block)):
                if free[:row].any():
                    among = np.where(free[:row], own[row, :row], -np.inf)
                    nearest = int(among.argmax())
                    if among[nearest] > best[row]:
                        best[row], of[row] = among[nearest], start + nearest
                free[row] = best[row] < threshold - ROUNDING
            places = slice(start, start + len(block))
            kept[places] = np.where(free, kept[places], of)
            similarity[places] = np.where(free, 1, best)
            bar.update(len(block))
    return Duplicates(table, threshold, kept, similarity)


def _nearest_kept(table: Table, block: torch.Tensor, kept: np.ndarray, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns for each row of a block the largest cosine to a kept row before `stop`, and which that is."""
    best, of = torch.full((len(block),), -torch.inf), torch.full((len(block),), -1)
    for start in range(0, stop, TILE):
        end = min(stop, start + TILE)
        places = np.flatnonzero(kept[start:end] == np.arange(start, end))
        if len(places):
            value, at = (block @ table.rows(start, end)[places].T).max(dim=1)
            better = value > best
            best[better], of[better] = value[better], start + torch.from_numpy(places)[at[better]]
    return best.numpy(), of.numpy()
