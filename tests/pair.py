"""Two processes of one run on the CPU, without torchrun: forked from a server that has imported what they need."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Sequence
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import torch
import torch.distributed as td

from mmssl import trainer
from mmssl.cli import main
from mmssl.errors import UserError

STEP = 7  # after which something happens
PRELOAD = ["mmssl.loop", "mmssl.methods.clip", "torch.utils.tensorboard", "torch._inductor"]  # as fit imports it


class Pair:
    """The processes of `mmssl WORDS`; each writes what it says into a file of the folder.

    happens, to: what befalls which rank before step `STEP`, see `befall`. hosted: rank 0 holds the store, as where
    there is no torchrun. ranks: those that start, of two.
    """

    def __init__(
        self,
        folder: Path,
        words: Sequence[str],
        *,
        happens: str = "",
        to: int = 1,
        hosted: bool = False,
        ranks: Sequence[int] = (0, 1),
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        # the last is what use_deterministic_algorithms imports
        context.set_forkserver_preload(
            ["mmssl.loop", "mmssl.methods.clip", "torch.utils.tensorboard", "torch._inductor"]
        )
        if hosted:
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
        else:
            self.store = td.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
            port = self.store.port
        self.files = {rank: folder / f"said.{rank}" for rank in ranks}
        self.processes = {}
        for rank, file in self.files.items():
            environment = {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "GROUP_RANK": "0",
                "TORCHELASTIC_USE_AGENT_STORE": str(not hosted),
            }
            befalls = happens if rank == to or to < 0 else ""
            self.processes[rank] = context.Process(target=run, args=(environment, file, list(words), befalls))
            self.processes[rank].start()

    def codes(self) -> list[int | None]:
        """Waits for all, and returns their exit codes."""
        for process in self.processes.values():
            process.join(300)
            process.kill()
        return [process.exitcode for process in self.processes.values()]

    def said(self, rank: int) -> str:
        """What a rank has said."""
        return self.files[rank].read_text()

    def lines(self) -> list[str]:
        """The lines in which all say why they end."""
        said = "".join(self.said(rank) for rank in self.files)
        assert "Traceback" not in said, said
        return [line for line in said.splitlines() if line.startswith("mmssl: ")]


def run(environment: dict[str, str], file: Path, words: list[str], befalls: str) -> None:
    """One rank, which leads a group of processes."""
    os.setsid()
    handle = os.open(file, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.environ |= environment
    torch.set_num_threads(1)
    if befalls:
        befall(befalls)
    raise SystemExit(main(words))


def befall(what: str) -> None:
    """Lets this process die, hang, ... before step `STEP`."""
    real = trainer.Trainer.train_step

    def step(self: Any) -> Any:
        if self.step == STEP:
            match what:
                case "SIGKILL" | "SIGTERM" | "SIGUSR1" | "SIGSTOP":
                    signal.raise_signal(getattr(signal, what))  # to this thread, so that it is noted before the step
                case "job":  # all processes of it
                    os.killpg(0, signal.SIGTERM)
                    check_server()
                case "endless":
                    while True:
                        time.sleep(0.001)
                case "mistake":
                    raise UserError("9 of 9 samples are unusable")
                case "bug":
                    raise KeyError("bug")
                case "nan":
                    self.bad_steps += 1000
        return real(self)

    trainer.Trainer.train_step = step  # type: ignore[method-assign]


def check_server() -> None:
    """Raises where the server that workers are forked from, if there is one, would end of SIGTERM."""
    status = Path(f"/proc/{forkserver._forkserver._forkserver_pid}/status")  # type: ignore[attr-defined]
    if status.exists():
        [blocked] = [line.split()[1] for line in status.read_text().splitlines() if line.startswith("SigBlk")]
        assert int(blocked, 16) >> (signal.SIGTERM - 1) & 1, "SIGTERM ends the server of workers"
