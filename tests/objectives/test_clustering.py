"""Whitening, spherical k-means, and labels by sample number."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.nn import functional as F

from mmssl import dist
from mmssl.errors import UserError
from mmssl.numerics.kmeans import most_similar, spherical_kmeans
from mmssl.numerics.seeded_random import draws
from mmssl.numerics.whiten import pca_whiten
from mmssl.objectives import clustering
from mmssl.objectives.clustering import Labels, agreed, by_number, sampled_cells, survey
from mmssl.types import Batch


def test_whitened_features_have_unit_covariance_along_the_main_directions() -> None:
    torch.manual_seed(0)
    x = torch.randn(400, 6) @ torch.randn(6, 6) + 3
    found = pca_whiten(x, 4)
    torch.testing.assert_close(found.T @ found / len(x), torch.eye(4), atol=1e-4, rtol=0)
    _, sizes, directions = torch.linalg.svd(x - x.mean(dim=0), full_matrices=False)
    expected = (x - x.mean(dim=0)) @ directions[:4].T / sizes[:4] * len(x) ** 0.5
    torch.testing.assert_close(found.abs(), expected.abs(), atol=1e-3, rtol=1e-3)


def test_whitening_keeps_no_direction_without_variance() -> None:
    torch.manual_seed(0)
    flat = torch.randn(50, 3) @ torch.randn(3, 8)
    assert pca_whiten(flat, 8).shape == (50, 3)
    assert pca_whiten(torch.ones(10, 4), 4).isfinite().all()


def test_spherical_kmeans_finds_the_directions_that_points_lie_along() -> None:
    torch.manual_seed(0)
    truth = torch.arange(300) % 3
    x = F.normalize(torch.eye(3, 5)[truth] + 0.1 * torch.randn(300, 5), dim=1)
    found = [spherical_kmeans(x, 3, seed=seed) for seed in range(8)]
    best = max(found, key=lambda centres: float((x @ centres.T).amax(dim=1).mean()))
    labels = most_similar(x, best)
    assert all(len(labels[truth == k].unique()) == 1 for k in range(3))
    expected = F.normalize(torch.stack([x[labels == k].sum(dim=0) for k in range(3)]), dim=1)
    torch.testing.assert_close(best, expected)
    with pytest.raises(UserError, match="2 points do not make 3 clusters"):
        spherical_kmeans(x[:2], 3)


def test_labels_stand_at_their_samples_and_are_loaded_whatever_their_number() -> None:
    labels = Labels([2, 3])
    labels.reserve(5)
    labels.write(torch.tensor([3, 1]), torch.tensor([[7, 8], [9, 6]]))
    batch = Batch({}, extra={"index": torch.tensor([1, 0, 3])})
    assert labels.of(batch).tolist() == [[9, 6], [-1, -1], [7, 8]]
    again = Labels([2, 3])
    again.load_state_dict(labels.state_dict())
    assert torch.equal(again.rows, labels.rows)
    with pytest.raises(UserError, match="not counted"):
        labels.reserve(None)
    with pytest.raises(UserError, match="9 clusters of 5 training samples"):
        Labels([2, 9, 3]).reserve(5)


@pytest.mark.parametrize("clusters, samples, well", [
    (1, 5, False), (2, 5, True), (5, 5, True), (6, 5, False), (0, 5, False), 
])  # fmt: skip
def test_clusters_number_from_two_to_as_many_as_samples(clusters: int, samples: int, well: bool) -> None:
    if well:
        Labels([clusters]).reserve(samples)
    else:
        with pytest.raises(UserError, match=f"{clusters} clusters of {samples} training samples; expected from 2"):
            Labels([clusters]).reserve(samples)


def test_what_is_labelled_no_more_has_no_label() -> None:
    labels = Labels([2, 3])
    assert labels.rows.dtype == torch.long and labels.rows.shape == (0, 2)
    labels.reserve(3)
    assert labels.rows.tolist() == [[-1, -1]] * 3 and labels.rows.dtype == torch.long
    labels.write(torch.tensor([0, 1]), torch.tensor([[7, 8], [9, 6]]))
    labels.write(torch.tensor([2]), torch.tensor([[4, 5]]))
    assert labels.rows.tolist() == [[-1, -1], [-1, -1], [4, 5]]
    assert not list(labels.parameters()) and list(labels.state_dict()) == ["rows"]


def test_a_survey_leaves_out_absent_samples() -> None:
    modes = []

    def embed(x: torch.Tensor) -> torch.Tensor:
        modes.append(torch.is_grad_enabled())
        return (x * 2).half()

    def sweep() -> Iterator[Batch]:
        for start in (4, 0):
            index = torch.arange(start, start + 4)
            present = {"image_present": index != 5, "audio_present": index != 2}
            shown = {"image": [index[:, None].float(), torch.full((4, 1), 99.0)], "audio": [torch.zeros(4, 1)]}
            yield Batch(shown, extra={"index": index, **present})

    found = survey(embed, "image", sweep)
    assert found[0].tolist() == [4, 6, 7, 0, 1, 2, 3] and found[1].dtype == torch.float32
    numbers, rows = by_number(*found)
    assert numbers.tolist() == [0, 1, 2, 3, 4, 6, 7]
    assert rows[:, 0].tolist() == [0, 2, 4, 6, 8, 12, 14]
    assert modes == [False, False]


@pytest.mark.parametrize("rank", [0, 1])
def test_processes_put_their_rows_together_and_agree(monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    numbers, rows = [torch.tensor([5, 1]), torch.tensor([4, 0, 2])], [torch.tensor([[50.0], [10]]), torch.zeros(3, 1)]
    rows[1] = torch.tensor([[40.0], [0], [20]])
    sent = {id(part): both for both in (numbers, rows) for part in both}
    monkeypatch.setattr(dist, "gather", lambda x: torch.cat(sent[id(x)]))
    found = by_number(numbers[rank], rows[rank])
    assert found[0].tolist() == [0, 1, 2, 4, 5] and found[1][:, 0].tolist() == [0, 10, 20, 40, 50]
    first, second = torch.tensor([1, 2]), torch.tensor([3, 4])
    monkeypatch.setattr(dist, "gather", lambda _: torch.cat([first, second]))
    assert agreed((first, second)[rank]).tolist() == [1, 2]


FAR = 250_000_000  # between numbers of samples


def cells_of(number: int) -> list[tuple[int, int]]:
    """Three cells of each sample, which say whose they are."""
    return [(number, cell) for cell in range(3)]


def passes(batches: list[list[int]], absent: tuple[int, ...] = ()) -> list[Batch]:
    made = []
    for numbers in batches:
        views = {"image": [torch.tensor([cells_of(number) for number in numbers])]}
        extra = {
            "index": torch.tensor(numbers) * FAR,
            "image_present": torch.tensor([n not in absent for n in numbers]),
        }
        made.append(Batch(views, extra=extra))
    return made


@pytest.mark.parametrize("most", [4, 13, 1000])
@pytest.mark.parametrize("batches", [[[5, 2, 0], [7, 4], [1, 3, 6]], [[*range(8)]], [[n] for n in range(8)]])
def test_cells_are_drawn_by_their_samples_numbers(most: int, batches: list[list[int]]) -> None:
    found = sampled_cells(lambda x: x, "image", lambda: iter(passes(batches, absent=(4,))), most)
    chances = [(float(draws(torch.tensor([n * FAR]), 3)[0, c]), n, c) for n in range(8) if n != 4 for c in range(3)]
    assert found.tolist() == [[n, c] for _, n, c in sorted(chances)[:most]] and found.dtype == torch.float32


def test_equal_draws_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clustering, "draws", lambda seeds, count: torch.full((len(seeds), count), 0.5))
    found = sampled_cells(lambda x: x, "image", lambda: iter(passes([[2], [1, 0]])), 5)
    assert found.tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1]]
