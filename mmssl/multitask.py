"""Encoders and objectives as the one module that trains."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from mmssl import dist
from mmssl.errors import UserError
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


def compile_encoders(model: nn.Module) -> None:
    """Has torch.compile make all encoders of a model faster when they are first called, those of teachers too."""
    for part in model.modules():
        if isinstance(part, Encoder):
            part.compile()
