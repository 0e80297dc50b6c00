"""Makes a dataset's shards."""

from __future__ import annotations

import argparse
from typing import Any

from mmssl.console import Verbs, columns, complete
from mmssl.names import list_names


def add(verbs: Verbs) -> None:
    p = verbs.add_parser(
        "prepare",
        help="make a dataset's shards (`mmssl list datasets`)",
        add_help=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("-h", "--help", action=_Help, help="print this; behind a dataset's name, its own options")
    complete(p.add_argument("dataset", metavar="DATASET"), lambda: list_names("datasets"))
    p.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="options of the dataset's own")
    p.set_defaults(run=run)


class _Help(argparse._HelpAction):
    """Prints the help with a list of the datasets, whose cards are read then only."""

    def __call__(self, parser: argparse.ArgumentParser, *arguments: Any, **more: Any) -> None:
        parser.epilog = f"datasets:\n{columns(list_names('datasets'))}\n\nmmssl prepare DATASET --help has its options"
        super().__call__(parser, *arguments, **more)


def run(a: argparse.Namespace) -> int:
    from mmssl.prepare import prepare

    return prepare(a.dataset, a.rest)
