"""Every option of every method changes something: found by itself, from the signatures.

An objective is seen through a few training steps: the shape of its heads, the loss, the gradients and what its state
becomes. A view is seen through what it shows of a few samples, on the device as well. An option that acts only beside
others, or whose values cannot be guessed from its type, has a line in BESIDE or VALUES; a test that fails says so.
"""

from __future__ import annotations

import copy
import random
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from mmssl import names
from mmssl.data.collate import collate
from mmssl.encoders import create_encoder
from mmssl.errors import DamagedError, UserError
from mmssl.modalities.audio import Waveform
from mmssl.modalities.points import Cloud
from mmssl.modalities.video import Frames
from mmssl.types import Encoder, Objective, View
from mmssl.views.single import Single

sys.path.insert(0, str(Path(__file__).parent))
from settings import ENCODERS, SAMPLES, SETTINGS, VIT, Setting, seeded, several, sweep

KL, HARDEST = {"sparsity": "kl"}, {"loss": "hardest"}
BESIDE: dict[str, dict[str, Any]] = {
    "jitter": {"color_jitter": 1.0},
    "CloudPair crop": {"pair": "crops"},
    "Asymmetric views": {"blur": 0.5, "solarize": 0.1},
    "sparse": KL,
    "rate": KL,
    **{
        f"pointcontrast {option}": HARDEST
        for option in ("positives", "candidates", "positive_margin", "negative_margin")
    },
}
"""Method, or method and option -> the options that are set besides, in both runs that are compared."""

VALUES: dict[str, list[Any]] = {
    "max_scale": [5.0],
    "learn_from": [2],
    "iterations": [1],
    "CloudPair poses": [None],
    "CloudPair min_points": [5000],
    "CloudPair overlap": [0.99],
    "JigsawPair cell": [8],
    "Shifted super_hard": [0.75],
    "GrayClip size": [8],
    "GrayClip min_chroma": [200.0],
    "pcl negatives": [1],
    "pcl:v2 negatives": [1],
    "pointcontrast queries": [4],
    "pointcontrast positives": [1],
    "pointcontrast candidates": [1],
    "simmim mask_size": [4],
    "deepcluster iterations": [0],
    "moco:v3 freeze": ["patch"],
}
"""Option, or method and option -> values to try where the type tells none that fits."""

SETUPS = {
    "clip within": Setting(("image", "text"), {"embed_dim": 8}, several(2)),
    "simmim mask_size": Setting(("image",), {}, seeded, {"image": ("vit", VIT | {"patch_size": 4})}),
    "mae mask": Setting(
        ("video",),
        SETTINGS["mae"].options,
        seeded,
        {"video": ("video_vit", {"image_size": 16, "patch_size": 8, "frames": 4, "width": 16, "depth": 1, "heads": 2})},
    ),
}
"""Method and option -> what it is tried with where its line of settings.py cannot show it."""

ROUTES = {
    "encoder": ["image", "other"],
    "visual": ["image", "video"],
    "pairs": [[("image", "text")], [("image", "audio")]],
}
"""Options that name encoders: values of which each makes the objective use others."""


def guesses(value: Any, hint: Any) -> Iterator[Any]:
    """Yields other values of an option of this type, the likeliest first."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        for arg in args:
            yield from guesses(value, arg) if value is not None or arg is not type(None) else ()
    elif hint is bool:
        yield not value
    elif origin is Literal:
        yield from (arg for arg in args if arg != value)
    elif hint in (int, float) and (value is None or isinstance(value, int | float)):
        given = value or 0
        steps = (given + 1, given + 2, given - 1, 2 * given)
        yield from steps if hint is int else (1.0, given / 2, given + 0.3, given + 1.5, given - 0.1)
    elif origin is not None and isinstance(value, list | tuple | None) and issubclass(origin, tuple | typing.Sequence):  # type: ignore[arg-type]
        items = list(value or ())
        for place, item in enumerate(items):
            for other in guesses(item, args[min(place, len(args) - 1)] if args[-1] is not Ellipsis else args[0]):
                yield [*items[:place], other, *items[place + 1 :]]
        if not items or args[-1] is Ellipsis or origin is not tuple:
            yield from ([*items, 5], items[:-1])


@cache
def encoders_of(name: str) -> dict[str, Encoder]:
    """Returns what a method, or `method option`, is tried with."""
    torch.manual_seed(0)
    setting = SETUPS.get(name, SETTINGS[name.partition(" ")[0]])
    made: dict[str, Encoder] = {}
    for key in setting.keys:
        kind, options = {**ENCODERS, **setting.encoders}[key]
        made[key] = create_encoder(kind, **options)
    return made


def steps(name: str, options: Mapping[str, Any]) -> Iterator[list[Any]]:
    """Yields what a run of a few steps shows, stage by stage; the name is a method's, or `method option`."""
    name, method = (name if name in SETUPS else name.partition(" ")[0]), name.partition(" ")[0]
    setting = SETUPS.get(name, SETTINGS[method])
    shown = setting.make(setting.keys, 6)
    shown.extra |= {f"{key}_present": torch.ones(6, dtype=torch.bool) for key in setting.keys}
    encoders = copy.deepcopy(encoders_of(name))
    torch.manual_seed(0)
    kind = names.resolve("methods", method)[0].objective
    objective: Objective = kind(encoders, **names.check_options(kind, options))
    objective.reserve(SAMPLES)
    yield [(key, value.shape) for key, value in objective.state_dict().items()]
    steady = {id(p) for p in objective.steady()}
    yield [(key, id(p) in steady, p.requires_grad) for key, p in objective.named_parameters()]
    yield [(module.p, type(module)) for module in objective.modules() if isinstance(module, nn.Dropout)]
    torch.manual_seed(1)
    objective.learn(iter(lambda: shown, None))
    objective.before_epoch(encoders, lambda: sweep(method))
    yield [*objective.state_dict().values()]
    weights = [p for m in (objective, *encoders.values()) for p in m.parameters()]
    for progress in (0.0, 0.06, 0.5):
        torch.manual_seed(2)
        loss = objective(encoders, shown)
        yield [loss.total.detach()]
        gradients = torch.autograd.grad(loss.total, [p for p in weights if p.requires_grad], allow_unused=True)
        yield list(gradients)
        with torch.no_grad():
            for p, gradient in zip((p for p in weights if p.requires_grad), gradients, strict=True):
                if gradient is not None:
                    p -= 0.1 * gradient / gradient.norm().clamp(min=1e-3)
        objective.after_step(encoders, progress)
        objective.before_epoch(encoders, lambda: sweep(method))
        yield [*objective.state_dict().values()]


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and torch.equal(one, other)
    return type(one) is type(other) and one == other


class Kept:
    """What a run yields, kept for the next that is compared with it."""

    def __init__(self, source: Iterator[list[Any]]) -> None:
        self.source, self.seen = source, []

    def __iter__(self) -> Iterator[list[Any]]:
        yield from self.seen
        for stage in self.source:
            self.seen.append([x.clone() if isinstance(x, Tensor) else x for x in stage])
            yield self.seen[-1]


def differs(base: Kept, changed: Iterator[list[Any]]) -> bool:
    for one, other in zip(base, changed, strict=True):
        if len(one) != len(other) or not all(same(a, b) for a, b in zip(one, other, strict=True)):
            return True
    return False


def routed(name: str, option: str) -> list[str]:
    """Says what is wrong with an option that names encoders, which must be the ones that are used."""
    every = {key: create_encoder(kind, **options) for key, (kind, options) in ENCODERS.items()}
    (key,) = SETTINGS[name].keys if len(SETTINGS[name].keys) == 1 else ("image",)
    every |= {"image": encoders_of(name)[key] if option == "encoder" else every["image"], "other": every["image"]}
    kind = names.resolve("methods", name)[0].objective
    rest = {k: v for k, v in SETTINGS[name].options.items() if k != option}
    used = [kind(every, **rest, **{option: value}).uses for value in ROUTES[option]]
    return [] if used[0] != used[1] else [f"{option}: the same encoders are used"]


def idle(name: str, base: Mapping[str, Any], known: Mapping[str, Any], hints: Mapping[str, Any], run: Any) -> list[str]:
    """Returns what is wrong with the options: those that change nothing, and those that no value was found for."""
    found, kept = [], {}
    given = {**base, **BESIDE.get(name, {})}
    if differs(Kept(run(name, given)), run(name, given)):
        return ["nothing can be told: two runs with the same options differ"]
    for option, default in known.items():
        beside = {**base, **BESIDE.get(name, {}), **BESIDE.get(f"{name} {option}", {})}
        beside |= {k: v for k, v in BESIDE.get(option, {}).items() if k in known and k not in beside}
        value = beside.get(option, default)
        guessed = list(guesses(value, hints[option]))
        others = VALUES.get(f"{name} {option}", VALUES.get(option, guessed))
        case = f"{name} {option}"
        among = (case if case in SETUPS else name) + repr(sorted(beside.items()))
        kept.setdefault(among, Kept(run(case, beside)))
        choices = typing.get_origin(hints[option]) is Literal
        tried, moved = 0, 0
        for other in others:
            try:
                moved += differs(kept[among], run(case, {**beside, option: other}))
            except UserError:
                continue
            tried += 1
            if moved and not choices:
                break
        if not tried:
            found.append(f"{option}: none of {others} is allowed beside {beside}; say in VALUES what it may be")
        elif moved < (tried if choices else 1):
            found.append(f"{option}: {value!r} and {others} are the same beside {beside}; see BESIDE, or mend it")
    return found


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_every_option_of_an_objective_changes_it(name: str) -> None:
    kind = names.resolve("methods", name)[0].objective
    known = {option: p.default for option, p in names.options_of(kind).items()}
    wrong = [line for option in ROUTES.keys() & known for line in routed(name, option)]
    rest = {option: default for option, default in known.items() if option not in ROUTES}
    assert not wrong + idle(name, SETTINGS[name].options, rest, names._hints(kind), steps)


# Views

VIEW_BESIDE: dict[str, dict[str, Any]] = {
    "Puzzle": {"permutations": 5, "patch": 4, "gap": 2, "shift": 1},
    "Neighbors": {"patch": 4, "gap": 2, "jitter": 1},
    "PatchGrid": {"grid": 3, "cell": 6, "stride": 3, "patch": 5},
    "Ordered": {"side": 32, "crop": 8, "jitter": 2, "search": 1.0},
    "Odd": {"frames": 3, "sequences": 3, "window": (0.4, 0.8)},
    "Verified": {"span": (0.4, 0.8), "outside": (0.2, 0.4)},
    "CloudPair": {"voxel": 0.08, "matches": 40},
    "GrayClip": {"cell": 4},
    "MultiCrop": {"small": 2},
    "Crops": {"small": 2},
}
"""View, or view and option, of a class or its bases -> the options that are set besides."""


REFUSED = {"SameCrop views", "JigsawPair views"}
"""View and option that its base has and that it sets itself: nobody can."""


@cache
def example() -> dict[str, Any]:
    """A sample with everything that a view may read: noise on a ramp, which moves where it can."""
    draw = np.random.default_rng(0)
    film = np.zeros((100, 40, 48, 3), dtype=np.uint8)
    for time in range(100):
        film[time] = draw.integers(0, 60, (40, 48, 3)) + np.arange(48, dtype=np.uint8)[:, None] * 2
        film[time, 28:38, 2:14] = 200 * (time % 2)  # flickers, and does not move
        film[time, 10:20, time % 36 : time % 36 + 10, time % 3] = 250
    poses = [np.eye(4), np.eye(4)]
    poses[1][:3, 3] = 0.3
    world = draw.uniform(0, 2, (600, 3)).astype(np.float32)
    world[np.arange(600), np.arange(600) % 3] = 0
    part = world[world.sum(axis=1) > 1.5]
    near = Cloud((part - 0.3).astype(np.float32), draw.uniform(0, 1, (len(part), 3)).astype(np.float32))
    return {
        "image": Image.fromarray(film[0]),
        "video": Frames(film, 25.0),
        "audio": Waveform(torch.rand(32000, generator=torch.Generator().manual_seed(0)) - 0.5, 8000),
        "points": Cloud(world, draw.uniform(0, 1, (600, 3)).astype(np.float32)),
        "points_b": near,
        "text": ["a square", "a red square", "noise"],
        "meta": {k: {"camera_to_world": p.tolist()} for k, p in zip(("points_a", "points_b"), poses, strict=True)},
    }


def keys_of(name: str) -> tuple[str, ...]:
    """Returns the encoders of a method: those of its setting, and of every modality where it takes any."""
    method, _ = names.resolve("methods", name)
    anything = issubclass(method.view, Single) and not method.objective.modalities
    return tuple(dict.fromkeys((*SETTINGS[name].keys, *(ENCODERS if anything else ()))))


@cache
def preprocess_of(name: str) -> dict[str, Any]:
    given = {key: encoder.preprocess for key, encoder in encoders_of(name).items()}
    for key in keys_of(name):
        if key not in given:
            kind, options = ENCODERS[key]
            given[key] = create_encoder(kind, **options).preprocess
    richer = {"points": {"features": ("color",)}, "video": {"fps": 10.0}, "audio": {"seconds": 0.4}}
    return {key: replace(each, **richer.get(each.modality, {})) for key, each in given.items()}


def everything(value: Any) -> Iterator[Any]:
    """Yields the leaves of what a view makes, in order."""
    if isinstance(value, Mapping):
        for key in sorted(value):
            yield key
            yield from everything(value[key])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from everything(item)
    else:
        yield value


def looks(kind: type[View], preprocess: Mapping[str, Any], options: Mapping[str, Any]) -> Iterator[list[Any]]:
    """Yields what a view shows of a sample, drawn a few times, and on the device early and late in training."""
    view = kind(preprocess, **names.check_options(kind, options))
    yield [view.reads, *everything(view.shows), *((key, repr(p)) for key, p in view.preprocess.items())]
    samples = []
    for number in range(4):
        seed(number)
        given = {key: value for key, value in example().items() if key in (*view.reads, "meta")}
        try:
            samples.append(view(given))
        except DamagedError as error:
            yield [str(error)]
            return
        yield list(everything(samples[-1]))
    for progress in (0.0, 0.6):
        seed(9)
        view.progress = progress
        made = view.on_device(collate(samples, view))
        yield [made.target, *everything(made.views), *everything(made.extra)]


def seed(number: int) -> None:
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


@cache
def reach(option: str) -> frozenset[str]:
    """Returns the modalities that an option of Single changes."""
    known, hints = names.options_of(Single), names._hints(Single)
    found = set()
    for key, (encoder, options) in ENCODERS.items():
        given = {key: create_encoder(encoder, **options).preprocess}
        run = lambda _, changed, given=given: looks(Single, given, changed)  # noqa: E731
        base = {"color_jitter": 0.5} if option == "jitter" else {}
        if not idle("", base, {option: known[option].default}, hints, run):
            found.add(key)
    return frozenset(found)


VIEWS = {names.resolve("methods", name)[0].view.__name__: name for name in sorted(SETTINGS, reverse=True)}


@pytest.mark.parametrize("title", sorted(VIEWS))
def test_every_option_of_a_view_changes_what_is_shown(title: str) -> None:
    name = VIEWS[title]
    kind, preprocess = names.resolve("methods", name)[0].view, preprocess_of(name)
    base: dict[str, Any] = {}
    for line in reversed(kind.__mro__):
        base |= VIEW_BESIDE.get(line.__name__, {})
    try:
        kind(preprocess, **base)
    except UserError:  # it does not show every modality
        preprocess = {key: preprocess[key] for key in SETTINGS[name].keys}
    known = {option: p.default for option, p in names.options_of(kind).items()}
    known = {option: default for option, default in known.items() if f"{title} {option}" not in REFUSED}
    if issubclass(kind, Single):
        singles = names.options_of(Single)
        modalities = {key.partition("_")[0] for key in preprocess}
        known = {option: v for option, v in known.items() if option not in singles or reach(option) & modalities}
    assert not idle(title, base, known, names._hints(kind), lambda _, options: looks(kind, preprocess, options))
