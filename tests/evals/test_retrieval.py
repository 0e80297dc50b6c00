"""Retrieval, exactly: ranks, recall, the median, chance by simulation, and several texts for one image."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from given import PLAIN, defaults, give, written
from test_zero_shot import Rows, vector
from torch import Tensor

from mmssl.errors import UserError
from mmssl.evals import retrieval
from mmssl.evals.retrieval import Retrieval, best_ranks, recalls
from mmssl.types import Trained


def test_defaults() -> None:
    assert defaults(Retrieval) == {
        "modalities": ("image", "text"),
        "space": "clip",
        "k": (1, 5, 10),
        "bins": None,
        **PLAIN,
    }


def plain_rank(query: Tensor, own: int, candidates: Tensor, owners: list[int]) -> int:
    scores = (candidates @ query).tolist()
    best = max(s for s, owner in zip(scores, owners, strict=True) if owner == own)
    return sum(s >= best for s, owner in zip(scores, owners, strict=True) if owner != own)


def figures(ranks: list[int], cuts: tuple[int, ...]) -> list[float]:
    return [float(np.mean([rank < cut for rank in ranks])) for cut in cuts] + [float(np.median(ranks)) + 1]


TEXTS = [["a", "b", "c"], "d", ["e"], ["f", "g"], "h"]


@pytest.mark.parametrize("order", [("image", "text"), ("text", "image")])
def test_a_picture_may_have_several_texts_any_of_which_counts(
    order: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = torch.randn(5, 5)
    give(monkeypatch, "mmssl.evals.retrieval", [{"image": x, "text": t} for x, t in zip(pictures, TEXTS, strict=True)])
    trained: Any = Trained({"image": Rows("image"), "text": Rows("text")})  # type: ignore[dict-item]
    found = written(dict(Retrieval(data={}, modalities=order, space="other", k=(1, 2)).run(trained)))
    texts = torch.stack([vector(t) for t in "abcdefgh"])
    owners = [0, 0, 0, 1, 2, 3, 3, 4]
    by_image = [plain_rank(x, n, texts, owners) for n, x in enumerate(pictures)]
    by_text = [plain_rank(x, owners[n], pictures, list(range(5))) for n, x in enumerate(texts)]
    assert list(found) == [f"{a}-{b}/{f}" for a, b in (order, order[::-1]) for f in ("R@1", "R@2", "median_rank")]
    for name, ranks in (("image-text", by_image), ("text-image", by_text)):
        values = [found[f"{name}/{f}"].value for f in ("R@1", "R@2", "median_rank")]
        assert values == pytest.approx(figures(ranks, (1, 2))) and found[f"{name}/R@1"].n == len(ranks)
    names = {"image-text": ["0", "1", "2", "3", "4"], "text-image": ["0/0", "0/1", "0/2", "1", "2", "3/0", "3/1", "4"]}
    for name, ranks in (("image-text", by_image), ("text-image", by_text)):
        expected_parts = {key: rank + 1 for key, rank in zip(names[name], ranks, strict=True)}
        assert found[f"{name}/median_rank"].parts == expected_parts and found[f"{name}/R@1"].parts is None
    right = [3, 1, 1, 2, 1]
    for cut in (1, 2):
        expected = np.mean([1 - math.comb(8 - n, cut) / math.comb(8, cut) for n in right])
        assert found[f"image-text/R@{cut}"].chance == pytest.approx(expected)
        assert found[f"text-image/R@{cut}"].chance == pytest.approx(cut / 5)
    assert found["text-image/median_rank"].chance == pytest.approx(3.0)
    assert found["image-text/median_rank"].chance == pytest.approx(9 / (np.mean(right) + 1))
    assert trained.encoders["image"].asked == ["other"] and trained.encoders["text"].asked[0] == "other"


def test_two_modalities_without_words(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, heard = torch.randn(6, 5), torch.randn(6, 5)
    source = give(
        monkeypatch, "mmssl.evals.retrieval", [{"image": a, "audio": b} for a, b in zip(seen, heard, strict=True)]
    )
    trained = Trained({"image": Rows("image"), "audio": Rows("audio")})  # type: ignore[dict-item]
    found = dict(Retrieval(data={}, modalities=("image", "audio"), k=(2,)).run(trained))
    assert source.asked == [{"image", "audio"}]
    for name, (a, b) in {"image-audio": (seen, heard), "audio-image": (heard, seen)}.items():
        ranks = [plain_rank(x, n, b, list(range(6))) for n, x in enumerate(a)]
        assert [found[f"{name}/R@2"].value, found[f"{name}/median_rank"].value] == pytest.approx(figures(ranks, (2,)))


def test_queries_are_parted_by_numbers_of_their_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    """Queries of a bin are asked among all candidates; text n of a sample stands in the sample's bin."""
    pictures, shares = torch.randn(5, 5), (0.2, 0.5, 0.7, 0.3, 0.1)
    given = [
        {"image": x, "text": t, "meta": {"seen": {"share": n}}} for x, t, n in zip(pictures, TEXTS, shares, strict=True)
    ]
    source = give(monkeypatch, "mmssl.evals.retrieval", given)
    trained: Any = Trained({"image": Rows("image"), "text": Rows("text")})  # type: ignore[dict-item]
    judge = Retrieval(data={}, space="other", k=(1, 2), bins={"seen.share": [0.3, 0.6]})
    judge.check(trained)
    found = written(dict(judge.run(trained)))
    assert source.asked[-1] == {"image", "text", "meta"}
    owners, texts = [0, 0, 0, 1, 2, 3, 3, 4], torch.stack([vector(t) for t in "abcdefgh"])
    by_image = [plain_rank(x, n, texts, owners) for n, x in enumerate(pictures)]
    by_text = [plain_rank(x, owners[n], pictures, list(range(5))) for n, x in enumerate(texts)]
    for span, inside in (("0-0.3", {0, 4}), ("0.3-0.6", {1, 3}), ("0.6-", {2})):
        for way, ranks, own in (("image-text", by_image, list(range(5))), ("text-image", by_text, owners)):
            chosen = [rank for rank, owner in zip(ranks, own, strict=True) if owner in inside]
            for cut in (1, 2):
                score = found[f"{way}/R@{cut}_seen.share_{span}"]
                assert score.n == len(chosen) and score.value == pytest.approx(np.mean([r < cut for r in chosen]))
    assert len(found) == 6 + 2 * 2 * 3
    with pytest.raises(UserError, match="bins.angle is"):
        Retrieval(data={}, bins={"angle": [2, 1]})


def test_ranks_are_the_same_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, candidates = torch.randn(7, 4), torch.randn(9, 4)
    owner, other = torch.tensor([0, 0, 1, 2, 2, 3, 1]), torch.tensor([3, 0, 1, 1, 2, 0, 2, 3, 3])
    expected = [plain_rank(q, int(o), candidates, other.tolist()) for q, o in zip(queries, owner, strict=True)]
    assert retrieval.CHUNK == 1024
    for size in (3, 1024):
        monkeypatch.setattr(retrieval, "CHUNK", size)
        assert best_ranks(queries, owner, candidates, other).tolist() == expected


def test_chance_is_what_random_orders_reach() -> None:
    """Every order of five candidates, of which two are right for the first query and one for the second."""
    owner, theirs = torch.tensor([0, 1]), torch.tensor([0, 0, 1, 2, 3])
    found = dict(recalls("x", torch.randn(2, 3), owner, torch.randn(5, 3), theirs, k=(1, 3, 9)))
    for cut in (1, 3, 9):
        hits = [
            np.mean([any(theirs[p] == own for p in order[:cut]) for order in itertools.permutations(range(5))])
            for own in (0, 1)
        ]
        assert found[f"x/R@{cut}"].chance == pytest.approx(np.mean(hits))
        assert isinstance(found[f"x/R@{cut}"].chance, float), "so that it can be written"
    assert found["x/median_rank"].chance == pytest.approx(6 / 2.5)
    assert list(found) == ["x/R@1", "x/R@3", "x/R@9", "x/median_rank"]


def test_the_median_rank_of_an_even_number_lies_between() -> None:
    candidates = torch.eye(4)
    queries = torch.tensor([[1.0, 0, 0, 0], [1, 0.5, 0, 0], [3, 2, 1, 0], [4, 3, 2, 1]])
    found = dict(recalls("x", queries, torch.arange(4), candidates, torch.arange(4), k=()))
    assert found["x/median_rank"].value == 2.5 and found["x/median_rank"].chance == 2.5  # ranks 1, 2, 3, 4
    assert found["x/median_rank"].low == 1.0 and found["x/median_rank"].high == 4.0


def test_it_needs_both_sides_and_the_space(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = Trained({"image": Rows("image"), "text": Rows("text")})  # type: ignore[dict-item]
    give(monkeypatch, "mmssl.evals.retrieval", [{"image": 0, "text": ""}])
    Retrieval(data={}).check(trained)
    for options, told in (({"space": "nope"}, "no space 'nope'"), ({"modalities": ("image", "audio")}, "'audio'")):
        with pytest.raises(UserError, match=told):
            Retrieval(data={}, **options).check(trained)  # type: ignore[arg-type]
    both: Any = Trained({"image": Rows("image"), "image_b": Rows("image")})  # type: ignore[dict-item]
    for field in ("image", "later"):
        both.encoders["image_b"].field = field
        give(monkeypatch, "mmssl.evals.retrieval", [dict.fromkeys(("image", field), 0)])
        judge = Retrieval(data={}, modalities=("image", "image_b"))
        judge.check(both)
        assert set(judge.needs(both).data["data"][1]) == {"image", field}, "the fields that the encoders read"
    give(monkeypatch, "mmssl.evals.retrieval", [{"image": 0}])
    with pytest.raises(UserError, match="has 'text'"):
        Retrieval(data={}).check(trained)
