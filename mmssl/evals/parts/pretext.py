"""Asks a task its own question about held-out samples, shown by its own View, with options changed where wanted."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmssl import dist
from mmssl.data.collate import collate
from mmssl.data.in_workers import Made
from mmssl.data.plan import seed_of
from mmssl.data.shards import Source
from mmssl.errors import DamagedError
from mmssl.evals.parts.report import no_samples_error, skip_sample
from mmssl.evals.parts.stream import prepared_groups
from mmssl.types import Batch, Loss, Sample, Trained, View, evaluating

Answers = dict[str, Tensor]


def answer(trained: Trained, task: str, batch: Batch) -> Loss:
    """Asks about one batch, in evaluation mode and without gradients."""
    objective = trained.task(task).objective
    parts = [trained.encoders[key] for key in objective.uses]
    with torch.inference_mode(), evaluating(objective, *parts), dist.alone():
        return objective(trained.encoders, batch)


def ask_some(trained: Trained, task: str, source: Source, *, batches: int = 8) -> None:
    """Asks about some batches for nothing but the statistics of BatchNorm, in whatever mode the networks are."""
    for _, batch in itertools.islice(show(trained, task, source), batches):
        with torch.inference_mode(), dist.alone():
            trained.task(task).objective(trained.encoders, batch)


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
    make = partial(_shown, view=view, seed=seed, rounds=rounds)
    for turn, several in prepared_groups(source, view.reads, make, size=batch):
        for round_ in range(rounds):
            shown = [(one.place, made) for one in several if (made := _or_left_out(one, round_))]
            if shown:
                views = collate([made for _, made in shown], view).to(device)
                with seeded(seed_of(seed, round_, "batch", turn), device):
                    views = view.on_device(views)
                yield torch.tensor([number for number, _ in shown]), views


def _shown(sample: Sample, *, view: View, seed: int, rounds: int) -> list[Sample | DamagedError]:
    """Returns the viewed sample of each round, or why it cannot be shown in one."""
    found: list[Sample | DamagedError] = []
    for round_ in range(rounds):
        with seeded(seed_of(seed, round_, sample["__place__"])):
            try:
                shown = view(sample)
                if not any(shown.get(key) for key in view.preprocess):
                    raise DamagedError(f"a view without {' or '.join(sorted(view.preprocess))}")
                found.append(shown)
            except DamagedError as error:
                found.append(error)
    return found


def _or_left_out(one: Made[list[Sample | DamagedError]], round_: int) -> Sample | None:
    """Returns the sample as it is viewed in a round, or nothing once it is reported."""
    shown = (one.value or [])[round_]
    if isinstance(shown, DamagedError):
        skip_sample(one.about, shown)
        return None
    return shown


def gathered(found: Sequence[Answers]) -> Answers:
    """Concatenates every process's rows, by name, and sorts them by `sample`."""
    everywhere = [{k: v.cpu() for k, v in part.items()} for part in found]
    parts = [part for share in dist.gather_objects(everywhere) for part in share]
    if not parts:
        raise no_samples_error("the evaluation data has no sample that the task can be asked about")
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
