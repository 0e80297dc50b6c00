"""The memory bank: what it keeps, what it compares with, and that it fits the weights that are loaded."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.losses.nce import nce
from mmssl.multitask import equal_everywhere
from mmssl.nn.bank import Bank, Rows
from mmssl.nn.queue import Queue


def filled(samples: int = 6, dim: int = 3) -> Bank:
    bank = Bank(dim)
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
    torch.testing.assert_close(first.own, (queries * bank.rows[index]).sum(1) / 0.5)
    torch.testing.assert_close(first.log_z, (50 * first.noise[present].exp().mean()).log())
    again = bank.scores(-queries, index, noise=20, temperature=0.5, present=present)
    assert torch.equal(again.log_z, first.log_z)
    torch.testing.assert_close(again.noise, -first.noise)
    bank.note(index, queries, present)
    bank.write()
    assert not torch.allclose(
        bank.scores(queries, index, noise=20, temperature=0.5, present=present).noise, first.noise
    )


def test_random_rows_stand_for_all() -> None:
    bank = filled(40)
    query = F.normalize(torch.randn(1, 3), dim=1)
    here = torch.ones(1, dtype=torch.bool)
    scores = bank.scores(query, torch.tensor([0]), noise=200_000, temperature=1.0, present=here)
    assert abs(float(scores.log_z) - float((query @ bank.rows.T).logsumexp(dim=1))) < 0.01
    assert math.isclose(scores.samples, 40)


def test_a_bank_fits_what_is_loaded_and_refuses_what_is_of_another_set() -> None:
    for made, fresh in ((filled(), Bank(3)), (Rows(3), Rows(3))):
        made.reserve(6)
        fresh.load_state_dict(made.state_dict())
        assert torch.equal(fresh.rows, made.rows)
        fresh.reserve(7)
        with pytest.raises(RuntimeError, match="size mismatch"):
            fresh.load_state_dict(made.state_dict())
    assert isinstance(Rows(3).rows, torch.nn.Parameter)
    with pytest.raises(UserError, match="not counted"):
        Bank(3).reserve(None)


def test_queues_and_banks_are_left_out_of_what_is_sent_at_every_step() -> None:
    model = torch.nn.ModuleDict({"a": filled(), "b": torch.nn.BatchNorm1d(3), "c": Queue(4, 3), "d": Rows(3)})
    assert equal_everywhere(model) == ["a.rows", "a.log_z", "a.writes", "c.rows", "c.place"]
