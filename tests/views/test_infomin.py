"""InfoMin as a View of any method on two views."""

from __future__ import annotations

import pytest
import torch

from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.types import Batch
from mmssl.views import infomin
from mmssl.views.infomin import InfoMin


def test_pictures_are_changed_on_the_device() -> None:
    preprocess = {"image": create_encoder("convnet", image_size=16).preprocess}
    view = InfoMin(preprocess, color_jitter=0.0, grayscale=0.0, blur=0.0)
    shown = view({"image": torch.randint(0, 256, (3, 40, 40), dtype=torch.uint8)})
    assert [x.shape for x in shown["image"]] == [(3, 16, 16)] * 2
    before = torch.randint(0, 256, (32, 3, 16, 16), dtype=torch.uint8)
    after = view.on_device(Batch({"image": [before, before]})).views["image"]
    changed = [((x - before / 255).abs() > 1e-3).any(dim=(1, 2, 3)) for x in after]
    assert all(c.sum() > 8 for c in changed) and not changed[0].all()
    assert not torch.equal(*after)


def test_what_it_cannot_do_is_an_error() -> None:
    image, audio = create_encoder("convnet", image_size=16), create_encoder("raw:audio")
    with pytest.raises(UserError, match="choose the view pair"):
        InfoMin({"image": image.preprocess}, operations=0)
    with pytest.raises(UserError, match="infomin changes pictures"):
        InfoMin({"audio": audio.preprocess})


def test_what_rand_augment_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes last, on floats, with the view's options."""
    calls = []
    monkeypatch.setattr(infomin, "rand_augment", lambda x, **how: calls.append(how) or x + 2)
    preprocess = {"image": create_encoder("convnet", image_size=16).preprocess}
    quiet = {"color_jitter": 0.0, "grayscale": 0.0, "blur": 0.0}
    view = InfoMin(preprocess, operations=3, magnitude=4.0, solarize=1.0, **quiet)
    batch = view.on_device(Batch({"image": [torch.ones(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)]}))
    assert calls == [{"operations": 3, "magnitude": 4.0}] * 2
    assert [x.unique().tolist() for x in batch.views["image"]] == [[2.0], [2.0]]
    assert view.varies("image")
    assert not view.varies("text")


@pytest.mark.parametrize("bad", [{"operations": 0}, {"magnitude": -0.1}, {"magnitude": 10.1}])
def test_bounds(bad: dict[str, float]) -> None:
    preprocess = {"image": create_encoder("convnet", image_size=16).preprocess}
    for good in ({"operations": 1}, {"magnitude": 0.0}, {"magnitude": 10.0}):
        InfoMin(preprocess, **good)
    with pytest.raises(UserError, match="operations is .* and magnitude .*; expected at least 1, and 0 to 10"):
        InfoMin(preprocess, **bad)
