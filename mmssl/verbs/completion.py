"""Prints what makes a shell complete the command."""

from __future__ import annotations

import argparse

from mmssl.console import Answer, Verbs

HOW = """Load it where the shell starts:
  bash, in ~/.bashrc:  eval "$(mmssl completion bash)"
  zsh, in ~/.zshrc:    eval "$(mmssl completion zsh)"
  fish:                mmssl completion fish > ~/.config/fish/completions/mmssl.fish"""


def add(verbs: Verbs) -> None:
    p = verbs.add_parser(
        "completion",
        help="print a script by which a shell completes verbs, options and names",
        epilog=HOW,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("shell", choices=("bash", "zsh", "fish"))
    p.set_defaults(run=run)


def run(a: argparse.Namespace) -> Answer:
    from argcomplete import shellcode

    return Answer(shellcode(["mmssl"], shell=a.shell).rstrip("\n"))
