"""The memory bank: what it keeps, what it compares with, and that it fits the weights that are loaded."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.losses.nce import nce
from mmssl.objectives.bank import Bank, SampleRows, Scores, counted, reserve
from mmssl.objectives.queue import Queue
from mmssl.parallel import equal_everywhere

HERE = torch.ones(3, dtype=torch.bool)


def logits(scores: Scores) -> torch.Tensor:
    """The noise's scores (B, m)."""
    return scores.contrast.scale * scores.contrast.queries.float() @ scores.contrast.keys.T


def filled(samples: int = 6, dim: int = 3, momentum: float = 0.5) -> Bank:
    bank = Bank(dim, momentum=momentum)
    bank.reserve(samples)
    return bank


def test_rows_move_half_way_and_keep_unit_length() -> None:
    bank = filled()
    torch.testing.assert_close(bank.rows.norm(dim=1), torch.ones(6))
    before, new = bank.rows.clone(), F.normalize(torch.randn(3, 3), dim=1)
    bank.note(torch.tensor([4, 1, 2]), new, torch.tensor([True, True, False]))
    assert torch.equal(bank.rows, before), "nothing is written before the step"
    bank.write()
    moved = F.normalize(before[[4, 1]] + new[:2], dim=1)
    torch.testing.assert_close(bank.rows[[4, 1]], moved)
    assert torch.equal(bank.rows[[0, 2, 3, 5]], before[[0, 2, 3, 5]])
    bank.write()
    torch.testing.assert_close(bank.rows[[4, 1]], moved)


def test_of_a_sample_noted_twice_the_last_counts() -> None:
    bank = filled()
    before, new = bank.rows.clone(), F.normalize(torch.randn(4, 3), dim=1)
    here = torch.ones(2, dtype=torch.bool)
    bank.note(torch.tensor([5, 0]), new[:2], here)
    bank.note(torch.tensor([0, 5]), new[2:], here)
    bank.write()
    torch.testing.assert_close(bank.rows[[0, 5]], F.normalize(before[[0, 5]] + new[2:], dim=1))


def test_the_normaliser_is_estimated_once_from_those_present() -> None:
    bank, index = filled(50), torch.tensor([3, 7, 8])
    queries = F.normalize(torch.randn(3, 3), dim=1)
    present = torch.tensor([True, False, True])
    absent = bank.scores(queries, index, noise=20, temperature=0.5, present=torch.zeros(3, dtype=torch.bool))
    assert bank.log_z.isinf() and nce(*absent).isfinite().all()
    first = bank.scores(queries, index, noise=20, temperature=0.5, present=present)
    torch.testing.assert_close(first.contrast.log_sums.own[:, 0], (queries * bank.rows[index]).sum(1) / 0.5)
    torch.testing.assert_close(first.log_z, (50 * logits(first)[present].exp().mean()).log())
    again = bank.scores(-queries, index, noise=20, temperature=0.5, present=present)
    assert torch.equal(again.log_z, first.log_z)
    torch.testing.assert_close(logits(again), -logits(first))
    bank.note(index, queries, present)
    bank.write()
    assert not torch.allclose(
        logits(bank.scores(queries, index, noise=20, temperature=0.5, present=present)), logits(first)
    )


def test_random_rows_stand_for_all() -> None:
    bank = filled(40)
    query = F.normalize(torch.randn(1, 3), dim=1)
    here = torch.ones(1, dtype=torch.bool)
    scores = bank.scores(query, torch.tensor([0]), noise=200_000, temperature=1.0, present=here)
    assert abs(float(scores.log_z) - float((query @ bank.rows.T).logsumexp(dim=1))) < 0.01
    assert math.isclose(scores.samples, 40)


def test_a_bank_fits_what_is_loaded_and_refuses_what_is_of_another_set() -> None:
    for made, fresh in ((filled(), Bank(3)), (SampleRows(3), SampleRows(3))):
        made.reserve(6)
        fresh.load_state_dict(made.state_dict())
        assert torch.equal(fresh.rows, made.rows)
        fresh.reserve(7)
        with pytest.raises(RuntimeError, match="size mismatch"):
            fresh.load_state_dict(made.state_dict())
    assert isinstance(SampleRows(3).rows, torch.nn.Parameter)
    with pytest.raises(UserError, match="not counted"):
        Bank(3).reserve(None)


def test_queues_and_banks_are_left_out_of_what_is_sent_at_every_step() -> None:
    model = torch.nn.ModuleDict({"a": filled(), "b": torch.nn.BatchNorm1d(3), "c": Queue(4, 3), "d": SampleRows(3)})
    assert equal_everywhere(model) == ["a.rows", "a.log_z", "a.writes", "c.rows", "c.place"]


def test_rows_begin_small_and_random_and_those_of_a_bank_at_unit_length() -> None:
    rows = SampleRows(3)
    assert rows.rows.shape == (0, 3)
    torch.manual_seed(1)
    rows.reserve(5)
    torch.manual_seed(1)
    drawn = torch.randn(5, 3)
    torch.testing.assert_close(rows.rows.detach(), drawn * 0.01)
    assert rows.rows.requires_grad and list(rows.state_dict()) == ["rows"]
    torch.manual_seed(1)
    bank = filled(5)
    torch.testing.assert_close(bank.rows, F.normalize(drawn, dim=1))
    assert not list(bank.parameters()) and list(bank.state_dict()) == ["rows", "log_z", "writes"]
    assert bank.log_z.isinf() and bank.writes == 0 and Bank(3).momentum == 0.5
    assert bank.writes.dtype == torch.long, "it counts millions of steps"
    assert not list(SampleRows(3, learnt=False).parameters())


@pytest.mark.parametrize("samples", [None, 0])
def test_samples_must_be_counted(samples: int | None) -> None:
    with pytest.raises(UserError, match="not counted"):
        counted(samples)
    assert counted(1) == 1


def test_weights_without_rows_are_missed_by_name_and_those_of_a_part_find_it() -> None:
    whole = torch.nn.ModuleDict({"a": filled(4), "b": filled(7)})
    fresh = torch.nn.ModuleDict({"a": Bank(3), "b": Bank(3)})
    fresh.load_state_dict(whole.state_dict())
    assert torch.equal(fresh["a"].rows, whole["a"].rows) and torch.equal(fresh["b"].rows, whole["b"].rows)
    with pytest.raises(RuntimeError, match='Missing key.*"rows"'):
        Bank(3).load_state_dict({"log_z": torch.tensor(0.0), "writes": torch.tensor(1)})


def test_the_share_that_stays_is_the_momentum_in_one_batch_too() -> None:
    bank = filled(momentum=0.8)
    before, new = bank.rows.clone(), F.normalize(torch.randn(3, 3), dim=1).requires_grad_()
    bank.write()
    assert bank.writes == 0, "nothing was noted"
    bank.note(torch.tensor([2, 4, 2]), new, HERE)  # of a sample twice in a batch the last counts
    bank.write()
    assert bank.writes == 1 and not bank.rows.requires_grad
    expected = before.clone()
    for number, row in ((2, new[2]), (4, new[1])):
        moved = 0.8 * before[number] + 0.2 * row.detach()
        expected[number] = moved / moved.norm()
    torch.testing.assert_close(bank.rows, expected)


def test_what_is_noted_in_half_precision_is_kept_in_full() -> None:
    bank = filled()
    before, new = bank.rows.clone(), F.normalize(torch.randn(3, 3), dim=1).bfloat16()
    bank.note(torch.tensor([0, 1, 2]), new, HERE)
    bank.write()
    torch.testing.assert_close(bank.rows[:3], F.normalize(before[:3] + new.float(), dim=1))


def test_each_write_brings_another_draw_which_is_the_same_everywhere() -> None:
    bank, index = filled(50), torch.tensor([3, 7, 8])
    queries = F.normalize(torch.randn(3, 3), dim=1).requires_grad_()
    for writes in range(3):
        torch.manual_seed(writes)  # the draw does not depend on it
        found = bank.scores(queries, index, noise=20, temperature=0.5, present=HERE)
        drawn = torch.randint(50, (20,), generator=torch.Generator().manual_seed(writes))
        torch.testing.assert_close(logits(found), queries @ bank.rows[drawn].T / 0.5)
        torch.testing.assert_close(
            found.contrast.log_sums.own[:, 0], torch.stack([queries[i] @ bank.rows[index[i]] for i in range(3)]) / 0.5
        )
        sums = found.contrast.log_sums
        assert sums.own.requires_grad and sums.others.requires_grad and not found.log_z.requires_grad
        bank.note(index, queries, HERE)
        bank.write()


def test_what_was_returned_stays_when_the_normaliser_is_set_anew() -> None:
    bank, index = filled(), torch.tensor([3, 1, 2])
    queries = F.normalize(torch.randn(3, 3), dim=1)
    options = {"noise": 4, "temperature": 0.5, "present": HERE}
    bank.eval()
    first = bank.scores(queries, index, **options).log_z
    assert bank.log_z.isinf(), "an evaluation sets none"
    bank.train().scores(queries, index, **options)
    torch.testing.assert_close(bank.log_z, first)
    again = bank.scores(queries, index, **options).log_z
    bank.log_z.fill_(9.0)
    torch.testing.assert_close(again, first)


def test_the_normaliser_does_not_overflow_and_without_samples_there_is_none() -> None:
    bank = filled()
    bank.rows.copy_(torch.tensor([[1.0, 0.0, 0.0]]).expand(6, 3))
    queries = torch.tensor([[1.0, 0.0, 0.0]]).expand(3, 3)
    index = torch.tensor([0, 1, 2])
    absent = bank.scores(queries, index, noise=4, temperature=0.005, present=~HERE)
    assert absent.log_z == 0 and absent.log_z.dtype == torch.float32 and bank.log_z.isinf()
    found = bank.scores(queries, index, noise=4, temperature=0.005, present=HERE).log_z
    torch.testing.assert_close(found, torch.tensor(200 + math.log(6)))
    assert found.dtype == torch.float32


def test_scores_are_not_lowered_to_half_precision() -> None:
    bank, index = filled(20, 16), torch.tensor([3, 7, 8])
    queries = F.normalize(torch.randn(3, 16), dim=1)
    options = {"noise": 10, "temperature": 0.1, "present": HERE}
    expected = bank.scores(queries, index, **options)
    with torch.autocast("cpu", torch.bfloat16):
        found = bank.scores(queries, index, **options)
        torch.testing.assert_close(found[1:], expected[1:], rtol=1e-6, atol=1e-6)
        for part in ("own", "others"):
            mine, theirs = (getattr(x.contrast.log_sums, part) for x in (found, expected))
            torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)
    half = queries.bfloat16()
    found = bank.scores(half, index, **options)
    torch.testing.assert_close(logits(found), logits(bank.scores(half.float(), index, **options)))
    assert found.contrast.log_sums.own[:, 0].dtype == torch.float32


def test_all_rows_of_an_objective_are_made_at_once_in_their_order() -> None:
    made = torch.nn.ModuleDict({"a": SampleRows(2), "b": torch.nn.ModuleList([Bank(3), torch.nn.Linear(2, 2)])})
    torch.manual_seed(4)
    reserve(made, 5)
    torch.manual_seed(4)
    rows, bank = SampleRows(2), Bank(3)
    rows.reserve(5)
    bank.reserve(5)
    assert torch.equal(made["a"].rows, rows.rows) and torch.equal(made["b"][0].rows, bank.rows)
    reserve(torch.nn.Linear(2, 2), None)
    with pytest.raises(UserError, match="not counted"):
        reserve(made, None)
