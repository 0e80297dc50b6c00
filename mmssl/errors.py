"""Mistakes that a user can mend: what was found, what was expected, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """A user's mistake; the command line shows it as one line and exits with code 2."""


class DamagedError(UserError):
    """One sample that cannot be used; loaders skip it and count it under `reason`.

    `reason` is short and free of file names, so that equal faults count as one; `detail` is what this one adds.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        detail = detail.encode("utf-8", "backslashreplace").decode()  # file names in other encodings can be printed
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail

    def __reduce__(self) -> tuple[type[DamagedError], tuple[str, str]]:
        return (type(self), (self.reason, self.detail))


class LackingError(DamagedError):
    """One whole sample that lacks what a task needs, such as sound; skipped as well, but counted apart."""


@contextmanager
def as_damaged() -> Iterator[None]:
    """Makes a DamagedError of every UserError inside: what stands in a sample is no mistake of the recipe's."""
    try:
        yield
    except DamagedError:
        raise
    except UserError as error:
        raise DamagedError(str(error)) from None


@contextmanager
def as_user_error(what: str) -> Iterator[None]:
    """Makes a UserError of every error inside: for what is built by values of a stranger's that no schema can judge."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        detail = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{what}: {detail}") from error


def describe(error: OSError) -> str:
    """Returns what the system refused, and where."""
    where = f" at {error.filename}" if error.filename else ""
    return f"{error.strerror or error}{where}"


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """Returns a hint for a misspelt word: the nearest known one, or all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(str(word)[:100], known, n=1)  # a long one would take minutes
    if near:
        return f"did you mean {near[0]!r}?"
    return f"known: {', '.join(known)}" if known else "none is known"
