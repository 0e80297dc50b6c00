"""Commands of Python in processes of their own, forked from a server that has imported torch and mmssl."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import shutil
import sys
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

# the third and fourth are what a run and use_deterministic_algorithms import
PRELOAD = ["mmssl.loop", "mmssl.methods.clip", "torch.utils.tensorboard", "torch._inductor", "forked"]


class Command:
    """A command, as `python WORDS` runs it: `-m module`, `-c code` or a script, with what it prints in files.

    out: takes what it prints and its errors, together; without it they are kept apart.
    """

    def __init__(
        self,
        words: Sequence[str | Path],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        out: Path | None = None,
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        folder = tempfile.mkdtemp()
        weakref.finalize(self, shutil.rmtree, folder)
        self.files = [out, out] if out else [Path(folder) / name for name in ("stdout", "stderr")]
        given = ([str(word) for word in words], str(cwd or Path.cwd()), dict(os.environ) | dict(env or {}))
        self.process = context.Process(target=_run, args=(*given, [str(file) for file in self.files]))
        self.process.start()

    def wait(self, timeout: float = 600) -> int | None:
        """Waits for its end and returns the exit code, below zero for a signal; kills it after the timeout (s)."""
        self.process.join(timeout)
        self.process.kill()
        self.process.join()
        return self.process.exitcode

    @property
    def stdout(self) -> str:
        return self.files[0].read_text()

    @property
    def stderr(self) -> str:
        return self.files[1].read_text()


def _run(words: list[str], cwd: str, environment: dict[str, str], files: list[str]) -> None:
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_CREAT | os.O_WRONLY | os.O_APPEND), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    torch.set_num_threads(1)
    first, *rest = words
    if first == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    elif first == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        sys.path.insert(0, str(Path(first).resolve().parent))
        runpy.run_path(first, run_name="__main__")


def rank_of_two(rank: int, port: int) -> dict[str, str]:
    """Returns the environment of a rank as torchrun sets it; port: of the store."""
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "GROUP_RANK")
    values = (str(rank), str(rank), "2", "127.0.0.1", str(port), "0")
    return {**dict(zip(names, values, strict=True)), "TORCHELASTIC_USE_AGENT_STORE": "True"}
