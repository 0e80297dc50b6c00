"""k nearest neighbours: the vote, and the baselines beside it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from probing import judged

from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.evals import knn
from mmssl.evals.knn import KNN, votes
from mmssl.evals.linear import tops
from mmssl.evals.parts.labelled import Embedded
from mmssl.modalities import image
from mmssl.types import Trained


def test_the_vote_is_the_papers(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    known, asked = torch.randn(50, 6, generator=generator), torch.randn(30, 6, generator=generator)
    labels = torch.randint(4, (50,), generator=generator)
    expected: dict[int, list[int]] = {7: [], 2: [], 99: []}
    for query in asked:
        cosines = torch.nn.functional.cosine_similarity(query[None], known)
        for k, answers in expected.items():
            weights = [0.0] * 4
            for place in cosines.argsort(descending=True)[:k].tolist():
                weights[int(labels[place])] += math.exp(cosines[place].item() / 0.1)
            answers.append(max(range(4), key=weights.__getitem__))
    ks = tuple(expected)
    for held in (knn.HELD, 9):
        monkeypatch.setattr(knn, "HELD", held)
        found = votes(known, labels, asked, ks=ks, temperature=0.1)
        assert [answer.tolist() for answer in found] == list(expected.values())
    cosines = torch.nn.functional.cosine_similarity(asked[:, None], known[None, :3], dim=2)
    nearest = labels[cosines.argmax(dim=1)]  # at so low a temperature it alone counts
    assert torch.equal(votes(known[:3], labels[:3], asked, ks=(7,), temperature=1e-3)[0], nearest)


def test_one_search_serves_all_ks_and_of_equals_the_earlier_is_nearer(monkeypatch: pytest.MonkeyPatch) -> None:
    searched = []
    real = knn.nearest
    monkeypatch.setattr(knn, "nearest", lambda *given: (searched.append(given[2]), real(*given))[1])
    known, labels = torch.ones(40, 2), torch.tensor([3] + [1] * 2 + [2] * 37)
    found = votes(known, labels, torch.ones(1, 2), ks=(1, 3, 40, 2), temperature=0.1)
    assert [answer.tolist() for answer in found] == [[3], [1], [2], [1]] and searched == [40]


@pytest.fixture
def shards(tmp_path: Path) -> dict[str, dict[str, str]]:
    """Images that are brighter on the left, or on the right; the noise differs."""
    noise = np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 20)):
        with webdataset.TarWriter(str(tmp_path / f"{split}.tar")) as tar:
            for number in range(count):
                pixels = noise.integers(0, 120, (16, 16, 3))
                pixels[:, slice(0, 8) if number % 2 else slice(8, 16)] += 100
                tar.write({"__key__": str(number), "png": image.encode(pixels.astype(np.uint8)), "cls": number % 2})
    return {"train": {"shards": str(tmp_path / "train.tar")}, "data": {"shards": str(tmp_path / "test.tar")}}


def test_the_encoder_stands_beside_its_baselines(shards: dict[str, dict[str, str]]) -> None:
    torch.manual_seed(0)
    encoder = create_encoder("convnet", image_size=16, widths=[8], depths=[1], stem_stride=1).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.zero_()  # all alike, so that the first class wins
    found = dict(KNN(**shards, k=(5,)).run(Trained({"image": encoder})))
    assert found["raw/k5"].value == 1.0
    assert found["random_init/k5"].value > 0.5
    assert found["k5"].value == 0.5
    assert found["k5"].trivial == 1.0
    assert (found["k5"].chance, found["k5"].n) == (0.5, 20)
    alone = dict(KNN(**shards, k=(5,), baselines=False).run(Trained({"image": create_encoder("raw:image", size=16)})))
    assert list(alone) == ["k5"]
    assert alone["k5"].value == 1.0


def test_wrong_choices(shards: dict[str, dict[str, str]]) -> None:
    trained = Trained({"image": create_encoder("raw:image"), "audio": create_encoder("raw:audio")})
    with pytest.raises(UserError, match="say which"):
        next(KNN(**shards).run(trained))
    with pytest.raises(UserError, match="no encoder 'images'"):
        next(KNN(**shards, encoder="images").run(trained))
    with pytest.raises(UserError, match="above 0"):
        KNN(**shards, k=(0,))
    with pytest.raises(UserError, match="kind"):
        next(KNN(**shards, label="kind").run(Trained({"image": create_encoder("raw:image")})))


def test_each_class_has_its_own_figure_beside_the_mean() -> None:
    x = torch.eye(3)[[0, 0, 1, 1, 2]]
    test = Embedded(x, torch.tensor([0, 1, 1, 1, 3]), names={0: "ant", 1: "bee", 3: "yak"})
    train = Embedded(torch.eye(3), torch.arange(3))
    found = judged(KNN(train={"shards": "pipe:a"}, data={"shards": "pipe:b"}, k=(1,)), train, test)
    assert found["k1"].parts == pytest.approx({"ant": 1, "bee": 2 / 3, "yak": 0})
    found = dict(tops(torch.tensor([0, 2, 0, 1, 9]), 3, test))
    assert found["top1"].parts == pytest.approx({"ant": 1, "bee": 1 / 3, "yak": 0})
