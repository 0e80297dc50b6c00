"""One view of each modality, or several; those that last share one random moment of the clip."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from mmssl.errors import UserError
from mmssl.modalities import points as clouds
from mmssl.modalities import text as texts
from mmssl.transforms import audio, image, points, text, video
from mmssl.types import Preprocess, Sample, View


class Single(View):
    """Shows each modality once: a random square crop, a random moment of picture and sound, one caption of several.

    crop_scale: the crop's share of the area; the rest is off by default, since captions name sides and colours.
    flip, color_jitter, grayscale, blur: probabilities. gain: up to so many decibels louder or softer.
    rotation, point_jitter (metres), point_scale: of a cloud. views: how often all of it is drawn.
    """

    def __init__(
        self,
        preprocess: Mapping[str, Preprocess],
        *,
        crop_scale: tuple[float, float] = (0.9, 1.0),
        flip: float = 0.0,
        color_jitter: float = 0.0,
        grayscale: float = 0.0,
        blur: float = 0.0,
        gain: float = 0.0,
        rotation: Literal["none", "vertical", "any"] = "none",
        point_jitter: float = 0.0,
        point_scale: tuple[float, float] = (1.0, 1.0),
        views: int = 1,
    ) -> None:
        super().__init__(preprocess)
        self.prepare: Mapping[str, Any] = self.preprocess
        for name, chance in {"flip": flip, "color_jitter": color_jitter, "grayscale": grayscale, "blur": blur}.items():
            if not 0 <= chance <= 1:
                raise UserError(f"{name} is {chance}; expected a probability from 0 to 1")
        self.crop_scale = image.check_range("crop_scale", crop_scale, 0.01, 1.0)
        self.flip, self.color_jitter, self.grayscale, self.blur = flip, color_jitter, grayscale, blur
        self.gain, self.rotation, self.point_jitter = gain, rotation, point_jitter
        self.point_scale = image.check_range("point_scale", point_scale, 0.01, 100.0)
        if views < 1:
            raise UserError(f"views is {views}; expected at least 1")
        self.views, self.shows = views, dict.fromkeys(preprocess, views)

    def __call__(self, sample: Sample) -> Sample:
        shown = {name: sample[name] for name in self.preprocess if sample.get(name) is not None}
        for name in ("video", "audio"):
            if name in shown:
                shown[name] = self.prepare[name].opened(shown[name])
        moments = [self._moment(shown) for _ in range(self.views)]
        return {name: [self._show(name, raw, moment) for moment in moments] for name, raw in shown.items()}

    def _show(self, name: str, raw: Any, moment: float) -> Any:
        """Shows one modality; of a modality that this file does not know, what its encoder's preprocessing makes."""
        show = getattr(self, f"_{name}", None)
        return self.prepare[name](raw) if show is None else show(raw, moment)

    def _moment(self, shown: Sample) -> float:
        """Draws the time (s) in the middle of every window, so that picture and sound belong together."""
        timed = {name: raw for name, raw in shown.items() if hasattr(raw, "duration")}
        span = max((self._span(name) for name in timed), default=0.0)
        end = min((raw.duration for raw in timed.values()), default=0.0)
        return random.uniform(span / 2, end - span / 2) if span < end else end / 2

    def _span(self, name: str) -> float:
        """Returns how many seconds a modality's window lasts; a picture, or a whole clip, needs no room."""
        preprocess = self.prepare[name]
        return {"video": lambda: preprocess.span or 0.0, "audio": lambda: preprocess.seconds}.get(name, float)()

    def _image(self, raw: Any, moment: float) -> Tensor:
        size, way = self.prepare["image"].size, self.prepare["image"].interpolation
        picture = image.opened(raw, time=moment)
        picture = image.random_crop(picture, size, scale=self.crop_scale, ratio=(1.0, 1.0), interpolation=way)
        changes = (
            (self.flip, image.flip),
            (self.color_jitter, image.color_jitter),
            (self.grayscale, image.grayscale),
            (self.blur, image.blur),
        )
        for probability, change in changes:
            if image.chance(probability):
                picture = change(picture)
        return image.to_tensor(picture)

    def _video(self, clip: Any, moment: float) -> Tensor:
        preprocess = self.prepare["video"]
        times = preprocess.times(clip, moment - preprocess.span / 2 if preprocess.span else 0.0)
        pictures = video.random_crop(clip, times, preprocess.size, scale=self.crop_scale, ratio=(1.0, 1.0))
        return video.to_tensor(video.flip(pictures) if image.chance(self.flip) else pictures)

    def _audio(self, sound: Any, moment: float) -> Tensor:
        preprocess = self.prepare["audio"]
        samples = preprocess.window(sound, moment - preprocess.seconds / 2)
        return audio.gain(samples, decibels=(-self.gain, self.gain)) if self.gain else samples

    def _points(self, raw: Any, _moment: float) -> Tensor:
        preprocess = self.prepare["points"]
        cloud = clouds.load(raw)
        if preprocess.points is not None:
            cloud = points.subsample(cloud, preprocess.points)
        if self.rotation != "none":
            cloud = points.rotate(cloud, points.random_rotation(axis=self.rotation))
        if self.point_scale != (1.0, 1.0):
            cloud = points.random_scale(cloud, scale=self.point_scale)
        if self.point_jitter:
            cloud = points.jitter(cloud, sigma=self.point_jitter)
        return preprocess.columns(cloud)

    def _text(self, raw: Any, _moment: float) -> str:
        return self.prepare["text"](text.choose(texts.load(raw)))


view = Single
