"""Detection by transfer: squares are found by either detector, and each option is heeded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transfers import shards, small

from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.evals.detect import Detect
from mmssl.evals.parts.detectors import Detector
from mmssl.evals.parts.transfer import batches
from mmssl.types import Trained

pytest.importorskip("pycocotools")
QUICK: dict[str, Any] = {"batch": 8, "width": 8, "proposals": 16, "baselines": False}


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return shards(tmp_path_factory.mktemp("squares"))


def test_squares_are_found(sets: dict[str, Any]) -> None:
    torch.manual_seed(0)
    made = Detect(**sets, **QUICK, epochs=12, lr=1e-2)
    trained = Trained({"image": small().eval()})
    made.check(trained)
    found = dict(made.run(trained))
    assert list(found) == ["AP", "AP50", "AP75"] and found["AP50"].value > 0.5
    assert set(found["AP50"].parts or {}) == {"red", "green"} and found["AP"].n == 10


@pytest.mark.parametrize("detector", ["fpn", "c4"])
def test_masks_of_either_detector_take_a_step_and_are_judged(detector: Any, sets: dict[str, Any]) -> None:
    made = Detect(**sets, **{**QUICK, "baselines": True}, epochs=1, detector=detector, masks=True, limit=4, size=48)
    found = dict(made.run(Trained({"image": small().eval()})))
    names = ["AP", "AP50", "AP75"]
    assert [*found] == [
        f"{start}{kind}{name}" for start in ("random_init/", "") for kind in ("", "mask_") for name in names
    ]
    assert made.view(small(), training=False).size == 48


def test_only_what_is_new_learns_where_the_encoder_is_frozen(sets: dict[str, Any]) -> None:
    encoder = small().eval()
    for detector in ("fpn", "c4"):
        made = Detect(**sets, **QUICK, epochs=1, detector=detector, frozen=True, limit=8)
        made.categories = ["green", "red"]
        network = made.fitted(encoder)
        assert all(torch.equal(v, network.encoder.state_dict()[k]) for k, v in encoder.state_dict().items())
        anchors = network.model.rpn.anchor_generator.sizes
        assert anchors == (((32.0,), (64.0,), (128.0,)) if detector == "fpn" else ((8.0, 16.0, 32.0, 64.0, 128.0),))
        assert network.model.roi_heads.fg_bg_sampler.batch_size_per_image == 16


def test_crowds_are_not_learnt(sets: dict[str, Any]) -> None:
    made = Detect(**sets, **QUICK, limit=4)
    made.categories = ["green", "red"]
    network = Detector(small(), "fpn", 2, size=32, width=8).train()
    (batch,) = list(batches(made.learnt, made.view(small(), training=False), size=4))
    seen: list[Any] = []
    network.model.register_forward_pre_hook(lambda _, given: seen.append(given[1]))
    network.loss(batch)
    batch.fields["image"]["crowd"][0].values[1] = True
    network.loss(batch)
    assert [len(one["boxes"]) for one in seen[0]] == [1, 1, 1, 1] and [len(one["labels"]) for one in seen[1]] == [
        1,
        0,
        1,
        1,
    ]


def test_what_cannot_be_is_told(sets: dict[str, Any]) -> None:
    vit = create_encoder("vit:tiny", image_size=32, patch_size=16, width=16, depth=1, heads=2)
    with pytest.raises(UserError, match="c4 needs an encoder of several stages"):
        Detector(vit, "c4", 2, size=32)
    assert Detector(vit, "fpn", 2, size=32, width=8).model.backbone.strides == [4, 8, 16, 32, 64]
    with pytest.raises(UserError, match="detect has size 8"):
        Detect(**sets, size=8)
