"""Makes the shards of a dataset that mmssl knows."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from mmssl.errors import UserError, did_you_mean
from mmssl.names import home, list_names


def prepare(dataset: str, arguments: Sequence[str]) -> int:
    """Runs a dataset's prepare.py in a process of its own; returns its exit code."""
    known = list_names("datasets")
    if dataset not in known:
        raise UserError(f"there is no dataset {dataset!r}; {did_you_mean(dataset, known)}")
    script = home("datasets") / dataset / "prepare.py"
    return subprocess.run([sys.executable, str(script), *arguments], check=False).returncode
