"""Beam search against all sequences, one by one."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from mmssl.numerics.beam_search import beam_search

WORDS, END, LENGTH = 4, 2, 3


def table(sample: int, written: tuple[int, ...]) -> Tensor:
    """Log-probabilities of the next token of a sample, any but the same for the same beginning."""
    seed = sample + sum((token + 1) * 7**place for place, token in enumerate(written))
    return torch.randn(WORDS, generator=torch.Generator().manual_seed(seed)).mul(2).log_softmax(0)


def score(sample: int, tokens: tuple[int, ...]) -> float:
    return sum(table(sample, tokens[:place])[token].item() for place, token in enumerate(tokens))


def search(samples: int, beams: int) -> tuple[Tensor, Tensor]:
    def log_probs(written: Tensor) -> Tensor:
        rows = [table(number // beams, tuple(row)) for number, row in enumerate(written.tolist())]
        return torch.stack(rows)

    return beam_search(log_probs, samples=samples, end=END, beams=beams, length=LENGTH, device=torch.device("cpu"))


def cut(tokens: tuple[int, ...]) -> tuple[int, ...]:
    return tokens[: tokens.index(END) + 1] if END in tokens else tokens


def test_with_enough_beams_it_finds_the_best_of_all() -> None:
    tokens, scores = search(6, WORDS**LENGTH)
    for sample in range(6):
        every = {cut(tokens) for tokens in product(range(WORDS), repeat=LENGTH)}
        best = max(every, key=lambda tokens: score(sample, tokens))
        assert cut(tuple(tokens[sample].tolist())) == best
        assert set(tokens[sample, len(best) :].tolist()) <= {END}
        assert scores[sample].item() == pytest.approx(score(sample, best), rel=1e-5)


@pytest.mark.parametrize("beams", [1, 2])
def test_fewer_beams_keep_the_best_so_far(beams: int) -> None:
    tokens, scores = search(6, beams)
    for sample in range(6):
        kept: list[tuple[int, ...]] = [()]
        for _ in range(LENGTH):
            grown = [k if END in k else (*k, word) for k in kept for word in range(WORDS)]
            kept = sorted(dict.fromkeys(grown), key=lambda tokens: -score(sample, tokens))[:beams]
        assert cut(tuple(tokens[sample].tolist())) == kept[0]
        assert scores[sample].item() == pytest.approx(score(sample, kept[0]), rel=1e-5)
