"""Episodes worked out by hand where the draw does not matter, and what is drawn where it does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from probing import blobs, judged, reference
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.evals import few_shot
from mmssl.evals.few_shot import FewShot, _by_class, drawn, logistic_scores
from mmssl.evals.parts.labelled import Embedded
from mmssl.types import Trained

SETS: dict[str, Any] = {"train": {"shards": "pipe:a"}, "data": {"shards": "pipe:b"}}  # never opened


def spread(known: Embedded, asked: Embedded) -> tuple[Embedded, Embedded]:
    """Moves both sets off the origin, the second further, so that centring counts."""
    return Embedded(2 + known.x, known.y), Embedded(2.5 + asked.x, asked.y)


def test_with_every_class_and_example_an_episode_is_the_nearest_centroid_of_simpleshot() -> None:
    known, asked = spread(blobs(12, 4, spread=2.5), blobs(20, 4, spread=2.5, seed=1))
    asked.names = {0: "ant", 1: "bee", 2: "cat", 3: "dog"}
    found = judged(FewShot(**SETS, ways=4, shots=(3,), queries=5, episodes=7), known, asked)["4-way/3-shot"]
    mean = sum(known.x) / 12
    rows = [(x - mean) / (x - mean).norm() for x in known.x]
    right, of_class = 0, dict.fromkeys(asked.names.values(), 0.0)
    for x, y in zip(asked.x, asked.y.tolist(), strict=True):
        query = (x - mean) / (x - mean).norm()
        centroids = [sum(row for row, c in zip(rows, known.y, strict=True) if c == number) / 3 for number in range(4)]
        distances = [float((query - centroid).norm()) for centroid in centroids]
        right += distances.index(min(distances)) == y
        of_class[asked.names[y]] += (distances.index(min(distances)) == y) / 5
    assert 6 < right < 19
    assert found.value == pytest.approx(right / 20)
    assert (found.low, found.high) == (pytest.approx(right / 20), pytest.approx(right / 20))  # all episodes are alike
    assert (found.chance, found.n) == (0.25, 7)
    assert found.parts == pytest.approx(of_class) and len(set(of_class.values())) > 2


def test_a_class_is_right_in_its_own_share_of_the_episodes_in_which_it_is_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Queries of the third class lie by the first one's examples, so they are wrong wherever that is drawn as well."""
    known = Embedded(torch.eye(4).repeat(3, 1), torch.arange(4).repeat(3))  # of the fourth there are no queries
    x = torch.eye(4)[[0, 1, 0, 1]] + 0.1 * torch.eye(4)[[0, 1, 2, 1]]
    asked = Embedded(
        x, torch.tensor([0, 1, 2, 4]), names={0: "ant", 1: "bee", 2: "cat", 4: "yak"}
    )  # of yaks no example
    probe, pairs = FewShot(**SETS, ways=2, shots=(2,), episodes=50, seed=3), list[tuple[int, ...]]()
    answers = probe.answers

    def noted(support: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
        pairs.extend(tuple(sorted(row)) for row in support[:, :, 0].argmax(dim=2).tolist())
        return answers(support, queries)

    monkeypatch.setattr(probe, "answers", noted)
    found = judged(probe, known, asked)["2-way/2-shot"]
    without, beside = pairs.count((1, 2)), pairs.count((0, 2))
    assert (
        without and beside and found.parts == pytest.approx({"ant": 1, "bee": 1, "cat": without / (without + beside)})
    )


def tian(x: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """Logistic regression without a bias, C = 1."""
    return F.cross_entropy(x @ w, y, reduction="sum") + w.square().sum() / 2


def test_with_every_class_and_example_an_episode_is_the_logistic_regression_of_tian() -> None:
    known, asked = spread(blobs(12, 4, spread=2.5), blobs(20, 4, spread=2.5, seed=1))
    probe = FewShot(**SETS, ways=4, shots=(3,), queries=5, episodes=2, classifier="logistic")
    mean = known.x.mean(0)
    x, z = F.normalize(known.x - mean, dim=1).double(), F.normalize(asked.x - mean, dim=1).double()
    weight = reference(
        x,
        known.y,
        loss=tian,
        shape=(8, 4),
        steps=3,
    )
    expected = float(((z @ weight).argmax(1) == asked.y).float().mean())
    assert judged(probe, known, asked)["4-way/3-shot"].value == pytest.approx(expected)


@pytest.mark.parametrize("count", [1, 5, 20])
def test_the_logistic_regression_is_at_its_optimum(count: int) -> None:
    support = F.normalize(torch.randn(1, 3, count, 6, generator=torch.Generator().manual_seed(1)), dim=3).double()
    queries = torch.eye(6).double()[None, None].expand(1, 3, 6, 6)
    weight = reference(
        support[0].flatten(0, 1),
        torch.arange(3).repeat_interleave(count),
        loss=tian,
        shape=(6, 3),
        steps=4,
    )
    torch.testing.assert_close(logistic_scores(support, queries)[0, 0], weight, atol=1e-5, rtol=0)


def asked_about(monkeypatch: pytest.MonkeyPatch, probe: FewShot, known: Embedded, asked: Embedded) -> list[Any]:
    """Returns what each part of the episodes shows: support and queries."""
    shown: list[Any] = []

    def answers(support: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
        shown.append((support, queries))
        return torch.zeros(*queries.shape[:3], support.shape[1])

    monkeypatch.setattr(probe, "answers", answers)
    judged(probe, known, asked)
    return shown


def number_classes(count: int, classes: int, *, side: float) -> Embedded:
    """Embedded that tell their own number: (number, side), far from the rest by their class."""
    return Embedded(
        torch.stack([torch.arange(count) + 1.0, torch.full((count,), side)], 1), torch.arange(count) % classes
    )


def test_examples_are_of_the_training_set_and_queries_of_the_test_set(monkeypatch: pytest.MonkeyPatch) -> None:
    known, asked = number_classes(30, 5, side=40.0), number_classes(20, 5, side=-80.0)
    known.x[:, 1] += torch.arange(30) * 0.1
    monkeypatch.setattr(few_shot.F, "normalize", lambda x, dim: x)
    monkeypatch.setattr(few_shot, "HELD", 500)
    centre = known.x.mean(0)
    probe = FewShot(**SETS, ways=3, shots=(2,), queries=3, episodes=60, seed=5)
    parts = asked_about(monkeypatch, probe, known, asked)
    assert len(parts) > 3 and sum(len(support) for support, _ in parts) == 60
    seen: set[tuple[int, ...]] = set()
    for support, queries in parts:
        assert support.shape[1:] == (3, 2, 2) and queries.shape[1:] == (3, 3, 2)
        for some, others in zip(support + centre, queries + centre, strict=True):
            assert (some[..., 1] > 0).all() and (others[..., 1] < 0).all()
            number, other = some[..., 0].round().long() - 1, others[..., 0].round().long() - 1
            kinds = number[:, 0] % 5
            assert len(kinds.unique()) == 3
            assert (number % 5 == kinds[:, None]).all() and (other % 5 == kinds[:, None]).all()
            assert all(len(row.unique()) == len(row) for row in (*number, *other))
            seen.add(tuple(kinds.tolist()))
    assert len(seen) > 25  # of the 60 ordered choices of three classes
    again = asked_about(monkeypatch, FewShot(**SETS, ways=3, shots=(2,), queries=3, episodes=60, seed=6), known, asked)
    assert not torch.equal(parts[0][0], again[0][0])


def test_where_a_class_has_few_queries_each_is_asked_about_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    known, asked = blobs(30, 5), blobs(20, 5)
    asked = Embedded(asked.x[:-2], asked.y[:-2])  # two classes have three queries, the others four
    ((_, queries),) = asked_about(
        monkeypatch, FewShot(**SETS, ways=2, shots=(1,), queries=15, episodes=4), known, asked
    )
    assert queries.shape == (4, 2, 3, 8)
    ((_, queries),) = asked_about(monkeypatch, FewShot(**SETS, ways=2, shots=(1,), queries=2, episodes=4), known, asked)
    assert queries.shape == (4, 2, 2, 8)


def test_classes_without_enough_examples_or_without_a_query_are_not_drawn() -> None:
    known = torch.tensor([0, 0, 1, 1, 1, 2, 3, 3])
    asked = torch.tensor([1, 0, 1, 2, 4, 4])  # 3 has no query, 4 no example
    classes, examples, queries = _by_class(known, asked, ways=2, shots=2)
    assert classes.tolist() == [0, 1]
    assert examples.tolist() == [[0, 1, -1], [2, 3, 4]] and queries.tolist() == [[1, -1], [0, 2]]
    assert len(_by_class(known, asked, ways=3, shots=1)[0]) == 3
    with pytest.raises(UserError, match="3 classes with 2 examples each; the data has 2 such classes"):
        _by_class(known, asked, ways=3, shots=2)


def test_every_entry_is_drawn_as_often_and_padding_never() -> None:
    table = torch.tensor([[0, 5, 6, 7, -1]]).expand(4000, 5)
    found = drawn(table, 2, torch.Generator().manual_seed(0))
    counts = torch.bincount(found.flatten(), minlength=8)
    assert counts[1:5].sum() == 0
    assert counts[[0, 5, 6, 7]].tolist() == pytest.approx([2000] * 4, abs=120)


def test_the_share_of_right_queries_is_averaged_over_classes_and_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    probe = FewShot(**SETS, ways=2, shots=(1,), queries=4, episodes=3)
    monkeypatch.setattr(  # all of the first way are right, and one of four of the second
        probe,
        "answers",
        lambda s, q: torch.tensor([[[1.0, 0]] * 4, [[0.0, 1], [1, 0], [1, 0], [1, 0]]]).expand(len(q), 2, 4, 2),
    )
    found = judged(probe, blobs(16, 2), blobs(16, 2))["2-way/1-shot"]
    assert (found.value, found.low, found.n) == (5 / 8, 5 / 8, 3)


@pytest.mark.parametrize(
    ("shared", "whole", "refused"),
    [(3, (True, True), False), (2, (True, True), True), (2, (False, True), False), (2, (True, False), False)],
)
def test_it_asks_for_enough_shared_classes(
    shared: int, whole: tuple[bool, bool], refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = FewShot(**SETS, ways=3)
    sides = {
        id(probe.sets.train): (["a", "b", "c", "d"], whole[0]),
        id(probe.sets.test): (["d", "c", "b", "x", "y"][3 - shared :], whole[1]),
    }
    monkeypatch.setattr(few_shot.Probe, "check", lambda self, trained: None)
    monkeypatch.setattr(few_shot, "peek_classes", lambda source, label: sides[id(source)])
    if refused:
        with pytest.raises(UserError, match="few_shot draws 3 classes; the sets share 2: lower ways"):
            probe.check(Trained({}))
    else:
        probe.check(Trained({}))
