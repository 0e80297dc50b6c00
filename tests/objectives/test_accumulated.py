"""Rows of all parts of a step, until they are taken."""

from __future__ import annotations

import torch

from mmssl.objectives.accumulated import Accumulated
from mmssl.objectives.queue import Queue


def test_rows_of_all_parts_are_taken_once_in_their_order_and_without_gradient() -> None:
    kept = Accumulated()
    assert kept.take() == []
    parts = [(torch.tensor([n, n + 1]), torch.randn(2, 3, requires_grad=True)) for n in (0, 5)]
    for part in parts:
        kept.add(*part)
    numbers, rows = kept.take()
    assert numbers.tolist() == [0, 1, 5, 6]
    assert torch.equal(rows, torch.cat([part[1] for part in parts])) and not rows.requires_grad
    assert kept.take() == []


def test_nothing_is_kept_outside_training_nor_saved() -> None:
    kept = Accumulated()
    kept.eval().add(torch.ones(1))
    assert kept.take() == []
    kept.train().add(torch.ones(1))
    assert not kept.state_dict() and kept.take() == [torch.ones(1)]


def test_a_queue_takes_what_was_noted_in_all_parts() -> None:
    noted, pushed = Queue(9, 2), Queue(9, 2)
    pushed.load_state_dict(noted.state_dict())
    rows = torch.randn(7, 2)
    noted.note(rows[:1])
    noted.note(rows[1:7])
    assert torch.equal(noted.rows, pushed.rows)
    noted.write()
    pushed.push(rows, torch.ones(7, dtype=torch.bool))
    assert torch.equal(noted.rows, pushed.rows) and noted.place == pushed.place == 7
    noted.write()
    assert noted.place == 7
    assert set(noted.state_dict()) == {"rows", "place"}
