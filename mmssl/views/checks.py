"""What a view must be: steps that its modalities take, and several views that differ in something."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

from mmssl.errors import LackingError, UserError
from mmssl.modalities import text as texts
from mmssl.transforms.base import Step, step_name
from mmssl.transforms.catalog import CATALOG
from mmssl.transforms.fields import Kind
from mmssl.transforms.frames import Window
from mmssl.types import Transform

Steps = Sequence[Transform]
ADVICE = {  # modality -> what sets two views of it apart
    "image": "set image.crop.scale, or add flip, color_jitter, grayscale, blur or solarize",
    "video": "set video.crop.scale, or add flip, color_jitter, grayscale, blur or solarize",
    "audio": "add audio.gain, noise, speed or time_mask",
    "points": "add points.rotate, jitter, scale or crop",
    "text": "give each sample several captions, or show one view",
}


def check_steps(steps: Mapping[str, Sequence[Steps]], prepare: Mapping[str, Any]) -> None:
    """Raises UserError for a step that its modality would pass over. steps: key -> the steps of each view."""
    for key, views in steps.items():
        modality = prepare[key].modality
        for step in (step for each in views for step in each):
            if modality not in step.modalities and (modality in CATALOG or step.modalities):
                name, where = step_name(type(step)), " and ".join(step.modalities)
                works = f"it works on {where}" if where else "see mmssl.transforms.base"
                raise UserError(
                    f"{name} is no step for {modality}; {works}; leave it out by view.{modality}.{name}=null"
                )


def check_keys(keys: Iterable[str], prepare: Mapping[str, Any]) -> None:
    """Raises UserError for options of a modality that the task does not show."""
    known = {*prepare, *(each.modality for each in prepare.values())}
    for key in keys:
        if key not in known:
            raise UserError(f"the view has options for {key}, but the task shows {', '.join(prepare)}")


def check_fields(aligned: Mapping[str, Kind], own: Container[str], leader: str, prepare: Mapping[str, Any]) -> None:
    """Raises UserError for fields that have nothing to move with, or steps of their own.

    own: the keys that a template has steps for. leader: the key with which fields of images move, "" for none.
    """
    clouds = any(each.modality == "points" for each in prepare.values())
    for name, kind in aligned.items():
        if not (clouds if kind == "labels" else leader):
            needed = "points" if kind == "labels" else "an image or video whose frames keep their place"
            raise UserError(f"view.fields.{name} moves with {needed}, but the task shows {', '.join(prepare)}")
        if name in own:
            raise UserError(f"the view has steps for {name}, which moves with {leader}; leave them out")


def window(prepare: Any) -> float:
    """Returns how many seconds of a sample are shown at once; an image, or a whole clip, needs no room: 0."""
    if prepare.modality == "video":
        return prepare.span or 0.0
    return float(prepare.seconds) if prepare.modality == "audio" else 0.0


def vary(views: Sequence[Steps]) -> bool:
    """Tells whether steps set several views apart, apart from moment and caption."""
    moved = any(not isinstance(step, Step) or step.varies() for steps in views for step in steps)
    return moved or any(steps != views[0] for steps in views)


def check_views(steps: Mapping[str, Sequence[Steps]], prepare: Mapping[str, Any], groups: Mapping[str, int]) -> None:
    """Raises UserError where nothing sets the views of a group apart: neither steps, nor moment, nor caption.

    steps: key -> the steps of each view. groups: name, "" for the first, -> its number of views.
    """
    start = 0
    for name, count in groups.items():
        for key, every in steps.items():
            views, modality = every[start : start + count], prepare[key].modality
            if len(views) > 1 and not (window(prepare[key]) or modality == "text" or vary(views)):
                way = ADVICE.get(modality, "give the modality steps that change it")
                those = f"{name}'s {len(views)}" if name else f"{len(views)}"
                raise UserError(f"nothing sets {those} views of {key} apart, they would be all alike; {way}")
        start += count


def check_moments(steps: Mapping[str, Sequence[Steps]], prepare: Mapping[str, Any]) -> None:
    """Raises UserError where motion would choose the moment of a video while a sound keeps its own."""
    moving = [key for key, views in steps.items() for step in views[0] if isinstance(step, Window) and step.motion]
    heard = [key for key in steps if prepare[key].modality == "audio"]
    if moving and heard:
        raise UserError(
            f"view.{moving[0]}.window.motion chooses another moment than that of {heard[0]}; set it to null"
        )


def check_sample(key: str, raw: Any, moments: Sequence[float], views: Sequence[Steps], prepare: Any) -> None:
    """Raises LackingError for a sample of which several views are alike: one caption, or a window as long as it is."""
    choices = texts.load(raw) if prepare.modality == "text" else ()
    alone = prepare.modality == "text" and (isinstance(choices, str) or len(set(choices)) == 1)
    still = window(prepare) > 0 and len(set(moments)) == 1
    if (alone or still) and not vary(views):
        raise LackingError("several views that are all alike", f"{key}; {ADVICE[prepare.modality]}")
