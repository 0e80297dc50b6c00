"""One view of each modality, or several; those that last share one random moment of the clip."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from PIL.Image import Image
from torch import Tensor

from mmssl.errors import DamagedError, UserError
from mmssl.modalities import points as clouds
from mmssl.modalities import text as texts
from mmssl.numerics.color import as_unit
from mmssl.transforms import audio, color, image, points, text, video
from mmssl.types import Batch, Preprocess, Sample, View

Chance = float | tuple[float, ...]
"""A probability, or one for each view."""

PICTURES = "set crop_scale, flip, color_jitter, grayscale, blur or solarize"
CHANGED_BY = {  # modality -> what sets two views of it apart
    "image": PICTURES,
    "video": PICTURES,
    "audio": "set gain, noise, speed or time_mask",
    "points": "set rotation, point_jitter, point_scale or point_crop",
    "text": "give each sample several captions, or show one view",
}


class Single(View):
    """Shows each modality once: a random square crop, a random moment of picture and sound, one caption of several.

    crop_scale, crop_ratio: the crop's share of the area, its width over its height; the rest is off by default, since
    captions name sides and colours. flip: a probability. color_jitter, grayscale, blur, solarize: probabilities, or
    one for each view; of a film all frames alike; jitter: most change of brightness, contrast, saturation and hue.
    gain: up to so many decibels louder or softer; noise: up to this share of the sound's own power; speed: range of
    factors; time_mask: up to this share of the window is silenced. rotation, point_jitter (metres), point_scale,
    point_crop (share of the points, around a random one): of a cloud. views: how often all of it is drawn.
    Raises DamagedError for a sample whose several views could only be alike: one caption, or a window as long as it is.
    """

    def __init__(
        self,
        preprocess: Mapping[str, Preprocess],
        *,
        crop_scale: tuple[float, float] = (0.9, 1.0),
        crop_ratio: tuple[float, float] = (1.0, 1.0),
        flip: float = 0.0,
        color_jitter: Chance = 0.0,
        jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1),
        grayscale: Chance = 0.0,
        blur: Chance = 0.0,
        solarize: Chance = 0.0,
        gain: float = 0.0,
        noise: float = 0.0,
        speed: tuple[float, float] = (1.0, 1.0),
        time_mask: float = 0.0,
        rotation: Literal["none", "vertical", "any"] = "none",
        point_jitter: float = 0.0,
        point_scale: tuple[float, float] = (1.0, 1.0),
        point_crop: tuple[float, float] = (1.0, 1.0),
        views: int = 1,
    ) -> None:
        super().__init__(preprocess)
        if views < 1:
            raise UserError(f"views is {views}; expected at least 1")
        self.views, self.shows = views, dict.fromkeys(preprocess, views)
        self.prepare: Mapping[str, Any] = self.preprocess
        self.crop_scale = image.check_range("crop_scale", crop_scale, 0.01, 1.0)
        self.crop_ratio = image.check_range("crop_ratio", crop_ratio, 0.1, 10.0)
        (self.flip,) = chances("flip", flip, 1)
        self.jitter = dict(zip(("brightness", "contrast", "saturation", "hue"), jitter, strict=True))
        given = {"color_jitter": color_jitter, "grayscale": grayscale, "blur": blur, "solarize": solarize}
        self.chances = [dict(zip(given, per, strict=True)) for per in zip(*self._per_view(given), strict=True)]
        self.gain, self.noise, self.time_mask = gain, noise, time_mask
        self.speed = image.check_range("speed", speed, 0.1, 10.0)
        self.rotation, self.point_jitter = rotation, point_jitter
        self.point_scale = image.check_range("point_scale", point_scale, 0.01, 100.0)
        self.point_crop = image.check_range("point_crop", point_crop, 0.01, 1.0)

    def check(self) -> None:
        for name in self.preprocess if self.views > 1 else ():
            if not self.varies(name) and not self._in_time(name) and name != "text":
                way = CHANGED_BY.get(name, "choose or write a View that changes them")
                raise UserError(f"nothing sets the {self.views} views of {name} apart, they would be all alike; {way}")

    def varies(self, name: str) -> bool:
        """Tells whether options set several views of a modality apart by chance, apart from moment and caption."""
        if name in ("image", "video"):
            return self.crop_scale[0] < 1 or 0 < self.flip < 1 or self._recolored(self.chances[: self.views])
        if name == "audio":
            return bool(self.gain or self.noise or self.time_mask) or self.speed[0] < self.speed[1]
        if name == "points":
            moved = self.rotation != "none" or self.point_jitter > 0
            return moved or self.point_scale[0] < self.point_scale[1] or self.point_crop[0] < 1
        return name != "text" and hasattr(self, f"_{name}")

    def _recolored(self, chances: Sequence[Mapping[str, float]]) -> bool:
        """Tells whether views with these probabilities differ: by chance, by strength, or since each has its own."""
        strengths = {"color_jitter": any(self.jitter.values()), "blur": True}
        return any(
            each != chances[0] or any(p and strengths.get(name, p < 1) for name, p in each.items()) for each in chances
        )

    def _in_time(self, name: str) -> bool:
        """Tells whether a modality is shown by windows, which lie at other moments where a sample has room."""
        return name in ("video", "audio") and self._span(name) > 0

    def _check_sample(self, shown: Sample, moments: Sequence[float]) -> None:
        """Raises DamagedError for a sample of which several views are alike."""
        for name, raw in shown.items():
            choices = texts.load(raw) if name == "text" else ()
            alone = isinstance(choices, str) or len(set(choices)) == 1
            still = self._in_time(name) and len(set(moments)) == 1
            if (alone or still) and not self.varies(name):
                raise DamagedError("several views that are all alike", f"{name}; {CHANGED_BY[name]}")

    def _per_view(self, given: Mapping[str, Chance]) -> list[list[float]]:
        return [chances(name, value, self.views) for name, value in given.items()]

    def __call__(self, sample: Sample) -> Sample:
        shown = {name: sample[name] for name in self.preprocess if sample.get(name) is not None}
        if "video" in shown:
            shown["video"] = self.prepare["video"].opened(shown["video"])
        if "audio" in shown:  # a second window costs as much as the rest of a sound twice as long
            longest = 2 * self.views * self.prepare["audio"].seconds if self.views > 1 else 0.0
            shown["audio"] = self.prepare["audio"].whole(shown["audio"], longest=longest)
        moments = [self._moment(shown) for _ in range(self.views)]
        if self.views > 1:
            self._check_sample(shown, moments)
        return {name: [self._show(name, raw, moment) for moment in moments] for name, raw in shown.items()}

    def on_device(self, batch: Batch) -> Batch:
        """Changes colour and sharpness of pictures and films; all views are then floats."""
        if not any(any(per_view.values()) for per_view in self.chances):
            return batch
        for name in {"image", "video"} & batch.views.keys():
            batch.views[name] = [self._colored(x, c) for x, c in zip(batch.views[name], self.chances, strict=True)]
        return batch

    def _colored(self, x: Tensor, chances: Mapping[str, float]) -> Tensor:
        x = as_unit(x)
        if chances["color_jitter"] or chances["grayscale"]:
            x = color.color_jitter(x, jittered=chances["color_jitter"], grayscale=chances["grayscale"], **self.jitter)
        if chances["blur"]:
            x = color.blur(x, share=chances["blur"])
        return color.solarize(x, share=chances["solarize"]) if chances["solarize"] else x

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
        return self._crop(image.opened(raw, time=moment), self.prepare["image"].size, self.crop_scale)

    def _crop(self, picture: Image, size: int, scale: tuple[float, float]) -> Tensor:
        way = self.prepare["image"].interpolation
        cut = image.random_crop(picture, size, scale=scale, ratio=self.crop_ratio, interpolation=way)
        return image.to_tensor(image.flip(cut) if image.chance(self.flip) else cut)

    def _video(self, clip: Any, moment: float) -> Tensor:
        preprocess = self.prepare["video"]
        times = preprocess.times(clip, moment - preprocess.span / 2 if preprocess.span else 0.0)
        pictures = video.random_crop(clip, times, preprocess.size, scale=self.crop_scale, ratio=self.crop_ratio)
        return video.to_tensor(video.flip(pictures) if image.chance(self.flip) else pictures)

    def _audio(self, sound: Any, moment: float) -> Tensor:
        preprocess = self.prepare["audio"]
        samples = preprocess.window(sound, moment - preprocess.seconds / 2)
        if self.speed != (1.0, 1.0):
            samples = audio.speed(samples, factor=random.uniform(*self.speed))
        if self.gain:
            samples = audio.gain(samples, decibels=(-self.gain, self.gain))
        if self.noise:
            samples = audio.noise(samples, power=random.uniform(0, self.noise))
        return audio.time_mask(samples, share=random.uniform(0, self.time_mask)) if self.time_mask else samples

    def _points(self, raw: Any, _moment: float) -> Tensor:
        preprocess = self.prepare["points"]
        cloud = clouds.load(raw)
        if self.point_crop != (1.0, 1.0):
            cloud = cloud.pick(points.crop_index(cloud, random.uniform(*self.point_crop)))
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


def chances(name: str, given: Chance, views: int) -> list[float]:
    """Returns a probability for each view; UserError for another number of them, or one outside 0 to 1."""
    found = list(given) if isinstance(given, tuple) else [given] * views
    if len(found) != views or not all(0 <= p <= 1 for p in found):
        raise UserError(f"{name} is {given}; expected a probability from 0 to 1, or {views}, one for each view")
    return found


view = Single
