"""The command keeps the memory that it frees."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys

import pytest

from mmssl import console

FAULTS = """
import resource
from mmssl.verbs import train
try:
    train.run(None)
except AttributeError:  # None names no recipe
    pass
before = None
for _ in range(5):
    block = bytearray(2**26)
    del block
    before = before or resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print("faults", resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such settings")
def test_training_by_the_command_keeps_freed_memory() -> None:
    env = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True, env=env)
    found = int(done.stdout.rpartition("faults ")[2])
    assert found < 2000, "pages were fetched to make a block of 16,384 pages four times more"


def test_what_the_environment_says_of_malloc_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    monkeypatch.setattr(ctypes, "CDLL", None)
    console.keep_memory()
