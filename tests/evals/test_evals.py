from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.evals.parts.classifier import read_classes, read_templates, zero_shot_classifier
from mmssl.evals.parts.score import bootstrap
from mmssl.evals.retrieval import Retrieval, _none_right, best_ranks
from mmssl.evals.zero_shot import ZeroShot, rank_of
from mmssl.types import Trained

COLORS = ["red", "green", "blue", "white"]


class Words(nn.Module):
    """Stands in for a text encoder: a fixed random embedding of each prompt."""

    modality, dim = "text", 6

    def encode(self, texts: list[str], space: str | None = None) -> torch.Tensor:
        rows = [torch.randn(6, generator=torch.Generator().manual_seed(sum(map(ord, t)))) for t in texts]
        return F.normalize(torch.stack(rows), dim=1)


class Oracle(nn.Module):
    """Knows the colour of a square, by its mean, or of a caption, by its words."""

    dim = 4

    def __init__(self, modality: str) -> None:
        super().__init__()
        self.modality, self.preprocess, self.device = modality, self, torch.device("cpu")
        self.field = modality

    def __call__(self, raw: Any) -> Any:
        return raw

    def collate(self, items: list[Any]) -> torch.Tensor:
        import numpy as np

        means = [torch.tensor(np.asarray(x.convert("RGB"), dtype=np.float32)).mean((0, 1)) for x in items]
        table = torch.tensor([[220, 30, 30], [30, 200, 40], [40, 60, 220], [240, 240, 240.0]])
        return F.one_hot(torch.cdist(torch.stack(means), table).argmin(1), 4).float()

    def embed(self, x: torch.Tensor, space: str | None = None) -> torch.Tensor:
        return x

    def encode(self, texts: list[str], space: str | None = None) -> torch.Tensor:
        return torch.tensor([[float(color in text) for color in COLORS] for text in texts])


def test_class_weights_are_the_renormalised_means_of_normalised_prompts() -> None:
    weights = zero_shot_classifier(Words(), ["cat", "dog"], ["a {}", "the {}"], space="clip")
    for row, name in zip(weights, ["cat", "dog"], strict=True):
        prompts = Words().encode([f"a {name}", f"the {name}"])
        torch.testing.assert_close(row, F.normalize(prompts.mean(0), dim=0))


def test_classes_and_templates_come_from_lists_files_and_cards(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("cat\n\n dog \n")
    assert read_classes(str(tmp_path / "names.txt")) == ["cat", "dog"]
    assert len(read_classes("bounce.shape")) == 8
    for bad, match in (
        (["cat", "cat", "dog"], "classes that come twice: cat"),
        (["cat"], "expected at least two"),
        ("names.text.txt", "there is no classes file"),
        ("bounse.shape", "no such dataset; did you mean 'bounce'"),
        ("bounce.shap", "has no list 'shap'; did you mean 'shape'"),
    ):
        with pytest.raises(UserError, match=match):
            read_classes(bad)
    with pytest.raises(UserError, match="has no {}"):
        read_templates(["a photo"])


def test_an_oracle_is_right_and_every_figure_has_its_chance(color_shards: Path) -> None:
    encoders = {"image": Oracle("image"), "text": Oracle("text")}
    scores = dict(ZeroShot(data={"shards": str(color_shards)}, classes=COLORS, templates=["{}"]).run(Trained(encoders)))
    assert scores["top1"].value == 1.0 and scores["top1"].chance == 0.25 and scores["top1"].n == 64
    assert scores["top1"].trivial == 0.25
    assert scores["class/red"].value == 1.0 and scores["class/red"].n == 16
    found = dict(Retrieval(data={"shards": str(color_shards)}, k=(1, 16)).run(Trained(encoders)))
    assert found["image-text/R@1"].chance == pytest.approx(1 / 64)
    assert found["image-text/R@1"].value == 0.0  # 15 others are just as near, and ties count against
    assert found["image-text/R@16"].value == 1.0
    assert found["text-image/median_rank"].value == 16


def test_ties_count_against() -> None:
    scores = torch.tensor([[0.5, 0.5, 0.1], [0.9, 0.2, 0.1]])
    assert rank_of(scores, torch.tensor([0, 0])).tolist() == [1, 0]


def test_any_of_several_right_candidates_counts() -> None:
    queries, candidates = torch.eye(3), torch.tensor([[0.2, 0, 0], [0.9, 0, 0], [0.95, 1, 0], [0, 0.1, 1]])
    owner = torch.tensor([0, 0, 1, 2])
    assert best_ranks(queries, torch.arange(3), candidates, owner).tolist() == [1, 0, 0]


def test_chance_of_recall_is_hypergeometric() -> None:
    right = torch.tensor([1.0, 2.0], dtype=torch.double)
    expected = [1 - math.comb(9, 3) / math.comb(10, 3), 1 - math.comb(8, 3) / math.comb(10, 3)]
    torch.testing.assert_close(1 - _none_right(10, right, 3), torch.tensor(expected, dtype=torch.double))


def test_the_interval_is_that_of_the_normal_approximation() -> None:
    score = bootstrap(torch.arange(1000) < 300, chance=0.1)
    half = 1.96 * math.sqrt(0.3 * 0.7 / 1000)
    assert score.value == pytest.approx(0.3) and score.n == 1000
    assert score.low == pytest.approx(0.3 - half, abs=0.005) and score.high == pytest.approx(0.3 + half, abs=0.005)
