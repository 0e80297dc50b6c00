"""A name is a path: `clip` is mmssl/methods/clip.py, `timm:resnet18` is encoders/timm.py given a variant."""

from __future__ import annotations

import ast
import importlib
import inspect
import shlex
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, TypedDict, TypeGuard

from mmssl import own
from mmssl.errors import UserError, did_you_mean
from mmssl.options import check_options as check_options
from mmssl.options import options_of as options_of
from mmssl.schema import fit, read_yaml, shortened

PACKAGE = Path(__file__).parent
EXPORTS = {
    "encoders": "encoder",
    "methods": "method",
    "evals": "evaluation",
    "views": "view",
    "optim": "optimizer",
    "plots": "plot",
}
KINDS = {  # classes of mmssl.types that names of a room stand for; those of the other rooms stand for functions
    "encoders": "Encoder",
    "heads": "Head",
    "methods": "Method",
    "evals": "Evaluation",
    "views": "View",
    "transforms": "Transform",
}
FOLDERS = {"heads": ("nn", "methods"), "views": ("views", "methods")}  # of mmssl that hold such; else the room alone
LISTED = {  # what `list_names` lists
    "encoders": "Networks that make features of images, videos, sounds, point clouds or texts.",
    "methods": "Self-supervised methods: what the network is shown, and what it is asked.",
    "evals": "Evaluations of a run or of any encoder (mmssl eval).",
    "views": "Views that several methods share: augmentations as lists of steps.",
    "optim": "Optimizers.",
    "plots": "Plots of what a run has learnt (mmssl plot RUN NAME).",
    "datasets": "Datasets whose shards are made by mmssl prepare NAME.",
    "configs": "Recipes (mmssl train NAME, mmssl show NAME, mmssl new NAME FILE).",
}
TRUST = "pass trust_code=True, on the command line --trust-code, if you trust where it comes from"


def home(room: str) -> Path:
    """Returns where `configs`, `datasets` or a room of the package lies, in a checkout or an installed wheel."""
    if room in ("configs", "datasets"):
        inside = PACKAGE / "_assets" / room
        return inside if inside.is_dir() else PACKAGE.parent / room
    return PACKAGE / room


class _Labels(TypedDict, total=False):
    factors: dict[str, list[str | int]]  # names of classes, by what they tell apart


class Card(_Labels):
    """What datasets/NAME/card.yaml tells programs; the rest is for people."""

    about: str


def read_card(dataset: str) -> Card:
    """Reads a dataset's card."""
    file = home("datasets") / dataset / "card.yaml"
    card: Card = fit(read_yaml(file), Card, str(file))
    return card


def list_names(room: str) -> dict[str, str]:
    """Returns name -> one line for `encoders`, `methods`, `evals`, `datasets` or `configs`, importing nothing."""
    folder = home(room)
    if room == "datasets":
        cards = sorted(card.parent.name for card in folder.glob("*/card.yaml"))
        return {name: _first_line(read_card(name)["about"]) for name in cards}
    if room == "configs":
        files = sorted(folder.glob("*/*.yaml"))
        return {f"{f.parent.name}/{f.stem}": _first_line(f.read_text()).lstrip("# ") for f in files}
    if room not in EXPORTS:
        raise UserError(f"nothing is listed under {room!r}; {did_you_mean(room, LISTED)}")
    found = {}
    for file in sorted(folder.glob("*.py")):
        tree = ast.parse(file.read_text())
        if EXPORTS[room] in _top_level_names(tree):
            found[file.stem] = _first_line(ast.get_docstring(tree) or "")
    return found


def recipe_names() -> list[str]:
    """Returns the names of the shipped recipes, reading none."""
    return sorted(f"{file.parent.name}/{file.stem}" for file in home("configs").glob("*/*.yaml"))


def list_variants(room: str, name: str) -> dict[str, str]:
    """Returns what may stand behind a name's colon -> one line where it has its own, importing nothing.

    Of a method, the other methods of its file; of the rest, the choices for `variant`, or VARIANT where it is free.
    """
    body = ast.parse((home(room) / f"{name}.py").read_text()).body
    classes = {node.name: node for node in body if isinstance(node, ast.ClassDef)}
    given = {t.id: node.value for node in body if isinstance(node, ast.Assign) for t in node.targets if _is_name(t)}
    if room == "methods":
        calls = {key: call for key, call in given.items() if isinstance(call, ast.Call) and call.args}
        found = {key: call.args[-1] for key, call in calls.items() if ast.unparse(call.func) == "Method"}
        docs = {key: ast.get_docstring(classes[ast.unparse(kind)]) or "" for key, kind in found.items()}
        return {key: _first_line(text) for key, text in docs.items() if key != EXPORTS[room]}
    exported = classes.get(ast.unparse(given[EXPORTS[room]])) if EXPORTS[room] in given else None
    arguments = [node.args.args for node in getattr(exported, "body", ()) if getattr(node, "name", "") == "__init__"]
    hints = [arg.annotation for args in arguments for arg in args if arg.arg == "variant"]
    return {key: "" for hint in hints for key in _choices(hint)}


def _is_name(node: ast.expr) -> TypeGuard[ast.Name]:
    return isinstance(node, ast.Name)


def _choices(hint: ast.expr | None) -> list[str]:
    """Returns the choices of a `Literal[...]`, or the word for a free one."""
    if isinstance(hint, ast.Subscript) and ast.unparse(hint.value) == "Literal":
        choices = ast.literal_eval(hint.slice)
        return list(choices) if isinstance(choices, tuple) else [choices]
    return ["VARIANT"]


@cache
def recipes() -> dict[str, list[tuple[str, str]]]:
    """Returns for each shipped recipe the rooms and names that it uses, in its order."""
    folder = home("configs")
    return {key: list(dict.fromkeys(_uses(read_yaml(folder / f"{key}.yaml")))) for key in list_names("configs")}


def _uses(tree: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, task in tree["tasks"].items():
        method = task["method"]
        yield "methods", method.get("name", key)
        if shown := (method.get("view") or {}).get("name"):
            yield "views", shown
    yield from (("encoders", name) for name in _names_in(tree["encoders"]))
    yield "optim", tree.get("optim", {}).get("name", "adamw")
    yield from (("evals", node.get("name", key)) for key, node in (tree.get("evals") or {}).items())


def _names_in(node: Any) -> Iterator[str]:
    """Yields the names of encoders, and of those within them."""
    if isinstance(node, Mapping):
        yield from [node["name"]] if isinstance(node.get("name"), str) else []
        for inner in node.values():
            yield from _names_in(inner)


def rooms_of(name: str) -> list[str]:
    """Returns the rooms that list a name, with or without a variant; a method's name does not stand for its view."""
    head = name.partition(":")[0]
    rooms = [room for room in EXPORTS if _is_listed(room, head)]
    return [room for room in rooms if room != "views" or "methods" not in rooms]


def spelled(room: str, name: str) -> str:
    """Returns a name as `mmssl explain` takes it: with its room where others list it too, and for one's own code."""
    if is_path(name):
        return f"{shlex.quote(name)} --room {room}"
    return name if rooms_of(name) == [room] else f"{room}/{name}"


def _is_listed(room: str, name: str) -> bool:
    """Tells whether `list_names` has the name, reading its file alone."""
    files = [file for file in home(room).glob("*.py") if file.stem == name]
    return any(EXPORTS[room] in _top_level_names(ast.parse(file.read_text())) for file in files)


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def _top_level_names(tree: ast.Module) -> set[str]:
    names = set()
    for node in tree.body:
        if isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
    return names


def is_path(name: str) -> bool:
    """Tells whether a name is a path to code, `package.module:object` or `mine.py:object`, not a file of a room."""
    head = name.partition(":")[0]
    return own.is_file(name) or ("." in head and "/" not in head)


def refuse_foreign(name: str, *, trust_code: bool) -> None:
    """Raises UserError for a name of code outside mmssl, unless it is trusted."""
    head = name.partition(":")[0]
    if not trust_code and is_path(name) and (own.is_file(name) or not _is_ours(head)):
        raise UserError(f"{shortened(name)} names code outside mmssl; {TRUST}")


def _is_ours(path: str) -> bool:
    return path.partition(".")[0] == "mmssl" and not path.startswith(f"{own.__name__}.")


def resolve(room: str, name: str, *, trust_code: bool = True) -> tuple[Any, str | None]:
    """Finds what a name stands for and the variant it is to be given, if any.

    `file` and `file:variant` lie in the room; `package.module:object` and `mine.py:object` are the user's own code, the
    latter found from the working folder where its path is not whole.
    Raises UserError for an unknown name, for one that stands for anything else than the room holds (an Encoder, a
    Method, ...), and for foreign code unless it is trusted. Nothing of what is found is called.
    """
    refuse_foreign(name, trust_code=trust_code)
    head, tail = own.split(name) if own.is_file(name) else name.partition(":")[::2]
    module = _module(room, name, head)
    named = bool(tail) and not tail.startswith("_") and hasattr(module, tail)
    attribute = tail if named and (is_path(name) or _holds(room, module, tail)) else EXPORTS.get(room, "")
    if not hasattr(module, attribute):
        where = f"file {head}" if own.is_file(name) else f"module {module.__name__}"
        raise UserError(f"{shortened(name)}: the {where} has no {shortened(tail or attribute)}")
    if not _holds(room, module, attribute):
        kind = f"mmssl.types.{KINDS[room]}" if room in KINDS else "function that makes one"
        raise UserError(f"{shortened(name)} is none of the {room}; expected a {kind}")
    return getattr(module, attribute), None if attribute == tail else tail or None


def _module(room: str, name: str, head: str) -> ModuleType:
    """Imports what a name's head stands for."""
    if own.is_file(name):
        return own.load(name)
    if is_path(name):
        _check_path(room, name, head)
    elif not _is_listed(room, head):
        raise UserError(f"there is no {room.rstrip('s')} {shortened(head)}; {did_you_mean(head, list_names(room))}")
    return _imported(name, head if is_path(name) else f"mmssl.{room}.{head}")


def _check_path(room: str, name: str, path: str) -> None:
    """Raises UserError for what is no path of a module, and for a module of mmssl that holds nothing of the kind."""
    parts, folders = path.split("."), FOLDERS.get(room, (room,))
    if not all(part.isidentifier() for part in parts):
        raise UserError(f"{shortened(name)} is no path to code; expected package.module:object")
    if _is_ours(path) and parts[1] not in folders:
        raise UserError(f"{shortened(name)} is none of the {room}; mmssl's lie in mmssl.{' and mmssl.'.join(folders)}")


def _imported(name: str, path: str) -> ModuleType:
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if f"{path}.".startswith(f"{error.name}."):
            raise UserError(
                f"{shortened(name)}: there is no module {shortened(error.name)} on the Python path"
            ) from None
        raise UserError(f"{shortened(name)} needs the package {error.name!r}: pip install {error.name}") from error


def _holds(room: str, module: ModuleType, attribute: str) -> bool:
    """Tells whether an attribute of a module is of the room's kind, and not the mere contract that it imports."""
    from mmssl import types

    found = getattr(module, attribute)
    if room not in KINDS:  # any function has that kind, so that of mmssl's files only what they export counts
        return callable(found) and (attribute == EXPORTS[room] or not _is_ours(module.__name__))
    kind = getattr(types, KINDS[room])
    if kind is types.Method:
        return isinstance(found, kind)
    if kind is types.View and isinstance(found, types.ViewTemplate):
        return True
    return inspect.isclass(found) and issubclass(found, kind) and found.__module__ != types.__name__


def build(room: str, name: str, *args: Any, where: str = "", trust_code: bool = True, **options: Any) -> Any:
    """Builds what a name stands for with checked options; `where` is the recipe node that errors point at."""
    factory, variant = resolve(room, name, trust_code=trust_code)
    if variant is not None:
        if "variant" not in inspect.signature(factory).parameters:
            head = name.removesuffix(f":{variant}")
            raise UserError(f"{where or name}: {head!r} has no variant {variant!r}")
        args = (variant, *args)
    elif _needs_variant(factory):
        raise UserError(f"{where or name}: say which variant, as in '{name}:VARIANT'")
    return factory(*args, **check_options(factory, options, where=where or name, see=spelled(room, name)))


def _needs_variant(factory: Any) -> bool:
    parameter = inspect.signature(factory).parameters.get("variant")
    return parameter is not None and parameter.default is inspect.Parameter.empty
