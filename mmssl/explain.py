"""`mmssl explain NAME`: every option with its type, default and text, the variants, and the recipes that use it."""

from __future__ import annotations

import inspect
import math
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from mmssl import names, own
from mmssl.data.loader import Loader
from mmssl.data.mixture import MixedSource
from mmssl.data.shards import Source
from mmssl.errors import UserError, did_you_mean
from mmssl.optim.groups import GroupOptions
from mmssl.options import REQUIRED, Option, describe, hints_of, library_of, texts_of
from mmssl.recipe import LOADER_FIXED, EncoderOptions, EvaluationOptions, Task, TrainOptions
from mmssl.schema import spell
from mmssl.types import Method

NODES: dict[str, tuple[Any, ...]] = {"train": (TrainOptions,), "task": (Task,), "data": (Source, Loader, MixedSource)}
ANY: dict[str, tuple[Any, ...]] = {
    "encoders": (EncoderOptions,),
    "evals": (EvaluationOptions,),
    "optim": (GroupOptions,),
}  # what may be said of anything in a room
WIDTH = 100


def explain(name: str, room: str | None = None) -> str:
    """Returns all that there is to say of what a name stands for, in words; see `explanation`."""
    return told(explanation(name, room))


def explanation(name: str, room: str | None = None) -> dict[str, Any]:
    """Returns all that there is to say of what a name stands for, as plain values.

    name: of a method, view, encoder, evaluation, optimizer or plot, with a variant or without, or `train`,
        `task` or `data`.
    room: where it lies, where several have the name; `room/name` says the same.
    Raises UserError for a name that nothing or more than one thing has.
    """
    if room is None and name in NODES:
        return {"name": name, "sections": [_section(node, f"{name}: ") for node in NODES[name]]}
    room, name = _place(name, room)
    found, variant = names.resolve(room, name)
    _check_variant(room, name)
    if isinstance(found, Method):
        sections = [_section(found.objective, "objective: ", "objective."), _section(found.view, "view: ", "view.")]
    else:
        sections = [_section(kind) for kind in (found, *ANY.get(room, ()))]
    return {
        "name": name,
        "room": room,
        "about": _about(room, name, found),
        "sections": sections,
        "variants": _variants(room, name, variant),
        "recipes": _recipes(room, name),
    }


def told(found: Mapping[str, Any]) -> str:
    """Says in words what `explanation` found."""
    lines = [f"{found['room']}/{found['name']}: {found['about']}"] if "room" in found else []
    for section in found["sections"]:
        options = [line for option in section["options"] for line in _lines(option)]
        options += [f"  any other option is {section['other']}'s own"] if "other" in section else []
        lines += ["", section["about"], *(options or ["  no options"])]
    if variants := found.get("variants"):
        lines += ["", "variants:", *(f"  {name}  {line}".rstrip() for name, line in variants.items())]
    if recipes := found.get("recipes"):
        named = {key: f" ({', '.join(others)})" if others else "" for key, others in recipes.items()}
        lines += ["", "recipes:", *(f"  {key}{others}" for key, others in named.items())]
    return "\n".join(lines).strip()


def _place(name: str, room: str | None) -> tuple[str, str]:
    """Returns the room of a name, and the name in it."""
    head, slash, tail = name.partition("/")
    if room is None and slash and head in names.EXPORTS and not own.is_file(name):
        room, name = head, tail
    rooms = [room] if room else names.rooms_of(name)
    if not rooms and names.is_path(name):
        raise UserError(f"{name!r} names your own code; add --room, one of {', '.join(names.EXPORTS)}")
    if len(rooms) > 1:
        ways = " or ".join(f"`mmssl explain {each}/{name}`" for each in rooms)
        raise UserError(f"{name!r} is one of the {' and one of the '.join(rooms)}; say which: {ways}")
    if not rooms:
        known = {*NODES, *(key for each in names.EXPORTS for key in names.list_names(each))}
        raise UserError(f"nothing is called {name!r}; {did_you_mean(name.partition(':')[0], known)}")
    return rooms[0], name


def _check_variant(room: str, name: str) -> None:
    """Raises UserError for a variant that a file of ours has not."""
    head, _, tail = name.partition(":")
    if not tail or room not in names.rooms_of(head):
        return
    known = names.list_variants(room, head)
    if tail not in known and "VARIANT" not in known:
        raise UserError(f"{room}/{head} has no variant {tail!r}; {did_you_mean(tail, known)}")


def _about(room: str, name: str, found: Any) -> str:
    head, _, tail = name.partition(":")
    variants = names.list_variants(room, head) if room in names.rooms_of(name) else {}
    return variants.get(tail) or names.list_names(room).get(head) or _first_line(found)


def _first_line(found: Any) -> str:
    """Returns what the docstring begins with; of a method, its objective's."""
    return (inspect.getdoc(found.objective if isinstance(found, Method) else found) or "").partition("\n")[0]


def _section(factory: Any, title: str = "", prefix: str = "") -> dict[str, Any]:
    """Returns a headline, and every option of a function or class."""
    about = (inspect.getdoc(factory) or "").partition("\n")[0]
    fixed = LOADER_FIXED if factory is Loader else ()
    options = [option for option in (*_variant(factory), *describe(factory, prefix)) if option.name not in fixed]
    other = {"other": library} if (library := library_of(factory)) else {}  # whose own options are taken as well
    return {"about": f"{title}{about}", "options": [_option(option) for option in options], **other}


def _variant(factory: Any) -> Iterator[Option]:
    """Yields what stands behind the colon of the name, where something may."""
    if parameter := inspect.signature(factory).parameters.get("variant"):
        yield Option("variant", hints_of(factory)["variant"], parameter.default, texts_of(factory).get("variant", ""))


def _option(option: Option) -> dict[str, Any]:
    """Returns an option as plain values; `default` is missing where the option is required."""
    default = {} if option.default is REQUIRED else {"default": _value(option.default)}
    return {"name": option.name, "type": spell(option.hint), **default, "text": option.text}


def _value(value: Any) -> Any:
    """Returns a default as JSON has it; what JSON has not, infinity too, by its name."""
    if isinstance(value, list | tuple):
        return [_value(inner) for inner in value]
    if isinstance(value, Mapping):
        return {key: _value(inner) for key, inner in value.items()}
    finite = value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))
    return value if finite else str(value)


def _lines(option: Mapping[str, Any]) -> list[str]:
    default = f" = {_plain(option['default'])}" if "default" in option else ", required"
    text = textwrap.wrap(option["text"], WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return [f"  {option['name']}: {option['type']}{default}", *text]


def _plain(value: Any) -> str:
    """Returns a value as a recipe has it."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_plain, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_plain(inner)}' for key, inner in value.items())}}}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:.6g}" if isinstance(value, float) else str(value) if value != "" else '""'


def _variants(room: str, name: str, variant: str | None) -> dict[str, str]:
    """Returns what else the name stands for, where it was given without a variant, a line for each."""
    if variant or ":" in name or room not in names.rooms_of(name):
        return {}
    return {f"{name}:{key}": line for key, line in names.list_variants(room, name).items()}


def _recipes(room: str, name: str) -> dict[str, list[str]]:
    """Returns which shipped recipes name it, and with which variants where it was asked for without one."""
    found = {}
    for key, uses in names.recipes().items():
        named = [used for place, used in uses if place == room and name in (used, used.partition(":")[0])]
        if named:
            found[key] = sorted({*named} - {name})
    return found
