"""Classifiers made of words."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from torch import Tensor
from torch.nn import functional as F

from mmssl import names
from mmssl.errors import UserError, did_you_mean
from mmssl.evals.parts.classes import same
from mmssl.evals.parts.templates import PLAIN, SETS
from mmssl.limits import refuse
from mmssl.types import Encoder

TEMPLATES = SETS["short"]


def zero_shot_classifier(
    text_encoder: Encoder, classes: Sequence[str], templates: Sequence[str] = TEMPLATES, *, space: str
) -> Tensor:
    """Makes the weights of a zero-shot classifier: for each class the mean of its prompts' embeddings.

    templates hold `{}` where the class name goes; each prompt's embedding is normalised, their mean too.
    Returns (C, D): scores are `encoder.encode(images, space=space) @ weights.T`. Radford et al., ICML 2021.
    """
    return F.normalize(embedded_prompts(text_encoder, classes, templates, space=space).mean(dim=0), dim=1)


def embedded_prompts(text_encoder: Encoder, classes: Sequence[str], templates: Sequence[str], *, space: str) -> Tensor:
    """Returns the embedding of each class in each template, (T, C, D) of unit length."""
    classes, templates = check_classes(classes), check_templates(templates)
    count = len(classes) * len(templates)
    refuse("prompts", count, f"{len(classes)} classes in {len(templates)} templates are {count:,} prompts")
    prompts = [template.replace("{}", name) for template in templates for name in classes]
    embeddings = F.normalize(text_encoder.encode(prompts, space=space), dim=1)
    return embeddings.view(len(templates), len(classes), -1)


def embedded_with_plain(
    text_encoder: Encoder, classes: Sequence[str], templates: Sequence[str], *, space: str
) -> tuple[Tensor, Tensor]:
    """Returns the embeddings of each class in each template (T, C, D), and those of the classes' names alone (C, D)."""
    asked = [*templates, *([] if PLAIN in templates else [PLAIN])]
    found = embedded_prompts(text_encoder, classes, asked, space=space)
    return found[: len(templates)], found[asked.index(PLAIN)]


def check_classes(classes: Sequence[str]) -> list[str]:
    """Returns class names, stripped; UserError for none, an empty one or one that comes twice."""
    found = [same(name) for name in classes]
    if len(found) < 2:
        raise UserError(f"there is {len(found)} class; expected at least two")
    if "" in found:
        raise UserError(f"class {found.index('') + 1} is empty; expected a name")
    twice = sorted(name for name, times in Counter(found).items() if times > 1)
    if twice:
        raise UserError(f"classes that come twice: {', '.join(twice)}; each must stand once")
    return found


def check_templates(templates: Sequence[str]) -> list[str]:
    """Returns prompt templates; UserError for none or one without `{}`."""
    if not templates:
        raise UserError("there is no prompt template; expected at least one such as 'a photo of a {}'")
    for template in templates:
        if "{}" not in template:
            raise UserError(f"the template {template!r} has no {{}} for the class name")
    return list(templates)


def read_classes(given: str | Sequence[str]) -> list[str]:
    """Reads class names: a list, a text file with one per line, or `dataset.factor` of a dataset's card."""
    return check_classes(_read(given, "classes") if isinstance(given, str) else given)


def read_templates(given: str | Sequence[str] | None) -> list[str]:
    """Reads prompt templates: a list, the name of a set, a text file with one per line, or None for `short`."""
    if given is None:
        return list(TEMPLATES)
    if isinstance(given, str) and given in SETS:
        return list(SETS[given])
    return check_templates(_read(given, "templates", SETS) if isinstance(given, str) else given)


def read_lines(path: Path) -> list[str]:
    """Returns the lines of a UTF-8 file, stripped, without blank ones; a byte order mark is no part of the first."""
    refuse("list_bytes", size := path.stat().st_size, f"{path} has {size:,} bytes")
    data = path.read_bytes()
    try:
        if b"\0" in data:  # UTF-16 and UTF-32 have it beside each letter of English
            raise UnicodeError
        text = data.decode("utf-8-sig")
    except UnicodeError:
        raise UserError(f'{path} is not UTF-8 text (a spreadsheet\'s "Unicode" is UTF-16); save it as UTF-8') from None
    return [line.strip() for line in io.StringIO(text, newline=None) if line.strip()]


def _read(given: str, what: str, sets: Iterable[str] = ()) -> list[str]:
    path = Path(given)
    if path.is_file():
        return read_lines(path)
    dataset, _, factor = given.partition(".")
    cards = names.list_names("datasets")
    if "/" in given or path.suffix == ".txt":
        raise UserError(f"there is no {what} file {given!r}")
    if dataset not in cards:
        hint = did_you_mean(dataset, [*sets, *cards])
        raise UserError(f"{what} is {given!r}: no such file{', set' if sets else ''}, and no such dataset; {hint}")
    factors = names.read_card(dataset).get("factors", {})
    if factor not in factors:
        raise UserError(f"the card of {dataset} has no list {factor!r}; {did_you_mean(factor, factors)}")
    return [str(name) for name in factors[factor]]
