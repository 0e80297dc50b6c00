"""Where a run's figures go: metrics.jsonl, TensorBoard, and Weights & Biases when asked."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from pathlib import Path
from typing import Any, TypedDict

from mmssl.errors import UserError
from mmssl.schema import fit


class RunLog:
    """Writes each step's figures to every place that listens."""

    def __init__(self, folder: Path, *, name: str, recipe: dict[str, Any], step: int = 0, wandb: bool = False) -> None:
        """Opens the logs; after a resume from `step`, lines of later steps are dropped, since they come again."""
        from torch.utils.tensorboard import SummaryWriter

        self.wandb = _start_wandb(folder, name, recipe) if wandb else None
        path = folder / "metrics.jsonl"
        kept = [line for line in _lines(path) if line["step"] <= step]
        path.write_text("".join(json.dumps(line) + "\n" for line in kept))
        self.file = path.open("a", buffering=1)
        self.board = SummaryWriter(folder / "tensorboard", purge_step=step + 1 if step else None)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes name -> value for a step; JSON has null for what is no number."""
        plain = {key: round(value, 6) if math.isfinite(value) else None for key, value in values.items()}
        self.file.write(json.dumps({"step": step, **plain}) + "\n")
        for key, value in values.items():
            self.board.add_scalar(key, value, step)
        if self.wandb is not None:
            self.wandb.log(values, step=step)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Flushes and closes."""
        self.file.close()
        self.board.close()
        if self.wandb is not None:
            self.wandb.finish()


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


def _start_wandb(folder: Path, name: str, recipe: dict[str, Any]) -> Any:
    try:
        import wandb
    except ModuleNotFoundError:
        raise UserError("train.wandb is true but wandb is not installed: pip install 'mmssl[wandb]'") from None
    return wandb.init(project="mmssl", name=name, dir=str(folder), config=recipe, resume="allow")
