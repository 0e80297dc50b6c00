"""Text: UTF-8, one string, or a list of strings where a sample has several captions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmssl.errors import DamagedError, UserError
from mmssl.modalities import read_file

EXTENSIONS = ("txt",)

Text = str | list[str]


def decode(data: bytes, extension: str = "txt") -> str:
    """Reads UTF-8, with or without a byte-order mark; raises DamagedError for other bytes and for empty text."""
    try:
        return _spoken(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DamagedError("text that is not UTF-8", str(error)) from None


def load(raw: str | bytes | Path | Sequence[str]) -> Text:
    """Takes a string (the text itself), a Path to a text file, bytes, or a list of strings."""
    if isinstance(raw, str):
        return _spoken(raw)
    if isinstance(raw, bytes):
        return decode(raw)
    if isinstance(raw, Path):
        return decode(read_file(raw))
    if isinstance(raw, list | tuple) and all(isinstance(caption, str) for caption in raw):
        captions = [_spoken(caption) for caption in raw if caption.strip()]
        if not captions:
            raise DamagedError("empty text")
        return captions
    raise UserError(f"expected text (a string, a list of strings, bytes or a Path), found {type(raw).__name__}")


def encode(text: Text) -> bytes:
    """Writes UTF-8; several captions become one line each."""
    return (text if isinstance(text, str) else "\n".join(text)).encode()


def _spoken(text: str) -> str:
    text = text.strip("\ufeff\0 \t\r\n")
    if not text:
        raise DamagedError("empty text")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # half of a pair of surrogates, as cut JSON has it
        raise DamagedError("text that is not Unicode", str(error)) from None
    return text
