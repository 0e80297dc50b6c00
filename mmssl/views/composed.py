"""A View made of small steps: what each modality goes through, once for each view."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from mmssl.errors import LackingError, UserError
from mmssl.modalities import points as clouds
from mmssl.modalities import text as texts
from mmssl.transforms import fields, image, text, video
from mmssl.transforms.audio import Excerpt
from mmssl.transforms.base import Frame, Geometric, OnBatch, OnDevice, OnSource, Step
from mmssl.transforms.frames import filmed, windowed_frames
from mmssl.transforms.image import Crop
from mmssl.transforms.ordered import OrderedFrames, windowed
from mmssl.transforms.point_steps import OnCloud, OnFeatures, Placed, thinned
from mmssl.types import Batch, Preprocess, Sample, View
from mmssl.views.checks import (
    Steps,
    check_fields,
    check_keys,
    check_moments,
    check_sample,
    check_steps,
    check_views,
    window,
)
from mmssl.views.device import DeviceSteps, followers
from mmssl.views.template import Views
from mmssl.views.whole import check_whole, cut, first_frame, is_cropped

VISUAL = ("image", "video")


class Composed(View):
    """Shows each modality in one or several views, those that last around one random moment of the sample.

    Encoders of one modality are shown the same: one draw, laid out for each. Raises LackingError for a sample whose
    several views could only be alike: one caption, or a window as long as it is.
    """

    def __init__(self, preprocess: Mapping[str, Preprocess], template: Views) -> None:
        super().__init__(preprocess)
        self.guards = template.guards
        self.after = list(template.after)
        self.prepare: dict[str, Any] = dict(preprocess)
        self.aligned: dict[str, fields.Kind] = dict(template.fields)
        self.steps = {key: template.steps(key, each.modality) for key, each in self.prepare.items()}
        self.tasks = self._tasks()
        self.prepare |= {key: windowed(self.prepare[key], steps) for key, steps in self.steps.items()}
        self.leader = self._leader()
        self.made = {step.field: step for step in self._steps_of(self.leader) if isinstance(step, OnSource)}
        self.aligned |= {name: cast("fields.Kind", step.kind) for name, step in self.made.items()}
        for key in self.aligned.keys() & self.prepare.keys():  # it moves with the leader, by no steps of its own
            self.steps[key] = [[] for _ in self.steps.get(self.leader, ())]
        self.shows = {key: len(steps) for key, steps in self.steps.items()}
        self.groups = dict(template.group_sizes())
        read = [
            *(self._field(key) for key in self.prepare),
            *(name for name in self.aligned if name not in self.made or self.made[name].changes),
        ]
        self.reads = tuple(dict.fromkeys(read))
        self.followers = followers({key: self._field(key) for key in self.prepare if self._is_seen(key)})
        for key in self.followers:
            del self.preprocess[key]
        self._check(template)
        self.on_batch = self._on_batch()

    def _field(self, key: str) -> str:
        """Returns the field of a sample that a key's encoder reads."""
        return key if key in self.aligned else self.prepare[key].field

    def _tasks(self) -> dict[str, OrderedFrames]:
        """Returns what asks about the order of frames, by key, and gives each of its views the same steps."""
        found = {}
        for key, (steps, *_) in self.steps.items():
            for task in (step for step in steps if isinstance(step, OrderedFrames)):
                found[key], self.steps[key] = task, [steps] * task.shape[0]
        return found

    def _is_seen(self, key: str) -> bool:
        """Tells whether a key shows images or videos by steps of its own."""
        return self.prepare[key].modality in VISUAL and key not in self.aligned

    def _leader(self) -> str:
        """Returns the key with which aligned fields move: the first of an image, or else of a video.

        Frames whose order is asked about are each cut at a place of its own, with which nothing moves.
        """
        own = [key for key in self.prepare if self._is_seen(key) and key not in self.tasks]
        return min(own, key=lambda key: VISUAL.index(self.prepare[key].modality), default="")

    @staticmethod
    def _make(step: OnSource, whole: Any, sample: Sample) -> Any:
        return step.make(whole, given(sample, step.field) if step.changes else None)

    def on_batches(self) -> list[OnBatch]:
        """Returns the steps on the whole batch."""
        return [step for step in self.after if isinstance(step, OnBatch)]

    def _steps_of(self, key: str) -> Steps:
        """Returns the steps of a key's first view."""
        return next(iter(self.steps.get(key, ())), ())

    def _check(self, template: Views) -> None:
        check_keys(template.changed_keys, self.prepare)
        check_steps(self.steps, self.prepare)
        check_fields(self.aligned, template.modalities, self.leader, self.prepare)
        sides = {
            key: [self.side(key, steps) for steps in self.steps[key]] for key in self.prepare if self._is_seen(key)
        }
        for step in self.on_batches():
            step.check(self.prepare | {key: replace(self.prepare[key], size=side) for key, (side, *_) in sides.items()})

    def _on_batch(self) -> DeviceSteps:
        """Returns what a batch goes through on the accelerator."""
        keys = [key for key in self.preprocess if self.prepare[key].modality in (*VISUAL, "audio")]
        return DeviceSteps(
            {
                key: [[each for each in steps if isinstance(each, OnDevice)] for steps in self.steps[key]]
                for key in keys
            },
            {key: self.moving(key) for key in keys},
            frozenset(self.aligned.keys() & self.prepare.keys()),
            {key: (leader, self.prepare[key].size) for key, leader in self.followers.items()},
            self.after,
        )

    @property
    def chance(self) -> float | None:
        """What guessing the target gets right."""
        asking: list[Step] = [*self.after, *self.tasks.values()]
        return next((step.chance for step in asking if step.chance is not None), None)

    def check(self) -> None:
        own = {key: steps for key, steps in self.steps.items() if key not in self.aligned}
        check_views(own, self.prepare, self.groups)
        check_moments(own, self.prepare)

    def __call__(self, sample: Sample) -> Sample:
        opened = {key: self._opened(key, sample[self._field(key)]) for key in self._keys(sample)}
        moments = self._moments(opened)
        if self.leader in opened and self.made:
            whole = image.opened(opened[self.leader])
            sample = sample | {name: self._make(step, whole, sample) for name, step in self.made.items()}
        shown: Sample = {"places": {}, "fields": {}}
        for key, raw in opened.items():
            if self.shows[key] > 1:
                check_sample(key, raw, moments[: self.shows[key]], self.steps[key], self.prepare[key])
            self._show_all(key, raw, moments, sample, shown)
        return shown if opened else {}

    def _keys(self, sample: Sample) -> list[str]:
        """Returns the keys to be shown that a sample has, and of clouds one for all that share them."""
        found: dict[str, str] = {}
        for key in self.preprocess:
            if key not in self.aligned and sample.get(self._field(key)) is not None:
                found.setdefault(self._field(key) if self.prepare[key].modality == "points" else key, key)
        return list(found.values())

    def _opened(self, key: str, raw: Any) -> Any:
        prepare = self.prepare[key]
        if prepare.modality == "audio":  # a second window costs as much as the rest of a sound twice as long
            views = self.shows[key]
            return prepare.whole(raw, longest=2 * views * prepare.seconds if views > 1 else 0.0)
        return prepare.opened(raw) if prepare.modality == "video" else raw

    def _moments(self, opened: Mapping[str, Any]) -> list[float]:
        """Draws for each view the time (s) in the middle of every window, so that what is seen and heard is of one."""
        timed = {key: raw for key, raw in opened.items() if hasattr(raw, "duration")}
        span = max((window(self.prepare[key]) for key in timed), default=0.0)
        end = min((raw.duration for raw in timed.values()), default=0.0)
        count = max(self.shows.values())
        return [random.uniform(span / 2, end - span / 2) if span < end else end / 2 for _ in range(count)]

    def _show_all(self, key: str, raw: Any, moments: Sequence[float], sample: Sample, shown: Sample) -> None:
        """Adds a modality's views, their places, and what moves with them."""
        every = {
            "image": self._image,
            "video": self._video,
            "audio": self._audio,
            "points": self._points,
            "text": self._text,
        }
        show = every.get(self.prepare[key].modality)
        if key in self.tasks:
            self._asked(key, raw, shown)
            return
        for moment, steps in zip(moments, self.steps[key], strict=False):
            if show is None:
                shown.setdefault(key, []).append(self._other(key, raw, steps))
            else:
                show(key, raw, moment, steps, sample, shown)

    def _other(self, key: str, raw: Any, steps: Steps) -> Any:
        for step in steps:
            raw = step(raw)
        return self.prepare[key](raw)

    def _image(self, key: str, raw: Any, moment: float, steps: Steps, sample: Sample, shown: Sample) -> None:
        picture, prepare = image.opened(raw, time=moment), self.prepare[key]
        width, height = image.pictures.size(picture)
        frame, plain = self._framed(key, width, height, steps), prepare.frame(width, height)
        if is_cropped(steps) or (frame.box, frame.size) != (plain.box, plain.size):
            x = image.framed(picture, frame, interpolation=prepare.interpolation)
        else:
            x = prepare(picture)
            x = x.flip(2) if frame.mirrored else x
        self._add(key, x, torch.from_numpy(frame.place), frame, sample, shown)

    def _video(self, key: str, clip: Any, moment: float, steps: Steps, sample: Sample, shown: Sample) -> None:
        crop, size = next((step for step in steps if isinstance(step, Crop)), None), self.side(key, steps)
        min_size = video.needed_side(crop, size) if crop else size
        seen = windowed_frames(clip, moment, self.prepare[key], steps, min_size=min_size)
        height, width = seen.pictures.shape[1:3]
        frame = self._framed(key, width, height, steps, seen.motion)
        source = frame.at(*clip.size)  # images are decoded no larger than needed
        place = torch.zeros(3, 4)
        place[:2, [0, 1, 3]] = torch.from_numpy(source.place)
        place[2, 2:] = torch.tensor([seen.span, seen.start])
        self._add(key, filmed(seen.pictures, frame, steps), place, source, sample, shown)

    def _asked(self, key: str, clip: Any, shown: Sample) -> None:
        """Adds the views in which a task shows frames, the right answer, and when each frame comes."""
        question, steps = self.tasks[key].ask(), self.steps[key][0]
        pictures = self.tasks[key].take(clip, question.offsets)
        frame = self._framed(key, pictures.shape[2], pictures.shape[1], steps)
        frames = filmed(pictures, frame, steps)
        shown[key] = [frames[:, list(view)] for view in question.views]
        shown["target"], shown["extra"] = torch.tensor(question.target), {"order": question.order}

    def _framed(self, key: str, width: int, height: int, steps: Steps, motion: Tensor | None = None) -> Frame:
        """Draws which part of a source is shown."""
        frame = first_frame(self.prepare[key], steps, self.side(key, steps), width, height)
        frame.motion = motion
        for step in steps:
            if isinstance(step, Geometric):
                step.draw(frame)
        return frame

    def _add(self, key: str, x: Tensor, place: Tensor, frame: Frame, sample: Sample, shown: Sample) -> None:
        """Adds a view of an image or video, its place, and what moves with it."""
        shown.setdefault(key, []).append(x)
        shown["places"].setdefault(key, []).append(place)
        for name, kind in self.moving(key).items():
            value = fields.moved(kind, given(sample, name), frame)
            if name in self.prepare:
                shown.setdefault(name, []).append(self.prepare[name](value))
            else:
                shown["fields"].setdefault(key, {}).setdefault(name, []).append(value)

    def moving(self, key: str) -> dict[str, fields.Kind]:
        """Returns what of a sample moves with a key's views, by name, and its kind."""
        cloud = self.prepare[key].modality == "points"
        return {
            name: kind for name, kind in self.aligned.items() if (cloud if kind == "labels" else key == self.leader)
        }

    def side(self, key: str, steps: Steps) -> int:
        """Returns the side in pixels of a view as it leaves the data worker."""
        given: int = self.prepare[key].size
        needed, crop = self._needed_side(given, steps), next((step for step in steps if isinstance(step, Crop)), None)
        if needed and crop and crop.size:
            raise UserError(f"crop.size is {crop.size}, but steps behind it need {needed} pixels; leave size out")
        return needed or (crop.side(given) if crop else given)

    def _needed_side(self, given: int, steps: Steps) -> int | None:
        """Returns the side in pixels that a step on the device needs, or None where any will do."""
        wanted = [step.side(self.prepare) for step in self.on_batches()]
        wanted += [step.side(given) for step in [*steps, *self.after] if isinstance(step, OnDevice)]
        return next((side for side in wanted if side is not None), None)

    def _audio(self, key: str, sound: Any, moment: float, steps: Steps, _sample: Sample, shown: Sample) -> None:
        shown.setdefault(key, []).append(self.heard(key, sound, moment, steps))

    def heard(self, key: str, sound: Any, moment: float, steps: Steps) -> Tensor:
        """Returns what a view lets hear around a moment."""
        prepare = self.prepare[key]
        samples: Tensor = prepare.window(sound, moment - prepare.seconds / 2)
        for step in steps:
            samples = samples if isinstance(step, OnDevice) else step(samples)
        return samples

    def _points(self, key: str, raw: Any, _moment: float, steps: Steps, sample: Sample, shown: Sample) -> None:
        cloud = clouds.load(raw)
        self.add_cloud(key, self.stepped(key, Placed.whole(cloud), steps), steps, {**sample, "points": cloud}, shown)

    def stepped(self, key: str, view: Placed, steps: Steps) -> Placed:
        """Takes a cloud through its steps; behind the last that chooses points it is thinned for a lone encoder."""
        own = [step for step in steps if isinstance(step, OnCloud)]
        chosen = 1 + max((number for number, step in enumerate(own) if step.selects), default=-1)
        for step in own[:chosen]:
            view = step(view)
        view = thinned(view, self.prepare[key].points) if len(self._sharing(key)) == 1 else view
        for step in own[chosen:]:
            view = step(view)
        return view

    def _sharing(self, key: str) -> list[str]:
        """Returns the keys that are shown the same cloud."""
        return [each for each in self.preprocess if self._field(each) == self._field(key)]

    def add_cloud(self, key: str, view: Placed, steps: Steps, sample: Sample, shown: Sample) -> None:
        """Adds a view of a sample's cloud for each encoder that reads it, its place, and the labels of its points."""
        for each in self._sharing(key):
            mine = thinned(view, self.prepare[each].points)
            columns = self.prepare[each].columns(mine.cloud)
            for step in steps:
                if isinstance(step, OnFeatures):
                    columns[:, 3:] = step(columns[:, 3:])
            shown.setdefault(each, []).append(columns)
            shown["places"].setdefault(each, []).append(mine.place(columns))
            for name in self.moving(each):
                labels = fields.labels_of(given(sample, name), sample["points"], mine.index)
                shown["fields"].setdefault(each, {}).setdefault(name, []).append(labels)

    def _text(self, key: str, raw: Any, _moment: float, _steps: Steps, _sample: Sample, shown: Sample) -> None:
        shown.setdefault(key, []).append(self.prepare[key](text.choose(texts.load(raw))))

    def blanks(self, modality: str) -> list[Any]:
        """Returns what stands in for a modality's views in a sample that lacks it, images of their own sizes."""
        blank, steps = self.prepare[modality].blank(), self.steps[modality]
        if self.prepare[modality].modality == "audio":
            return [blank[: heard_length(view, len(blank))] for view in steps]
        if self.prepare[modality].modality not in VISUAL:
            return [blank] * self.shows[modality]
        return [blank.new_zeros(*blank.shape[:-2], *(self.side(modality, view),) * 2) for view in steps]

    def blank_places(self, modality: str) -> list[Tensor]:
        """Returns identities, where the View says places."""
        axes = {"image": 2, "video": 3, "points": 3}.get(self.prepare[modality].modality, 0)
        placed = axes and modality not in self.aligned.keys() | self.tasks.keys()
        return [torch.eye(axes, axes + 1) for _ in self.steps[modality]] if placed else []

    def blank_fields(self, modality: str) -> dict[str, list[Any]]:
        """Returns zeros, and no rows, of each field that moves with its views and is no encoder's."""
        moving = {name: kind for name, kind in self.moving(modality).items() if name not in self.prepare}
        flat = self.prepare[modality].modality in VISUAL
        sides = [self.side(modality, view) if flat else 0 for view in self.steps[modality]]
        return {name: [fields.blank(kind, side) for side in sides] for name, kind in moving.items()}

    def holds(self) -> tuple[str, str]:
        if type(self).__call__ is not Composed.__call__:
            return super().holds()
        key = next(iter(self.preprocess))
        check_whole([*self.preprocess], self.prepare[key].modality, [*self.aligned], self.steps[key])
        return key, self._field(key)

    def cut(self, batch: Batch) -> Batch:
        (key,) = batch.views
        steps = self.steps[key]
        return cut(batch, key, self.prepare[key], steps, [self.side(key, each) for each in steps])

    def on_device(self, batch: Batch) -> Batch:
        return self.on_batch(batch)


def heard_length(steps: Steps, samples: int) -> int:
    """Returns how many samples of a sound steps leave."""
    for step in steps:
        samples = step.length(samples) if isinstance(step, Excerpt) else samples
    return samples


def given(sample: Sample, name: str) -> Any:
    """Returns a field of a sample; LackingError where it lacks it."""
    if sample.get(name) is None:
        raise LackingError(f"a sample without {name}")
    return sample[name]
