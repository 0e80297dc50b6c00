"""Draws from a seed are those of generators of their own, and leave the global ones as they were."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

from mmssl.data.seeds import seeded


def states() -> tuple[Any, ...]:
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # type: ignore[index]


@pytest.mark.parametrize("seed", [5, 2**40 + 3])
def test_draws_are_those_of_fresh_generators(seed: int) -> None:
    expected = (
        random.Random(seed).random(),
        np.random.RandomState(seed % 2**32).rand(),
        torch.rand(2, generator=torch.Generator().manual_seed(seed)).tolist(),
    )
    for _ in range(2):
        with seeded(seed):
            assert (random.random(), np.random.rand(), torch.rand(2).tolist()) == expected


def test_the_generators_are_left_as_they_were_even_where_it_fails() -> None:
    before = states()
    with pytest.raises(KeyError), seeded(3):
        random.random(), np.random.rand(), torch.rand(1)
        raise KeyError
    assert states() == before
    with seeded(3), seeded(4):
        pass
    assert states() == before


def test_a_device_is_seeded_and_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    own = [torch.Generator().manual_seed(number) for number in range(2)]  # of CPUs, in the place of two GPUs'
    monkeypatch.setattr(torch.cuda, "default_generators", own)
    before = [each.get_state() for each in own]
    with seeded(7, torch.device("cuda:1")):
        drawn = torch.rand(2, generator=own[1])
        assert torch.equal(own[0].get_state(), before[0])
    assert torch.equal(drawn, torch.rand(2, generator=torch.Generator().manual_seed(7)))
    assert all(torch.equal(each.get_state(), state) for each, state in zip(own, before, strict=True))
