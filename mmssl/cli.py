"""The `mmssl` command; each verb is a thin call into one function, imported when it is used."""

from __future__ import annotations

import argparse
import errno
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from mmssl import limits
from mmssl.errors import UserError, describe

ROOMS = ("encoders", "methods", "evals", "views", "optim", "plots")
CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}


def say(text: object, *, file: TextIO | None = None) -> None:
    """Prints a text; control characters, by which names in a stranger's files could steer a terminal, as `\\x1b`."""
    print(str(text).translate(CONTROL), file=file)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; a user's mistake is one line and exit code 2."""
    arguments = parse(argv)
    several = int(os.environ.get("WORLD_SIZE", 1)) > 1  # a process of torchrun's
    if several:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # its pages on lost connections; we say that in a line
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be of another encoding
    code = _run(arguments)
    if several:
        from mmssl import dist

        dist.leave(code)
    return code


def _run(arguments: argparse.Namespace) -> int:
    try:
        if getattr(arguments, "limits", None):
            limits.set_limits(",".join(arguments.limits))
        return int(arguments.run(arguments) or 0)
    except UserError as error:
        say(f"mmssl: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        say("mmssl: interrupted; `mmssl train` and `shards build` go on where they stopped", file=sys.stderr)
        return 130
    except SystemExit as end:  # a run that a signal stopped
        return int(end.code or 0)
    except BrokenPipeError:  # what reads it, such as `head`, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if not error.filename and error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO):
            raise  # not of a file
        say(f"mmssl: {describe(error)}; nothing already written is lost", file=sys.stderr)
    return 2


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses a command line; key=value overrides may stand anywhere among the options."""
    top = parser()
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
    for add in (_train, _eval, _zero_shot, _plot, _demo, _list, _explain, _prepare, _shards, _doctor):
        add(verbs)
    return top


Verbs = argparse._SubParsersAction


def _train(verbs: Verbs) -> None:
    p = verbs.add_parser("train", help="train a recipe")
    p.add_argument("recipe", help="a YAML file, or a shipped recipe's name (`mmssl list configs`)")
    p.add_argument("overrides", nargs="*", metavar="key=value", help="such as optim.lr=3e-4")
    p.add_argument("--out", help="run folder (default runs/NAME)")
    p.add_argument("--resume", action="store_true", help="continue from the newest checkpoint that loads")
    p.add_argument("--quiet", action="store_true", help="no progress bar")
    _add_limits(p)
    p.set_defaults(run=_run_train)


def _run_train(a: argparse.Namespace) -> None:
    from mmssl.judge import read_scores, table
    from mmssl.loop import train

    folder = train(a.recipe, a.overrides, out=a.out, resume=a.resume, progress=not a.quiet)
    if scores := read_scores(folder):
        say(table(scores))
    say(f"run folder: {folder}")


def _eval(verbs: Verbs) -> None:
    p = verbs.add_parser(
        "eval",
        help="judge a run by its recipe's evaluations, or any encoder on shards with labels",
        description="With --train and --data, judges any encoder by protocols that learn from labels; without, runs "
        "the evaluations of a run's recipe again.",
    )
    p.add_argument(
        "folder", metavar="PATH", help="a run; with --train also an encoder's folder, timm:NAME, a transformers folder"
    )
    p.add_argument("overrides", nargs="*", metavar="key=value", help="such as evals.knn.k=[5], or linear.solver=sgd")
    p.add_argument("--only", nargs="+", metavar="NAME", help="of the recipe's evaluations these only")
    p.add_argument("--train", metavar="SHARDS", help="labelled shards to learn from")
    p.add_argument("--data", metavar="SHARDS", help="labelled shards to judge on")
    p.add_argument("--protocol", metavar="NAMES", help="evaluations, with commas between (default knn,linear)")
    p.add_argument("--out", type=Path, help="JSON file for the figures (default eval.json in the folder)")
    _add_trust(p)
    _add_limits(p)
    p.set_defaults(run=_run_eval)


def _add_limits(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--limits", action="append", metavar="NAME=VALUE", help="raise what files may hold, as in picture_pixels=3e8"
    )


def _add_trust(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--trust-code",
        action="store_true",
        help="let what the run's files name be run and fetched: code outside mmssl, commands, addresses",
    )


def _run_eval(a: argparse.Namespace) -> None:
    from mmssl.judge import evaluate, table

    if not (a.train or a.data):
        if a.protocol or a.out:
            raise UserError("--protocol and --out go with --train SHARDS and --data SHARDS; say on what to judge")
        say(table(evaluate(a.folder, a.overrides, evals=a.only, trust_code=a.trust_code)))
        return
    if not (a.train and a.data) or a.only:
        raise UserError("--train SHARDS and --data SHARDS go together, with --protocol in place of --only")
    from mmssl.judge import judge_encoder

    protocols = (a.protocol or "knn,linear").split(",")
    scores, file = judge_encoder(
        a.folder, protocols, a.overrides, train=a.train, data=a.data, out=a.out, trust_code=a.trust_code
    )
    say(table(scores))
    say(f"written to {file}")


def _zero_shot(verbs: Verbs) -> None:
    p = verbs.add_parser("zero-shot", help="classify images by the names of classes")
    p.add_argument("folder", metavar="RUN")
    p.add_argument("--images", required=True, help="a folder of images, or shards")
    p.add_argument("--classes", required=True, help="a file with one class a line")
    p.add_argument("--templates", help="a file with one prompt a line, {} where the class goes")
    p.add_argument("--space", default="clip", help="the task whose embedding is used (default clip)")
    p.add_argument("--out", type=Path, help="write the predictions as CSV instead of printing them")
    _add_trust(p)
    _add_limits(p)
    p.set_defaults(run=_run_zero_shot)


def _run_zero_shot(a: argparse.Namespace) -> None:
    from mmssl.classify import zero_shot
    from mmssl.judge import table

    found = zero_shot(a.folder, a.images, a.classes, a.templates, space=a.space, trust_code=a.trust_code)
    if a.out:
        found.write(a.out)
        say(f"{len(found.rows)} predictions written to {a.out}")
    else:
        for key, name, similarity in found.rows:
            say(f"{key}\t{name}\t{similarity:.4f}")
    for line in (*(f"skipped {key}: {why}" for key, why in found.skipped), *found.notes):
        say(line, file=sys.stderr)
    if found.scores:
        say(table(found.scores))


def _plot(verbs: Verbs) -> None:
    p = verbs.add_parser("plot", help="plot what a run has learnt (`mmssl list plots`)")
    p.add_argument("folder", metavar="RUN")
    p.add_argument("kind", metavar="KIND")
    p.add_argument("overrides", nargs="*", metavar="key=value", help="such as count=3 or data.shards=data/mine")
    p.add_argument("--out", help="folder for the plots (default RUN/plots/KIND)")
    _add_trust(p)
    _add_limits(p)
    p.set_defaults(run=_run_plot)


def _run_plot(a: argparse.Namespace) -> None:
    from mmssl.plot import plot

    for path in plot(a.folder, a.kind, a.overrides, out=a.out, trust_code=a.trust_code):
        say(path)


def _demo(verbs: Verbs) -> None:
    p = verbs.add_parser("demo", help="make the toy world, train on it, and print what was learnt")
    p.add_argument("--data", default="data/bounce", help="where the world's shards go (default data/bounce)")
    p.add_argument("--out", default="runs/demo", help="run folder (default runs/demo)")
    p.add_argument("overrides", nargs="*", metavar="key=value", help="as in `mmssl train`")
    p.set_defaults(run=_run_demo)


def _run_demo(a: argparse.Namespace) -> None:
    from mmssl.demo import demo

    demo(data=Path(a.data), out=Path(a.out), overrides=a.overrides)


def _list(verbs: Verbs) -> None:
    p = verbs.add_parser("list", help="list what there is by name")
    p.add_argument("room", choices=(*ROOMS, "datasets", "configs"))
    p.set_defaults(run=_run_list)


def _run_list(a: argparse.Namespace) -> None:
    rows = _recipe_rows() if a.room == "configs" else _rows(a.room)
    width = max(map(len, rows), default=0)
    for name, line in rows.items():
        say(f"{name:{width}}  {line}".rstrip())


def _rows(room: str) -> dict[str, str]:
    """Returns a line for each name, and for each variant."""
    from mmssl.names import EXPORTS, list_names, list_variants

    rows: dict[str, str] = {}
    for name, line in list_names(room).items():
        rows[name] = line
        rows |= {f"{name}:{key}": text for key, text in (list_variants(room, name) if room in EXPORTS else {}).items()}
    return rows


def _recipe_rows() -> dict[str, str]:
    """Returns a line for each recipe, with the methods and encoders that it names."""
    from mmssl.names import list_names, recipes

    used = {key: [name for room, name in uses if room in ("methods", "encoders")] for key, uses in recipes().items()}
    return {name: f"{line} ({', '.join(used[name])})" for name, line in list_names("configs").items()}


def _explain(verbs: Verbs) -> None:
    p = verbs.add_parser("explain", help="print every option of what a name stands for, its variants and its recipes")
    p.add_argument(
        "name",
        metavar="NAME",
        help="a method, view, encoder, evaluation, optimizer or plot (`mmssl list`), such as moco:v2 or "
        "encoders/frames, or train, task or data: the nodes of a recipe",
    )
    p.add_argument("--room", choices=ROOMS, help="where it lies, where several have the name or it is your own code")
    p.set_defaults(run=_run_explain)


def _run_explain(a: argparse.Namespace) -> None:
    from mmssl.explain import explain

    say(explain(a.name, a.room))


def _prepare(verbs: Verbs) -> None:
    p = verbs.add_parser("prepare", help="make a dataset's shards (`mmssl list datasets`)", add_help=False)
    p.add_argument("dataset")
    p.add_argument("rest", nargs=argparse.REMAINDER, help="given to the dataset's own prepare.py; try --help")
    p.set_defaults(run=_run_prepare)


def _run_prepare(a: argparse.Namespace) -> int:
    from mmssl.prepare import prepare

    return prepare(a.dataset, a.rest)


def _shards(verbs: Verbs) -> None:
    p = verbs.add_parser("shards", help="write, check and look into shards")
    actions = p.add_subparsers(required=True, metavar="ACTION")
    build = actions.add_parser("build", help="make shards; an interrupted build goes on where it stopped")
    build.add_argument("source", help="a folder per class, a CSV/TSV/Parquet/JSONL manifest, or other shards")
    build.add_argument("out", help="folder for the shards and their index.json")
    build.add_argument("--shard-samples", type=int, default=1000, help="samples a shard at most (default 1000)")
    build.add_argument("--shard-mb", type=float, default=256, help="size of a shard at most (default 256)")
    build.add_argument(
        "--columns", "--column", nargs="+", action="extend", metavar="KEY=COLUMN", help="columns of a manifest"
    )
    build.add_argument("--shuffle", action=argparse.BooleanOptionalAction, help="default: all but shards")
    build.add_argument("--seed", type=int, default=0, help="of the shuffle (default 0)")
    build.add_argument("--workers", type=int, help="processes (default: one a core)")
    build.add_argument("--strict", action="store_true", help="stop at the first unreadable file")
    _add_limits(build)
    build.set_defaults(run=_run_build)
    for name, run, what in (
        ("verify", _run_verify, "check checksums and counts"),
        ("show", _run_show, "say what is in"),
    ):
        action = actions.add_parser(name, help=what)
        action.add_argument("folder")
        _add_limits(action)
        action.set_defaults(run=run)
        if name == "verify":
            action.add_argument("--decode", action="store_true", help="open every sample as well")


def _run_build(a: argparse.Namespace) -> None:
    from mmssl.data.manifest import parse_columns
    from mmssl.data.writer import build, summary

    index = build(
        a.source,
        a.out,
        columns=parse_columns(a.columns or ()),
        shuffle=a.shuffle,
        seed=a.seed,
        shard_samples=a.shard_samples,
        shard_mb=a.shard_mb,
        workers=a.workers,
        strict=a.strict,
    )
    say(f"{a.out}: {summary(index)}")


def _run_verify(a: argparse.Namespace) -> int:
    from mmssl.data.index import INDEX
    from mmssl.data.writer import verify

    problems = verify(a.folder, decode=a.decode)
    for problem in problems:
        say(problem)
    remark = "" if (Path(a.folder) / INDEX).is_file() else f"; without {INDEX} nothing tells whether any is missing"
    say(f"{len(problems)} problems" if problems else f"all shards are whole{remark}")
    return 2 if problems else 0


def _run_show(a: argparse.Namespace) -> None:
    from mmssl.data.writer import show

    say(show(a.folder))


def _doctor(verbs: Verbs) -> None:
    p = verbs.add_parser("doctor", help="say what of the installation is broken and how to mend it")
    p.set_defaults(run=_run_doctor)


def _run_doctor(a: argparse.Namespace) -> int:
    from mmssl.doctor import report

    return report()


if __name__ == "__main__":
    raise SystemExit(main())
