"""Makes the shards of a dataset that mmssl knows."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from mmssl.console import drop_output
from mmssl.errors import UserError, did_you_mean
from mmssl.names import home, list_names


def prepare(dataset: str, arguments: Sequence[str]) -> int:
    """Runs a dataset's prepare.py in a process of its own; returns its exit code.

    What it prints is passed on, so that it goes on to its end where nobody reads it any longer.
    """
    known = list_names("datasets")
    if dataset not in known:
        raise UserError(f"there is no dataset {dataset!r}; {did_you_mean(dataset, known)}")
    script = home("datasets") / dataset / "prepare.py"
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, str(script), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, errors="replace", env=environment) as process:
        assert process.stdout
        for line in process.stdout:
            try:
                print(line, end="", flush=True)
            except BrokenPipeError:
                drop_output()
    return process.returncode
