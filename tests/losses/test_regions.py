"""The contrast of regions against its formula, written as loops (Henaff et al., ICCV 2021, and the authors' code)."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.losses.regions import Regions, region_nce


def plain(queries: Regions, other: Regions, own: Regions, temperature: float, there: list[int]) -> Tensor:
    """One number per image: of its K queries, the mean of -log p of the positives, by how often each was drawn."""
    losses = []
    for b in range(len(queries.number)):
        found = []
        for query, number in zip(queries.features[b], queries.number[b], strict=True):
            scores, positive = [], []
            for c in there if b in there else ():
                for k in range(other.number.shape[1]):
                    same = b == c and other.number[c, k] == number
                    scores.append(other.features[c, k] @ query / temperature)
                    positive += [len(scores) - 1] if same else []
                for k in range(own.number.shape[1]):
                    if not (b == c and own.number[c, k] == number):
                        scores.append(own.features[c, k] @ query / temperature)
            if not positive:
                found.append(queries.features.new_zeros(()))
                continue
            log_p = torch.stack(scores).log_softmax(dim=0)
            found.append(-log_p[positive].mean() / (queries.number[b] == number).sum())
        losses.append(torch.stack(found).mean())
    return torch.stack(losses)


def drawn(generator: torch.Generator) -> tuple[Tensor, list[Tensor]]:
    x = torch.randn(3, 4, 5, 6, generator=generator, dtype=torch.double)
    numbers = [torch.randint(low, low + 4, (4, 5), generator=generator) for low in (0, 2)]
    numbers[1][2] = 255  # of an image of which the views share nothing
    return x, numbers


def test_value_and_gradient() -> None:
    raw, (first, second) = drawn(torch.Generator().manual_seed(0))
    present = torch.tensor([True, False, True, True])
    found = []
    for exact in (True, False):
        x = (raw if exact else raw.float()).clone().requires_grad_()
        asked, other, own = F.normalize(x, dim=3)
        regions = Regions(asked, first), Regions(other, second), Regions(own, first)
        ours = partial(region_nce, temperature=0.3, present=present)
        losses = (partial(plain, temperature=0.3, there=[0, 2, 3]) if exact else ours)(*regions)
        losses[present].sum().backward()
        found.append((losses.detach().float()[present], x.grad.float()))
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-6)
    assert found[0][0][1] == 0 and (found[0][0] > 0).sum() == 2


def test_no_sample_at_all_is_zero_with_a_finite_gradient() -> None:
    raw, (first, second) = drawn(torch.Generator().manual_seed(0))
    x = raw.float().requires_grad_()
    none = torch.zeros(4, dtype=torch.bool)
    losses = region_nce(Regions(x[0], first), Regions(x[1], second), Regions(x[2], first), temperature=1, present=none)
    assert not losses.any() and torch.autograd.grad(losses.sum(), x)[0].isfinite().all()
