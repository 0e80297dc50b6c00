"""What is scored and what does not count; InfoNCE within a batch and against a queue, by formulas and by lightly."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mmssl.losses.contrast import Contrast, gathered, in_batch
from mmssl.losses.infonce import info_nce
from mmssl.losses.nt_xent import nt_xent

HERE = torch.ones(5, dtype=torch.bool)


def batch_nce(queries: torch.Tensor, keys: torch.Tensor, present: torch.Tensor | None = None) -> torch.Tensor:
    return info_nce(in_batch(queries, keys, scale=1 / 0.3, present=present))


def queue_nce(
    queries: torch.Tensor, keys: torch.Tensor, queue: torch.Tensor, *, scale: torch.Tensor | float
) -> torch.Tensor:
    return info_nce(Contrast(queries, queue, scale, own=keys))


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
    ours = grads(lambda q, k: batch_nce(q, k, HERE).mean(), *raw)
    theirs = grads(lambda q, k: plain(q, k, list(range(5)), 0.3).mean(), *raw)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(ours, grads(lambda q, k: batch_nce(q, k).mean(), *raw))
    some = torch.tensor([True, False, True, True, False])
    queries, keys = (F.normalize(x, dim=1) for x in raw)
    found = batch_nce(queries, keys, some)
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
    found = batch_nce(queries, keys, some)
    for gradient in torch.autograd.grad(found.sum(), [queries, keys]):
        assert not gradient[~some].any() and gradient[some].any(dim=1).all()
    none = batch_nce(queries, keys, ~HERE)
    assert not none.any() and all(g.isfinite().all() for g in torch.autograd.grad(none.sum(), [queries, keys]))


def scores(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    return torch.stack([torch.stack([(q * k).sum() for k in keys]) for q in queries])


@pytest.mark.parametrize("by_query", [False, True])
def test_keys_that_do_not_count_are_in_no_sum_and_get_no_gradient(by_query: bool) -> None:
    queries, keys = torch.randn(3, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)
    keep = torch.tensor([True, False, True, True, True])
    if by_query:
        keep = torch.stack([keep, ~keep, HERE])
    exclude = torch.tensor([0, 4, 3])
    counts = keep.expand(3, 5).clone()
    counts[range(3), exclude] = False
    positive = torch.tensor([[True, False, False, True, True], [True, True, False, False, True], [False] * 5])
    made = Contrast(queries, keys, 2.0, positives=positive, keep=keep, exclude=exclude).log_sums
    plain, right = 2 * scores(queries, keys), positive & counts
    others = torch.stack([row[mask].exp().sum().log() for row, mask in zip(plain, counts & ~positive, strict=True)])
    if by_query:  # the second query's only key is positive, and excluded or not kept are its others
        assert (counts & ~positive)[1].sum() == 0 and made.others[1] < -1e29
    some = (counts & ~positive).any(dim=1)
    torch.testing.assert_close(made.others[some], others[some])
    assert made.positive is not None
    assert torch.equal(made.positive.number, right.sum(1).float())
    torch.testing.assert_close(made.positive.scores, (plain * right).sum(1))
    pairs = [torch.autograd.grad(x[some].sum(), [queries, keys], retain_graph=True) for x in (made.others, others)]
    pairs += [torch.autograd.grad(x.sum(), [queries, keys]) for x in (made.positive.scores, (plain * right).sum(1))]
    for mine, theirs in zip(pairs[0] + pairs[2], pairs[1] + pairs[3], strict=True):
        torch.testing.assert_close(mine, theirs)


def test_positives_by_number_by_default_and_own_keys() -> None:
    queries, keys = torch.randn(3, 4), torch.randn(5, 4)
    plain = 3 * scores(queries, keys)
    assert Contrast(queries, keys).targets.tolist() == [0, 1, 2]
    torch.testing.assert_close(Contrast(queries, keys, 3.0).log_sums.own, plain.diagonal()[:, None])
    some = Contrast(queries, keys, positives=torch.tensor([4, 0, 0]), keep=torch.arange(5) < 4)
    assert some.counting is not None and some.counting.tolist() == [False, True, True]
    own = torch.randn(3, 2, 4)
    expected = torch.stack([torch.stack([3 * q @ k for k in mine]) for q, mine in zip(queries, own, strict=True)])
    torch.testing.assert_close(Contrast(queries, keys, 3.0, own=own).log_sums.own, expected)
    torch.testing.assert_close(Contrast(queries, keys, 3.0, own=own[:, 1]).log_sums.own, expected[:, 1:])
    torch.testing.assert_close(Contrast(queries, keys, 3.0, own=own[:, 1]).log_sums.others, plain.logsumexp(1))
    places = [[1, 4], [0, 1], [3, 2]]
    numbered = Contrast(queries, keys, 3.0, own=torch.tensor(places))
    others = [[0, 2, 3], [2, 3, 4], [0, 1, 4]]
    for row, (mine, rest) in enumerate(zip(places, others, strict=True)):
        torch.testing.assert_close(numbered.log_sums.own[row], plain[row, mine])
        torch.testing.assert_close(numbered.log_sums.others[row], plain[row, rest].logsumexp(0))
    sums, biased = numbered.softplus_sums(-1.5)
    torch.testing.assert_close(biased, numbered.log_sums.own - 1.5)
    torch.testing.assert_close(sums[1], torch.log1p((plain[1, others[1]] - 1.5).exp()).sum())


def test_own_keys_are_told_from_the_others_and_not_from_one_another() -> None:
    raw = torch.randn(5, 4), torch.randn(10, 4)
    others = F.normalize(torch.randn(7, 4), dim=1)
    ours = grads(lambda q, k: info_nce(Contrast(q, others, 1 / 0.3, own=k.view(5, 2, 4))).mean(), *raw)

    def loops(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        pairs = [(q, k) for q, mine in zip(queries, keys.view(5, 2, 4), strict=True) for k in mine]
        return torch.cat([plain(q[None], torch.cat([k[None], others]), [0], 0.3) for q, k in pairs]).mean()

    torch.testing.assert_close(ours, grads(loops, *raw))


def test_an_answer_is_correct_where_a_positive_scores_highest() -> None:
    own, queue = torch.tensor([0.9, 0.5, 0.8]), torch.tensor([[0.8, 0.0], [0.4, 0.6]])
    queries = torch.tensor([[1.0, 0.0]]).expand(3, 2).clone().requires_grad_()
    first = Contrast(queries, queue, 2.0, own=torch.stack([own, own], dim=1))
    assert first.correct().tolist() == [True, False, False], "as near is not nearer"
    two = torch.stack([own, own], dim=1)[:, None] * torch.tensor([[1.0], [-1.0]])
    assert Contrast(queries, queue, own=two).correct().tolist() == [True, False, False], "the best of its own keys"
    assert torch.autograd.grad(info_nce(first).sum(), queries)[0].any(), "what was asked before the loss keeps it"
    keys = torch.tensor([[0.5, 0.0], [0.9, 0.0], [0.2, 1.0]])
    assert Contrast(queries, keys, positives=torch.tensor([1, 0, 1])).correct().tolist() == [True, False, True]
    assert Contrast(queries, keys, keep=torch.tensor([True, False, True])).correct().tolist() == [True, False, False]
    mask = torch.tensor([[True, True, False], [True, False, True], [False, True, False]])
    assert Contrast(queries, keys, positives=mask).correct().tolist() == [True, False, True]


def test_rows_of_one_process_are_its_own() -> None:
    rows = torch.randn(5, 2, 3).bfloat16()
    found = gathered(rows)
    assert torch.equal(found.rows, rows.float()) and found.own.tolist() == [0, 1, 2, 3, 4] and found.keep is None
    assert gathered(rows, HERE).keep is HERE
