"""Unsupervised segmentation by hand: which class each cluster gets, what is foreground, and which parts are joined."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from given import Given, defaults, written
from torch import Tensor
from torch.nn import functional as F

from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.evals import cluster_dense
from mmssl.evals.cluster_dense import ClusterDense, principal
from mmssl.evals.parts.matched import commonest, hungarian, scored, tables
from mmssl.nn.class_attention import ClassAttention, foreground
from mmssl.transforms.image import ImagePreprocess
from mmssl.types import Encoder, Features, Trained

COLORS = np.array([[250, 20, 20], [20, 250, 20], [20, 20, 250]])


class Quarters(Encoder):
    """Cells of 2 x 2 pixels of images of 8; their features are the three colours."""

    modality, dim = "image", 3

    def __init__(self) -> None:
        super().__init__()
        self.preprocess = ImagePreprocess(size=8)

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def forward(self, x: Tensor) -> Features:
        cells = F.avg_pool2d(x.float(), 2)
        return Features(cells.mean((2, 3)), cells.flatten(2).mT, tuple(cells.shape[2:]))


def samples(count: int = 6, *, wrong: float = 0.0) -> list[dict[str, Any]]:
    """Images in cells of three colours, each a class; of some the mask says another one, and of some pixels nothing."""
    draw, made = np.random.default_rng(0), []
    for number in range(count):
        cells = draw.integers(0, 3, (4, 4))
        said = np.where(draw.random((4, 4)) < wrong, draw.integers(0, 3, (4, 4)), cells)
        mask = said.repeat(2, 0).repeat(2, 1).astype(np.uint8)
        mask[draw.random((8, 8)) < 0.1] = 255
        pixels = COLORS[cells].repeat(2, 0).repeat(2, 1) + draw.integers(-5, 5, (8, 8, 1))
        made.append({
            "image": pixels.clip(0, 255).astype(np.uint8), "cells": cells, "mask": mask,
            "__key__": str(number), "__shard__": "given.tar", "__number__": number,
        })  # fmt: skip
    return made


def judged(given: list[dict[str, Any]], encoder: Encoder, **options: Any) -> dict[str, Any]:
    made = ClusterDense(data={"shards": "pipe:a"}, **{"baselines": False, "side": 8, **options})
    made.source = Given(given)
    return written(dict(made.run(Trained({"image": encoder}))))


def ious(pairs: list[tuple[int, int]], classes: int) -> list[float]:
    """Intersection over union of each class, of (said, true) pixels."""
    found = []
    for c in range(classes):
        both = sum(said == true == c for said, true in pairs)
        found.append(both / max(1, sum(c in pair for pair in pairs)))
    return found


def test_clusters_get_the_classes_that_make_most_of_the_mean_iou() -> None:
    given = samples(wrong=0.3)
    score = judged(given, Quarters())["mIoU"]
    pixels = [
        (int(said), int(true))
        for each in given
        for said, true in zip(each["cells"].repeat(2, 0).repeat(2, 1).ravel(), each["mask"].ravel(), strict=True)
        if true != 255
    ]
    tried = [ious([(order[said], true) for said, true in pixels], 3) for order in permutations(range(3))]
    best = max(tried, key=sum)
    assert score.value == pytest.approx(sum(best) / 3) and 0.3 < score.value < 0.9
    assert score.parts == pytest.approx({str(n): value for n, value in enumerate(best)})
    assert score.trivial == pytest.approx(sum(ious([(0, true) for _, true in pixels], 3)) / 3)
    assert score.low < score.value < score.high and 0.1 < score.chance < 0.35 and score.n == 6


def test_more_clusters_than_classes_each_get_the_commonest() -> None:
    given = samples(wrong=0.2)
    found = judged(given, Quarters(), over=(2, 30))
    assert [*found] == ["mIoU", "mIoU_over_2", "mIoU_over_30"]
    counts = torch.tensor([[5.0, 4, 0], [0, 1, 9], [2, 3, 3]])
    assert commonest(counts).tolist() == [0, 2, 1]
    assert found["mIoU_over_2"].value < found["mIoU"].value <= found["mIoU_over_30"].value
    joined = judged(given, Quarters(), foreground=True)["mIoU"]
    assert [*joined.parts] == ["0", "1"], "all classes but 0 are one"


def test_clusters_without_a_class_are_background() -> None:
    counts = torch.tensor([[8.0, 0], [0, 5], [1, 4], [3, 0]])
    assert hungarian(counts).tolist() == [0, 1, 0, 0]
    even = torch.tensor([[100.0, 50], [50, 5]])
    assert hungarian(even).tolist() == [1, 0], "by the sum of IoUs, 0.65 to 0.55, not of right pixels, 100 to 105"
    truth, clusters = torch.tensor([[[0, 1], [1, 255]]]), torch.tensor([[0, 1, 2, 1]])
    assert tables(clusters, truth, (2, 2), 3, 2).tolist() == [[[1, 0], [0, 1], [0, 1]]]
    score = scored(truth, (2, 2), clusters, classes=2, match=hungarian)
    assert score.parts == {"0": 0.5, "1": 0.5}


def test_features_are_scaled_and_reduced_to_their_widest_directions() -> None:
    x = torch.randn(200, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 10, 3, 1])
    x[:, 3] = x[:, 0] + 0.1 * x[:, 3]
    scaled = (x - x.mean(dim=0)) / x.std(dim=0, correction=0)
    torch.testing.assert_close(principal(x, 4), scaled)
    found = principal(x + 7, 2)
    _, _, widest = torch.linalg.svd(scaled, full_matrices=False)
    torch.testing.assert_close(found @ found.T, scaled @ widest[:2].T @ widest[:2] @ scaled.T, atol=1e-3, rtol=1e-3)


def test_clusters_that_are_attended_in_the_images_that_show_them_are_foreground() -> None:
    directions = torch.tensor([[1.0, 0.1], [0.1, 1], [-1, -1]])
    x = directions[[0, 0, 1, 1, 0, 1, 2, 2]]  # two images of four cells in three clusters
    x = x * torch.tensor([1.0, 9, 1, 9, 30, 1, 1, 5])[:, None]  # whose lengths do not count
    attended = torch.tensor([[True, False, True, True], [True, False, False, False]])
    made = ClusterDense(data={"shards": "pipe:a"}, extract=3, precision=0.5, seed=5)
    # the seed begins with one of each. The first: 1/2 and 1; the second: 1 and 0; the third: 0
    assert made._extracted(x, attended).tolist() == [[True] * 4, [True, True, False, False]]
    made.precision = 0.6
    assert made._extracted(x, attended).tolist() == [[True, True, False, False], [True, False, False, False]]


def test_parts_that_lie_beside_each_other_are_one_object(monkeypatch: pytest.MonkeyPatch) -> None:
    beside = np.zeros((6, 6))
    for one, other, there, back in ((1, 2, 0.5, 0.4), (2, 3, 0.3, 0.6), (4, 5, 0.3, 0.3), (0, 1, 0.2, 0.9)):
        beside[one, other], beside[other, one] = there, back
    parts = torch.arange(6).repeat(2, 1)
    given = []
    monkeypatch.setattr(cluster_dense, "neighborhood", lambda *args: given.append(args) or beside)
    made = ClusterDense(data={"shards": "pipe:a"}, edge=0.25, markov_time=1.0)
    found = made._joined(parts, (2, 3))
    assert np.array_equal(given[0][0], parts.view(2, 2, 3)) and given[0][1] == 6
    assert found[0, 1] == found[0, 2] == found[0, 3] != found[0, 4] == found[0, 5], "linked both ways"
    assert found[0, 0] == 0 and found[0, 1] > 0 and found[0, 4] > 0 and found[0].equal(found[1])
    made.edge = 0.35
    assert [n > 0 for n in made._joined(parts, (2, 3))[0].tolist()] == [False, True, True, False, False, False]
    how: list[Any] = []
    monkeypatch.setattr(cluster_dense, "communities", lambda _, **options: how.append(options) or np.zeros(6, int))
    made._joined(parts, (2, 3))
    assert how == [{"markov_time": 1.0}]


def test_with_a_class_token_the_foreground_alone_is_clustered() -> None:
    torch.manual_seed(0)
    encoder = create_encoder("vit", image_size=8, patch_size=2, width=12, depth=1, heads=2).eval()
    found = judged(samples(), encoder, extract=6, parts=5, precision=0.3, edge=0.01, pca=6, seed=3)
    assert [*found] == ["mIoU", "mIoU_cbfe", "mIoU_cd"]
    assert [*judged(samples(), encoder, extract=6, precision=1.1)] == ["mIoU"], "where there is a foreground"
    made = ClusterDense(data={"shards": "pipe:a"}, side=4)
    made.source = Given(samples())
    cells = made._seen(encoder)
    x = torch.stack([torch.from_numpy(each["image"]).permute(2, 0, 1) for each in samples()])
    features, attention = ClassAttention(encoder)(encoder, x)
    torch.testing.assert_close(cells.features, features.tokens.detach())
    assert cells.front.equal(foreground(attention, (4, 4), mass=0.65))
    assert cells.truth[0].tolist() == samples()[0]["mask"][1::2, 1::2].tolist()


def test_random_weights_stand_beside_it() -> None:
    torch.manual_seed(0)
    encoder = create_encoder("convnet", image_size=8, widths=[4], depths=[1], stem_stride=2).eval()
    assert [*judged(samples(), encoder, baselines=True)] == ["random_init/mIoU", "mIoU"]


def test_defaults_and_what_is_refused() -> None:
    known = defaults(ClusterDense)
    assert known == {
        "mask": "mask", "foreground": False, "over": (), "pca": 50, "side": 100, "extract": 200, "precision": 0.4,
        "parts": 149, "edge": 0.09, "markov_time": 2.0, "iterations": 50, "encoder": None, "baselines": True,
        "limit": None, "batch": 32, "seed": 0,
    }  # fmt: skip
    with pytest.raises(UserError, match=r"over \(1,\); expected at least 1, and 2 clusters"):
        ClusterDense(data={"shards": "pipe:a"}, over=(1,))
    with pytest.raises(UserError, match="no sample of given.tar has a whole image and mask"):
        judged([], Quarters())
    assert cluster_dense.evaluation is ClusterDense
