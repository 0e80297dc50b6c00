"""`mmssl explain NAME`: every option with its type, default and text, the variants, and the recipes that use it."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from mmssl import names
from mmssl.data.loader import Loader
from mmssl.data.shards import Source
from mmssl.errors import UserError, did_you_mean
from mmssl.options import REQUIRED, Option, describe, hints_of, library_of, texts_of
from mmssl.recipe import LOADER_FIXED, EncoderOptions, EvaluationOptions, Task, TrainOptions
from mmssl.schema import spell
from mmssl.types import Method

NODES: dict[str, tuple[Any, ...]] = {"train": (TrainOptions,), "task": (Task,), "data": (Source, Loader)}
ANY: dict[str, tuple[Any, ...]] = {
    "encoders": (EncoderOptions,),
    "evals": (EvaluationOptions,),
}  # what may be said of anything in a room
WIDTH = 100


def explain(name: str, room: str | None = None) -> str:
    """Returns all that there is to say of what a name stands for.

    name: of a method, view, encoder, evaluation, optimizer or plot, with a variant or without, or `train`,
        `task` or `data`.
    room: where it lies, where several have the name; `room/name` says the same.
    Raises UserError for a name that nothing or more than one thing has.
    """
    if room is None and name in NODES:
        return "\n".join(line for node in NODES[name] for line in _section(node, f"{name}: ")).strip()
    room, name = _place(name, room)
    found, variant = names.resolve(room, name)
    _check_variant(room, name)
    lines = [f"{room}/{name}: {_about(room, name, found)}"]
    if isinstance(found, Method):
        lines += _section(found.objective, "objective: ", "objective.") + _section(found.view, "view: ", "view.")
    else:
        lines += _section(found) + [line for kind in ANY.get(room, ()) for line in _section(kind)]
    return "\n".join(lines + _variants(room, name, variant) + _recipes(room, name))


def _place(name: str, room: str | None) -> tuple[str, str]:
    """Returns the room of a name, and the name in it."""
    head, slash, tail = name.partition("/")
    if room is None and slash and head in names.EXPORTS:
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
    return variants.get(tail) or names.list_names(room).get(head) or (inspect.getdoc(found) or "").partition("\n")[0]


def _section(factory: Any, title: str = "", prefix: str = "") -> list[str]:
    """Returns a headline, and every option of a function or class on lines of its own."""
    about = (inspect.getdoc(factory) or "").partition("\n")[0]
    fixed = LOADER_FIXED if factory is Loader else ()
    options = [option for option in (*_variant(factory), *describe(factory, prefix)) if option.name not in fixed]
    lines = [line for option in options for line in _option(option)]
    if library := library_of(factory):
        lines.append(f"  any other option is {library}'s own")
    return ["", f"{title}{about}", *(lines or ["  no options"])]


def _variant(factory: Any) -> Iterator[Option]:
    """Yields what stands behind the colon of the name, where something may."""
    if parameter := inspect.signature(factory).parameters.get("variant"):
        yield Option("variant", hints_of(factory)["variant"], parameter.default, texts_of(factory).get("variant", ""))


def _option(option: Option) -> list[str]:
    default = "" if option.default is REQUIRED else f" = {_plain(option.default)}"
    text = textwrap.wrap(option.text, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return [f"  {option.name}: {spell(option.hint)}{default}{'' if default else ', required'}", *text]


def _plain(value: Any) -> str:
    """Returns a value as a recipe has it."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_plain, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_plain(inner)}' for key, inner in value.items())}}}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:.6g}" if isinstance(value, float) else str(value) if value != "" else '""'


def _variants(room: str, name: str, variant: str | None) -> list[str]:
    """Returns what else the name stands for, where it was given without a variant."""
    if variant or ":" in name or room not in names.rooms_of(name):
        return []
    lines = [f"  {name}:{key}  {line}".rstrip() for key, line in names.list_variants(room, name).items()]
    return ["", "variants:", *lines] if lines else []


def _recipes(room: str, name: str) -> list[str]:
    """Returns which shipped recipes name it, and with which variant where it was asked for without one."""
    found = {}
    for key, uses in names.recipes().items():
        named = [used for place, used in uses if place == room and name in (used, used.partition(":")[0])]
        if named:
            others = sorted({*named} - {name})
            found[key] = f"{key} ({', '.join(others)})" if others else key
    return ["", "recipes:", *(f"  {line}" for line in found.values())] if found else []
