"""Encoders and objectives as the one module that trains."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from tqdm import tqdm

from mmssl import dist
from mmssl.errors import UserError
from mmssl.objectives.bank import Rows
from mmssl.objectives.queue import Queue
from mmssl.types import Batch, Encoder, Loss, Objective


class MultiTask(nn.Module):
    """The encoders and every task's objective: the one module that is wrapped, stepped and saved."""

    def __init__(self, encoders: Mapping[str, Encoder], objectives: Mapping[str, Objective], weights: dict[str, float]):
        super().__init__()
        self.encoders = nn.ModuleDict(dict(encoders))
        self.objectives = nn.ModuleDict(dict(objectives))
        self.weights = weights
        for task, objective in objectives.items():
            for place, head in objective.spaces().items():
                key, _, part = place.partition("/")
                encoders[key].spaces[f"{task}_{part}" if part else task] = head
        self._check_names()

    @property
    def named_encoders(self) -> dict[str, Encoder]:
        """Modality -> encoder."""
        return cast("dict[str, Encoder]", dict(self.encoders.items()))

    @property
    def exported(self) -> dict[str, Encoder]:
        """What is judged and saved for use: the encoders, and the objectives' own."""
        own = (objective.extra_encoders() for objective in self.named_objectives.values())
        return self.named_encoders | dict(ChainMap(*own))

    def _check_names(self) -> None:
        """Raises UserError where two of what `exported` names would have one name, and one of them be lost."""
        owners = dict.fromkeys(self.encoders, "the run's encoders")
        for task, objective in self.named_objectives.items():
            for key in objective.extra_encoders():
                if key in owners:
                    raise UserError(
                        f"task {task!r} gives an encoder {key!r}, but there is one of that name among {owners[key]}; "
                        "rename the run's encoder, or train the two tasks in runs of their own"
                    )
                owners[key] = f"those of task {task!r}"

    @property
    def named_objectives(self) -> dict[str, Objective]:
        """Task -> objective."""
        return cast("dict[str, Objective]", dict(self.objectives.items()))

    def forward(self, batches: dict[str, Batch]) -> tuple[Tensor, dict[str, Loss]]:
        """Takes one batch per task; returns the weighted total and each task's loss."""
        losses: dict[str, Loss] = {}
        for task, batch in batches.items():
            with dist.counting() as counts:
                losses[task] = self.objectives[task](self.named_encoders, batch)
            if counts:
                losses[task].rows = torch.stack(counts).amax()
        total = torch.stack([self.weights[task] * loss.total for task, loss in losses.items()]).sum()
        return total, losses


def freeze_idle(model: MultiTask, batches: dict[str, Batch]) -> None:
    """Freezes trainable parameters that no task's loss reaches, with a line that names them.

    DDP would stop at them ("Expected to have finished reduction"). One trial step finds them; the
    random state and the buffers are put back after it.
    """
    buffers = {key: value.clone() for key, value in model.named_buffers()}
    devices = [next(model.parameters()).device] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        total, _ = model(batches)
        total.backward()
    for key, value in model.named_buffers():
        value.copy_(buffers[key])
    idle = [(key, p) for key, p in model.named_parameters() if p.requires_grad and p.grad is None]
    for _, parameter in idle:
        parameter.requires_grad_(False)
    model.zero_grad(set_to_none=True)
    if idle and dist.rank() == 0:
        tqdm.write(f"frozen, since no task's loss reaches them: {', '.join(key for key, _ in idle)}")


def equal_everywhere(model: nn.Module) -> list[str]:
    """Returns the names of queues' and banks' buffers: all processes write the same gathered rows into them.

    DDP would otherwise send all of them from the first process to the others at every step.
    """
    kept = [(name, module) for name, module in model.named_modules() if isinstance(module, Queue | Rows)]
    return [f"{name}.{key}" for name, module in kept for key, _ in module.named_buffers(recurse=False)]
