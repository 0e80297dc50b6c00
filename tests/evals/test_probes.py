"""Few-shot episodes, low-shot SVMs and clustering against plain formulas, and in the shapes that users meet."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
from probing import blobs, judged, reference, sides
from torch.nn import functional as F

from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.evals import few_shot
from mmssl.evals.cluster import Cluster, adjusted_rand, assigned, mutual_information, reduced, table
from mmssl.evals.few_shot import FewShot, drawn, logistic_scores, nearest_centroid
from mmssl.evals.low_shot_svm import LowShotSVM
from mmssl.evals.parts.labelled import Embedded
from mmssl.evals.parts.score import bootstrap
from mmssl.types import Trained


@pytest.fixture
def shards(tmp_path: Path) -> dict[str, dict[str, str]]:
    return sides(tmp_path, train=40, test=20)


def test_episodes_draw_different_examples_of_the_right_classes() -> None:
    rows = torch.tensor([[0, 2, 4, -1], [1, 3, 5, 7]])
    found = drawn(rows[:, None].expand(2, 50, 4), 3, torch.Generator().manual_seed(0))
    assert found.shape == (2, 50, 3)
    assert set(found[0].flatten().tolist()) == {0, 2, 4} and set(found[1].flatten().tolist()) == {1, 3, 5, 7}
    assert all(len(set(draw)) == 3 for draw in found.flatten(0, 1).tolist())


def test_classifiers_of_episodes_are_those_of_each_by_itself() -> None:
    generator = torch.Generator().manual_seed(0)
    support = F.normalize(torch.randn(2, 3, 4, 6, generator=generator), dim=3)
    queries = F.normalize(torch.randn(2, 3, 5, 6, generator=generator), dim=3)
    near, scores = nearest_centroid(support, queries), logistic_scores(support, queries)

    def loss(x: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(x @ w, y, reduction="sum") + w.square().sum() / 2  # C = 1

    for episode in range(2):
        weight = reference(
            support[episode].flatten(0, 1).double(), torch.arange(3).repeat_interleave(4), loss=loss, shape=(6, 3)
        )
        torch.testing.assert_close(scores[episode].double(), queries[episode].double() @ weight, atol=1e-4, rtol=0)
        for way, query in itertools.product(range(3), range(5)):
            one = [-(queries[episode, way, query] - support[episode, c].mean(0)).norm() for c in range(3)]
            torch.testing.assert_close(near[episode, way, query], torch.stack(one))


@pytest.mark.parametrize("classifier", ["centroid", "logistic"])
def test_few_shot(shards: dict[str, dict[str, str]], classifier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known, asked = blobs(210, 7, spread=1.0), blobs(70, 7, spread=1.0, seed=1)
    probe = FewShot(**shards, episodes=200, classifier=classifier)  # type: ignore[arg-type]
    found = judged(probe, known, asked)
    assert list(found) == ["5-way/1-shot", "5-way/5-shot"]
    assert 0.2 < found["5-way/1-shot"].value < found["5-way/5-shot"].value <= 1.0
    assert found["5-way/1-shot"].n == 200 and found["5-way/1-shot"].chance == 0.2
    monkeypatch.setattr(few_shot, "HELD", 20_000)
    again = judged(probe, known, asked)
    assert abs(again["5-way/5-shot"].value - found["5-way/5-shot"].value) < 0.03
    with pytest.raises(UserError, match="has 7 such classes"):
        judged(FewShot(**shards, ways=8, episodes=2), known, asked)  # type: ignore[arg-type]


def test_low_shot_svm(shards: dict[str, dict[str, str]]) -> None:
    known, asked = blobs(160, 4, spread=2.5), blobs(80, 4, spread=2.5, seed=1)
    found = judged(LowShotSVM(**shards), known, asked)  # type: ignore[arg-type]
    assert list(found) == ["1-shot", "2-shot", "4-shot", "8-shot", "16-shot", "32-shot"]
    assert found["32-shot"].value > found["1-shot"].value > 0.25
    assert found["1-shot"].high - found["1-shot"].low > found["32-shot"].high - found["32-shot"].low
    with pytest.raises(UserError, match="one class has 2"):
        judged(LowShotSVM(**shards, shots=(4,)), Embedded(known.x[:12], known.y[:12]), asked)  # type: ignore[arg-type]


def test_the_interval_of_several_draws_knows_that_they_differ() -> None:
    values = torch.zeros(4, 100)
    values[:2] = 1
    found = bootstrap(values, chance=0.5)
    assert found.value == 0.5 and found.low <= 0.25 and found.high >= 0.75 and found.n == 100


def test_agreement_of_clusters_and_classes_is_the_formulas() -> None:
    told, truth = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2]), torch.tensor([0, 0, 1, 1, 1, 1, 2, 0])
    counts = table((told * 3 + truth)[None], 3, 3)
    both: dict[tuple[int, int], int] = {}
    for pair in zip(told.tolist(), truth.tolist(), strict=True):
        both[pair] = both.get(pair, 0) + 1

    def entropy(values: list[int]) -> float:
        return -sum(v / 8 * math.log(v / 8) for v in values if v)

    rows, columns = [3, 3, 2], [3, 4, 1]
    mutual = entropy(rows) + entropy(columns) - entropy(list(both.values()))
    assert float(mutual_information(counts)) == pytest.approx(2 * mutual / (entropy(rows) + entropy(columns)))
    pairs = list(itertools.combinations(range(8), 2))
    same = [(bool(told[i] == told[j]), bool(truth[i] == truth[j])) for i, j in pairs]
    agree, a, b = sum(x and y for x, y in same), sum(x for x, _ in same), sum(y for _, y in same)
    expected = a * b / len(pairs)
    assert float(adjusted_rand(counts)) == pytest.approx((agree - expected) / ((a + b) / 2 - expected))
    most = max(sum(p[t] == c for t, c in zip(told, truth, strict=True)) for p in itertools.permutations(range(3)))
    assert int((assigned(counts[0])[told] == truth).sum()) == most
    assert assigned(torch.eye(4, dtype=torch.double)[:, :3]).tolist() == [0, 1, 2, -1]


def test_cluster(shards: dict[str, dict[str, str]]) -> None:
    known, asked = blobs(120, 4), blobs(60, 4, seed=1)
    found = judged(Cluster(**shards), known, asked)  # type: ignore[arg-type]
    assert [found[name].value for name in ("NMI", "ARI", "accuracy")] == [1.0, 1.0, 1.0]
    assert found["accuracy"].chance > 0.25 and abs(found["ARI"].chance) < 0.1
    noise = judged(Cluster(**shards), blobs(120, 4, spread=99.0), blobs(60, 4, spread=99.0, seed=1))  # type: ignore[arg-type]
    assert abs(noise["ARI"].value) < 0.1
    assert noise["NMI"].low <= noise["NMI"].value <= noise["NMI"].high < 0.3


def test_features_are_reduced_along_their_widest_directions() -> None:
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([9.0, 5, 1e-3, 1e-3, 1e-3, 1e-3])
    one, _ = reduced(x, x[:3], 2)
    full, _ = reduced(x, x[:3], 6)
    torch.testing.assert_close(one @ one.T, full @ full.T, atol=1e-2, rtol=0)


@pytest.mark.parametrize("kind", [FewShot, LowShotSVM, Cluster])
def test_each_stands_beside_its_baselines(kind: type, shards: dict[str, dict[str, str]]) -> None:
    encoder = create_encoder("convnet", image_size=16, widths=[8], depths=[1], stem_stride=1).eval()
    options = {
        FewShot: {"ways": 2, "episodes": 20},
        LowShotSVM: {"shots": (1, 2), "draws": 2},
        Cluster: {"restarts": 1},
    }
    found = dict(kind(**shards, **options[kind]).run(Trained({"image": encoder})))
    names = [name for name in found if not name.startswith(("raw/", "random_init/"))]
    assert names and list(found) == [f"{p}{n}" for p in ("raw/", "random_init/", "") for n in names]
    assert all(found[name].trivial == found[f"raw/{name}"].value for name in names)


def test_wrong_choices(shards: dict[str, dict[str, str]]) -> None:
    for kind, wrong in ((FewShot, {"ways": 1}), (LowShotSVM, {"shots": ()}), (Cluster, {"clusters": 1})):
        with pytest.raises(UserError):
            kind(**shards, **wrong)
