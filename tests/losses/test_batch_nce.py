"""InfoNCE within a batch and against a queue, by their formulas and by lightly."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mmssl.losses.batch_nce import batch_nce
from mmssl.losses.nt_xent import nt_xent
from mmssl.losses.queue_nce import queue_nce

HERE = torch.ones(5, dtype=torch.bool)


def plain(queries: torch.Tensor, keys: torch.Tensor, own: list[int], temperature: float) -> torch.Tensor:
    losses = []
    for query, mine in zip(queries, own, strict=True):
        weights = torch.stack([torch.exp(query @ key / temperature) for key in keys])
        losses.append(-torch.log(weights[mine] / weights.sum()))
    return torch.stack(losses)


def grads(loss, *raw: torch.Tensor) -> list[torch.Tensor]:  # type: ignore[no-untyped-def]
    leaves = [x.clone().requires_grad_() for x in raw]
    value = loss(*(F.normalize(x, dim=1) for x in leaves))
    return [value.detach(), *torch.autograd.grad(value, leaves)]


def test_within_a_batch_in_value_and_gradient() -> None:
    raw = torch.randn(5, 4), torch.randn(5, 4)
    ours = grads(lambda q, k: batch_nce(q, k, temperature=0.3, present=HERE).mean(), *raw)
    theirs = grads(lambda q, k: plain(q, k, list(range(5)), 0.3).mean(), *raw)
    torch.testing.assert_close(ours, theirs)
    some = torch.tensor([True, False, True, True, False])
    queries, keys = (F.normalize(x, dim=1) for x in raw)
    found = batch_nce(queries, keys, temperature=0.3, present=some)
    torch.testing.assert_close(found[some], plain(queries[some], keys[some], [0, 1, 2], 0.3))
    assert not found[~some].any()


def test_against_a_queue_in_value_and_gradient() -> None:
    raw = torch.randn(5, 4), torch.randn(5, 4)
    queue = F.normalize(torch.randn(7, 4), dim=1)
    ours = grads(lambda q, k: queue_nce(q, k, queue, scale=1 / 0.3).mean(), *raw)

    def loops(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        each = [plain(q[None], torch.cat([k[None], queue]), [0], 0.3) for q, k in zip(queries, keys, strict=True)]
        return torch.cat(each).mean()

    torch.testing.assert_close(ours, grads(loops, *raw))


def test_equal_to_lightly_within_a_batch_and_against_a_queue() -> None:
    lightly = pytest.importorskip("lightly.loss")
    raw = torch.randn(5, 4), torch.randn(5, 4)
    ours = grads(lambda a, b: nt_xent(a, b, temperature=0.3).mean(), *raw)
    torch.testing.assert_close(ours, grads(lightly.NTXentLoss(temperature=0.3), *raw))
    theirs = lightly.NTXentLoss(temperature=0.3, memory_bank_size=(6, 4))
    theirs(*(F.normalize(x, dim=1) for x in torch.randn(2, 2, 4).requires_grad_()))  # fills it
    queue = theirs.memory_bank.bank.clone()
    queue = queue.T if queue.shape[0] == 4 else queue
    queries, keys = raw[0].clone().requires_grad_(), F.normalize(raw[1], dim=1)
    expected = theirs(queries, keys)
    found = queue_nce(F.normalize(queries, dim=1), keys, queue, scale=1 / 0.3).mean()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(x, queries) for x in (found, expected)))


def test_a_learnt_scale_gets_its_gradient_from_own_key_and_queue() -> None:
    queries, keys = (F.normalize(torch.randn(5, 4), dim=1) for _ in range(2))
    queue, scale = F.normalize(torch.randn(7, 4), dim=1), torch.tensor(3.0, requires_grad=True)
    found = queue_nce(queries, keys, queue, scale=scale)
    assert found.shape == (5,)
    logits = scale * torch.stack([torch.cat([k[None], queue]) @ q for q, k in zip(queries, keys, strict=True)])
    expected = -logits.log_softmax(dim=1)[:, 0]
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(x.sum(), scale) for x in (found, expected)))


def test_absent_samples_give_no_gradient_and_none_present_no_loss() -> None:
    queries, keys = (torch.randn(5, 4, requires_grad=True) for _ in range(2))
    some = torch.tensor([True, False, True, True, False])
    found = batch_nce(queries, keys, temperature=0.3, present=some)
    for gradient in torch.autograd.grad(found.sum(), [queries, keys]):
        assert not gradient[~some].any() and gradient[some].any(dim=1).all()
    none = batch_nce(queries, keys, temperature=0.3, present=~HERE)
    assert not none.any() and all(g.isfinite().all() for g in torch.autograd.grad(none.sum(), [queries, keys]))
