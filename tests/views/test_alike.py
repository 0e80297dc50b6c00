"""Several views of a modality that nothing sets apart are refused, for a task would compare a sample with itself."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mmssl import create_encoder, train
from mmssl.data.collate import collate
from mmssl.errors import DamagedError, UserError
from mmssl.methods import depthcontrast, exemplar
from mmssl.modalities.audio import Waveform
from mmssl.modalities.points import Cloud
from mmssl.modalities.video import Frames
from mmssl.transforms.audio import AudioPreprocess
from mmssl.transforms.base import Step
from mmssl.transforms.image import ImagePreprocess
from mmssl.transforms.points import PointsPreprocess
from mmssl.transforms.video import VideoPreprocess
from mmssl.types import Ragged, Transform
from mmssl.views import byol, cloud_pair, infomin, simclr, single, swav
from mmssl.views.template import Views


class PulsePreprocess(ImagePreprocess):
    modality = "pulse"


PREPROCESS: dict[str, Any] = {
    "image": ImagePreprocess(8),
    "video": VideoPreprocess(8, frames=4, fps=10),
    "whole video": VideoPreprocess(8, frames=4),
    "audio": AudioPreprocess(1000, 0.5),
    "points": PointsPreprocess(16),
    "image_ab": ImagePreprocess(8),
    "pulse": PulsePreprocess(8),
}
STILL: dict[str, Any] = {
    "crop": {"scale": (1.0, 1.0)}, "flip": None, "color_jitter": None, "grayscale": None, "blur": None,
}  # fmt: skip
PAIR = simclr.view
DEPTH = depthcontrast.method.view
EXEMPLAR = exemplar.method.view
FIXED = {"crop": None, "hole": None, "rotate": None, "mirror": None, "scale": None}


def of(name: str) -> dict[str, Any]:
    return {name.removeprefix("whole "): PREPROCESS[name]}


def still(**steps: Any) -> dict[str, Any]:
    return {"image": STILL | steps}


EVEN = {"p": 0.8, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
SHOWN = "set image.crop.scale, or add flip"
REFUSED: list[tuple[Views, str, dict[str, Any], str]] = [
    (PAIR, "image", still(), SHOWN),
    (PAIR, "image", still(flip={"p": 1.0}), SHOWN),
    (PAIR, "image", still(grayscale={"p": 1.0}, solarize={"p": 1.0}), SHOWN),
    (PAIR, "image", still(color_jitter=EVEN), SHOWN),
    (PAIR, "image", still(blur={"p": 1.0, "sigma": (1.0, 1.0)}), SHOWN),
    (PAIR, "image", {"image": []}, SHOWN),
    (single.view, "image", {"views": 3} | still(), SHOWN),
    (byol.view, "image", still(solarize=None), SHOWN),
    (swav.view, "image", {"small": None} | still(), SHOWN),
    (EXEMPLAR, "image", {"views": 2} | still(rotate={"degrees": 0.0}), SHOWN),
    (PAIR, "image_ab", still(), SHOWN),
    (PAIR, "whole video", {"video": STILL}, "set video.crop.scale, or add flip"),
    (PAIR, "points", {}, "add points.rotate, jitter, scale or crop"),
    (PAIR, "points", {"points": {"mirror": {"p": 1.0}, "centre": {}, "scale": {"factor": (2.0, 2.0)}}}, "add points"),
    (DEPTH, "points", {"points": FIXED}, "add points.rotate"),
    (PAIR, "pulse", {}, "give the modality steps that change it"),
]
ALLOWED: list[tuple[Views, str, dict[str, Any]]] = [
    *[(PAIR, "image", changed) for changed in (
        still(crop={"scale": (0.5, 0.5)}),
        still(flip={"p": 0.5}),
        still(flip={"p": 0.01}),
        still(color_jitter={"p": 1.0}),
        still(grayscale={"p": 0.2}),
        still(grayscale={"p": (0.0, 1.0)}),
        still(blur={"p": 1.0}),
        still(blur={"p": 0.5, "sigma": (1.0, 1.0)}),
        still(solarize={"p": (0.0, 0.2)}),
        still(rotate={"degrees": 9.0}),
        {"views": 1} | still(),
    )],
    (infomin.view, "image", still()),
    (EXEMPLAR, "image", {"views": 2} | still()),
    (PAIR, "image_ab", still(flip={"p": 0.5})),
    (PAIR, "whole video", {"video": STILL | {"flip": {"p": 0.5}}}),
    (PAIR, "video", {"video": STILL}),
    (PAIR, "audio", {}),
    *[(PAIR, "points", {"points": changed}) for changed in (
        {"rotate": {"axis": "any"}}, {"jitter": {"sigma": 0.01}}, {"scale": {"factor": (0.9, 1.1)}},
        {"crop": {"share": (0.5, 0.5)}}, {"hole": {"share": 0.2}}, {"mirror": {"p": 0.5}},
    )],
    *[(DEPTH, "points", {"points": {key: FIXED[key] for key in FIXED if key != kept}}) for kept in FIXED],
    (single.view, "pulse", {}),
]  # fmt: skip


@pytest.mark.parametrize(("view", "name", "changed", "way"), REFUSED)
def test_views_that_nothing_sets_apart_are_refused(view: Views, name: str, changed: dict[str, Any], way: str) -> None:
    with pytest.raises(UserError, match=rf"\d views of {name.removeprefix('whole ')} apart, .*{way}"):
        view(of(name), **changed).check()


@pytest.mark.parametrize(("view", "name", "changed"), ALLOWED)
def test_one_thing_that_differs_is_enough(view: Views, name: str, changed: dict[str, Any]) -> None:
    view(of(name), **changed).check()


class Shake(Transform):
    """A step on a modality of one's own."""


@dataclass(kw_only=True)
class Still(Step):
    """One that says of itself that chance does not decide what it does."""

    def varies(self) -> bool:
        return False


def test_a_step_of_ones_own_is_trusted() -> None:
    Views(2, pulse=[Shake()])(of("pulse")).check()
    with pytest.raises(UserError, match="2 views of pulse apart"):
        Views(2, pulse=[Still()])(of("pulse")).check()


def test_small_crops_and_clouds_alike_are_refused() -> None:
    swav.view(of("image"), small={"views": 2}).check()
    alike = still(crop={"scale": (0.5, 1.0)}) | {"small": {"views": 2} | still()}
    with pytest.raises(UserError, match="small's 2 views of image apart"):
        swav.view(of("image"), **alike).check()
    swav.view(of("image"), **alike | {"small": {"views": 2} | still(grayscale={"p": 0.5})}).check()
    swav.view(of("image"), **alike | {"small": {"views": 1} | still()}).check()
    whole: dict[str, Any] = {"pair": "crops", "crop": (1.0, 1.0), "points": {"rotate": None}}
    with pytest.raises(UserError, match="2 views of points apart"):
        cloud_pair.view(of("points"), **whole).check()
    turned, moved = {"points": {"rotate": {"axis": "any"}}}, {"points": {"rotate": None, "jitter": {"sigma": 0.01}}}
    for changed in ({"crop": (0.5, 0.8)}, turned, moved, {"pair": "posed"}):
        cloud_pair.view(of("points"), **whole | changed).check()


def film(seconds: float) -> Frames:
    pictures = np.arange(round(10 * seconds), dtype=np.uint8)[:, None, None, None]
    return Frames(np.broadcast_to(pictures, (len(pictures), 8, 8, 3)).copy(), 10)


SAMPLES = [
    ("audio", lambda seconds: Waveform(torch.arange(seconds * 1000), 1000), {"gain": {"decibels": 3.0}}),
    ("video", film, STILL | {"flip": {"p": 0.5}}),
]


@pytest.mark.parametrize(("name", "make", "changed"), SAMPLES, ids=["audio", "video"])
def test_windows_that_can_only_be_the_whole_sample_are_damage(name: str, make: Any, changed: dict[str, Any]) -> None:
    long, short = {name: make(2.0)}, {name: make(0.4)}
    plain = PAIR(of(name), **({"video": STILL} if name == "video" else {}))
    first, second = plain(long)[name]
    assert not torch.equal(first, second)
    with pytest.raises(DamagedError, match=f"several views that are all alike: {name}; (add|set) {name}."):
        plain(short)
    assert len(PAIR(of(name), **{name: changed})(short)[name]) == 2
    assert len(single.view(of(name))(short)[name]) == 1


@pytest.mark.parametrize("captions", ["one", ["one"], ["one", " "], ["one", "one"]])
def test_one_caption_for_several_views_is_damage(captions: Any) -> None:
    text = create_encoder("transformer", width=8, depth=1, heads=2, vocab_size=270)
    text.learn_preprocess(["one", "two"])
    view = PAIR({"text": text.preprocess})
    view.check()
    with pytest.raises(
        DamagedError, match="several views that are all alike: text; give each sample several captions, or show one"
    ):
        view({"text": captions})
    assert set(view({"text": ["one", "two"]})["text"]) <= {"one", "two"}


def test_a_run_is_refused_before_it_starts(color_recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe = copy.deepcopy(color_recipe) | {"evals": {}}
    recipe["encoders"] = {"image": recipe["encoders"]["image"]}
    recipe["tasks"]["clip"]["method"] = {"name": "simclr", "view": still()}
    with pytest.raises(UserError, match=r"tasks.clip: nothing sets 2 views of image apart"):
        train(recipe, out=tmp_path / "run", progress=False)


def test_what_is_refused_is_alike_and_what_is_allowed_differs() -> None:
    """The rule is held against what the View shows of one image and one cloud."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype=np.uint8))
    sample = {"image": picture, "points": Cloud(np.random.default_rng(0).normal(size=(16, 3)))}
    for cases, expected in ((REFUSED, True), (ALLOWED, False)):
        for template, name, changed, *_ in cases:
            view = template(of(name), **changed)
            if name not in sample or view.shows[name] < 2:
                continue
            found = [view.on_device(collate([view(sample)], view)).views[name] for _ in range(8)]
            rare = changed.get("image", {}) == STILL | {"flip": {"p": 0.01}}
            seen = [[x.values if isinstance(x, Ragged) else x for x in views[:2]] for views in found]
            alike = all(a.shape == b.shape and torch.allclose(a.float(), b.float(), atol=1e-5) for a, b in seen)
            assert alike == expected or rare, (template, name, changed)
