"""Every option of every view changes what is shown: of each step of each template, shared or a method's own, of the
steps that recipes may add, and of the View classes; all are found here."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import random
import types
import typing
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache, reduce
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image

from mmssl import names
from mmssl.data.collate import collate
from mmssl.encoders.bpe import byte_tokenizer
from mmssl.errors import DamagedError, UserError
from mmssl.modalities.audio import Waveform
from mmssl.modalities.points import Cloud
from mmssl.modalities.video import Frames
from mmssl.options import hints_of
from mmssl.transforms.audio import AudioPreprocess
from mmssl.transforms.base import step_name
from mmssl.transforms.catalog import CATALOG
from mmssl.transforms.flow import FlowPreprocess
from mmssl.transforms.image import ImagePreprocess
from mmssl.transforms.pairs import POSES
from mmssl.transforms.points import PointsPreprocess
from mmssl.transforms.text import TextPreprocess
from mmssl.transforms.video import VideoPreprocess
from mmssl.types import Method, Preprocess, Ragged, Sample, View, merged
from mmssl.views.composed import Composed
from mmssl.views.template import Views

SIZE, FPS = 64, 25
PREPROCESS: dict[str, Any] = {
    "image": ImagePreprocess(24),
    "image_ab": ImagePreprocess(24),
    "image_tokenizer": ImagePreprocess(12),
    "image_words": ImagePreprocess(24),
    "video": VideoPreprocess(16, frames=4, fps=FPS),
    "audio": AudioPreprocess(1000, 0.3),
    "flow": FlowPreprocess(16, frames=3, fps=FPS),
    "points": PointsPreprocess(60, ("color",)),
    "text": TextPreprocess(byte_tokenizer()),
}
MODALITIES = [  # what a view is tried on: the first of these that it takes
    ("image",), ("points",), ("video",), ("audio",), ("image", "audio"), ("video", "audio"), ("image", "image_ab"),
    ("image", "image_tokenizer"), ("image", "image_words"), ("image", "text"), ("video", "text"), ("image", "flow"),
]  # fmt: skip
SMALL = {"side": SIZE, "crop": 48, "search": 1.0, "motion": "differences"}
COLORS: dict[str, Any] = {"cell_colors": {"cell": 4}}
MOVING = {"frames": 3, "motion": "differences", "search": 0.7}
EVEN = {"image": {"blur": {"p": 0.5}, "solarize": {"p": 0.5}}}
SEGMENTS = {"image": {"felzenszwalb": {"scale": 50.0, "min_size": 20}}}
SMALLER = {"image": {"proposals": {"min_side": 4.0}}}
BASES: dict[Any, list[dict[str, Any]]] = {  # options under which the others show, of a template by its name
    "cloud_pair.view": [
        {"points": {"voxels": {"size": 0.1}}, "min_points": 10, "matches": 40},
        {"points": {"voxels": {"size": 0.1}}, "min_points": 10, "pair": "crops", "crop": (0.3, 0.5), "overlap": 0.0},
    ],
    "shuffle_and_learn.method": [
        {"video": {"order_verification": SMALL | {"span": (0.3, 0.4), "outside": (0.1, 0.2), "crop": 32}}}
    ],
    "odd_one_out.method": [{"video": {"odd_sequence": SMALL | {"window": (0.4, 0.5), "sequences": 3, "frames": 3}}}],
    "opn.method": [{"video": {"shuffled_frames": SMALL}}],
    "color_tracking.method": [COLORS, COLORS | {"video": {"window": MOVING}}],
    "synchronised.view": [{"grid": 0.1}],
    "frame_and_flow.view": [{"search": 1.0}, {"motion": 0.0}],
    "synchronised.shifted": [{"hard": 0.5, "super_hard": 0.25, "easy_until": 0.5, "apart": 0.2}],
    "jigsaw.method": [{"puzzle": {"permutations": 5, "patch": 4, "gap": 3, "shift": 1}}],
    "relative_position.method": [{"neighbors": {"patch": 8, "gap": 4, "jitter": 2}}],
    "cpc.method": [{"image": {"patches": {"grid": 3, "cell": 16, "stride": 8, "patch": 12}}}],
    "byol.view": [{}, EVEN],
    "detcon.view": [SEGMENTS, merged(SEGMENTS, EVEN)],
    "dino.view": [{}, EVEN],
    "dino.method": [{}, EVEN],
    "soco.method": [{}, merged(SMALLER, dict.fromkeys(("part", "small"), EVEN))],
    "catalog.image": [
        {},
        {"image": {"solarize": {"p": 1.0}, "few_tones": {"p": 1.0}}},
        {"image": SEGMENTS["image"] | {"grid": None}},
        SMALLER,
    ],
    "catalog.video": [{}, {"video": {"solarize": {"p": 1.0}}}, {"video": {"window": MOVING}}],
}
SIDES_OF_STEPS = {  # where the steps behind it say how large a crop is
    ("jigsaw.method", "image.crop.size"),
    ("relative_position.method", "image.crop.size"),
    ("cpc.method", "image.crop.size"),
    ("pirl.method", "patches.image.crop.size"),
}


def exported() -> Iterator[tuple[str, Any]]:
    """Yields what the files of mmssl/views and mmssl/methods hold, of methods the view; name.attribute -> it."""
    for room in ("views", "methods"):
        for name in names.list_names(room):
            for attribute, value in vars(importlib.import_module(f"mmssl.{room}.{name}")).items():
                yield f"{name}.{attribute}", value.view if isinstance(value, Method) else value


def find_templates() -> dict[str, Views]:
    """Returns every template once, and one of each modality with all steps that recipes may add."""
    found: dict[str, Views] = {}
    for name, value in exported():
        if isinstance(value, Views) and not any(value is known for known in found.values()):
            found[name] = value
    every = {key: [kind() for kind in kinds.values()] for key, kinds in CATALOG.items() if kinds}
    return found | {f"catalog.{key}": Views(1, **{key: steps}) for key, steps in every.items()}


def find_classes() -> list[type[View]]:
    """Returns the View classes that are no templates' kind, once each."""
    found: dict[type[View], None] = {}
    for _, kind in exported():
        if inspect.isclass(kind) and issubclass(kind, View) and kind.__call__ is not View.__call__:
            found.setdefault(kind)
    return [kind for kind in found if not issubclass(kind, Composed)]


Option = tuple[str, Any, Any]  # dotted path, type and value


def options_of_class(kind: type[View]) -> Iterator[Option]:
    known = names.options_of(kind)
    hints = hints_of(kind) if known else {}
    yield from ((name, hints[name], option.default) for name, option in known.items())


def options_of_template(template: Views, within: str = "") -> Iterator[Option]:
    if not template.fixed and not any(step.single for step in template._steps()):
        yield f"{within}views", int, template.views
    steps = {f"{within}{step_name(type(step))}": step for step in template.after}
    for key, row in template.modalities.items():
        steps |= {f"{within}{key}.{step_name(type(step))}": step for step in row}
    for path, step in steps.items():
        hints = typing.get_type_hints(type(step), include_extras=True)
        yield from ((f"{path}.{f.name}", hints[f.name], getattr(step, f.name)) for f in dataclasses.fields(step))
    for name, group in template.groups.items():
        yield from options_of_template(group, f"{within}{name}.")
    if not within:
        yield from options_of_class(template.kind)


TEMPLATES = find_templates()
OPTIONS: dict[Any, list[Option]] = {name: list(options_of_template(made)) for name, made in TEMPLATES.items()}
OPTIONS |= {kind: list(options_of_class(kind)) for kind in find_classes()}
CASES = [(kind, option[0]) for kind, options in OPTIONS.items() for option in options]


def test_views_and_their_options_are_found() -> None:
    found = {kind if isinstance(kind, str) else kind.__name__ for kind in OPTIONS}
    assert {
        "single.view",
        "simclr.view",
        "swav.view",
        "jigsaw.method",
        "cloud_pair.view",
        "opn.method",
        "color_tracking.method",
    } <= found
    assert {("swav.view", "small.image.crop.size"), ("catalog.audio", "audio.time_mask.share")} <= {*CASES}
    assert {("synchronised.shifted", "apart"), ("jigsaw.method", "puzzle.gap"), ("mae.view", "image.flip.p")} <= {
        *CASES
    }
    assert ("simclr.view", "views") in CASES and ("jigsaw.method", "views") not in CASES
    assert len(found) >= 35
    kinds = {value for _, value in exported() if inspect.isclass(value) and issubclass(value, Composed)} - {Composed}
    assert kinds <= {template.kind for template in TEMPLATES.values()}


def room(seed: int) -> np.ndarray:
    xyz = np.random.default_rng(seed).uniform(0, 2, (300, 3))
    xyz[np.arange(300), np.arange(300) % 3] = 0
    return xyz


@cache
def samples() -> list[Sample]:
    """Samples that have everything, and a scene of their own each."""
    made = []
    for number in range(4):
        rng = np.random.default_rng(number)
        coarse = Image.fromarray(rng.integers(0, 255, (6, 7, 3), dtype=np.uint8))
        film = np.tile(np.asarray(coarse.resize((SIZE, SIZE)), np.uint8) // 2, (100, 1, 1, 1))
        for time in range(100):  # the second film stands still in its first half
            left = (max(time, 50 * (number == 1)) + 10 * number) % 50
            film[time, 24:36, left : left + 12] = (250, 200, 20)
        color = rng.integers(0, 255, (300, 3), dtype=np.uint8)
        poses = [np.eye(4), np.eye(4)]
        poses[1][:3, 3] = 0.05
        made.append({
            "image": coarse.resize((50, 40)),
            "video": Frames(film, FPS),
            "audio": Waveform(torch.from_numpy(rng.normal(0, 0.1, 4000)).float(), 1000),
            "points": Cloud(room(number), color),
            "points_b": Cloud(room(number), color),
            "text": "a ball on the left",
            "subtitles": [{"text": f"line {n}", "start": n / 4, "end": n / 4 + 0.1} for n in range(9)],
            "meta": {f"points_{k}": {"camera_to_world": p.tolist()} for k, p in zip("ab", poses, strict=True)},
        })  # fmt: skip
    return made


def seed(number: int) -> None:
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


def base(kind: Any) -> list[dict[str, Any]]:
    if isinstance(kind, str):
        return BASES.get(kind, [{}])
    known = names.options_of(kind)
    found = next((BASES[each] for each in kind.__mro__ if each in BASES), [{}])
    return [{name: value for name, value in options.items() if name in known} for options in found]


def build(kind: Any, preprocess: Mapping[str, Preprocess], options: Mapping[str, Any]) -> Any:
    return (TEMPLATES[kind] if isinstance(kind, str) else kind)(preprocess, **options)


def nested(path: str, value: Any) -> dict[str, Any]:
    """Returns the options that set one of them."""
    made: dict[str, Any] = reduce(lambda inner, key: {key: inner}, reversed(path.split(".")), value)
    return made


@cache
def prepared(kind: Any, number: int, modality: str) -> dict[str, Preprocess]:
    """Returns the preprocessing of the first set of modalities, this one among them, that the view can show."""
    for keys in MODALITIES:
        preprocess = {key: PREPROCESS[key] for key in keys}
        try:
            made = build(kind, preprocess, base(kind)[number])
            for sample in samples()[:2]:
                with suppress(DamagedError):
                    made(sample)
            if modality in (*keys, ""):
                return preprocess
        except (UserError, KeyError, AttributeError, TypeError):
            continue
    raise AssertionError(f"{kind} shows none of MODALITIES; add what it needs")


def outcome(kind: Any, preprocess: dict[str, Preprocess], options: Mapping[str, Any]) -> list[Any]:
    """Returns all that the view shows of four samples, at three moments of training, or why it does not."""
    view = build(kind, preprocess, options)
    shown: list[Any] = [sorted(view.shows.items()), view.reads]
    there = []
    for number, sample in enumerate(samples()):
        seed(number)
        try:
            there.append(view({key: value for key, value in sample.items() if key in view.reads}))
        except DamagedError as error:
            shown.append(error.reason)
    for progress in (0.1, 0.4, 0.9) if there else ():
        seed(9)
        view.progress = progress
        batch = view.on_device(collate(there, view))
        shown += [*sorted(batch.extra.items()), batch.target, *sorted(batch.views.items())]
        shown += [value for moved in batch.fields.values() for value in sorted(moved.items())]
    return shown


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and bool(torch.equal(a, b))
    if isinstance(a, Ragged) and isinstance(b, Ragged):
        return same(a.values, b.values) and same(a.lengths, b.lengths)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and bool(a == b)


def others(hint: Any, value: Any) -> Iterator[Any]:
    """Yields values of the option's type that are not the one given."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        for arg in args:
            yield from (None,) if arg is type(None) else others(arg, value)
    elif origin is Annotated:
        yield from others(args[0], value)
    elif origin is Literal:
        yield from args
    elif hint is bool:
        yield not value
    elif hint is int:
        yield from ((value + 1, value - 1, 2 * value, value // 2, value + 300) if isinstance(value, int) else (3, 5, 8))
    elif hint is float:
        yield from (
            0.5,
            1.0,
            0.3,
            0.15,
            *((value / 2, 2 * value, value + 250) if isinstance(value, float) else ()),
            0.0,
        )
    elif origin is tuple and value and all(isinstance(x, int) for x in value):
        yield from (tuple(x + more for x in value) for more in (1, 4))
    elif origin is tuple and args[0] is float and Ellipsis not in args:
        yield from (tuple(x * factor for x in value) for factor in (0.5, 0.8, 1.5))
        yield from ((0.35, 0.45), (1.3, 1.6)) if len(args) == 2 else ()
    elif origin is tuple and args == (int, int):
        yield (2 * value[0], 2 * value[1])


@cache
def shown_by(kind: Any, number: int, modality: str) -> list[Any]:
    return outcome(kind, prepared(kind, number, modality), base(kind)[number])


def modality_of(kind: Any, path: str) -> str:
    return next((part for part in path.split(".") if part in CATALOG and isinstance(kind, str)), "")


@pytest.mark.parametrize(("kind", "path"), CASES, ids=[f"{getattr(k, '__name__', k)}-{path}" for k, path in CASES])
def test_every_option_changes_what_is_shown(kind: Any, path: str) -> None:
    if kind == "frame_and_flow.view":
        pytest.importorskip("cv2")
    _, hint, default = next(option for option in OPTIONS[kind] if option[0] == path)
    for number, options in enumerate(base(kind)):
        modality = modality_of(kind, path)
        preprocess, plain = prepared(kind, number, modality), shown_by(kind, number, modality)
        given = reduce(lambda node, key: node.get(key, {}), path.split("."), options) or default
        for value in others(hint, given):
            if value == given:
                continue
            if (kind, path) in SIDES_OF_STEPS:
                with pytest.raises(UserError, match="steps behind it need .* pixels; leave size out"):
                    build(kind, preprocess, merged(options, nested(path, 9)))
                return
            try:
                changed = outcome(kind, preprocess, merged(options, nested(path, value)))
            except UserError:
                continue
            if not same(changed, plain):
                return
    pytest.fail(f"{kind}: no other {path} than {default!r} changes what is shown; see BASES")


def test_what_is_shown_is_the_same_for_the_same_options() -> None:
    """Otherwise the test above would pass for any option."""
    for kind in OPTIONS:
        for number, options in enumerate(base(kind)):
            plain = shown_by(kind, number, "")
            assert same(outcome(kind, prepared(kind, number, ""), options), plain), kind
            assert any(isinstance(each, tuple) and each[0] in PREPROCESS for each in plain), f"{kind}: nothing shown"
    assert POSES == ("points_a.camera_to_world", "points_b.camera_to_world")


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_step_can_be_left_out(name: str) -> None:
    """And its option is then no more."""
    template = TEMPLATES[name]
    for key, steps in template.modalities.items():
        for step in steps:
            left = template.changed({key: {step_name(type(step)): None}})
            assert [type(each) for each in left.modalities[key]] == [type(e) for e in steps if e is not step]
            assert left.modalities[key] is not steps and template.modalities[key] is steps
    for step in template.after:
        assert step not in template.changed({step_name(type(step)): None}).after


@pytest.mark.parametrize("name", [
    "autoencoder.method", "beit.method", "cmc.method", "color_tracking.method", "colorization.method", "cpc.method",
    "inpainting.method", "jigsaw.method", "mae.view", "odd_one_out.method", "opn.method", "pirl.method",
    "relative_position.method", "rotation.method", "shuffle_and_learn.method", "simmim.method", "split_brain.method",
    "super_resolution.method", "synchronised.view", "synchronised.shifted",
])  # fmt: skip
def test_where_the_task_is_on_one_view_their_number_is_no_option(name: str) -> None:
    with pytest.raises(UserError, match="views is 2; this task makes its views of 1 itself"):
        TEMPLATES[name].changed({"views": 2})
    assert TEMPLATES[name].changed({"views": 1}).views == 1
