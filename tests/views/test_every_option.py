"""Every option of every view, shared or a method's own, changes what is shown; views and options are found here."""

from __future__ import annotations

import importlib
import inspect
import random
import types
import typing
from collections.abc import Iterator
from functools import cache
from typing import Any, Literal

import numpy as np
import pytest
import torch
from mmssl.views.asymmetric import Asymmetric
from mmssl.views.multicrop import MultiCrop
from PIL import Image

from mmssl import names
from mmssl.data.collate import collate
from mmssl.errors import DamagedError, UserError
from mmssl.methods.jigsaw import Puzzle
from mmssl.methods.odd_one_out import Odd
from mmssl.methods.opn import Shuffled
from mmssl.methods.relative_position import Neighbors
from mmssl.methods.shuffle_and_learn import Verified
from mmssl.modalities.audio import Waveform
from mmssl.modalities.points import Cloud
from mmssl.modalities.video import Frames
from mmssl.options import hints_of
from mmssl.transforms.audio import AudioPreprocess
from mmssl.transforms.image import ImagePreprocess
from mmssl.transforms.pairs import POSES
from mmssl.transforms.points import PointsPreprocess
from mmssl.transforms.video import VideoPreprocess
from mmssl.types import Method, Preprocess, Ragged, Sample, View
from mmssl.views.cloud_pair import CloudPair
from mmssl.views.ordered import Ordered
from mmssl.views.single import Single
from mmssl.views.synchronised import Shifted, Synchronised

SIZE, FPS = 64, 25
PREPROCESS: dict[str, Any] = {
    "image": ImagePreprocess(24),
    "image_ab": ImagePreprocess(24),
    "image_tokenizer": ImagePreprocess(12),
    "video": VideoPreprocess(16, frames=4, fps=FPS),
    "audio": AudioPreprocess(1000, 0.3),
    "points": PointsPreprocess(60, ("color",)),
    "points_voxels": PointsPreprocess(40),
}
MODALITIES = [  # what a view is tried on: the first of these that it takes
    ("image", "audio", "points"),
    ("image", "image_tokenizer"),
    ("image", "image_ab"),
    ("points", "points_voxels"),
    ("image", "audio"),
    ("image",),
    ("video",),
    ("points",),
]
SMALL = {"side": SIZE, "crop": 48, "search": 1.0, "motion": "differences"}
BASES: dict[type[View], list[dict[str, Any]]] = {  # options under which the others show; a view has its base's
    Single: [{"color_jitter": 1.0}],
    CloudPair: [
        {"voxel": 0.1, "min_points": 10, "matches": 40},
        {"voxel": 0.1, "min_points": 10, "pair": "crops", "crop": (0.3, 0.5), "overlap": 0.0},
    ],
    Ordered: [SMALL],
    Verified: [SMALL | {"span": (0.3, 0.4), "outside": (0.1, 0.2)}],
    Odd: [SMALL | {"window": (0.4, 0.5), "sequences": 3, "frames": 3}],
    Shuffled: [SMALL],
    Synchronised: [{"color_jitter": 0.5, "grid": 0.1}],
    Shifted: [{"hard": 0.5, "super_hard": 0.25, "easy_until": 0.5, "apart": 0.2, "color_jitter": 0.5}],
    Puzzle: [{"permutations": 5, "patch": 4, "gap": 3, "shift": 1, "color_jitter": 1.0}],
    Neighbors: [{"patch": 8, "gap": 4, "jitter": 2, "color_jitter": 1.0}],
    Asymmetric: [{}, {"blur": 0.5, "solarize": 0.5}],
    MultiCrop: [{}, {"small": 0}],
}

OF_OTHERS = {  # options of Single that a view has in vain which shows no such modality
    "audio": {"gain", "noise", "speed", "time_mask"},
    "points": {"rotation", "point_jitter", "point_scale", "point_crop"},
}


def kinds() -> Iterator[type[View]]:
    """Yields the views of mmssl/views and of every method, once each."""
    found: dict[type[View], None] = {}
    for room in ("views", "methods"):
        for name in names.list_names(room):
            module = importlib.import_module(f"mmssl.{room}.{name}")
            for value in vars(module).values():
                kind = value.view if isinstance(value, Method) else value
                if inspect.isclass(kind) and issubclass(kind, View) and kind.__call__ is not View.__call__:
                    found.setdefault(kind)
    yield from found


OPTIONS = [(kind, name) for kind in kinds() for name in names.options_of(kind)]


def test_views_and_their_options_are_found() -> None:
    found = {kind.__name__ for kind, _ in OPTIONS}
    assert {"Single", "Pair", "MultiCrop", "Synchronised", "CloudPair", "Shuffled", "GrayClip", "Halves"} <= found
    assert (Single, "time_mask") in OPTIONS
    assert len(found) >= 25


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
        for time in range(100):
            left = (time + 10 * number) % 50
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
            "meta": {f"points_{k}": {"camera_to_world": p.tolist()} for k, p in zip("ab", poses, strict=True)},
        })  # fmt: skip
    return made


def seed(number: int) -> None:
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


def base(kind: type[View]) -> list[dict[str, Any]]:
    known = names.options_of(kind)
    found = next((BASES[each] for each in kind.__mro__ if each in BASES), [{}])
    return [{name: value for name, value in options.items() if name in known} for options in found]


def prepared(kind: type[View], options: dict[str, Any]) -> dict[str, Preprocess]:
    """Returns the preprocessing of the first set of modalities that the view can show."""
    for keys in MODALITIES:
        preprocess = {key: PREPROCESS[key] for key in keys}
        try:
            made = kind(preprocess, **options)
            for sample in samples()[:2]:
                made(sample)
            return preprocess
        except (UserError, KeyError, AttributeError, TypeError):
            continue
    raise AssertionError(f"{kind.__name__} shows none of MODALITIES with {options}; add what it needs")


def outcome(kind: type[View], preprocess: dict[str, Preprocess], options: dict[str, Any]) -> list[Any]:
    """Returns all that the view shows of four samples, at three moments of training, or why it does not."""
    view = kind(preprocess, **options)
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
    elif origin is tuple and args[0] is float and Ellipsis not in args:
        yield from (tuple(x * factor for x in value) for factor in (0.5, 0.8, 1.5))
        yield from ((0.35, 0.45), (1.3, 1.6)) if len(args) == 2 else ()


@cache
def shown_by(kind: type[View], number: int) -> tuple[dict[str, Preprocess], list[Any]]:
    options = base(kind)[number]
    preprocess = prepared(kind, options)
    return preprocess, outcome(kind, preprocess, options)


@pytest.mark.parametrize(("kind", "name"), OPTIONS, ids=[f"{kind.__name__}-{name}" for kind, name in OPTIONS])
def test_every_option_changes_what_is_shown(kind: type[View], name: str) -> None:
    hint = hints_of(kind)[name]
    for number, options in enumerate(base(kind)):
        preprocess, plain = shown_by(kind, number)
        if any(name in known and key not in preprocess for key, known in OF_OTHERS.items()):
            return
        given = options.get(name, names.options_of(kind)[name].default)
        for value in others(hint, given):
            if value == given:
                continue
            try:
                changed = outcome(kind, preprocess, options | {name: value})
            except UserError:
                continue
            if not same(changed, plain):
                return
    pytest.fail(f"{kind.__name__}: no other {name} than {given!r} changes what is shown; see BASES")


def test_what_is_shown_is_the_same_for_the_same_options() -> None:
    """Otherwise the test above would pass for any option."""
    for kind in dict(OPTIONS):
        for number, options in enumerate(base(kind)):
            preprocess, plain = shown_by(kind, number)
            assert same(outcome(kind, preprocess, options), plain), kind
            assert any(isinstance(each, tuple) and each[0] in PREPROCESS for each in plain), f"{kind}: nothing shown"
    assert POSES == ("points_a.camera_to_world", "points_b.camera_to_world")


@pytest.mark.parametrize("method", [
    "beit", "cmc", "colorization", "cpc", "jigsaw", "pirl", "relative_position", "rotation", "split_brain",
])  # fmt: skip
def test_where_the_task_is_on_one_view_their_number_is_no_option(method: str) -> None:
    kind = names.resolve("methods", method)[0].view
    with pytest.raises(UserError, match=f"{kind.__name__} has no option 'views'"):
        names.check_options(kind, {"views": 2})
