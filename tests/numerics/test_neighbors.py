"""Nearest neighbours against a sort of all similarities, whatever the parts, and the order of equals by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from mmssl.errors import UserError
from mmssl.numerics import neighbors
from mmssl.numerics.neighbors import largest, nearest


@pytest.mark.parametrize(("held", "tile"), [(2**25, 2048), (700, 2048), (2**25, 7), (1, 5)])
@pytest.mark.parametrize(("count", "k"), [(300, 9), (48, 5), (17, 17), (10, 20), (1, 1)])
def test_nearest_are_those_of_a_full_sort(
    held: int, tile: int, count: int, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbors, "HELD", held)
    monkeypatch.setattr(neighbors, "TILE", tile)
    generator = torch.Generator().manual_seed(count)
    bank, queries = (torch.randn(n, 6, generator=generator) * 100 for n in (count, 13))
    cosines = 1 - cdist(queries.double().numpy(), bank.double().numpy(), "cosine")
    order = np.argsort(-cosines, axis=1)[:, :k]
    similar, places = nearest(bank, queries, k)
    assert places.tolist() == order.tolist()
    np.testing.assert_allclose(similar.numpy(), np.take_along_axis(cosines, order, axis=1), atol=5e-7)


@pytest.mark.parametrize(
    ("queries", "tile", "count"), [(512, 4096, 3000), (5, 1000, 3000), (7, 50, 2048), (1, 37, 2999)]
)
def test_of_a_large_bank_only_similarities_above_a_floor_are_held(
    queries: int, tile: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("QUERIES", queries), ("TILE", tile), ("SAMPLE", 256), ("_of_all", None)):
        monkeypatch.setattr(neighbors, name, value)
    bank, asked = (torch.randn(n, 6, generator=torch.Generator().manual_seed(n)) * 100 for n in (count, 13))
    cosines = 1 - cdist(asked.double().numpy(), bank.double().numpy(), "cosine")
    order = np.argsort(-cosines, axis=1)[:, :2]
    similar, places = nearest(bank, asked, 2)
    assert places.tolist() == order.tolist()
    np.testing.assert_allclose(similar.numpy(), np.take_along_axis(cosines, order, axis=1), atol=5e-7)


@pytest.mark.parametrize("step", [60, 59])
def test_a_sample_unlike_its_bank_does_not_mislead(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "SAMPLE", 256)  # every 60th row
    axes = torch.eye(4)
    bank = axes[2:3].repeat(15_360, 1)
    bank[: 8 * step : step] = axes[0]  # eight rows, all of which the sample may hold
    bank[1001:1004] = axes[3]  # few; of all other rows many are alike
    eight, others = list(range(0, 8 * step, step)), [n for n in range(100) if n % step]
    assert nearest(bank, axes[:1], 20)[1].tolist() == [eight + others[:12]]
    assert nearest(bank, axes[3:], 20)[1].tolist() == [[1001, 1002, 1003, *range(17)]]
    bank[777] = torch.nan
    assert nearest(bank, axes[:1], 5)[1].tolist() == [[777, *eight[:4]]]


def test_not_a_number_stands_above_all_in_a_large_bank_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "SAMPLE", 256)
    monkeypatch.setattr(neighbors, "_of_all", None)
    bank = torch.randn(3000, 6, generator=torch.Generator().manual_seed(0))
    bank[[1778, 777]] = torch.nan
    assert nearest(bank, bank[:1], 3)[1].tolist() == [[777, 1778, 0]]


def test_an_empty_bank_is_refused() -> None:
    with pytest.raises(UserError, match="bank is empty"):
        nearest(torch.zeros(0, 4), torch.eye(4), 3)


def test_of_equally_similar_rows_the_earlier_come_first() -> None:
    axes = torch.eye(4)
    bank = axes[torch.tensor([3, 0, 1] * 30)] * 2.0 ** (torch.arange(90) % 7)[:, None]  # lengths do not count
    for k in (1, 2, 29, 30, 31, 45, 90):
        similar, places = nearest(bank, axes[[1, 0]], k)
        for row, own in ((0, 2), (1, 1)):
            first = list(range(own, 90, 3))
            assert places[row].tolist() == (first + [n for n in range(90) if n not in first])[:k]
            assert similar[row].tolist() == ([1.0] * 30 + [0.0] * 60)[:k]
    assert nearest(torch.zeros(40, 4), axes[:1], 3)[1].tolist() == [[0, 1, 2]], "rows of length 0 are like none"


def test_the_largest_with_many_equals_are_those_of_a_stable_sort() -> None:
    values = torch.randint(-3, 4, (50, 320), generator=torch.Generator().manual_seed(0)).float()
    values[0, ::2] = -torch.inf
    for k in (1, 3, 50, 319, 320):
        order = np.argsort(-values.numpy(), axis=1, kind="stable")[:, :k]
        found, places = largest(values, k)
        assert places.tolist() == order.tolist()
        assert torch.equal(found, values.gather(1, places))


def test_half_precision_is_searched_in_float32() -> None:
    bank = torch.randn(30, 8, generator=torch.Generator().manual_seed(0)).half()
    similar, places = nearest(bank, bank, 1)
    assert similar.dtype == torch.float32 and places[:, 0].tolist() == list(range(30))
    torch.testing.assert_close(similar, torch.ones(30, 1), atol=1e-6, rtol=0)


def test_a_row_that_is_not_a_number_is_no_error_where_others_are_equal() -> None:
    bank = torch.eye(4).repeat(10, 1)
    bank[3] = torch.nan
    assert nearest(bank, torch.eye(4)[:1], 3)[1].tolist() == [[3, 0, 4]]
