"""The accuracy of a task's own classifier: argmax by hand, classes by name, and what cannot be judged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from probing import sides

from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.evals.accuracy import Accuracy
from mmssl.nn.head import Classes
from mmssl.types import Encoder, Trained


def encoder(*, classes: int = 2) -> Encoder:
    torch.manual_seed(0)
    made = create_encoder("convnet", image_size=16, widths=[8], depths=[1], stem_stride=2).eval()
    head = made.spaces["finetune"] = Classes(8, classes=classes).eval()
    torch.nn.init.normal_(head.linear.weight)
    return made


@pytest.mark.parametrize("limit", [None, 5])
def test_it_is_the_share_of_samples_whose_class_scores_highest(tmp_path: Path, limit: int | None) -> None:
    sets, judged = sides(tmp_path, train=20, test=13), encoder()
    evaluation = Accuracy(**sets, space="finetune", limit=limit)
    trained = Trained({"image": judged})
    evaluation.check(trained)
    found = dict(evaluation.run(trained))
    samples = list(evaluation.sets.test.samples({"image", "label"}))
    with torch.no_grad():
        pooled = judged(judged.preprocess.collate([judged.preprocess(one["image"]) for one in samples])).pooled
        guesses = judged.spaces["finetune"].linear(pooled).argmax(dim=1)
    right = (guesses == torch.tensor([one["label"] for one in samples])).float()
    assert len(samples) == (limit or 13) and 0 < float(right.mean()) < 1
    assert list(found) == ["top1"] and found["top1"].value == pytest.approx(float(right.mean()))
    assert found["top1"].n == len(samples) and found["top1"].chance == 0.5


def test_random_weights_stand_before_it(tmp_path: Path) -> None:
    sets = sides(tmp_path, train=20, test=13)
    found = dict(Accuracy(**sets, space="finetune", baselines=True).run(Trained({"image": encoder()})))
    assert list(found) == ["random_init/top1", "top1"]
    assert found["top1"] == dict(Accuracy(**sets, space="finetune").run(Trained({"image": encoder()})))["top1"]


def test_what_is_no_classifier_of_these_classes_is_refused(tmp_path: Path) -> None:
    sets: dict[str, Any] = sides(tmp_path, train=20, test=4)
    with pytest.raises(UserError, match="has 3 numbers, and train has 2 classes"):
        dict(Accuracy(**sets, space="finetune").run(Trained({"image": encoder(classes=3)})))
    with pytest.raises(UserError, match="has no space 'distill'"):
        Accuracy(**sets, space="distill").check(Trained({"image": encoder()}))
    with pytest.raises(UserError, match="there is no encoder 'image_teacher'"):
        Accuracy(**sets, space="finetune", encoder="image_teacher").check(Trained({"image": encoder()}))
    with pytest.raises(UserError, match="kind"):
        Accuracy(**sets, space="finetune", label="kind").check(Trained({"image": encoder()}))
