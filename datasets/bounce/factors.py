"""The factors of the toy world, and which of their compositions are held out of training."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import product

import numpy as np
from shapes import SHAPES as SOLIDS

Composition = tuple[str, str, str]
"""Shape, colour, material."""

SHAPES = tuple(SOLIDS)
COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.88, 0.11, 0.11),
    "orange": (1.0, 0.52, 0.05),
    "yellow": (0.98, 0.91, 0.12),
    "green": (0.12, 0.66, 0.18),
    "cyan": (0.15, 0.85, 0.90),
    "blue": (0.13, 0.26, 0.90),
    "purple": (0.50, 0.13, 0.72),
    "pink": (1.0, 0.55, 0.78),
}
SIZES = {"small": 0.21, "medium": 0.28, "large": 0.37}  # metres
MATERIALS = {"rubber": 0.86, "wood": 0.80, "metal": 0.76}  # the share of speed that a bounce keeps
SPLITS = ("train", "test_seen", "test_novel")
HELD_OUT = (0, 3, 6, 1, 4)  # diagonals of the shape-by-colour square, in an order that spreads materials evenly


def is_novel(shape: str, color: str, material: str) -> bool:
    """Tells whether a composition is held out: 40 of 192, five of every shape and of every colour.

    At most two share a shape and a material, or a colour and a material.
    """
    row, column = SHAPES.index(shape), list(COLORS).index(color)
    diagonal = (column - row) % len(SHAPES)
    if diagonal not in HELD_OUT:
        return False
    return list(MATERIALS).index(material) == (row + HELD_OUT.index(diagonal)) % len(MATERIALS)


@cache
def compositions(*, novel: bool) -> tuple[Composition, ...]:
    """Returns all held-out compositions, or all others."""
    return tuple(c for c in product(SHAPES, COLORS, MATERIALS) if is_novel(*c) == novel)


def chosen(seed: int, split: str, index: int) -> Composition:
    """Returns the first object's composition: shuffled rounds through all, so that every label is equally frequent."""
    options = compositions(novel=split == "test_novel")
    turn, place = divmod(index, len(options))
    order = np.random.default_rng([seed, SPLITS.index(split), turn, 7]).permutation(len(options))
    return options[order[place]]


def others(composition: Composition) -> Iterator[Composition]:
    """Yields the training compositions that differ in shape and in colour, for a second object."""
    for other in compositions(novel=False):
        if other[0] != composition[0] and other[1] != composition[1]:
            yield other
