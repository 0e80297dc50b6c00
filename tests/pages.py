"""Pages whose commands, recipes and Python are tried as they stand."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
WALKS = ("1. ", "2. ", "3. ")  # how their titles begin; tests/walks takes them


def blocks(text: str, language: str) -> list[str]:
    """Returns what stands in the text's blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


def commands(text: str) -> list[str]:
    """Returns the lines of the text's blocks of commands, in their order."""
    return [line for block in blocks(text, "bash") for line in block.splitlines() if line.strip()]


def sections(text: str) -> dict[str, str]:
    """Returns title -> text of the parts that begin with `## TITLE`."""
    return dict(part.split("\n", 1) for part in re.split(r"^## ", text, flags=re.M)[1:])


def walk(number: int) -> str:
    """Returns one of the README's walks, 1 to 3."""
    return next(text for title, text in sections(README).items() if title.startswith(WALKS[number - 1]))


def without_walks() -> str:
    """Returns the rest of the README."""
    return "\n".join(text for title, text in sections(README).items() if not title.startswith(WALKS))
