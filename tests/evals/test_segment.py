"""Segmentation by transfer: what it learns, what stays, and that each option is heeded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transfers import shards, small

from mmssl.errors import UserError
from mmssl.evals.parts.report import reporting
from mmssl.evals.segment import Segment
from mmssl.types import Trained

QUICK: dict[str, Any] = {"batch": 8, "width": 8, "lr": 0.02, "crop_scale": (0.8, 1.0)}


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return shards(tmp_path_factory.mktemp("squares"))


def test_the_classes_of_squares_are_learnt(sets: dict[str, Any]) -> None:
    torch.manual_seed(0)
    encoder = small().eval()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    with reporting() as report:
        found = dict(Segment(**sets, **QUICK, epochs=8).run(Trained({"image": encoder})))
    assert list(found) == ["random_init/mIoU", "random_init/accuracy", "mIoU", "accuracy"]
    assert found["mIoU"].value > 0.7 and found["mIoU"].n == 10
    assert found["accuracy"].trivial == pytest.approx(767 / 1023, abs=2e-3), "all but the void corner and the square"
    assert set(found["mIoU"].parts or {}) == {"0", "1", "2"}
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert "draws of segment were left out" in " ".join(report.warnings)


def test_frozen_encoders_stay_and_their_head_learns(sets: dict[str, Any]) -> None:
    torch.manual_seed(0)
    encoder = small().eval()
    made = Segment(**sets, **QUICK, epochs=2, frozen=True, skips=0, baselines=False)
    network = made.fitted(encoder)
    assert all(torch.equal(value, network.encoder.state_dict()[name]) for name, value in encoder.state_dict().items())
    fresh = made.network(small()).head
    assert not torch.equal(network.head.last[0].weight, fresh.last[0].weight) and network.head.count == 1
    assert network.head.last[0].weight.shape[0] == 8
    tuned = Segment(**sets, **QUICK, epochs=1, baselines=False).fitted(encoder)
    assert not torch.equal(tuned.encoder.stem[0].weight, encoder.stem[0].weight)


def test_objects_may_be_one_class_and_masks_another_field(sets: dict[str, Any]) -> None:
    fields = {"fields": {"outline": "mask.png"}}
    nodes = {**sets, "train": {**sets["train"], **fields}, "data": {**sets["data"], **fields}}
    made = Segment(**nodes, **QUICK, epochs=1, baselines=False, foreground=True, mask="outline", limit=4)
    found = dict(made.run(Trained({"image": small().eval()})))
    assert set(found["mIoU"].parts or {}) == {"0", "1"} and found["mIoU"].n == 4
    view = made.view(small(), training=True)
    assert view.reads == ("image", "outline") and [type(step).__name__ for step in view.steps["image"][0]] == [
        "Crop",
        "Flip",
    ]
    assert view.steps["image"][0][0].scale == (0.8, 1.0) and not made.view(small(), training=False).steps["image"][0]
    with pytest.raises(UserError, match="segment has epochs 0"):
        Segment(**sets, epochs=0)


def test_the_loss_is_the_mean_over_samples_of_the_mean_over_pixels(sets: dict[str, Any]) -> None:
    torch.manual_seed(0)
    made = Segment(**sets, **QUICK, limit=6)
    network = made.network(small()).eval()
    from mmssl.evals.parts.transfer import batches

    (batch,) = list(batches(made.learnt, made.view(small(), training=False), size=8))
    batch.fields["image"]["mask"][0][0, :20] = 255
    scores, truth = network(batch.views["image"][0]), batch.fields["image"]["mask"][0]
    each = []
    for score, classes in zip(scores.log_softmax(1), truth, strict=True):
        real = (classes != 255).nonzero()
        each.append(-torch.stack([score[classes[y, x], y, x] for y, x in real.tolist()]).mean())
    torch.testing.assert_close(network.loss(batch), torch.stack(each).mean())
