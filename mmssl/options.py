"""Options are keyword-only parameters of a function or class: its signature is the schema, its docstring the text."""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any

from mmssl.errors import UserError, did_you_mean
from mmssl.schema import fit, group_of, shortened

LINE = re.compile(r"([a-z_]\w*(?:, [a-z_]\w*)*): +(\S.*)")
REQUIRED = inspect.Parameter.empty


@dataclass(frozen=True)
class Option:
    """One option as `mmssl explain` prints it; `name` is dotted where options are grouped."""

    name: str
    hint: Any
    default: Any
    text: str


def options_of(factory: Any) -> dict[str, inspect.Parameter]:
    """Returns the keyword-only parameters of a function or class: its options.

    A class whose constructor takes `**rest`, to hand on to its base, has the base's options as well.
    """
    parameters = inspect.signature(factory).parameters.values()
    own = {p.name: p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
    return {**options_of(_base(factory)), **own} if _hands_on(factory) else own


def _hands_on(factory: Any) -> bool:
    kinds = {p.kind for p in inspect.signature(factory).parameters.values()}
    return inspect.isclass(factory) and inspect.Parameter.VAR_KEYWORD in kinds


def _base(factory: type) -> type:
    """Returns the class behind the one whose constructor this is."""
    line = factory.__mro__
    return line[next(i for i, kind in enumerate(line) if "__init__" in vars(kind)) + 1]


def hints_of(factory: Any) -> dict[str, Any]:
    """Returns the types of the parameters; those of a dataclass's fields are read where each field stands."""
    source = factory
    if inspect.isclass(factory):
        maker = next((kind for kind in factory.__mro__ if "__init__" in vars(kind)), factory)  # may be a base
        source = maker if "__dataclass_fields__" in vars(maker) else factory.__init__
    own = typing.get_type_hints(source, include_extras=True)
    return {**hints_of(_base(factory)), **own} if _hands_on(factory) else own


def check_options(factory: Any, options: Mapping[str, Any], *, where: str = "", see: str = "") -> dict[str, Any]:
    """Returns the options with values in their declared types; raises UserError for a wrong one.

    The signature is the schema: keyword-only parameters are the options, their hints the types. A dataclass is a
    group of options: a mapping changes the group's default, and is checked as options are. A class that names the
    `library` of its `**rest` takes any other option; the library checks those as it builds.
    where: what errors point at.
    see: the name by which `mmssl explain` knows the factory.
    """
    if _is_template(factory):
        factory.changed(options, where)
        return dict(options)
    known = options_of(factory)
    title = getattr(factory, "__name__", str(factory))
    at = f"{where}: " if where else ""
    advice = f"; see: mmssl explain {see}" if see else ""
    if not isinstance(options, Mapping):
        raise UserError(f"{where or title} is {shortened(options)}; expected a mapping of options{advice}")
    rest = {} if library_of(factory) is None else {name: value for name, value in options.items() if name not in known}
    for name in options:
        if name not in known and name not in rest:
            raise UserError(f"{at}{title} has no option {shortened(name)}; {did_you_mean(name, known)}{advice}")
    for name, parameter in known.items():
        if parameter.default is REQUIRED and name not in options:
            raise UserError(f"{at}{title} needs the option {name!r}{advice}")
    hints = hints_of(factory)
    fitted = {
        name: fit(_merged(value, _default(factory, known[name])), hints.get(name, Any), f"{at}{name}", advice=advice)
        for name, value in options.items()
        if name not in rest
    }
    return {**fitted, **rest}


def library_of(factory: Any) -> str | None:
    """Returns which library gets the options that a class does not know itself, where one does."""
    return vars(factory).get("library") if inspect.isclass(factory) else None


def _is_template(factory: Any) -> bool:
    """Tells whether something is views as a value, whose options are those of its steps."""
    from mmssl.types import ViewTemplate

    return isinstance(factory, ViewTemplate)


def _merged(value: Any, default: Any) -> Any:
    """Returns what a mapping makes of a group of options, where the default is one: the rest stays as it was."""
    if not (isinstance(value, Mapping) and is_dataclass(default)):
        return value
    fields = {field.name: getattr(default, field.name) for field in dataclasses.fields(default) if field.init}
    return {**fields, **{name: _merged(inner, fields.get(name)) for name, inner in value.items()}}


def _default(factory: Any, parameter: inspect.Parameter) -> Any:
    """Returns an option's default, made where a dataclass makes it."""
    for field in dataclasses.fields(factory) if is_dataclass(factory) else ():
        if field.name == parameter.name and field.default_factory is not dataclasses.MISSING:
            return field.default_factory()
    return parameter.default


def lines_of(docstring: str | None) -> dict[str, str]:
    """Returns name -> text of the lines `name: text` and `name, other: text`; further lines of a text are indented."""
    found: dict[str, str] = {}
    names: list[str] = []
    for line in inspect.cleandoc(docstring or "").splitlines():
        if match := LINE.fullmatch(line):
            names, text = match[1].split(", "), match[2]
            found |= dict.fromkeys(names, text)
        elif line.startswith(" "):
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
        else:
            names = []
    return found


def texts_of(factory: Any) -> dict[str, str]:
    """Returns the text of each parameter; a class's lines are also those of a subclass that has none of its own."""
    found: dict[str, str] = {}
    for place in reversed(factory.__mro__) if inspect.isclass(factory) else (factory,):
        if lines := lines_of(vars(place).get("__doc__") if inspect.isclass(place) else place.__doc__):
            known = inspect.signature(place).parameters  # other lines are about attributes
            found |= {name: text for name, text in lines.items() if name in known}
    return found


def describe(factory: Any, prefix: str = "", group: Any = None) -> Iterator[Option]:
    """Yields every option in the order of the signature, those of a group one by one under its dotted name.

    group: the instance whose values are the defaults, where the factory is a group's dataclass.
    """
    if _is_template(factory):
        yield from factory.describe(prefix)
        return
    texts, hints = texts_of(factory), hints_of(factory)
    grouped = inspect.isclass(factory) and is_dataclass(factory)  # whose fields need not be keyword-only
    known = inspect.signature(factory).parameters if grouped else options_of(factory)
    for name, parameter in known.items():
        default = getattr(group, name) if is_dataclass(group) else _default(factory, parameter)
        hint = hints.get(name, Any)
        if inner := group_of(hint):
            yield from describe(inner, f"{prefix}{name}.", default)
        else:
            yield Option(f"{prefix}{name}", hint, default, texts.get(name, ""))
