"""Every option of every method changes something: found by itself, from the signatures.

An objective is seen through a few training steps: the shape of its heads, the loss, the gradients and what its state
becomes. An option that acts only beside others, or whose values cannot be guessed from its type, has a line in BESIDE
or VALUES; a test that fails says so. Options of views: tests/views/test_every_option.py.
"""

from __future__ import annotations

import copy
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import repeat
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from mmssl import names
from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.objectives.bank import reserve
from mmssl.options import hints_of
from mmssl.types import Encoder, Epoch, Objective

sys.path.insert(0, str(Path(__file__).parent))
from settings import ENCODERS, SAMPLES, SETTINGS, VIT, Setting, bring, classes, seeded, several, sweep

KL, HARDEST = {"sparsity": "kl"}, {"loss": "hardest"}
BESIDE: dict[str, dict[str, Any]] = {
    "sparse": KL,
    "rate": KL,
    "clip headless": {"embed_dim": None},
    "siglip headless": {"embed_dim": None},
    "color_tracking coordinates": {"head": "cells"},
    "color_tracking tolerance": {"still": 0.5},
    **{
        f"pointcontrast {option}": HARDEST
        for option in ("positives", "candidates", "positive_margin", "negative_margin")
    },
}
"""Method, or method and option -> the options that are set besides, in both runs that are compared."""

VALUES: dict[str, list[Any]] = {
    "max_scale": [5.0],
    "learn_from": [2],
    "icmlm learn_from": [5],
    "color_tracking still": [0.0],
    "color_tracking uniform": [0.3],
    "color_tracking tolerance": [50.0],
    "iterations": [1],
    "pcl negatives": [1],
    "pirl patches": [9],
    "pcl:v2 negatives": [1],
    "pointcontrast queries": [4],
    "pointcontrast positives": [1],
    "pointcontrast candidates": [1],
    "simmim mask_size": [4],
    "deepcluster iterations": [0],
    "moco:v3 freeze": ["patch"],
    "ambient_sound iterations": [0],
    "cross_and_learn dropout": [0.4],
    "cross_and_learn diversity": [0.2],
    "finetune space": ["other_middle"],
    "distill space": ["other"],
    "headless": [("text",)],
    "label": ["cls"],
    "classes": [4],
    "obow levels": [["blocks.0"]],
    "bownet level": ["blocks.0"],
    "bownet learn_from": [20],
}
"""Option, or method and option -> values to try where the type tells none that fits."""

SETUPS = {
    "clip intra_modal": Setting(("image", "text"), {"embed_dim": 8}, several(2)),
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
    reserve(objective, SAMPLES)
    yield [(key, value.shape) for key, value in objective.state_dict().items()]
    yield [sorted(objective.choose(classes) or ())]
    bring(encoders)
    own = {id(p): group["final_lr"] for group in objective.parameter_groups() for p in group["params"]}
    yield [(key, own.get(id(p)), p.requires_grad) for key, p in objective.named_parameters()]
    yield [(module.p, type(module)) for module in objective.modules() if isinstance(module, nn.Dropout)]
    torch.manual_seed(1)
    objective.before_epoch(encoders, Epoch(0, lambda: repeat(shown), lambda: sweep(method)))
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
        objective.before_epoch(encoders, Epoch(1, lambda: pytest.fail("once"), lambda: sweep(method)))
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
    fit = encoders_of(name)[key] if option == "encoder" else every["image"]
    every |= {"image": fit, "other": copy.deepcopy(fit)}
    every |= {f"{key}_teacher": create_encoder(*ENCODERS["image"][:1], **ENCODERS["image"][1]) for key in list(every)}
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
    assert not wrong + idle(name, SETTINGS[name].options, rest, hints_of(kind), steps)
