"""Where a run's figures go: metrics.jsonl, TensorBoard, and Weights & Biases when asked."""

from __future__ import annotations

import json
import math
import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from tqdm import tqdm

from mmssl.errors import UserError
from mmssl.files import write_atomically
from mmssl.schema import fit


@dataclass(kw_only=True, slots=True)
class WandbOptions:
    """Where figures are sent to at Weights & Biases.

    project: in which the run is shown; `wandb: true` is all of these by default, false, the default, sends nothing.
    name: of the run there, by default the recipe's.
    group: of runs that belong together.
    tags: of the run.
    """

    project: str = "mmssl"
    name: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)


class RunLog:
    """Writes each step's figures to every place that listens."""

    def __init__(
        self,
        folder: Path,
        *,
        name: str,
        recipe: dict[str, Any],
        step: int = 0,
        wandb: bool | WandbOptions = False,
    ) -> None:
        """Opens the logs; after a resume from `step`, lines of later steps are dropped, since they come again.

        name, recipe: what Weights & Biases shows of the run, where `wandb` sends figures there.
        """
        options = WandbOptions() if wandb is True else wandb
        self.wandb = _start_wandb(folder, name, recipe, options, resumed=step > 0) if options else None
        path = folder / "metrics.jsonl"
        kept = [line for line in _lines(path) if line["step"] <= step]
        write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self.file = Appended(path)
        self.board = Board(folder / "tensorboard", purge_step=step + 1 if step else None)

    def write(self, step: int, values: dict[str, float], details: Mapping[str, float] | None = None) -> None:
        """Writes name -> value for a step; JSON has null for what is no number.

        details: further figures, of TensorBoard and Weights & Biases alone.
        """
        plain = {key: _rounded(value) if math.isfinite(value) else None for key, value in values.items()}
        self.file.write((json.dumps({"step": step, **plain}) + "\n").encode())
        shown = {**values, **(details or {})}
        self.board.write(step, shown)
        if self.wandb is not None:
            self.wandb.log(shown, step=step)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Flushes and closes."""
        self.file.close()
        self.board.file.close()
        if self.wandb is not None:
            self.wandb.finish()


class Appended:
    """A file that grows. What cannot be written, for the disk is full, waits for the next write, and a line says so.

    That ends no run: the next checkpoint will, unless there is room again by then.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.file = path, path.open("ab", buffering=0)
        self.waiting = b""
        self.warned = False

    def write(self, data: bytes) -> None:
        """Writes what waits, then the data."""
        self.waiting += data
        try:
            while self.waiting:
                self.waiting = self.waiting[self.file.write(self.waiting) :]
        except OSError as error:
            if not self.warned:
                tqdm.write(f"{self.path} cannot be written: {error.strerror}; what comes waits until it can")
            self.warned = True

    def close(self) -> None:
        """Writes what waits, or says that it is lost."""
        self.write(b"")
        if self.waiting:
            tqdm.write(f"{self.path} lacks its last {len(self.waiting)} bytes")
        self.file.close()


class Board:
    """TensorBoard's file of events. Its own writer writes in a thread, which ends in a traceback when it cannot."""

    def __init__(self, folder: Path, *, purge_step: int | None = None) -> None:
        """purge_step: from this step on, TensorBoard shows nothing of the files before."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        name = f"events.out.tfevents.{time.time():017.6f}.{socket.gethostname()}.{os.getpid()}"
        self.file = Appended(folder / name)
        self.records = RecordWriter(self.file)
        self._add(Event(file_version="brain.Event:2"))
        if purge_step is not None:
            self._add(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))

    def write(self, step: int, values: dict[str, float]) -> None:
        """Adds name -> value for a step."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        scalars = [Summary.Value(tag=key, simple_value=value) for key, value in values.items()]
        self._add(Event(step=step, summary=Summary(value=scalars)))

    def _add(self, event: Any) -> None:
        event.wall_time = time.time()
        self.records.write(event.SerializeToString())


def _rounded(value: float) -> float:
    """Returns a value to six decimals, and one below 1, such as a small learning rate, to six digits."""
    return round(value, 6) if abs(value) >= 1 else float(f"{value:.6g}")


class Line(TypedDict):
    """A line of metrics.jsonl; what else it has are figures by name."""

    step: int


def _lines(path: Path) -> list[Line]:
    """Reads back whole lines; the last one may have been cut off, and what is no line of ours is left out."""
    lines: list[Line] = []
    for text in path.read_text("utf-8", "replace").splitlines() if path.exists() else ():
        with suppress(ValueError, RecursionError):
            lines.append(fit(json.loads(text), Line, "the line"))
    return lines


def _start_wandb(folder: Path, name: str, recipe: dict[str, Any], options: WandbOptions, *, resumed: bool) -> Any:
    """Opens the run at Weights & Biases; a resumed one is the one that it was, known by the file wandb_id."""
    try:
        import wandb
    except ModuleNotFoundError:
        raise UserError("train.wandb is set but wandb is not installed: pip install 'mmssl[wandb]'") from None
    file = folder / "wandb_id"
    run = wandb.init(
        project=options.project,
        name=options.name or name,
        group=options.group,
        tags=options.tags or None,
        dir=str(folder),
        config=recipe,
        id=file.read_text() if resumed and file.exists() else None,
        resume="allow",
    )
    write_atomically(file, run.id.encode())
    return run
