"""The classes of a few samples, and heads that begin as a run left them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mmssl import create_encoder
from mmssl.errors import UserError
from mmssl.nn.head import Classes, Middle
from mmssl.objectives.bank import reserve
from mmssl.objectives.few_labels import FewLabels, begin, few
from mmssl.types import Batch


def known(**options: Any) -> FewLabels:
    made = FewLabels(**{"classes": 2, "label": "kind", "fraction": 0.5, "seed": 1} | options)
    reserve(made, 9)
    return made


def test_a_share_of_each_class_is_known_and_the_rest_not() -> None:
    every = {0: 1, 2: 0, 3: 1, 4: 1, 6: 0, 7: 1, 8: 0}  # 1 and 5 have no label
    asked: list[str] = []
    labels = known()
    found = labels.learn(lambda field: (asked.append(field), every)[1])
    assert asked == ["kind"] and found == few(every, 0.5, seed=1)
    assert sorted(found.values()) == [0, 0, 1, 1]
    shown = labels.of(Batch({}, extra={"index": torch.arange(9)}))[:, 0].tolist()
    assert shown == [found.get(number, -1) for number in range(9)]


def test_classes_and_fraction_that_cannot_be_are_refused() -> None:
    with pytest.raises(UserError, match=r"objective\.classes is 2, and the training set has 3"):
        known().learn(lambda field: {0: 0, 1: 1, 2: 2})
    for fraction in (0.0, 1.1):
        with pytest.raises(UserError, match="expected a share above 0 and at most 1"):
            known(fraction=fraction)
    assert known(fraction=1.0).learn(lambda field: {0: 0, 1: 1}) == {0: 0, 1: 1}


def test_a_head_begins_as_the_one_that_the_encoder_brings() -> None:
    encoder = create_encoder("convnet", image_size=16, widths=[8], depths=[1])
    theirs, mine = Middle(8, out=5), Middle(8, out=5)
    encoder.brought = {"simclr_middle": theirs.state_dict()}
    begin(mine, encoder, "simclr_middle")
    assert all(a.equal(b) for a, b in zip(mine.state_dict().values(), theirs.state_dict().values(), strict=True))
    with pytest.raises(UserError, match=r"begins without a head 'simclr_midle': .*did you mean 'simclr_middle'"):
        begin(mine, encoder, "simclr_midle")
    with pytest.raises(UserError, match=r"of another shape: layers\.0\.weight \(5, 8\), not \(6, 8\)"):
        begin(Middle(8, out=6), encoder, "simclr_middle")
    encoder.brought = {}
    with pytest.raises(UserError, match="it brings none; set train.start to the run that trained it"):
        begin(Classes(8, classes=3), encoder, "finetune")
