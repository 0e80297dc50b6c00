"""Plain values against declared types, and the documents that hold them: JSON and YAML, read within limits."""

from __future__ import annotations

import inspect
import itertools
import json
import math
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from mmssl.errors import UserError
from mmssl.limits import limit, refuse


def fit(value: Any, hint: Any, where: str) -> Any:
    """Returns the value as the type hint wants it; raises UserError where it is of another kind."""
    fitted = match(value, hint)
    if fitted is NO:
        raise UserError(f"{where} is {shortened(value)}; expected {spell(hint)}")
    return fitted


def shortened(value: Any) -> str:
    """Returns a value for a message, cut where it is long."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deep, or a whole number of too many digits
        return f"a {type(value).__name__}"
    return text if len(text) <= 200 else f"{text[:200]}..."


NO = object()


def match(value: Any, hint: Any) -> Any:
    """Returns the value in the hinted type, or NO; the required keys of a TypedDict must be there, others may be."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        fits = [fitted for fitted in (match(value, arg) for arg in args) if fitted is not NO]
        return next((f for f in fits if type(f) is type(value)), fits[0] if fits else NO)
    if origin is Literal:
        return value if value in args else NO
    if hint is None or hint is type(None):
        return None if value is None else NO
    if hint is float:
        return _number(value)
    if hint is int:
        return int(value) if type(value) is int or (type(value) is float and value.is_integer()) else NO
    if origin in (list, tuple) or hint in (list, tuple):
        return _sequence(value, origin or hint, args)
    if typing.is_typeddict(hint):
        return _record(value, hint)
    if origin is not None:
        return _mapping(value, origin, args)
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
    return NO if NO in items else kind(items)


def _mapping(value: Any, origin: Any, args: tuple[Any, ...]) -> Any:
    if not (inspect.isclass(origin) and isinstance(value, origin)):
        return NO
    if isinstance(value, Mapping) and len(args) == 2:
        items = {key: match(item, args[1]) for key, item in value.items()}
        return NO if any(item is NO for item in items.values()) else items
    return value


def _record(value: Any, hint: Any) -> Any:
    """Matches a mapping with a TypedDict; keys that it does not declare stay as they are."""
    if not isinstance(value, dict) or not hint.__required_keys__ <= value.keys():
        return NO
    hints = typing.get_type_hints(hint)
    known = {key: match(item, hints[key]) for key, item in value.items() if key in hints}
    return NO if any(item is NO for item in known.values()) else {**value, **known}


def spell(hint: Any) -> str:
    """Returns a type hint in words."""
    if typing.is_typeddict(hint):
        return "a mapping with " + ", ".join(
            f"{key} ({spell(kind)})" for key, kind in typing.get_type_hints(hint).items()
        )
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(repr(arg) for arg in typing.get_args(hint))
    return hint.__name__ if inspect.isclass(hint) and not typing.get_args(hint) else str(hint)


def read_json(path: Path) -> Any:
    """Reads a JSON file; raises UserError where it cannot be read, is no JSON, or exceeds the limits of documents."""
    text = _text(path, "json_bytes")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:  # a number of too many digits is a ValueError
        raise UserError(f"{path} is not JSON: {_line(error)}") from None
    refuse("document_depth", depth(value), f"{path} is nested too deep")
    return value


def read_yaml(path: Path) -> Any:
    """Reads a YAML file as `read_json` reads JSON; what an alias stands for counts as often as it is used."""
    return parse_yaml(_text(path, "yaml_bytes"), where=str(path))


def parse_yaml(text: str, *, where: str) -> Any:
    """Returns the plain values of a YAML text; raises UserError for anything else."""
    import yaml

    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        many = f"{where} holds too many values, aliases repeated or nested too deep"
        refuse("yaml_values", _values(node, {}, 0), many)
        return None if node is None else loader.construct_document(node)
    except UserError:
        raise
    except Exception as error:  # YAMLError, and of dates and numbers that cannot be ValueError, TypeError, ...
        raise UserError(f"{where} is not YAML: {_line(error)}") from None


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


def _text(path: Path, most: str) -> str:
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
