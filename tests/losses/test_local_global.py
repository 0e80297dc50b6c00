"""Local-global mutual information against its formulas, written as loops."""

from __future__ import annotations

import math

import pytest
import torch

from mmssl.losses.local_global import local_global


def plain_jsd(cells: torch.Tensor, summaries: torch.Tensor) -> torch.Tensor:
    losses = []
    for i, summary in enumerate(summaries):
        matching = torch.stack([math.log(2) - torch.log(1 + torch.exp(-(summary @ c))) for c in cells[i]])
        apart = [
            torch.log(1 + torch.exp(-(summary @ c))) + summary @ c - math.log(2)
            for j in range(len(cells))
            for c in cells[j]
            if j != i
        ]
        losses.append(torch.stack(apart).mean() - matching.mean())
    return torch.stack(losses)


def plain_infonce(cells: torch.Tensor, summaries: torch.Tensor) -> torch.Tensor:
    losses = []
    for i, summary in enumerate(summaries):
        below = sum(torch.exp(summary @ c) for j in range(len(cells)) for c in cells[j] if j != i)
        each = [-torch.log(torch.exp(summary @ c) / (torch.exp(summary @ c) + below)) for c in cells[i]]
        losses.append(torch.stack(each).mean())
    return torch.stack(losses)


@pytest.mark.parametrize(("measure", "plain"), [("jsd", plain_jsd), ("infonce", plain_infonce)])
def test_value_and_gradient(measure: str, plain) -> None:
    torch.manual_seed(0)
    cells, summaries = torch.randn(4, 3, 5), torch.randn(4, 5)
    mine = [cells.clone().requires_grad_(), summaries.clone().requires_grad_()]
    theirs = [cells.clone().requires_grad_(), summaries.clone().requires_grad_()]
    found, expected = local_global(*mine, measure=measure), plain(*theirs)
    torch.testing.assert_close(found, expected)
    found.mean().backward()
    expected.mean().backward()
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("measure", ["jsd", "infonce"])
def test_absent_samples_are_no_negatives(measure: str) -> None:
    torch.manual_seed(0)
    cells, summaries = torch.randn(6, 3, 5), torch.randn(6, 5)
    present = torch.tensor([True, False, True, True, False, True])
    found = local_global(cells, summaries, measure=measure, present=present)
    torch.testing.assert_close(found[present], local_global(cells[present], summaries[present], measure=measure))
    assert not found[~present].any()


def test_the_divergence_is_the_default_and_one_sample_alone_has_no_negatives() -> None:
    cells, summaries = torch.randn(4, 3, 5), torch.randn(4, 5)
    torch.testing.assert_close(local_global(cells, summaries), plain_jsd(cells, summaries))
    alone = torch.tensor([True, False, False, False])
    found = local_global(cells, summaries, present=alone)
    matching = math.log(2) - torch.log1p(torch.exp(-(cells[0] @ summaries[0]))).mean()
    torch.testing.assert_close(found, torch.stack([-matching, *torch.zeros(3)]))
    assert not local_global(cells, summaries, measure="infonce", present=alone).any()


@pytest.mark.parametrize("measure", ["jsd", "infonce"])
def test_absent_samples_have_no_gradient(measure: str) -> None:
    cells, summaries = torch.randn(6, 3, 5, requires_grad=True), torch.randn(6, 5, requires_grad=True)
    present = torch.tensor([True, False, True, True, False, True])
    losses = local_global(cells, summaries, measure=measure, present=present)
    for gradient in torch.autograd.grad(losses.sum(), [cells, summaries]):
        assert not gradient[~present].any() and gradient[present].flatten(1).any(dim=1).all()
