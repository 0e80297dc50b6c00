"""Plain values against declared types, and the documents that hold them: JSON and YAML, read within limits."""

from __future__ import annotations

import inspect
import itertools
import json
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from mmssl.errors import UserError, did_you_mean
from mmssl.limits import limit, refuse


@dataclass(frozen=True)
class Only:
    """What a value must be besides of its type, in words and as a test: `Annotated[int, at_least(1)]`."""

    says: str
    holds: Callable[[Any], bool]


def at_least(low: float) -> Only:
    """Numbers from `low` on; nan is none."""
    return Only(f"of at least {low:.10g}", lambda value: value >= low)


def at_most(high: float) -> Only:
    """Numbers up to `high`; nan is none."""
    return Only(f"of at most {high:.10g}", lambda value: value <= high)


def above(low: float) -> Only:
    """Numbers above `low`; nan is none."""
    return Only(f"above {low:.10g}", lambda value: value > low)


def below(high: float) -> Only:
    """Numbers below `high`; nan is none."""
    return Only(f"below {high:.10g}", lambda value: value < high)


def _is_plain(name: str) -> bool:
    # no separator, scheme, glob, brace, home or option in it, nothing that is hidden, and short enough for a disk
    return re.fullmatch(r"\w[\w .,+=@()-]*", name) is not None and len(name.encode()) <= 200


Count = Annotated[int, at_least(0)]
Positive = Annotated[int, at_least(1)]
FileName = Annotated[str, Only("that names a file: letters, digits and . , + = @ ( ) _ -", _is_plain)]


def fit(value: Any, hint: Any, where: str, *, advice: str = "") -> Any:
    """Returns the value as the type hint wants it; raises UserError where it, or a part of it, is of another kind.

    A dataclass is a group of options: a mapping becomes an instance of it, with none but its fields.
    advice: ends the message about an option that there is not.
    """
    fitted = match(value, hint)
    if fitted is NO:
        place, part, wanted = _culprit(value, hint)
        found = "missing" if part is NO else shortened(part)
        if isinstance(wanted, _Unknown):
            name = f"{where}{': ' if '.' in place[1:] else ''}{place[1:].rpartition('.')[0]}"
            near = did_you_mean(wanted.name, wanted.known)
            raise UserError(f"{name} has no option {shortened(wanted.name)}; {near}{advice}")
        raise UserError(f"{where}{': ' if place else ''}{place[1:]} is {found}; expected {spell(wanted)}")
    return fitted


SEVERAL = ((list, 1), (dict, 2))  # a value's type, and how many arguments its hint has


def _culprit(value: Any, hint: Any, place: str = "") -> tuple[str, Any, Any]:
    """Returns the innermost part of records that does not fit: its place as `.shards.3.name`, itself and its hint."""
    args, parts = typing.get_args(hint), list[tuple[str, Any, Any]]()
    group = group_of(hint)
    if typing.is_typeddict(hint) and isinstance(value, dict):
        needed = hint.__required_keys__
        parts = [(key, value.get(key, NO), kind) for key, kind in _hints(hint).items() if key in {*value, *needed}]
    elif group and isinstance(value, dict):
        known, needed = _fields(group)
        parts = [(str(key), item, known.get(key, _Unknown(key, (*known,)))) for key, item in value.items()]
        parts += [(key, NO, known[key]) for key in needed if key not in value]
    elif (type(value), len(args)) in SEVERAL and (typing.is_typeddict(args[-1]) or group_of(args[-1])):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        parts = [(str(key), item, args[-1]) for key, item in items]
    for key, part, kind in parts:
        if match(part, kind) is NO:
            return _culprit(part, kind, f"{place}.{key}")
    return place, value, hint


@dataclass(frozen=True)
class _Unknown:
    """Stands for the type of an option that there is not."""

    name: Any
    known: tuple[str, ...]


def group_of(hint: Any) -> type | None:
    """Returns the dataclass that a type hint is, alone or beside None; a group of options."""
    for kind in typing.get_args(hint) if typing.get_origin(hint) in UNIONS else (hint,):
        if inspect.isclass(kind) and is_dataclass(kind):
            return kind
    return None


def _fields(group: Any) -> tuple[dict[str, Any], set[str]]:
    """Returns the types of a dataclass's fields, and which of them have no default."""
    given = [field for field in fields(group) if field.init]
    hints = _hints(group)
    needed = {field.name for field in given if field.default is MISSING and field.default_factory is MISSING}
    return {field.name: hints[field.name] for field in given}, needed


@lru_cache(maxsize=64)
def _hints(record: Any) -> dict[str, Any]:
    return typing.get_type_hints(record, include_extras=True)


def shortened(value: Any) -> str:
    """Returns a value for a message, cut where it is long."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deep, or a whole number of too many digits
        return f"a {type(value).__name__}"
    return text if len(text) <= 200 else f"{text[:200]}..."


NO = object()
UNIONS = (typing.Union, types.UnionType)
DIGITS = re.compile(r"[-+\d:._]{1000,}")  # YAML 1.1 has numbers to base 60, 1:59:59, that are read in quadratic time


def match(value: Any, hint: Any) -> Any:
    """Returns the value in the hinted type, or NO; the required keys of a TypedDict must be there, others may be."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in UNIONS:
        fits = [fitted for fitted in (match(value, arg) for arg in args) if fitted is not NO]
        return next((f for f in fits if type(f) is type(value)), fits[0] if fits else NO)
    if origin is Annotated:
        fitted = match(value, args[0])
        return fitted if fitted is not NO and all(only.holds(fitted) for only in args[1:]) else NO
    if origin is Literal:
        return next((arg for arg in args if arg == value and isinstance(value, bool) == isinstance(arg, bool)), NO)
    if hint is None or hint is type(None):
        return None if value is None else NO
    if hint is float:
        return _number(value)
    if hint is int:
        return int(value) if type(value) is int or (type(value) is float and value.is_integer()) else NO
    if origin is Sequence:
        return _sequence(value, type(value), (args[0], ...))
    if origin in (list, tuple) or hint in (list, tuple):
        return _sequence(value, origin or hint, args)
    if typing.is_typeddict(hint):
        return _record(value, hint)
    if origin is not None:
        return _mapping(value, origin, args)
    if isinstance(value, Mapping) and (group := group_of(hint)):
        return _group(value, group)
    if hint is Path:
        return Path(value) if isinstance(value, str | Path) else NO
    return value if inspect.isclass(hint) and isinstance(value, hint) else NO


def _number(value: Any) -> Any:
    """YAML 1.1 reads 1e-4 as a string, so numbers in strings count as numbers."""
    if isinstance(value, bool):
        return NO
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return NO


def _sequence(value: Any, kind: type, args: tuple[Any, ...]) -> Any:
    if not isinstance(value, list | tuple):
        return NO
    fixed = kind is tuple and args and Ellipsis not in args
    if fixed and len(args) != len(value):
        return NO
    hints = args if fixed else [args[0] if args else Any] * len(value)
    items = [match(item, hint) for item, hint in zip(value, hints, strict=True)]
    return NO if any(item is NO for item in items) else kind(items)


def _mapping(value: Any, origin: Any, args: tuple[Any, ...]) -> Any:
    if not (inspect.isclass(origin) and isinstance(value, origin)):
        return NO
    if isinstance(value, Mapping) and len(args) == 2:
        items = {match(key, args[0]): match(item, args[1]) for key, item in value.items()}
        return NO if any(part is NO for item in items.items() for part in item) else items
    return value


def _record(value: Any, hint: Any) -> Any:
    """Matches a mapping with a TypedDict; keys that it does not declare stay as they are."""
    if not isinstance(value, dict) or not hint.__required_keys__ <= value.keys():
        return NO
    hints = _hints(hint)
    known = {key: match(item, hints[key]) for key, item in value.items() if key in hints}
    return NO if any(item is NO for item in known.values()) else {**value, **known}


def _group(value: Mapping[str, Any], group: type) -> Any:
    """Makes a group of options of a mapping; what the dataclass itself refuses with UserError is passed on."""
    known, needed = _fields(group)
    if not needed <= value.keys() <= known.keys():
        return NO
    fitted = {key: match(item, known[key]) for key, item in value.items()}
    return NO if any(item is NO for item in fitted.values()) else group(**fitted)


def spell(hint: Any) -> str:
    """Returns a type hint in words."""
    if typing.is_typeddict(hint):
        return "a mapping with " + ", ".join(f"{key} ({spell(kind)})" for key, kind in _hints(hint).items())
    if typing.get_origin(hint) is Annotated:
        kind, *only = typing.get_args(hint)
        return " ".join([spell(kind), " and ".join(o.says for o in only)])
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(repr(arg) for arg in typing.get_args(hint))
    if typing.get_origin(hint) not in UNIONS and (group := group_of(hint)):
        return "a mapping of " + ", ".join(_fields(group)[0])
    return _spell_kind(hint)


def _spell_kind(hint: Any) -> str:
    """Returns a class, a union, or a container with what it holds, as Python spells them."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint in (Ellipsis, None, type(None)):
        return "..." if hint is Ellipsis else "None"
    if origin in UNIONS:
        return " | ".join(spell(arg) for arg in args)
    if args and inspect.isclass(origin):
        return f"{origin.__name__}[{', '.join(spell(arg) for arg in args)}]"
    return hint.__name__ if inspect.isclass(hint) else str(hint).removeprefix("typing.")


def read_json(path: Path) -> Any:
    """Reads a JSON file; raises UserError where it cannot be read, is no JSON, or exceeds the limits of documents."""
    text = read_text(path, "json_bytes")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:  # a number of too many digits is a ValueError
        raise UserError(f"{path} is not JSON: {_line(error)}") from None
    refuse("document_depth", depth(value), f"{path} is nested too deep")
    return value


def read_yaml(path: Path) -> Any:
    """Reads a YAML file as `read_json` reads JSON; what an alias stands for counts as often as it is used."""
    return parse_yaml(read_text(path, "yaml_bytes"), where=str(path))


def parse_yaml(text: str, *, where: str) -> Any:
    """Returns the plain values of a YAML text; raises UserError for anything else."""
    import yaml

    try:
        many = f"{where} holds too many values, aliases repeated or nested too deep"
        _check_events(yaml.parse(text, yaml.SafeLoader), many)
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        refuse("yaml_values", _values(node, {}, 0), many)
        return None if node is None else loader.construct_document(node)
    except UserError:
        raise
    except Exception as error:  # YAMLError, and of dates and numbers that cannot be ValueError, TypeError, ...
        raise UserError(f"{where} is not YAML: {_line(error)}") from None


def _check_events(events: Iterable[Any], many: str) -> None:
    """Reads a YAML text as far as the limits go: to compose one of 4 MB takes minutes, as does one number so long."""
    level = 0
    for count, event in enumerate(events):
        kind = type(event).__name__
        level += kind.endswith("StartEvent") - kind.endswith("EndEvent")
        refuse("document_depth", level - 2, many)  # stream and document are levels, too
        refuse("yaml_values", count // 2 - 2, many)  # a list or mapping has two events, the document four
        if DIGITS.fullmatch(getattr(event, "value", "")):
            raise ValueError("a number of too many digits")


def _values(node: Any, known: dict[int, float], depth: int) -> float:
    """Counts the values below a YAML node, before any is made: a few aliases of aliases stand for a million."""
    if depth > limit("document_depth"):
        return math.inf
    if id(node) not in known:
        inside = getattr(node, "value", ())
        inside = inside if isinstance(inside, list) else ()  # a scalar's is text
        parts = itertools.chain.from_iterable(part if isinstance(part, tuple) else (part,) for part in inside)
        known[id(node)] = 1 + sum(_values(part, known, depth + 1) for part in parts)
    return known[id(node)]


def depth(value: Any) -> int:
    """Returns how many values lie within values."""
    depth, level = 0, [value]
    while level := [inner for item in level for inner in _inside(item)]:
        depth += 1
    return depth


def _inside(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def read_text(path: Path, most: str) -> str:
    """Returns the text of a file; raises UserError where it cannot be read or has more bytes than the limit `most`."""
    try:
        size = path.stat().st_size
        refuse(most, size, f"{path} has {size:,} bytes")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not text in UTF-8") from None


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
