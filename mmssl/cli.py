"""The `mmssl` command; each verb is a thin call into one function, imported when it is used."""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import io
import os
import sys
from collections.abc import Sequence

from mmssl import limits
from mmssl.console import Answer, drop_output, say
from mmssl.errors import UserError, describe

# in the order of `mmssl --help`
VERBS = (
    *(
        "train",
        "eval",
        "zero_shot",
        "caption",
        "encode",
        "search",
        "dedupe",
        "index",
        "plot",
        "demo",
        "list",
        "explain",
        "show",
    ),
    *("new", "prepare", "shards", "export", "doctor", "completion"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; a user's mistake is one line and exit code 2."""
    several = int(os.environ.get("WORLD_SIZE", 1)) > 1  # a process of torchrun's
    if several:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # its pages on lost connections; we say that in a line
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be of another encoding
    code = 0
    try:
        try:
            code = _run(parse(argv))
        finally:
            if sys.stdout:
                sys.stdout.flush()  # a pipe that was closed is known now, and not as Python ends
    except BrokenPipeError:
        drop_output()
    if several:
        from mmssl import dist

        dist.leave(code)
    return code


def _run(arguments: argparse.Namespace) -> int:
    try:
        if getattr(arguments, "limits", None):
            limits.set_limits(",".join(arguments.limits))
        as_json = getattr(arguments, "json", False)
        with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
            answer: Answer | int | None = arguments.run(arguments)
        if not isinstance(answer, Answer):
            return answer or 0
        if os.environ.get("RANK", "0") == "0":  # of torchrun's processes the first answers for all
            answer.tell(as_json=as_json)
        return answer.code
    except UserError as error:
        say(f"mmssl: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        say("mmssl: interrupted; `mmssl train`, `encode` and `shards build` go on where they stopped", file=sys.stderr)
        return 130
    except SystemExit as end:  # a run that a signal stopped
        return int(end.code or 0)
    except BrokenPipeError:
        raise
    except OSError as error:
        if not error.filename and error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO):
            raise  # not of a file
        say(f"mmssl: {describe(error)}; nothing already written is lost", file=sys.stderr)
    return 2


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses a command line; key=value overrides may stand anywhere among the options."""
    top = parser()
    if "_ARGCOMPLETE" in os.environ:  # a shell asks how the line may go on (`mmssl completion`)
        import argcomplete

        argcomplete.autocomplete(top)
    arguments, rest = top.parse_known_args(argv)
    overrides = [word for word in rest if "=" in word and not word.startswith("-") and hasattr(arguments, "overrides")]
    if unknown := [word for word in rest if word not in overrides]:
        top.error(f"unrecognized arguments: {' '.join(unknown)}")
    if overrides:
        arguments.overrides = [*arguments.overrides, *overrides]
    return arguments


def parser() -> argparse.ArgumentParser:
    """Returns the parser of all verbs."""
    top = argparse.ArgumentParser(prog="mmssl", description="Self-supervised learning across modalities.")
    verbs = top.add_subparsers(title="verbs", required=True, metavar="VERB")
    for name in VERBS:
        importlib.import_module(f"mmssl.verbs.{name}").add(verbs)
    return top


if __name__ == "__main__":
    raise SystemExit(main())
