"""A stranger's tokenizer is tried in a process of its own: a bad one panics, aborts, hangs, or takes all memory."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mmssl.errors import UserError
from mmssl.limits import hint, limit, refuse

TEXTS = (
    *("", " ", "a", "A red ball, 2 boxes & 10.5% of (nothing)!", "\u0301\u00e9\u4e2d\U0001f600\u202e\x00\ufffd\n\t"),
    *(letter * 10_000 for letter in ("a", " ", "\u0301", "\U0001f600", "a ", "0.", "<", "\n")),
    "".join(map(chr, [*range(0x20, 0x3000), *range(0xAC00, 0xAD00), *range(0x1F600, 0x1F650)])),
)
# `-c` puts the working folder, which may be the stranger's, first among the places of modules.
START = "import sys; sys.path[:] = sys.argv[3:]; from mmssl.trial import serve; serve(*sys.argv[1:3])"
_passed: set[str] = set()


def try_tokenizer(text: str, where: str, *, length: int, pad_id: int = 0, known: int | None = None) -> None:
    """Raises UserError unless a tokenizer.json's text opens, and encodes texts of many kinds as it is to.

    length: the most tokens of a text.
    known: how many tokens the network has embeddings for, where it is known.
    """
    asked = json.dumps({"text": text, "length": length, "pad_id": pad_id, "known": known})
    digest = hashlib.sha256(asked.encode()).hexdigest()
    if digest not in _passed:
        apart("mmssl.trial", "encode_texts", asked, where)
        _passed.add(digest)


def encode_texts(asked: str) -> None:
    """Opens a tokenizer and encodes with it; raises whatever comes of that, and UserError for tokens out of range."""
    from tokenizers import Tokenizer

    given = json.loads(asked)
    tokenizer = prepared(Tokenizer.from_str(given["text"]), given["length"], given["pad_id"])
    _check_tokens(tokenizer.get_vocab().values(), given["known"])
    for text in (*TEXTS, " ".join(_literals(json.loads(given["text"])))):
        for row in tokenizer.encode_batch([text, "a"]):
            if len(row.ids) > given["length"]:
                raise UserError(f"it makes {len(row.ids)} tokens where a text is cut to {given['length']}")
            _check_tokens(row.ids, given["known"])


def _literals(tree: Any) -> Iterator[str]:
    """Yields what the steps before the tokens look for: a text of it makes a few replacements grow without end."""
    level = [tree.get("normalizer"), tree.get("pre_tokenizer")]
    while level:
        yield from (node[:1000] for node in level if isinstance(node, str))
        inside = (node.values() if isinstance(node, dict) else node for node in level if isinstance(node, dict | list))
        level = [inner for part in inside for inner in part]


def _check_tokens(tokens: Iterable[int], known: int | None) -> None:
    if known is not None and max(tokens, default=0) >= known:
        raise UserError(f"it has the token {max(tokens)}, but the network knows {known}")


def prepared(tokenizer: Any, length: int, pad_id: int) -> Any:
    """Returns a copy, for others may use the tokenizer too, that cuts at a length and pads to a batch's longest."""
    tokenizer = type(tokenizer).from_str(tokenizer.to_str())
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(pad_id=pad_id)
    return tokenizer


@contextmanager
def panicking(where: str) -> Iterator[None]:
    """Makes a UserError of what tokenizers raises: bare Exceptions, and panics, which are none."""
    try:
        yield
    except UserError:
        raise
    except BaseException as error:
        if not (isinstance(error, Exception) or type(error).__name__ == "PanicException"):
            raise
        raise UserError(f"{where}: its tokenizer does not work ({_line(error)}); save it again") from error


def apart(module: str, function: str, argument: str, where: str) -> Any:
    """Returns what a function of text makes of it, a plain value, in a process with limits of time and memory.

    Raises UserError, that points at `where`, for what the function raises, for a limit, and for a process that dies.
    """
    refuse("tokenizer_bytes", len(argument), f"{where}: its tokenizer has {len(argument):,} bytes")
    seconds = limit("tokenizer_seconds")
    command = [sys.executable, "-c", START, module, function, *sys.path]
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
    try:
        done = subprocess.run(command, input=argument.encode(), capture_output=True, env=environment, timeout=seconds)
    except subprocess.TimeoutExpired:
        limited = hint("tokenizer_seconds", seconds * 10)
        raise UserError(f"{where}: its tokenizer takes more than {seconds:g} s over a few texts; {limited}") from None
    answer = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 and done.stdout else None
    if answer is None:
        limited = hint("tokenizer_memory", limit("tokenizer_memory") * 4)
        raise UserError(
            f"{where}: its tokenizer ends the process that opens it (exit code {done.returncode}); {limited}"
        )
    if "error" in answer:
        raise UserError(f"{where}: its tokenizer does not work ({answer['error']}); save it again")
    return answer["value"]


def serve(module: str, function: str) -> None:
    """Answers `apart` in its process."""
    work = getattr(importlib.import_module(module), function)
    _limit_memory()
    try:
        answer = {"value": work(sys.stdin.buffer.read().decode())}
    except BaseException as error:  # a panic is no Exception
        answer = {"error": _line(error)}
    print(f"\n{json.dumps(answer)}", flush=True)
    os._exit(0)  # what is left behind may not end well


def _limit_memory() -> None:
    """Limits what this process may take from now on, and its time if its parent is gone; where systems can."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        most, seconds = used + int(limit("tokenizer_memory")), int(limit("tokenizer_seconds")) + 60
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
