"""One view and a number of each sample's own."""

from __future__ import annotations

import torch
from mmssl.views.seeded import Seeded

from mmssl.transforms.image import ImagePreprocess
from mmssl.types import Batch


def test_each_sample_has_a_seed_of_31_bits() -> None:
    view = Seeded({"image": ImagePreprocess(4)}, solarize=1.0)
    batch = view.on_device(Batch({"image": [torch.full((5000, 3, 1, 1), 255, dtype=torch.uint8)]}))
    seeds = batch.extra["seed"]
    assert seeds.shape == (5000,)
    assert seeds.dtype == torch.int64
    assert 0 <= seeds.min() < 2**21
    assert 2**31 - 2**21 < seeds.max() < 2**31
    assert len(seeds.unique()) > 4990
    assert batch.views["image"][0].eq(0).all(), "changed as Single changes it"


def test_absent_samples_have_one_too() -> None:
    present = torch.tensor([True, False, True])
    batch = Batch({"image": [torch.zeros(3, 3, 1, 1)]}, extra={"image_present": present})
    view = Seeded({"image": ImagePreprocess(4)})
    assert len(view.on_device(batch).extra["seed"]) == 3
    torch.manual_seed(1)
    first = view.on_device(batch).extra["seed"]
    torch.manual_seed(1)
    assert view.on_device(batch).extra["seed"].equal(first)
