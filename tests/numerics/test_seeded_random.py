"""A sample's own numbers, against the published hash in Python's whole numbers: resumed runs hide what they hid."""

from __future__ import annotations

import math

import torch

from mmssl.numerics.seeded_random import STEP, _unit, draws


def lowbias32(x: int) -> int:
    """Chris Wellons, "Prospecting for hash functions" (2018)."""
    x ^= x >> 16
    x = x * 0x7FEB352D % 2**32
    x ^= x >> 15
    x = x * 0x846CA68B % 2**32
    return x ^ x >> 16


def test_numbers_are_hashes_of_seed_and_place() -> None:
    seeds = [0, 1, 12345, 2**31 - 1]
    found = draws(torch.tensor(seeds), 2, 3)
    assert found.dtype == torch.float32
    golden = int(2**32 / ((1 + math.sqrt(5)) / 2))
    assert golden == STEP
    for row, seed in enumerate(seeds):
        for place in range(6):
            word = lowbias32((lowbias32(seed) + lowbias32((place + 1) * golden % 2**32)) % 2**32)
            assert found[row].flatten()[place].item() == ((word >> 9) + 0.5) / 2**23


def test_seeds_of_any_whole_type() -> None:
    assert draws(torch.tensor([3, 4], dtype=torch.int32), 4).equal(draws(torch.tensor([3, 4]), 4))
    assert draws(torch.tensor([7]), 5).shape == (1, 5)
    assert draws(torch.tensor([7, 8])).shape == (2,)
    assert draws(torch.tensor([7]), 2, 5).flatten().equal(draws(torch.tensor([7]), 10).flatten()), "row by row"


def test_words_lie_in_the_middle_of_their_cells() -> None:
    assert _unit(torch.tensor([0, 511, 512, 2**32 - 1])).tolist() == [2**-24, 2**-24, 3 * 2**-24, 1 - 2**-24]
