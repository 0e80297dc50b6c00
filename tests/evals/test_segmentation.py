"""Segmentation by hand: which cells are learnt from, how the layer is fitted, what is judged and against what."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch
from given import Given
from probing import reference
from torch import Tensor
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.evals import transfer_dense
from mmssl.evals.linear import held_out
from mmssl.evals.parts.memory import remembering
from mmssl.evals.parts.report import reporting
from mmssl.evals.parts.solvers import LBFGS
from mmssl.evals.transfer_dense import TransferDense, _cells, accuracy, confusion, inside, mean_iou, scaled, scored
from mmssl.transforms.image import ImagePreprocess
from mmssl.transforms.video import VideoPreprocess
from mmssl.types import Encoder, Features, Trained

SETS: dict[str, Any] = {"train": {"shards": "pipe:a"}, "data": {"shards": "pipe:b"}}  # never opened


class Halves(Encoder):
    """Cells of 2 x 2 pixels of images of 4; their features are the three colours."""

    modality, dim = "image", 3

    def __init__(self, preprocess: Any = None, *, side: int = 4) -> None:
        super().__init__()
        self.preprocess = preprocess or ImagePreprocess(size=side)
        self.register_buffer("here", torch.zeros(()))
        self.seen: list[int] = []

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def forward(self, x: Tensor) -> Features:
        self.seen.append(len(x))
        cells = F.avg_pool2d(x.float(), 2)
        return Features(cells.mean((2, 3)), cells.flatten(2).mT, tuple(cells.shape[2:]))


def samples(count: int, *, seed: int, noise: int = 60, size: int = 4) -> list[dict[str, Any]]:
    """Images whose pixels' colour tells the class, 0, 1 or 3, roughly; some pixels are void."""
    draw = np.random.default_rng(seed)
    colors = np.array([[200, 60, 60], [60, 200, 60], [0, 0, 0], [60, 60, 200]])
    made = []
    for number in range(count):
        mask = draw.choice([0, 0, 1, 3], (size, size)).astype(np.uint8)
        pixels = np.clip(colors[mask] + draw.normal(0, noise, (size, size, 3)), 0, 255).astype(np.uint8)
        mask[draw.random((size, size)) < 0.1] = 255
        made.append(
            {"image": pixels, "mask": mask, "__key__": str(number), "__shard__": "given.tar", "__number__": number}
        )
    return made


def dense(train: list[Any], test: list[Any], **options: Any) -> TransferDense:
    made = TransferDense(**SETS, **options)
    made.train, made.test = Given(train), Given(test)
    return made


def learnt(made: TransferDense, encoder: Encoder) -> tuple[Tensor, Tensor, Tensor]:
    return made._learnt_from(encoder, _cells(encoder))


def by_hand(made: list[Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Each cell's mean colour, the share of each class among its pixels that count, and its sample."""
    rows, shares, owner = [], [], []
    for number, sample in enumerate(made):
        for top in (0, 2):
            for left in (0, 2):
                cut = slice(top, top + 2), slice(left, left + 2)
                classes = [c for c in sample["mask"][cut].flatten().tolist() if c != 255]
                if classes:
                    rows.append(torch.from_numpy(sample["image"][cut].reshape(4, 3).astype(np.float32).mean(0)))
                    shares.append(torch.tensor([classes.count(c) / len(classes) for c in range(255)]))
                    owner.append(number)
    return torch.stack(rows), torch.stack(shares), torch.tensor(owner)


def test_cells_are_learnt_from_with_the_share_of_each_class() -> None:
    train = samples(5, seed=0)
    train[1]["mask"][:2, :2] = 255  # a cell without any class
    found, expected = (
        sorted(zip(owner.tolist(), rows.tolist(), shares[:, :4].tolist(), strict=True))
        for rows, shares, owner in (learnt(dense(train, [], batch=2), Halves()), by_hand(train))
    )
    assert len(found) == 19
    for one, other in zip(found, expected, strict=True):
        assert one[0] == other[0] and one[1] == pytest.approx(other[1]) and one[2] == pytest.approx(other[2])


def test_so_many_cells_are_drawn_from_each_sample() -> None:
    train = samples(5, seed=0)
    for cells, each in ((15, 3), (19, 3), (4, 1), (99, 4)):
        _, shares, owner = learnt(dense(train, [], cells=cells), Halves())
        assert owner.tolist() == [number for number in range(5) for _ in range(each)] and shares.shape[1] == 255
    whole = {tuple(row) for row in learnt(dense(train, []), Halves())[0].tolist()}
    one, two, other = (learnt(dense(train, [], cells=10, seed=seed), Halves())[0] for seed in (0, 0, 1))
    assert torch.equal(one, two) and not torch.equal(one, other)
    assert {tuple(row) for row in one.tolist()} < whole and len({tuple(row) for row in one.tolist()}) == 10


def test_processes_learn_from_samples_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmssl.dist.world", lambda: 2)
    monkeypatch.setattr("mmssl.dist.rank", lambda: 1)
    monkeypatch.setattr("mmssl.dist.gather_objects", lambda value: [value])
    monkeypatch.setattr("mmssl.dist.gather", lambda value: value)
    train = samples(5, seed=0)
    x, _, owner = learnt(dense(train, [], cells=5), Halves())
    assert owner.tolist() == [1, 3]
    for row, sample in zip(x, (train[1], train[3]), strict=True):
        cells = F.avg_pool2d(torch.from_numpy(sample["image"]).permute(2, 0, 1).float()[None], 2).flatten(2)[0].T
        assert any(torch.equal(row, cell) for cell in cells)


def test_the_layer_has_the_decay_that_is_best_on_a_tenth_of_the_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(60, 3, generator=generator)
    shares = (2 * x + torch.randn(60, 3, generator=generator)).softmax(1)
    owner = torch.arange(60) // 3
    held = held_out(20)[owner]

    def loss(decay: float) -> Any:
        return lambda x, y, w: F.cross_entropy(x @ w[:-1] + w[-1], y) + decay * w[:-1].square().sum()

    on_held = []
    for decay in (1.0, 0.3, 0.003):
        weight = reference(x[~held].double(), shares[~held].double(), loss=loss(decay), shape=(4, 3), steps=4)
        on_held.append(float(F.cross_entropy(x[held].double() @ weight[:-1] + weight[-1], shares[held].double())))
    decay = (1.0, 0.3, 0.003)[on_held.index(min(on_held))]
    expected = reference(x.double(), shares.double(), loss=loss(decay), shape=(4, 3), steps=4)
    made = TransferDense(**SETS, decays=(0.3, 1.0, 0.003))
    found = made._fitted(x, shares, owner)
    torch.testing.assert_close(found[:-1].double(), expected[:-1], atol=2e-3, rtol=0)
    alone = made._fitted(x[:5], shares[:5], torch.zeros(5, dtype=torch.long))  # one sample: nothing to choose by
    expected = reference(x[:5].double(), shares[:5].double(), loss=loss(1.0), shape=(4, 3), steps=4)
    torch.testing.assert_close(alone[:-1].double(), expected[:-1], atol=2e-3, rtol=0)


def test_figures_of_a_whole_run_are_those_by_hand() -> None:
    train, test = samples(12, seed=0), samples(6, seed=1)
    test[2]["mask"][0] = 9  # a class that the training set lacks
    made = dense(train, test, decays=(0.01,), baselines=False)
    encoder = Halves()
    found = dict(made.run(Trained({"image": encoder})))
    x, shares, _ = by_hand(train)
    mean, deviation = x.mean(0), x.std(0, correction=0)

    def loss(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        return F.cross_entropy(x @ w[:-1] + w[-1], y) + 0.01 * w[:-1].square().sum()

    weight = reference(((x - mean) / deviation).double(), shares[:, :4].double(), loss=loss, shape=(4, 4), steps=4)
    told, truth = [], []
    for sample in test:
        picture = torch.from_numpy(sample["image"]).permute(2, 0, 1).float()
        cells = F.avg_pool2d(picture[None], 2)[0].permute(1, 2, 0)
        scores = (((cells - mean) / deviation).double() @ weight[:-1] + weight[-1]).permute(2, 0, 1)
        wide = F.interpolate(scores[None], size=(4, 4), mode="bilinear", align_corners=False)[0]
        told.append(wide.argmax(0))
        truth.append(torch.from_numpy(sample["mask"]).long())
    one, two = torch.stack(told), torch.stack(truth)
    counts = two != 255
    right = float((one == two)[counts].double().mean())
    each = [float(((one == c) & (two == c)).sum() / (((one == c) | (two == c)) & counts).sum()) for c in (0, 1, 3, 9)]
    assert found["accuracy"].value == pytest.approx(right, abs=0.02) and 0.5 < right < 0.95
    assert found["mIoU"].value == pytest.approx(sum(each) / 4, abs=0.02)
    assert found["accuracy"].n == found["mIoU"].n == 6
    share = [float((two[counts] == c).double().mean()) for c in (0, 1, 3, 9)]
    assert found["accuracy"].trivial == pytest.approx(share[0])  # 0 is the commonest of the training set
    assert found["mIoU"].trivial == pytest.approx(share[0] / 4)
    assert found["accuracy"].chance == pytest.approx(sum(share[:3]) / 4)
    assert made.test.asked == [{"image", "mask"}]
    only = dense(train, test[:1], decays=(0.01,), baselines=False)
    alone = dict(only.run(Trained({"image": encoder})))
    mine = told[0][counts[0]] == truth[0][counts[0]]
    assert alone["accuracy"].value == pytest.approx(float(mine.double().mean()), abs=0.07)


def test_trivial_chance_and_interval_of_given_counts() -> None:
    """Two samples: of 8 pixels of class 0 six are right, of 2 of class 1 none, and 2 are of a class never learnt."""
    found = torch.tensor([[[4, 0], [0, 0], [0, 2.0]], [[2, 2], [2, 0], [0, 0]]]).double()
    scores = dict(scored(found, commonest=1))
    assert scores["accuracy"].value == pytest.approx(6 / 12) and scores["accuracy"].n == 2
    assert scores["mIoU"].value == pytest.approx((6 / 10 + 0 / 6 + 0) / 3)
    assert scores["accuracy"].trivial == pytest.approx(2 / 12)
    assert scores["mIoU"].trivial == pytest.approx((0 + 2 / 12 + 0) / 3)
    assert scores["accuracy"].chance == pytest.approx(10 / 12 / 2)
    assert scores["mIoU"].chance == pytest.approx((4 / (8 + 6 - 4) + 1 / (2 + 6 - 1) + 0) / 3)
    assert (scores["accuracy"].low, scores["accuracy"].high) == (pytest.approx(2 / 6), pytest.approx(4 / 6))
    assert accuracy(torch.zeros(1, 3, 2)).tolist() == mean_iou(torch.zeros(1, 3, 2)).tolist() == [0]


def test_counts_of_cells_of_films() -> None:
    truth = torch.full((1, 4, 2, 3), 255)
    truth[0, 0, 0, 0], truth[0, 1, 0, 1], truth[0, 2, 1, 2], truth[0, 3, 1, 2] = 5, 6, 7, 254
    found = inside(truth, (2, 2, 3))
    assert found.shape == (1, 12, 255)
    assert found.nonzero().tolist() == [[0, 0, 5], [0, 1, 6], [0, 11, 7], [0, 11, 254]]
    with_two = inside(torch.stack([truth[0], torch.full_like(truth[0], 255)]), (2, 1, 1))
    assert with_two[0, 0, [5, 6]].tolist() == [1, 1] and not with_two[1].any()


def test_scores_of_films_are_scaled_in_time_too() -> None:
    scores = torch.arange(8.0).view(1, 8, 1)
    found = scaled(scores, (2, 2, 2), torch.Size([4, 4, 4]))
    assert found.shape == (1, 1, 4, 4, 4)
    assert found[0, 0, ::3, ::3, ::3].flatten().tolist() == list(range(8))
    assert found[0, 0, 1, 0, 0] == pytest.approx(1.0) and found[0, 0, 0, 1, 0] == pytest.approx(0.5)


def test_pixels_are_counted_by_class_and_answer() -> None:
    truth, told = torch.tensor([[0, 1, 1, 7, 255, 2]]), torch.tensor([[0, 1, 0, 1, 1, 0]])
    assert confusion(told, truth, 2).tolist() == [[1, 0], [1, 1], [1, 1]]
    assert confusion(told, truth, 2).dtype == torch.double


def test_all_classes_but_the_background_may_be_one() -> None:
    train = samples(3, seed=0)
    made = dense(train, train, foreground=True)
    ((_, truth),) = made._batches(made.train, Halves())
    given = torch.stack([torch.from_numpy(sample["mask"]) for sample in train])
    assert torch.equal(truth[:, 0], torch.where(given == 255, 255, (given > 0).byte()))
    ((x, truth),) = dense(train, train)._batches(made.train, Halves())
    assert torch.equal(truth[:, 0], given) and x.shape == (3, 3, 4, 4)
    assert [len(x) for x, _ in dense(train, train, batch=2)._batches(made.train, Halves())] == [2, 1]


def test_raw_pixels_of_each_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Halves(side=16)
    made = dense([], [])
    x = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    monkeypatch.setattr(
        encoder, "forward", lambda x: Features(x.float().mean((2, 3)), x.float().flatten(2).mT[:, :8], (2, 4))
    )
    rows, grid = made._raw(encoder)(x)
    assert grid == (1, 2, 4) and rows.shape == (2, 8, 48)
    down = x.float().unflatten(2, (8, 2)).mean(3) / 255  # 8 = 2 cells of 4 pixels high, 16 = 4 cells of 4 pixels wide
    for cell in range(8):
        top, left = cell // 4 * 4, cell % 4 * 4
        torch.testing.assert_close(rows[:, cell], down[:, :, top : top + 4, left : left + 4].flatten(1))
    torch.testing.assert_close(made._raw(encoder)(x.float() / 255)[0], rows)
    film = torch.rand(2, 3, 4, 8, 4)
    monkeypatch.setattr(encoder, "forward", lambda x: Features(x.mean((2, 3, 4)), x.flatten(2).mT, (2, 2, 1)))
    rows, grid = made._raw(encoder)(film)
    assert grid == (2, 2, 1) and rows.shape == (2, 4, 48)
    for cell, (time, top) in enumerate(((0, 0), (0, 4), (2, 0), (2, 4))):
        expected = film[:, :, time : time + 2, top : top + 4].mean(2).flatten(1)
        torch.testing.assert_close(rows[:, cell], expected)


def test_baselines_are_raw_pixels_and_random_weights_that_have_seen_some(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, fresh = Halves(), Halves()
    monkeypatch.setattr(transfer_dense, "untrained", lambda given: fresh if given is encoder else None)
    train, test = samples(12, seed=0), samples(4, seed=1)
    found = dict(dense(train, test).run(Trained({"image": encoder})))
    assert list(found) == [f"{p}{n}" for p in ("raw/", "random_init/", "") for n in ("mIoU", "accuracy")]
    assert found["random_init/mIoU"] == found["mIoU"] and not fresh.training
    assert fresh.seen == [12, 12, 4]
    fresh.seen.clear()
    for batch, count in ((64, 10), (27, 20)):  # no more than 512, and then the batch that is begun
        fresh.seen.clear()
        dense(samples(10, seed=0) * 70, test, batch=batch)._fresh(encoder)
        assert fresh.seen == [batch] * count
    assert list(dict(dense(train, test, baselines=False).run(Trained({"image": encoder})))) == ["mIoU", "accuracy"]


def test_random_weights_are_shared_where_set_and_limit_are(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Encoder] = []
    monkeypatch.setattr(transfer_dense, "untrained", lambda given: (made.append(given), Halves())[1])
    encoder, train = Halves(), samples(4, seed=0)
    with remembering():
        for whats in (("a", "b"), ("a", "c"), ("b", "b")):
            one = dense(train, train, decays=(1.0,))
            one.what = TransferDense(train={"shards": f"pipe:{whats[0]}"}, data={"shards": f"pipe:{whats[1]}"}).what
            dict(one.run(Trained({"image": encoder})))
        assert len(made) == 2
        turned = {"fields": {}, "shards": "pipe:a"}
        whats = [TransferDense(train=dict(t), data=turned).what for t in (turned.items(), reversed(turned.items()))]
        assert whats[0] == whats[1]


def test_a_feature_that_never_changes_tells_nothing() -> None:
    train, test = samples(8, seed=0, noise=5), samples(4, seed=1, noise=5)
    for sample in (*train, *test):
        sample["image"][..., 0] = 50
    found = dict(dense(train, test, baselines=False).run(Trained({"image": Halves()})))
    assert found["accuracy"].value > found["accuracy"].trivial + 0.1


def test_a_process_without_samples_counts_what_the_others_found(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = torch.tensor([[[4.0, 0], [1, 1], [0, 0]]]).double()
    made = dense(samples(4, seed=0), [])
    monkeypatch.setattr(made, "_learnt_from", lambda *_: (torch.eye(3), torch.eye(3)[:, :2] + 0.1, torch.arange(3)))
    monkeypatch.setattr("mmssl.dist.gather", lambda mine: torch.cat([mine, theirs]))
    found = dict(made._judge(Halves(), _cells(Halves())))
    assert found["accuracy"].value == pytest.approx(5 / 6) and found["accuracy"].n == 1


def test_an_encoder_without_cells_and_sets_without_samples() -> None:
    blind = Halves()
    for features in (Features(torch.zeros(1, 3), None, (2, 2)), Features(torch.zeros(1, 3), torch.zeros(1, 4, 3))):
        blind.forward = lambda x, features=features: features  # type: ignore[method-assign,misc]
        with pytest.raises(UserError, match="segmentation looks at cells on a grid"):
            _cells(blind)(torch.zeros(1))
    about = {"__key__": "0", "__shard__": "a", "__number__": 0}
    some, lacking = samples(3, seed=0), [{"image": None, "mask": None, **about}]
    told = "no sample of given.tar has a whole image and mask; .*left out 1 sample: a sample without image"
    for train, test in ((lacking, some), (some, lacking)):
        with reporting(), pytest.raises(UserError, match=told):
            dict(dense(train, test, baselines=False).run(Trained({"image": Halves()})))


def test_options() -> None:
    given = {o.name: o.default for o in inspect.signature(TransferDense).parameters.values() if o.name not in SETS}
    assert given == {
        "mask": "mask",
        "foreground": False,
        "cells": 200_000,
        "decays": (1e-4, 1e-3, 1e-2, 1e-1),
        "encoder": None,
        "baselines": True,
        "limit": None,
        "batch": 32,
        "seed": 0,
    }
    made = TransferDense(**SETS, mask="m", encoder="video", decays=(2.0, 3.0), batch=7, seed=3)
    assert (made.mask, made.encoder, made.batch, made.seed, made.baselines) == ("m", "video", 7, 3, True)
    assert isinstance(made.solver, LBFGS) and made.solver.settings == (3.0, 2.0)
    TransferDense(**SETS, cells=1, batch=1, decays=(1e-9,))
    for wrong in ({"cells": 0}, {"batch": 0}, {"decays": ()}, {"decays": (1.0, 0.0)}):
        with pytest.raises(UserError, match="transfer_dense has cells"):
            TransferDense(**SETS, **wrong)


def test_it_asks_for_pictures_or_films_with_masks() -> None:
    for modality, preprocess in (("image", ImagePreprocess()), ("video", VideoPreprocess())):
        made, encoder = dense([], [], mask="m"), Halves(preprocess)
        encoder.modality = modality
        needs = made.needs(Trained({"any": encoder}))
        assert needs.data == {"train": (made.train, (modality, "m")), "data": (made.test, (modality, "m"))}
        assert needs.counted == ("train",) and needs.encoders[None].modalities == ("image", "video")
    encoder.modality = "audio"
    for ask in (made.check, lambda trained: next(made.run(trained))):
        with pytest.raises(UserError, match="reads audio; expected image or video"):
            ask(Trained({"any": encoder}))
