"""Asks a task its own question about held-out samples, shown by its own View, with options changed where wanted."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmssl import dist
from mmssl.data.collate import collate
from mmssl.data.plan import seed_of
from mmssl.data.shards import Source
from mmssl.data.timer import timed
from mmssl.errors import DamagedError
from mmssl.evals.report import nothing_left, skipping
from mmssl.evals.stream import chunks
from mmssl.types import Batch, Loss, Sample, Trained, View, evaluating

Answers = dict[str, Tensor]


def answer(trained: Trained, task: str, batch: Batch) -> Loss:
    """Asks about one batch, in evaluation mode and without gradients."""
    objective = trained.task(task).objective
    parts = [trained.encoders[key] for key in objective.uses]
    with torch.inference_mode(), evaluating(objective, *parts), dist.alone():
        return objective(trained.encoders, batch)


def show(
    trained: Trained, task: str, source: Source, *, seed: int = 0, batch: int = 32, rounds: int = 1, **changed: Any
) -> Iterator[tuple[Tensor, Batch]]:
    """Yields this process's share of the batches as the task sees them, and the samples' numbers (B,).

    Each sample is shown `rounds` times; one that cannot be shown is left out. changed: options of the View.
    Batches are cut before they are shared out, so that they are the same on any number of processes.
    """
    pretext = trained.task(task)
    view = pretext.show(trained.encoders, **changed)
    view.progress = 1.0
    device = trained.encoders[pretext.objective.uses[0]].device
    for turn, chunk in enumerate(chunks(source.samples(view.reads), batch)):
        if turn % dist.world() != dist.rank():
            continue
        for round_ in range(rounds):
            whole = []
            for number, sample in enumerate(chunk, start=turn * batch):
                with seeded(seed_of(seed, round_, number)), skipping(sample), timed():
                    whole.append((number, _shown(view, sample)))
            if whole:
                made = collate([shown for _, shown in whole], view).to(device)
                with seeded(seed_of(seed, round_, "batch", turn), device):
                    made = view.on_device(made)
                yield torch.tensor([number for number, _ in whole]), made


def _shown(view: View, sample: Sample) -> Sample:
    """Returns the viewed sample; raises DamagedError if it cannot be shown."""
    shown = view(sample)
    if not any(shown.get(key) for key in view.preprocess):
        raise DamagedError(f"a view without {' or '.join(sorted(view.preprocess))}")
    return shown


def gathered(found: Sequence[Answers]) -> Answers:
    """Concatenates every process's rows, by name, and sorts them by `sample`."""
    everywhere = [{k: v.cpu() for k, v in part.items()} for part in found]
    parts = [part for share in dist.gather_objects(everywhere) for part in share]
    if not parts:
        raise nothing_left("the evaluation data has no sample that the task can be asked about")
    rows = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    order = rows["sample"].argsort(stable=True)
    return {name: values[order] for name, values in rows.items()}


def per_group(values: Tensor, groups: Tensor) -> Tensor:
    """Averages rows (N,) of each group: (G,)."""
    number = groups.unique(return_inverse=True)[1]
    total = torch.zeros(int(number.max()) + 1).index_add(0, number, values.float())
    return total / number.bincount()


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Draws from a seed, and gives random, numpy and torch their states back afterwards."""
    before = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([device] if device is not None and device.type == "cuda" else []):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])
