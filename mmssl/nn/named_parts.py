"""Parts of a network by name, as recipes write them: `blocks.0-5`, `layer1-3`, `norm`, `class_token`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from mmssl.errors import UserError, did_you_mean

Part = nn.Module | nn.Parameter
RANGE = re.compile(r"(.*?)(\d+)-(\d+)")


def parts_of(roots: Mapping[str, nn.Module], name: str, *, where: str) -> list[Part]:
    """Returns the modules, or the one parameter, that a name stands for.

    The first word is a key of `roots`, each further one a part of what the words before it name. `3-7` stands for the
    parts 3 to 7. A module that holds all weights of the one around it need not be named: `image.blocks.0` is
    `model.blocks.0` of a timm model, and `blocks.layers.0` of vit.
    where: the option that errors point at. Raises UserError for a name that matches nothing.
    """
    key, *words = name.split(".")
    if key not in roots:
        raise UserError(f"{where} names {key!r}; {did_you_mean(key, roots)}")
    found: list[Part] = [roots[key]]
    for number, word in enumerate(words):
        said = ".".join([key, *words[:number]])
        found = [part for each in found for part in _below(each, word, f"{where}: {said}")]
    return found


def weights_of(parts: list[Part]) -> Iterator[Tensor]:
    """Yields the parameters of parts."""
    for part in parts:
        yield from part.parameters() if isinstance(part, nn.Module) else (part,)


def _below(part: Part, word: str, where: str) -> list[Part]:
    inside = _inside(part) if isinstance(part, nn.Module) else {}
    if word in inside:
        return [inside[word]]
    numbers = RANGE.fullmatch(word)
    if numbers is None:
        raise UserError(f"{where} has no part {word!r}; {did_you_mean(word, inside)}")
    stem, first, last = numbers[1], int(numbers[2]), int(numbers[3])
    known = sorted(int(key.removeprefix(stem)) for key in inside if re.fullmatch(rf"{re.escape(stem)}\d+", key))
    if not (first in known and last in known and first <= last):
        has = f"{stem}{known[0]} to {stem}{known[-1]}" if known else f"no numbered {stem or 'parts'}"
        raise UserError(f"{where} has no parts {word!r}; it has {has}")
    return [inside[f"{stem}{number}"] for number in known if first <= number <= last]


def _inside(module: nn.Module) -> dict[str, Part]:
    """Returns the parts of a module by name; where one of them holds all weights, the parts of that, too."""
    own: dict[str, Part] = {**dict(module.named_children()), **dict(module.named_parameters(recurse=False))}
    heavy = [part for part in own.values() if any(True for _ in weights_of([part]))]
    alone = heavy[0] if len(heavy) == 1 else None
    return {**_inside(alone), **own} if isinstance(alone, nn.Module) else own
