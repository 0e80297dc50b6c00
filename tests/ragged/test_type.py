"""Ragged: packed and padded rows, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mmssl.encoders import create_encoder
from mmssl.objectives.multi_view import MultiView
from mmssl.types import Batch, Ragged

ROWS = [torch.tensor([[1.0, 2], [3, 4]]), torch.zeros(0, 2), torch.tensor([[5.0, 6]])]


def same(one: Ragged, other: Ragged) -> bool:
    return one.values.equal(other.values) and one.lengths.equal(other.lengths) and one.padded == other.padded


def test_packed_rows_know_their_sample_and_where_each_begins() -> None:
    x = Ragged.pack(ROWS)
    assert x.values.tolist() == [[1, 2], [3, 4], [5, 6]] and x.lengths.tolist() == [2, 0, 1] and len(x) == 3
    assert x.sample.tolist() == [0, 0, 2] and x.starts.tolist() == [0, 2, 2]
    assert x.lengths.dtype == x.sample.dtype == torch.int64 and not x.padded
    assert x.device == torch.device("cpu")


def test_padded_rows_know_which_are_real() -> None:
    x = Ragged.pad(ROWS)
    assert x.values.tolist() == [[[1, 2], [3, 4]], [[0, 0], [0, 0]], [[5, 6], [0, 0]]] and x.padded
    assert x.mask.tolist() == [[True, True], [False, False], [True, False]]
    assert x.lengths.tolist() == [2, 0, 1] and len(x) == 3


@pytest.mark.parametrize("make", [Ragged.pack, Ragged.pad])
def test_each_samples_rows_come_back(make: object) -> None:
    for given, found in zip(ROWS, make(ROWS).split(), strict=True):  # type: ignore[operator]
        assert given.equal(found)


def test_several_batches_become_one() -> None:
    one, other = Ragged.pack(ROWS), Ragged.pack([torch.full((2, 2), 7.0)])
    assert same(Ragged.cat([one, other]), Ragged.pack([*ROWS, torch.full((2, 2), 7.0)]))
    one, other = Ragged.pad(ROWS), Ragged.pad([torch.full((2, 2), 7.0)])
    assert same(Ragged.cat([one, other]), Ragged.pad([*ROWS, torch.full((2, 2), 7.0)]))


def test_values_and_lengths_move_together() -> None:
    x = Ragged.pad(ROWS)
    assert same(x.map(Tensor.clone), x) and x.map(Tensor.clone).values is not x.values
    held = Batch({"words": [x]}, fields={"image": {"boxes": [Ragged.pack(ROWS)]}})
    assert same(held.map(Tensor.clone).views["words"][0], x)
    batch = held.to("meta")
    for moved, padded in ((batch.views["words"][0], True), (batch.fields["image"]["boxes"][0], False)):
        assert moved.values.is_meta and moved.lengths.is_meta and moved.padded is padded


def test_a_batch_counts_its_samples() -> None:
    assert Batch({"points": [Ragged.pack(ROWS)]}).present("points").tolist() == [True] * 3


@pytest.mark.parametrize("pool", ["mean", "last"])
def test_the_host_waits_for_no_device(pool: str) -> None:
    """What has no values, as on `meta`, can be asked for none."""
    packed, padded = (
        Ragged.pack([row[:, [0, 1, 1]] for row in ROWS]),
        Ragged.pad([torch.ones(n).long() for n in (3, 2)]),
    )
    assert packed.to("meta").sample.shape == (3,) and packed.to("meta").starts.shape == (3,)
    cloud = create_encoder("pointnet", widths=[4, 8], align=True).eval().to("meta")
    text = create_encoder("transformer", width=8, depth=1, heads=2, vocab_size=300, pool=pool).eval().to("meta")
    for encoder, x in ((cloud, packed), (text, padded), (text, padded.values)):
        features = encoder(x.to("meta"))
        assert features.pooled.shape == (len(x), 8) and features.lengths.shape == (len(x),)
    teacher = MultiView({"points": cloud})
    views = teacher.pooled({"points": cloud}, Batch({"points": [packed, packed]}).to("meta"))
    assert [view.shape for view in views] == [(3, 8)] * 2
