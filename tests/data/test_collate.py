"""Batches of viewed samples: views, blanks, targets and extras."""

from __future__ import annotations

import pytest
import torch
from numbered import Numbers, Shown

from mmssl.data.collate import collate
from mmssl.types import Sample, View


class Two(Shown):
    """Shows a text's number twice, says whether it is odd, and of which it is a neighbour."""

    def __call__(self, sample: Sample) -> Sample:
        number = float(sample["text"])
        return {
            "text": [number, -number],
            "target": torch.tensor(int(number) % 2),
            "extra": {"neighbours": torch.tensor([number - 1, number + 1])},
        }


@pytest.fixture
def view() -> View:
    return Two({"text": Numbers(), "text_b": Numbers()})


def test_targets_and_extras_are_stacked(view: View) -> None:
    batch = collate([view({"text": "4"}), view({"text": "7"})], view)
    assert [v.tolist() for v in batch.views["text"]] == [[4, 7], [-4, -7]]
    assert batch.target.tolist() == [0, 1]
    assert batch.extra["neighbours"].tolist() == [[3, 5], [6, 8]]


def test_a_modality_that_no_sample_has_still_shows_all_its_views(view: View) -> None:
    batch = collate([view({"text": "4"})], view)
    assert [v.tolist() for v in batch.views["text_b"]] == [[-1], [-1]]
    assert batch.extra["text_b_present"].tolist() == [False]
    assert batch.present("text").all()


def test_blanks_stand_in_where_one_sample_lacks_a_modality(view: View) -> None:
    both = {**view({"text": "4"}), "text_b": [5.0, -5.0]}
    without = {name: value for name, value in both.items() if name != "text_b"}
    for samples, there in [([both, without], [5, -1]), ([without, both], [-1, 5])]:
        batch = collate(samples, view)
        assert batch.views["text_b"][0].tolist() == there
        assert batch.extra["text_b_present"].tolist() == [n > 0 for n in there]
        assert batch.extra["text_present"].tolist() == [True, True]
