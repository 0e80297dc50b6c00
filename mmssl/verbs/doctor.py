"""Says what of the installation is broken."""

from __future__ import annotations

import argparse

from mmssl.console import Answer, Verbs, add_json


def add(verbs: Verbs) -> None:
    p = verbs.add_parser("doctor", help="say what of the installation is broken and how to mend it")
    add_json(p)
    p.set_defaults(run=run)


def run(a: argparse.Namespace) -> Answer:
    from dataclasses import asdict

    from mmssl.doctor import diagnose, report

    findings = list(diagnose())
    text, broken = report(findings)
    return Answer(text, {"broken": broken, "findings": [asdict(f) for f in findings]}, code=1 if broken else 0)
