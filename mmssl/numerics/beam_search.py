"""Beam search: the most likely sequences of tokens, one token at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def beam_search(
    log_probs: Callable[[Tensor], Tensor], *, samples: int, end: int, beams: int, length: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Returns each sample's best sequence (B, at most length), and the logarithm of its probability (B,).

    Of all continuations of a sample's `beams` sequences the `beams` most likely are kept; one that has ended stays as
    it is, and `end` fills what is left. Nothing is divided by the length. With as many beams as there are sequences it
    is exact.

    log_probs: sequences so far (B * beams, t), t from 0, a sample's behind each other -> log-probabilities of the next
        token (B * beams, V).
    """
    tokens = torch.zeros(samples, beams, 0, dtype=torch.long, device=device)
    scores = torch.full((samples, beams), -torch.inf, device=device)
    scores[:, 0] = 0.0  # all begin alike
    ended = torch.zeros(samples, beams, dtype=torch.bool, device=device)
    for _ in range(length):
        following = log_probs(tokens.flatten(0, 1)).float().unflatten(0, (samples, beams))  # (B, K, V)
        vocabulary = following.shape[2]
        stays = F.one_hot(torch.tensor(end, device=device), vocabulary).float().log()  # 0 at the end token, else -inf
        grown = scores[:, :, None] + torch.where(ended[:, :, None], stays, following)
        scores, places = grown.flatten(1).topk(beams, dim=1)
        kept, token = places // vocabulary, places % vocabulary
        tokens = torch.cat([tokens.gather(1, kept[:, :, None].expand_as(tokens)), token[:, :, None]], dim=2)
        ended = ended.gather(1, kept) | (token == end)
        if ended.all():
            break
    best = scores.argmax(dim=1)
    rows = torch.arange(samples, device=device)
    return tokens[rows, best], scores[rows, best]
