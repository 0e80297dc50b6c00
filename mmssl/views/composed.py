"""A View made of small steps: what each modality goes through, once for each view."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.errors import DamagedError, UserError
from mmssl.modalities import points as clouds
from mmssl.modalities import text as texts
from mmssl.numerics.color import as_unit
from mmssl.numerics.geometry import compose
from mmssl.transforms import fields, image, points, text, video
from mmssl.transforms.base import Frame, Geometric, OnBatch, OnDevice, Step, step_name
from mmssl.transforms.catalog import CATALOG
from mmssl.transforms.color import Linear, recolored
from mmssl.transforms.image import Crop
from mmssl.transforms.points import OnCloud, Placed
from mmssl.types import Batch, Preprocess, Sample, Transform, View

if TYPE_CHECKING:
    from mmssl.views.template import Views

Steps = Sequence[Transform]
VISUAL = ("image", "video")
ADVICE = {  # modality -> what sets two views of it apart
    "image": "set image.crop.scale, or add flip, color_jitter, grayscale, blur or solarize",
    "video": "set video.crop.scale, or add flip, color_jitter, grayscale, blur or solarize",
    "audio": "add audio.gain, noise, speed or time_mask",
    "points": "add points.rotate, jitter, scale or crop",
    "text": "give each sample several captions, or show one view",
}


class Composed(View):
    """Shows each modality in one or several views, those that last around one random moment of the sample.

    Encoders of one modality are shown the same: one draw, laid out for each. Raises DamagedError for a sample whose
    several views could only be alike: one caption, or a window as long as it is.
    """

    def __init__(self, preprocess: Mapping[str, Preprocess], template: Views) -> None:
        super().__init__(preprocess)
        self.guards = template.guards
        self.after: list[OnBatch] = list(template.after)
        self.prepare: Mapping[str, Any] = dict(preprocess)
        self.aligned = dict(template.fields)
        self.steps = {key: template.steps(key, each.modality) for key, each in self.prepare.items()}
        self.leader = self._leader()
        for key in self.aligned.keys() & self.prepare.keys():  # it moves with the leader, by no steps of its own
            self.steps[key] = [[] for _ in self.steps.get(self.leader, ())]
        self.shows = {key: len(steps) for key, steps in self.steps.items()}
        self.views, self.groups = template.views, template.group_sizes()
        self.reads = tuple(dict.fromkeys([*(self._field(key) for key in self.prepare), *self.aligned]))
        self.followers = self._followers()
        for key in self.followers:
            del self.preprocess[key]
        self._check_options(template)
        self._check_fields(template)

    def _field(self, key: str) -> str:
        """Returns the field of a sample that a key's encoder reads."""
        return key if key in self.aligned else self.prepare[key].modality

    def _leader(self) -> str:
        """Returns the key with which aligned fields move: the first of an image, or else of a video."""
        own = {key: self.prepare[key].modality for key in self.prepare if key not in self.aligned}
        return next((key for modality in VISUAL for key in own if own[key] == modality), "")

    def _followers(self) -> dict[str, str]:
        """Returns key -> the first key that reads the same images or videos, from which the device makes its own."""
        leaders: dict[str, str] = {}
        found: dict[str, str] = {}
        for key, prepare in self.prepare.items():
            if prepare.modality in VISUAL and key not in self.aligned:
                leader = leaders.setdefault(self._field(key), key)
                found |= {} if leader == key else {key: leader}
        return found

    def _check_options(self, template: Views) -> None:
        for step in self.after:
            step.check(self.prepare)
        known = {*self.prepare, *(each.modality for each in self.prepare.values())}
        for key in template.changed_keys:
            if key not in known:
                raise UserError(f"the view has options for {key}, but the task shows {', '.join(self.prepare)}")
        for key, views in self.steps.items():
            for each in (each for steps in views for each in steps):
                self._check_step(key, each)
            if self.prepare[key].modality in VISUAL:
                self.blanks(key)  # which asks for their sides

    def _check_step(self, key: str, step: Transform) -> None:
        """Raises UserError for a step that its modality would pass over."""
        modality = self.prepare[key].modality
        if modality not in step.modalities and (modality in CATALOG or step.modalities):
            works = f"it works on {' and '.join(step.modalities)}" if step.modalities else "see mmssl.transforms.base"
            name = step_name(type(step))
            raise UserError(f"{name} is no step for {modality}; {works}; leave it out by view.{modality}.{name}=null")

    def _check_fields(self, template: Views) -> None:
        """Raises UserError for fields that have nothing to move with, or steps of their own."""
        clouds = any(each.modality == "points" for each in self.prepare.values())
        for name, kind in self.aligned.items():
            if not (clouds if kind == "labels" else self.leader):
                needed = "points" if kind == "labels" else "an image or video"
                raise UserError(f"view.fields.{name} moves with {needed}, but the task shows {', '.join(self.prepare)}")
            if name in template.modalities:
                raise UserError(f"the view has steps for {name}, which moves with {self.leader}; leave them out")

    @property
    def chance(self) -> float | None:
        """What guessing the target gets right."""
        return next((step.chance for step in self.after if step.chance is not None), None)

    # What several views must differ in.

    def check(self) -> None:
        start = 0
        for name, count in self.groups:
            for key, steps in self.steps.items():
                mine = steps[start : start + count]
                if len(mine) > 1 and not self._set_apart(key, mine):
                    way = ADVICE.get(self.prepare[key].modality, "give the modality steps that change it")
                    where = f"{name}'s " if name else ""
                    raise UserError(
                        f"nothing sets {where}{len(mine)} views of {key} apart, they would be all alike; {way}"
                    )
            start += count

    def _set_apart(self, key: str, steps: Sequence[Steps]) -> bool:
        return key in self.aligned or self._in_time(key) or key == "text" or self.varies(key, steps)

    def varies(self, key: str, steps: Sequence[Steps] | None = None) -> bool:
        """Tells whether steps set several views of a modality apart, apart from moment and caption."""
        steps = self.steps[key] if steps is None else steps
        moved = any(not isinstance(step, Step) or step.varies() for view in steps for step in view)
        return moved or any(view != steps[0] for view in steps)

    def _in_time(self, key: str) -> bool:
        """Tells whether a modality is shown by windows, which lie at other moments where a sample has room."""
        return self._span(key) > 0

    def _span(self, key: str) -> float:
        """Returns how many seconds a modality's window lasts; an image, or a whole clip, needs no room."""
        prepare = self.prepare[key]
        return {"video": lambda: prepare.span or 0.0, "audio": lambda: prepare.seconds}.get(prepare.modality, float)()

    def _check_sample(self, key: str, raw: Any, moments: Sequence[float]) -> None:
        """Raises DamagedError for a sample of which several views are alike."""
        modality = self.prepare[key].modality
        choices = texts.load(raw) if modality == "text" else ()
        alone = modality == "text" and (isinstance(choices, str) or len(set(choices)) == 1)
        still = self._in_time(key) and len(set(moments)) == 1
        if (alone or still) and not self.varies(key):
            raise DamagedError("several views that are all alike", f"{key}; {ADVICE[modality]}")

    # In the data worker: one sample.

    def __call__(self, sample: Sample) -> Sample:
        opened = {key: self._opened(key, sample[self._field(key)]) for key in self._keys(sample)}
        moments = self._moments(opened)
        shown: Sample = {"places": {}, "fields": {}}
        for key, raw in opened.items():
            if self.shows[key] > 1:
                self._check_sample(key, raw, moments[: self.shows[key]])
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
        span = max((self._span(key) for key in timed), default=0.0)
        end = min((raw.duration for raw in timed.values()), default=0.0)
        count = max(self.shows.values())
        return [random.uniform(span / 2, end - span / 2) if span < end else end / 2 for _ in range(count)]

    def _show_all(self, key: str, raw: Any, moments: Sequence[float], sample: Sample, shown: Sample) -> None:
        """Adds a modality's views, their places, and what moves with them."""
        show = getattr(self, f"_{self.prepare[key].modality}", None)
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
        prepare, size = self.prepare[key], self.side(key, steps)
        span = clip.duration if prepare.span is None else prepare.span
        start = max(0.0, moment - span / 2) if prepare.span else 0.0
        crop = next((step for step in steps if isinstance(step, Crop)), None)
        pictures = clip.frames(prepare.times(clip, start), min_size=video.needed_side(crop, size) if crop else size)
        height, width = pictures.shape[1:3]
        frame = self._framed(key, width, height, steps)
        source = frame.at(*clip.size)  # pictures are decoded no larger than needed
        place = torch.zeros(3, 4)
        place[:2, [0, 1, 3]] = torch.from_numpy(source.place)
        place[2, 2:] = torch.tensor([span, start])
        self._add(key, video.framed(pictures, frame), place, source, sample, shown)

    def _framed(self, key: str, width: int, height: int, steps: Steps) -> Frame:
        """Draws which part of a source is shown; of all of it where there is a crop, of what is judged where not."""
        frame = Frame(width, height, 0) if is_cropped(steps) else self.prepare[key].frame(width, height)
        frame.size = self.side(key, steps)
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
        wanted = [step.side(self.prepare) for step in self.after]
        wanted += [step.side(given) for step in steps if isinstance(step, OnDevice)]
        return next((side for side in wanted if side is not None), None)

    def _audio(self, key: str, sound: Any, moment: float, steps: Steps, _sample: Sample, shown: Sample) -> None:
        shown.setdefault(key, []).append(self.heard(key, sound, moment, steps))

    def heard(self, key: str, sound: Any, moment: float, steps: Steps) -> Tensor:
        """Returns what a view lets hear around a moment."""
        prepare = self.prepare[key]
        samples: Tensor = prepare.window(sound, moment - prepare.seconds / 2)
        for step in steps:
            samples = step(samples)
        return samples

    def _points(self, key: str, raw: Any, _moment: float, steps: Steps, sample: Sample, shown: Sample) -> None:
        keys = [each for each in self.preprocess if self._field(each) == self._field(key)]
        view = Placed.whole(clouds.load(raw))
        count = len(view.index)
        choosing = [step for step in steps if isinstance(step, OnCloud) and step.selects]
        moving = [step for step in steps if isinstance(step, OnCloud) and not step.selects]
        for step in choosing:
            view = step(view)
        view = points.thinned(view, self.prepare[key].points) if len(keys) == 1 else view
        for step in moving:
            view = step(view)
        for each in keys:
            mine = points.thinned(view, self.prepare[each].points)
            columns = self.prepare[each].columns(mine.cloud)
            shown.setdefault(each, []).append(columns)
            shown["places"].setdefault(each, []).append(mine.place(columns))
            for name in self.moving(each):
                labels = fields.labels_of(given(sample, name), count, mine.index)
                shown["fields"].setdefault(each, {}).setdefault(name, []).append(labels)

    def _text(self, key: str, raw: Any, _moment: float, _steps: Steps, _sample: Sample, shown: Sample) -> None:
        shown.setdefault(key, []).append(self.prepare[key](text.choose(texts.load(raw))))

    def blanks(self, modality: str) -> list[Any]:
        """Returns what stands in for a modality's views in a sample that lacks it, images of their own sizes."""
        blank, steps = self.prepare[modality].blank(), self.steps[modality]
        if self.prepare[modality].modality not in VISUAL:
            return [blank] * self.shows[modality]
        return [blank.new_zeros(*blank.shape[:-2], *(self.side(modality, view),) * 2) for view in steps]

    def blank_places(self, modality: str) -> list[Tensor]:
        """Returns identities, where the View says places."""
        axes = {"image": 2, "video": 3, "points": 3}.get(self.prepare[modality].modality, 0)
        return (
            [torch.eye(axes, axes + 1) for _ in self.steps[modality]] if axes and modality not in self.aligned else []
        )

    def blank_fields(self, modality: str) -> dict[str, list[Any]]:
        """Returns zeros, and no rows, of each field that moves with its views and is no encoder's."""
        moving = {name: kind for name, kind in self.moving(modality).items() if name not in self.prepare}
        flat = self.prepare[modality].modality in VISUAL
        sides = [self.side(modality, view) if flat else 0 for view in self.steps[modality]]
        return {name: [fields.blank(kind, side) for side in sides] for name, kind in moving.items()}

    # On the accelerator: a batch.

    def on_device(self, batch: Batch) -> Batch:
        for key in self.preprocess:
            if self.prepare[key].modality in VISUAL and key in batch.views:
                self._change(key, batch)
        for key, leader in self.followers.items():
            self._follow(key, leader, batch)
        for step in self.after:
            batch = step.on_batch(batch)
            forget_places(batch)
        return batch

    def _change(self, key: str, batch: Batch) -> None:
        """Changes all views of a modality by their steps; where any changes, all are floats."""
        active = [[s for s in steps if isinstance(s, OnDevice) and s.active()] for steps in self.steps[key]]
        if not any(active):
            return
        made: list[Tensor] = []
        for number, (x, steps) in enumerate(zip(batch.views[key], active, strict=True)):
            made += self._changed(key, number, as_unit(x), steps, batch)
        batch.views[key] = made
        forget_places(batch)

    def _changed(self, key: str, number: int, x: Tensor, steps: Sequence[OnDevice], batch: Batch) -> list[Tensor]:
        """Returns a view (B, 3, ...) changed by steps, or the views (B, 3, ...) that a step made of it."""
        parts = 0
        for change in in_passes(steps):
            made = change(x)
            if isinstance(made, tuple):
                made, place = made
                self._move(key, number, place, x.shape[-2:], batch)
            if made.ndim > x.ndim:
                parts, made = made.shape[1], made.flatten(0, 1)
            x = made
        return list(x.unflatten(0, (-1, parts)).unbind(1)) if parts else [x]

    def _move(self, key: str, number: int, change: Tensor, shape: Any, batch: Batch) -> None:
        """Composes a view's place, and moves its fields, as its images moved on the device."""
        if key in batch.places:
            batch.places[key][number] = compose(change, batch.places[key][number])
        for name, kind in self.moving(key).items():
            values = batch.views[name] if name in self.prepare else batch.fields[key][name]
            values[number] = fields.warped(kind, values[number], change, tuple(shape))

    def _follow(self, key: str, leader: str, batch: Batch) -> None:
        """Gives an encoder the views of another that reads the same, at its own size."""
        size = self.prepare[key].size
        batch.views[key] = [resized(x, size) for x in batch.views[leader]]
        batch.extra[f"{key}_present"] = batch.present(leader)
        if leader in batch.places:
            batch.places[key] = batch.places[leader]


def is_cropped(steps: Steps) -> bool:
    """Tells whether a random part of an image or video is cut out."""
    return any(isinstance(step, Crop) for step in steps)


def given(sample: Sample, name: str) -> Any:
    """Returns a field of a sample; DamagedError where it lacks it."""
    if sample.get(name) is None:
        raise DamagedError(f"a sample without {name}")
    return sample[name]


def forget_places(batch: Batch) -> None:
    """Leaves out where views lie, and what moved with them, where a step made other views without saying it."""
    for key, views in batch.views.items():
        if len(batch.places.get(key, views)) != len(views):
            del batch.places[key]
        for name in [name for name, values in batch.fields.get(key, {}).items() if len(values) != len(views)]:
            del batch.fields[key][name]


def in_passes(steps: Sequence[OnDevice]) -> Iterator[Callable[[Tensor], Tensor | tuple[Tensor, Tensor]]]:
    """Yields what changes a batch, one after the other; linear changes of colour in a row are one."""
    for linear, same in groupby(steps, key=lambda step: isinstance(step, Linear)):
        if linear:
            yield partial(recolored, steps=cast("list[Linear]", list(same)))
        else:
            yield from (step.on_device for step in same)


def resized(x: Tensor, size: int) -> Tensor:
    """Scales images (B, 3, H, W) to a side."""
    if x.shape[-1] == size:
        return x
    return F.interpolate(as_unit(x), (size, size), mode="bicubic", antialias=True).clamp(0, 1)
