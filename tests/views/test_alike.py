"""MultiView views of a modality that nothing sets apart are refused, for a task would compare a sample with itself."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmssl.views.asymmetric import Asymmetric
from mmssl.views.multicrop import MultiCrop
from mmssl.views.pair import Pair
from PIL import Image

from mmssl import create_encoder, train
from mmssl.data.collate import collate
from mmssl.errors import DamagedError, UserError
from mmssl.methods.exemplar import Distorted
from mmssl.modalities.audio import Waveform
from mmssl.modalities.points import Cloud
from mmssl.modalities.video import Frames
from mmssl.transforms.audio import AudioPreprocess
from mmssl.transforms.image import ImagePreprocess
from mmssl.transforms.points import PointsPreprocess
from mmssl.transforms.video import VideoPreprocess
from mmssl.types import Ragged
from mmssl.views.cloud_pair import CloudPair
from mmssl.views.infomin import InfoMin
from mmssl.views.single import Single

PREPROCESS: dict[str, Any] = {
    "image": ImagePreprocess(8),
    "video": VideoPreprocess(8, frames=4, fps=10),
    "whole video": VideoPreprocess(8, frames=4),
    "audio": AudioPreprocess(1000, 0.5),
    "points": PointsPreprocess(16),
    "image_ab": ImagePreprocess(8),
    "pulse": ImagePreprocess(8),
}
STILL: dict[str, Any] = {"crop_scale": (1.0, 1.0), "flip": 0.0, "color_jitter": 0.0, "grayscale": 0.0, "blur": 0.0}


def of(name: str) -> dict[str, Any]:
    return {name.removeprefix("whole "): PREPROCESS[name]}


REFUSED = [
    (Pair, "image", {}, "crop_scale, flip"),
    (Pair, "image", {"flip": 1.0}, "crop_scale, flip"),
    (Pair, "image", {"grayscale": 1.0, "solarize": 1.0}, "crop_scale, flip"),
    (Pair, "image", {"color_jitter": 0.8, "jitter": (0.0, 0.0, 0.0, 0.0)}, "crop_scale, flip"),
    (Single, "image", {"views": 3}, "crop_scale, flip"),
    (Asymmetric, "image", {"solarize": 0.0}, "crop_scale, flip"),
    (MultiCrop, "image", {"small": 0}, "crop_scale, flip"),
    (Distorted, "image", {"views": 2, "tilt": 0.0}, "crop_scale, flip"),
    (Pair, "whole video", {}, "crop_scale, flip"),
    (Pair, "points", {}, "rotation, point_jitter"),
    (Pair, "image_ab", {"flip": 0.5}, "choose or write a View"),
    (Pair, "pulse", {"flip": 0.5}, "choose or write a View"),
]
ALLOWED = [
    *[(Pair, "image", changed) for changed in (
        {"crop_scale": (0.5, 0.5)},
        {"flip": 0.5},
        {"flip": 0.01},
        {"color_jitter": 1.0},
        {"grayscale": 0.2},
        {"grayscale": (0.0, 1.0)},
        {"blur": 1.0},
        {"solarize": (0.0, 0.2)},
        {"views": 1},
    )],
    (InfoMin, "image", {}),
    (Distorted, "image", {"views": 2}),
    (Pair, "whole video", {"flip": 0.5}),
    (Pair, "video", {}),
    (Pair, "audio", {}),
    *[(Pair, "points", changed) for changed in (
        {"rotation": "any"}, {"point_jitter": 0.01}, {"point_scale": (0.9, 1.1)}, {"point_crop": (0.5, 0.5)},
    )],
    (Single, "pulse", {}),
]  # fmt: skip


@pytest.mark.parametrize(("view", "name", "changed", "way"), REFUSED)
def test_views_that_nothing_sets_apart_are_refused(
    view: type[Single], name: str, changed: dict[str, Any], way: str
) -> None:
    with pytest.raises(UserError, match=rf"views of {name.removeprefix('whole ')} apart, .*{way}"):
        view(of(name), **STILL | changed).check()


@pytest.mark.parametrize(("view", "name", "changed"), ALLOWED)
def test_one_thing_that_differs_is_enough(view: type[Single], name: str, changed: dict[str, Any]) -> None:
    view(of(name), **STILL | changed).check()


class Pulses(Pair):
    """Knows pulses."""

    def _pulse(self, raw: Any, moment: float) -> Any:
        return raw


def test_a_view_that_knows_a_modality_of_its_own_is_trusted() -> None:
    Pulses(of("pulse"), **STILL).check()


def test_small_crops_and_clouds_alike_are_refused() -> None:
    MultiCrop(of("image"), small=2).check()
    alike = STILL | {"crop_scale": (0.5, 1.0), "small_scale": (1.0, 1.0)}
    with pytest.raises(UserError, match="the 2 small crops apart"):
        MultiCrop(of("image"), small=2, **alike).check()
    MultiCrop(of("image"), small=2, **alike | {"grayscale": (0.0, 0.0, 0.5)}).check()
    MultiCrop(of("image"), small=1, **alike).check()
    whole: dict[str, Any] = {"pair": "crops", "crop": (1.0, 1.0), "rotation": "none"}
    with pytest.raises(UserError, match="two views of points apart"):
        CloudPair(of("points"), **whole).check()
    for changed in ({"crop": (0.5, 0.8)}, {"rotation": "any"}, {"jitter": 0.01}, {"pair": "posed"}):
        CloudPair(of("points"), **whole | changed).check()


def film(seconds: float) -> Frames:
    pictures = np.arange(round(10 * seconds), dtype=np.uint8)[:, None, None, None]
    return Frames(np.broadcast_to(pictures, (len(pictures), 8, 8, 3)).copy(), 10)


SAMPLES = [
    ("audio", lambda seconds: Waveform(torch.arange(seconds * 1000), 1000), {"gain": 3.0}),
    ("video", film, {"flip": 0.5}),
]


@pytest.mark.parametrize(("name", "make", "changed"), SAMPLES, ids=["audio", "video"])
def test_windows_that_can_only_be_the_whole_sample_are_damage(name: str, make: Any, changed: dict[str, Any]) -> None:
    long, short = {name: make(2.0)}, {name: make(0.4)}
    first, second = Pair(of(name), **STILL)(long)[name]
    assert not torch.equal(first, second)
    with pytest.raises(DamagedError, match=f"several views that are all alike: {name}; set "):
        Pair(of(name), **STILL)(short)
    assert len(Pair(of(name), **STILL | changed)(short)[name]) == 2
    assert len(Single(of(name))(short)[name]) == 1


@pytest.mark.parametrize("captions", ["one", ["one"], ["one", " "], ["one", "one"]])
def test_one_caption_for_several_views_is_damage(captions: Any) -> None:
    text = create_encoder("transformer", width=8, depth=1, heads=2, vocab_size=270)
    text.learn_preprocess(["one", "two"])
    view = Pair({"text": text.preprocess})
    view.check()
    with pytest.raises(
        DamagedError, match="several views that are all alike: text; give each sample several captions, or show one"
    ):
        view({"text": captions})
    assert set(view({"text": ["one", "two"]})["text"]) <= {"one", "two"}


def test_a_run_is_refused_before_it_starts(color_recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe = copy.deepcopy(color_recipe) | {"evals": {}}
    recipe["encoders"] = {"image": recipe["encoders"]["image"]}
    recipe["tasks"]["clip"]["method"] = {"name": "simclr", "view": dict(STILL)}
    with pytest.raises(UserError, match=r"tasks.clip: nothing sets the 2 views of image apart"):
        train(recipe, out=tmp_path / "run", progress=False)


def test_what_is_refused_is_alike_and_what_is_allowed_differs() -> None:
    """The rule is held against what the View shows of one picture and one cloud."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype=np.uint8))
    sample = {"image": picture, "points": Cloud(np.random.default_rng(0).normal(size=(16, 3)))}
    for cases, expected in ((REFUSED, True), (ALLOWED, False)):
        for kind, name, changed, *_ in cases:
            if name in sample and kind(of(name), **STILL | changed).views > 1:
                view = kind(of(name), **STILL | changed)
                found = [view.on_device(collate([view(sample)], view)).views[name] for _ in range(8)]
                chance = changed.get("flip") == 0.01
                seen = [[x.values if isinstance(x, Ragged) else x for x in views[:2]] for views in found]
                alike = all(torch.allclose(a.float(), b.float(), atol=1e-5) for a, b in seen)
                assert alike == expected or chance, (kind, name, changed)
