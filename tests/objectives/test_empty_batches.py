"""What is said of a task that finds nothing to learn from, batch by batch."""

from __future__ import annotations

import math

import pytest
import torch

from mmssl.objectives.empty_batches import ENOUGH, EmptyBatches, measured
from mmssl.types import Batch, Loss

X = torch.zeros(4, 2)


def batch(image: int = 4, text: int = 4) -> Batch:
    """A batch of four of which so many samples have each modality."""
    there = {"image_present": torch.arange(4) < image, "text_present": torch.arange(4) < text}
    return Batch({"image": [X], "text": [X]}, extra=there)


def noted(rows: list[int | None], *, image: int = 4, text: int = 4) -> EmptyBatches:
    made = EmptyBatches()
    for count in rows:
        loss = Loss(torch.zeros(()), rows=None if count is None else torch.tensor(float(count)))
        made.note("clip", loss, batch(image, text))
    return made


def test_a_task_of_which_nothing_counts_is_told_once_after_enough_batches() -> None:
    assert ENOUGH == 20
    early = noted([0] * 19)
    told = "clip: 19 of 19 batches had no whole sample to learn from so far; such a step logs no loss"
    assert early.look("clip", {}) == told and early.look("clip", {}) is None
    made = noted([0] * 20, image=3, text=1)
    told = (
        "clip: none of its 20 batches had a whole sample to learn from, so it has no loss: image in 75% of its "
        "samples, text in 25% of its samples; check data.fields, and that the files of one sample share a name and "
        "stand together in the shards"
    )
    assert made.look("clip", {}) == told
    assert made.look("clip", {}) is None
    assert made.end("clip") == told
    assert made.look("other", {}) is None and made.end("other") is None


def test_whole_samples_with_nothing_to_compare() -> None:
    assert str(noted([0] * 20).look("clip", {})).endswith(
        "100% of its samples; what is shown with them, such as matches, leaves nothing to compare"
    )


def test_a_task_that_does_not_count_is_not_judged() -> None:
    made = noted([None] * 30)
    assert made.look("clip", {}) is None and made.end("clip") is None and not made.batches


def test_a_task_with_one_row_is_fine() -> None:
    made = noted([0] * 19 + [1])
    told = "clip: 19 of 20 batches had no whole sample to learn from so far; such a step logs no loss"
    assert made.look("clip", {}) == told and made.look("clip", {}) is None and made.fine == {"clip"}
    made.note("clip", Loss(torch.zeros(()), rows=torch.tensor(0.0)), batch(image=0))
    assert float(made.shares["clip"]["image"]) == 20.0, "shares are not summed any more"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([0] * 3 + [1] * 26, "clip: 3 of 29 batches had no whole sample to learn from"),
        ([0] * 4 + [1] * 27, "clip: 4 of 31 batches had no whole sample to learn from"),
        ([0, 1], "clip: 1 of 2 batches had no whole sample to learn from"),
        ([1] * 5, None),
    ],
)
def test_what_is_said_at_the_end(rows: list[int | None], said: str | None) -> None:
    assert noted(rows).end("clip") == said


def test_figures_that_no_line_had() -> None:
    made = noted([1] * 20)
    assert made.look("clip", {"a": math.nan, "b": torch.tensor(math.nan), "c": 1.0}) == (
        "clip: no sample counted in a, b in any line of the log"
    )
    assert made.look("clip", {"a": 1.0, "b": math.nan, "c": math.nan}) is None, "told once"
    assert made.end("clip") == "clip: no sample counted in b in any line of the log"
    made.look("clip", {"b": 0.0})
    assert made.end("clip") is None
    early = noted([1] * 19)
    assert early.look("clip", {"a": math.nan}) is None and early.end("clip") is None


def test_what_was_averaged_over_nothing_is_not_measured() -> None:
    assert measured({"a": torch.tensor(2.0), "b": math.nan, "c": 3.0}) == {"a": 2.0, "c": 3.0}
