"""Says what of the installation is broken."""

from __future__ import annotations

import argparse

from mmssl.console import Verbs


def add(verbs: Verbs) -> None:
    p = verbs.add_parser("doctor", help="say what of the installation is broken and how to mend it")
    p.set_defaults(run=run)


def run(a: argparse.Namespace) -> int:
    from mmssl.doctor import report

    return report()
