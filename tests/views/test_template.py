"""Views as a value: options change it by path, and what it has not is refused with the nearest that it has."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image

from mmssl import names, recipe
from mmssl.errors import UserError
from mmssl.transforms.audio import AudioPreprocess, Gain
from mmssl.transforms.base import Chance, OnBatch, OnDevice, one
from mmssl.transforms.color import Blur, ColorJitter, Grayscale, Solarize
from mmssl.transforms.image import Crop, Flip, ImagePreprocess
from mmssl.transforms.points import PointsPreprocess
from mmssl.transforms.video import VideoPreprocess
from mmssl.types import Batch, Method, Objective, Preprocess, Transform
from mmssl.views import simclr, synchronised
from mmssl.views.composed import Composed
from mmssl.views.template import Views


@dataclass(kw_only=True)
class Count(OnBatch):
    """Adds extra["count"].

    start: the number.
    """

    start: int = 0

    def on_batch(self, batch: Batch) -> Batch:
        batch.extra["count"] = torch.tensor([self.start])
        return batch


IMAGE = {"image": ImagePreprocess(8)}
FILM = {"video": VideoPreprocess(8, frames=2, fps=10)}
SOUND = {"audio": AudioPreprocess(1000, 0.5)}


def template() -> Views:
    return Views(
        2,
        image=[Crop(scale=(0.1, 1.0)), Flip(p=0.4), Blur(p=(1.0, 0.1))],
        audio=[Gain(decibels=3.0)],
        small=Views(3, image=[Crop(scale=(0.05, 0.1), size=4), Solarize(p=0.3)]),
        after=[Count(start=1)],
        fields={"mask": "mask"},
    )


def of_modality(made: Views, key: str = "image") -> list[Transform]:
    return made.modalities[key]


CHANGES: list[tuple[dict[str, Any], list[Transform]]] = [  # options of the images, and the steps that they lead to
    ({}, [Crop(scale=(0.1, 1.0)), Flip(p=0.4), Blur(p=(1.0, 0.1))]),
    ({"crop": {"scale": [0.2, 1]}}, [Crop(scale=(0.2, 1.0)), Flip(p=0.4), Blur(p=(1.0, 0.1))]),
    ({"crop": {"ratio": (1, 1)}}, [Crop(scale=(0.1, 1.0), ratio=(1.0, 1.0)), Flip(p=0.4), Blur(p=(1.0, 0.1))]),
    ({"crop": {}, "flip": {"p": "1e-1"}}, [Crop(scale=(0.1, 1.0)), Flip(p=0.1), Blur(p=(1.0, 0.1))]),
    ({"blur": {"p": [0.5, 0.6]}}, [Crop(scale=(0.1, 1.0)), Flip(p=0.4), Blur(p=(0.5, 0.6))]),
    ({"flip": None}, [Crop(scale=(0.1, 1.0)), Blur(p=(1.0, 0.1))]),
    ({"flip": None, "crop": None, "blur": None}, []),
    ({"solarize": None}, [Crop(scale=(0.1, 1.0)), Flip(p=0.4), Blur(p=(1.0, 0.1))]),
    ({"solarize": {"p": 1}}, [Crop(scale=(0.1, 1.0)), Flip(p=0.4), Blur(p=(1.0, 0.1)), Solarize(p=1.0)]),
    (
        {"grayscale": {}, "color_jitter": {"hue": 0}},
        [Crop(scale=(0.1, 1.0)), Flip(p=0.4), Blur(p=(1.0, 0.1)), Grayscale(), ColorJitter(hue=0.0)],
    ),
]


@pytest.mark.parametrize(("options", "steps"), CHANGES)
def test_steps_are_changed_left_out_and_added_behind(options: dict[str, Any], steps: list[Transform]) -> None:
    before = template()
    assert of_modality(before.changed({"image": options})) == steps
    assert before == template(), "the template stays as it was"


def test_a_list_replaces_all_steps() -> None:
    items = [{"name": "crop", "scale": [0.2, 1]}, "flip", {"name": "blur", "p": 1.0}]
    made = template().changed({"image": items})
    assert of_modality(made) == [Crop(scale=(0.2, 1.0)), Flip(), Blur(p=1.0)]
    assert of_modality(template().changed({"image": []})) == []
    twice = template().changed({"image": ["flip", "flip"], "points": ["jitter"]})
    assert of_modality(twice) == [Flip(), Flip()]
    assert [type(step).__name__ for step in of_modality(twice, "points")] == ["Jitter"]


def test_groups_are_changed_and_left_out() -> None:
    made = template().changed({"small": {"views": 5, "image": {"crop": {"size": 6}, "solarize": None}}})
    assert made.groups["small"].views == 5
    assert of_modality(made.groups["small"]) == [Crop(scale=(0.05, 0.1), size=6)]
    assert made.group_sizes() == [("", 2), ("small", 5)]
    assert of_modality(made) == of_modality(template()), "the others stay"
    assert template().changed({"small": None}).group_sizes() == [("", 2)]
    assert template().changed({"small": {}}) == template()


def test_steps_on_the_batch_are_changed_and_left_out() -> None:
    assert template().changed({"count": {"start": 4}}).after == [Count(start=4)]
    assert template().changed({"count": None}).after == []
    batch = template()(IMAGE, fields={}, count={"start": 4}, small=None).on_device(
        Batch({"image": [torch.zeros(1, 3, 8, 8)] * 2})
    )
    assert batch.extra["count"].tolist() == [4]


def test_options_of_the_class_and_fields() -> None:
    assert template().changed({"fields": {"boxes": "boxes"}}).fields == {"mask": "mask", "boxes": "boxes"}
    made = synchronised.shifted(IMAGE | SOUND, hard=0.5, grid="1e-1")
    assert (made.hard, made.grid) == (0.5, 0.1)


def test_changes_add_up() -> None:
    once = synchronised.shifted.changed({"hard": 0.5, "image": {"flip": None}})
    twice = once.changed({"apart": 0.2, "image": {"crop": {"scale": [0.5, 1]}}})
    assert twice.options == {"hard": 0.5, "apart": 0.2}
    assert of_modality(twice) == [Crop(scale=(0.5, 1.0), ratio=(1.0, 1.0))]
    assert once.options == {"hard": 0.5} and not synchronised.shifted.options


def test_steps_of_each_view_by_key_by_modality_and_of_videos() -> None:
    made = Views(2, image=[Flip(p=(0.1, 0.9))], image_b=[Blur()], small=Views(1, image=[Crop()]))
    assert made.steps("image", "image") == [[Flip(p=0.1)], [Flip(p=0.9)], [Crop()]]
    assert made.steps("image_c", "image") == made.steps("video", "video") == made.steps("image", "image")
    assert made.steps("image_b", "image") == [[Blur()], [Blur()], [Crop()]]
    assert made.steps("audio", "audio") == [[], []], "a group shows what it has steps for"
    video = made.changed({"video": {"grayscale": {}}})
    assert video.steps("video", "video") == [[Flip(p=0.1), Grayscale()], [Flip(p=0.9), Grayscale()], [Crop()]]
    assert video.steps("image", "image") == made.steps("image", "image")


UNKNOWN: list[tuple[dict[str, Any], str]] = [
    ({"imag": {}}, "view has no option 'imag'; did you mean 'image'?"),
    ({"image": {"solarise": {}}}, "image: there is no step 'solarise' for image; did you mean 'solarize'?"),
    (
        {"image": {"gain": {}}},
        "image: there is no step 'gain' for image; known: blur, color_jitter, contour, crop, felzenszwalb",
    ),
    ({"text": {"crop": {}}}, "text: there is no step 'crop' for text; none is known"),
    ({"image": {"crop": {"scal": 1}}}, "image.crop: Crop has no option 'scal'; did you mean 'scale'?"),
    ({"image": {"solarize": {"thresh": 1}}}, "image.solarize: Solarize has no option 'thresh'; did you mean 'thresho"),
    ({"image": {"flip": {"name": "crop"}}}, "image.flip: Flip has no option 'name'"),
    ({"image": ["crop", "flop"]}, r"image\[1\]: there is no step 'flop' for image; did you mean 'crop|flip'\?"),
    ({"image": [{"name": "crop", "scal": 1}]}, r"image\[0\]: Crop has no option 'scal'; did you mean 'scale'\?"),
    ({"image": [{"scale": [0.2, 1]}]}, r"image\[0\].name is None; expected str"),
    ({"small": {"view": 3}}, "small has no option 'view'; did you mean 'views'?"),
    ({"small": {"image": {"crop": {"sise": 1}}}}, "small.image.crop: Crop has no option 'sise'; did you mean 'size'?"),
    ({"smal": {"views": 3}}, "view has no option 'smal'; did you mean 'small'?"),
    ({"count": {"begin": 1}}, "count: Count has no option 'begin'"),
    ({"coutn": {}}, "view has no option 'coutn'; did you mean 'count'?"),
    ({"grid": 0.1}, "view has no option 'grid'"),
    ({"count": None, "view": 1}, "view has no option 'view'; did you mean 'views'?"),
]
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"views": 0}, "views is 0; expected int of at least 1"),
    ({"views": "two"}, "views is 'two'; expected int of at least 1"),
    ({"image": 3}, "image is 3; expected a mapping of steps to options, or a list of steps"),
    ({"image": None}, "image is None; expected a mapping of steps to options, or a list of steps"),
    ({"image": {"crop": 0.2}}, "image.crop is 0.2; expected dict"),
    ({"image": {"grayscale": 0.2}}, "image.grayscale is 0.2; expected dict"),
    ({"image": [3]}, r"image\[0\] is 3; expected dict"),
    ({"image": {"crop": {"scale": 0.2}}}, "image.crop: scale is 0.2; expected tuple"),
    ({"image": {"crop": {"scale": [0.2, 0.5, 1]}}}, r"image.crop: scale is \[0.2, 0.5, 1\]; expected tuple"),
    ({"image": {"flip": {"p": "often"}}}, "image.flip: p is 'often'; expected"),
    ({"image": {"crop": {"scale": [0.9, 0.1]}}}, r"image.crop: crop.scale is \(0.9, 0.1\); expected two ascending"),
    ({"image": {"rand_augment": {"operations": 0}}}, "image.rand_augment: rand_augment's operations is 0"),
    ({"small": 3}, "small is 3; expected dict"),
    ({"small": {"views": 0}}, "small.views is 0; expected int of at least 1"),
    ({"count": 3}, "count is 3; expected dict"),
    ({"count": {"start": 0.5}}, "count: start is 0.5; expected int"),
    ({"fields": {"boxes": "box"}}, "fields is {'boxes': 'box'}; expected"),
]


@pytest.mark.parametrize(("options", "message"), UNKNOWN + WRONG)
def test_what_cannot_be_is_refused_with_its_path(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message.replace("'?", "'\\?").replace("\\\\", "\\")):
        template().changed(options)


def test_errors_say_where_in_the_recipe() -> None:
    where = "tasks.simclr.method.view"
    for options, message in (
        ({"image": {"crop": {"scal": 1}}}, rf"{where}.image.crop: Crop has no option 'scal'"),
        ({"imag": 1}, rf"{where} has no option 'imag'"),
        ({"views": 0}, rf"{where}.views is 0"),
    ):
        with pytest.raises(UserError, match=message):
            names.check_options(simclr.view, options, where=where)
    with pytest.raises(
        UserError, match=f"{where}: Shifted has no option|{where} has no option 'hrd'; did you mean 'har"
    ):
        names.check_options(synchronised.shifted, {"hrd": 1}, where=where)
    with pytest.raises(UserError, match=f"{where}: hard is 'x'; expected float"):
        names.check_options(synchronised.shifted, {"hard": "x"}, where=where)


@pytest.mark.parametrize(
    "fixed",
    [
        Views(1, fixed=True, image=[Crop()]),
        Views(2, fixed=True, image=[Crop()]),
        Views(1, image=[Crop()], after=[type("Only", (Count,), {"single": True})()]),
        Views(1, image=[Crop(), type("Parts", (Blur,), {"single": True})()]),
        Views(1, image=[Crop()], parts=Views(1, image=[type("Parts", (Blur,), {"single": True})()])),
    ],
)
def test_where_the_number_of_views_is_fixed(fixed: Views) -> None:
    with pytest.raises(UserError, match=f"views is 3; this task makes its views of {fixed.views} itself"):
        fixed.changed({"views": 3})
    assert fixed.changed({"views": fixed.views}).views == fixed.views
    assert fixed.changed({"image": {"flip": {}}}).fixed == fixed.fixed


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"audio": {"gain": {"decibels": 1.0}}}, "audio"),
        ({"audio": {"noise": None}}, "audio"),
        ({"points": {"crop": {}}}, "points"),
        ({"points": []}, "points"),
        ({"video": {"flip": None}}, "video"),
        ({"small": {"points": {"crop": {}}}}, "points"),
        ({"imag": []}, "imag"),
    ],
)
def test_options_for_what_the_task_does_not_show(options: dict[str, Any], key: str) -> None:
    changed = simclr.view.changed({}) if "small" not in options else template().changed({"fields": {}})
    with pytest.raises(UserError, match=f"the view has options for {key}, but the task shows image"):
        changed(IMAGE, **options)


def test_options_for_what_the_task_shows_under_another_key() -> None:
    """By modality; and a template's own steps for what a task does not show are no mistake."""
    view = template().changed({"fields": {}})
    view({"image_left": ImagePreprocess(8)}, image={"flip": {"p": 1.0}})
    view(FILM, video={"flip": {"p": 1.0}})
    with pytest.raises(UserError, match="the view has options for image, but the task shows video"):
        simclr.view(FILM, image={"flip": {"p": 1.0}})


def test_probabilities_are_as_many_as_views() -> None:
    view = Views(2, image=[Blur(p=(1.0, 0.1))], small=Views(3, image=[Blur(p=0.5)]))
    with pytest.raises(UserError, match=r"blur.p is \(1.0, 0.1\); .* or 3, one for each view"):
        view(IMAGE, views=3)
    view(IMAGE, views=3, image={"blur": {"p": 0.5}})
    view(IMAGE, small={"image": {"blur": {"p": (0.1, 0.2, 0.3)}}})


# Code of one's own.


@dataclass(kw_only=True)
class Darken(OnDevice):
    """Makes images darker.

    factor: by which.
    p: the probability.
    """

    factor: float = 0.5
    p: Chance = 1.0

    def on_device(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor if one(self.p) == 1 else x


class Reverse(Transform):
    """Reads a pulse backwards: a step on a modality of one's own, without options."""

    def __call__(self, raw: Any) -> Any:
        return raw[::-1]


class PulsePreprocess(Preprocess):
    modality = "pulse"

    def __call__(self, raw: Any) -> torch.Tensor:
        return torch.tensor(raw)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that lies on the Python path."""
    package = ModuleType("mine")
    package.__path__ = []  # type: ignore[attr-defined]
    steps = ModuleType("mine.steps")
    for each in (Darken, Reverse, ImagePreprocess):
        setattr(steps, each.__name__, each)
    monkeypatch.setitem(sys.modules, "mine", package)
    monkeypatch.setitem(sys.modules, "mine.steps", steps)


@pytest.mark.usefixtures("script")
def test_steps_of_ones_own_by_their_path() -> None:
    items = [{"name": "mine.steps:Darken", "factor": 0.25, "p": [0.0, 1.0]}, "flip"]
    view = simclr.view(IMAGE, image=items)
    assert view.steps["image"] == [[Darken(factor=0.25, p=0.0), Flip()], [Darken(factor=0.25, p=1.0), Flip()]]
    white = torch.ones(1, 3, 8, 8)
    first, second = view.on_device(Batch({"image": [white, white]})).views["image"]
    assert (first.unique().tolist(), second.unique().tolist()) == ([1.0], [0.25])
    later = simclr.view.changed({"image": items}).changed({"image": {"darken": {"factor": 0.1}}})
    assert of_modality(later) == [Darken(factor=0.1, p=(0.0, 1.0)), Flip()], "by its name, once it is there"
    with pytest.raises(UserError, match=r"image\[0\]: Darken has no option 'facto'; did you mean 'factor'?"):
        simclr.view(IMAGE, image=[{"name": "mine.steps:Darken", "facto": 1}])
    with pytest.raises(UserError, match="'mine.steps:ImagePreprocess' is none of the transforms"):
        simclr.view(IMAGE, image=[{"name": "mine.steps:ImagePreprocess"}])


@pytest.mark.usefixtures("script")
def test_steps_on_a_modality_of_ones_own() -> None:
    view = Views(1)({"pulse": PulsePreprocess()}, pulse=[{"name": "mine.steps:Reverse"}])
    assert view({"pulse": [1, 2, 3]})["pulse"][0].tolist() == [3, 2, 1]
    assert Views(1, pulse=[Reverse()])({"pulse": PulsePreprocess()}, pulse=[])({"pulse": [1, 2]})["pulse"][0][0] == 1
    with pytest.raises(UserError, match="reverse is no step for image; see mmssl.transforms.base"):
        simclr.view(IMAGE, image=[{"name": "mine.steps:Reverse"}])


@pytest.mark.parametrize(
    "node", [{"mine.steps:Darken": {}}, ["mine.steps:Darken"], {"crop": {}, "mine.steps:Darken": {"factor": 0.1}}]
)
@pytest.mark.usefixtures("script")
def test_code_is_named_under_name_alone(node: Any) -> None:
    """There a stranger's recipe is searched for it, and nowhere else."""
    with pytest.raises(UserError, match="there is no step 'mine.steps:Darken' for image"):
        simclr.view.changed({"image": node})


def test_a_strangers_recipe_names_no_steps_of_other_code() -> None:
    for view in (
        {"image": [{"name": "elsewhere.steps:Darken"}]},
        {"small": {"image": [{"name": "elsewhere.steps:Darken"}]}},
    ):
        tree = {
            "encoders": {"image": {"name": "convnet"}},
            "tasks": {"swav": {"data": {"shards": "x.tar"}, "method": {"name": "swav", "view": view}, "batch": 2}},
        }
        with pytest.raises(UserError, match="'elsewhere.steps:Darken' names code outside mmssl"):
            recipe.check(tree, trust_code=False)
        with pytest.raises(UserError, match="there is no module 'elsewhere'"):
            recipe.check(tree)


def test_what_a_template_builds_is_of_its_kind_and_what_it_leaves() -> None:
    class Mine(Composed):
        """A View of one's own.

        pace: how fast.
        """

        def __init__(self, preprocess: Any, template: Views, *, pace: float = 1.0) -> None:
            super().__init__(preprocess, template)
            self.pace = pace

    Mine.__init__.__annotations__ |= {"template": Any}
    view = Views(1, kind=Mine, image=[Crop()], guards={"slow": {"pace": 2.0}})
    assert view(IMAGE, pace=3).pace == 3.0
    assert view(IMAGE).guards == {"slow": {"pace": 2.0}}
    with pytest.raises(UserError, match="pace is 'x'; expected float"):
        view(IMAGE, pace="x")
    assert Method(view, Objective).view is view
    shown = view(IMAGE, image={"crop": {"scale": (1.0, 1.0)}})({"image": Image.new("RGB", (9, 9), "red")})
    assert shown["image"][0][:, 0, 0].tolist() == [255, 0, 0]


def test_points_have_steps_of_their_own_of_the_same_names() -> None:
    made = Views(1).changed({"points": {"crop": {"share": [0.5, 1]}}, "image": {"crop": {"size": 4}}})
    made({"points": PointsPreprocess(None), **IMAGE})
    with pytest.raises(UserError, match="points.crop: Crop has no option 'size'; known: share"):
        Views(1).changed({"points": {"crop": {"size": 4}}})
