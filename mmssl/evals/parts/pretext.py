"""Asks a task its own question about held-out samples, shown by its own View, with options changed where wanted."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mmssl import dist
from mmssl.data.collate import collate
from mmssl.data.in_workers import Made
from mmssl.data.plan import seed_of
from mmssl.data.seeds import seeded
from mmssl.data.shards import Source
from mmssl.errors import DamagedError, LackingError, as_damaged
from mmssl.evals.parts.report import no_samples_error, skip_sample
from mmssl.evals.parts.score import bootstrap, named
from mmssl.evals.parts.stream import prepared_groups
from mmssl.types import Batch, Loss, Sample, Score, Trained, View, evaluating

Answers = dict[str, Any]
"""Name -> rows of samples: tensors (N, ...), or lists of N texts. `sample` is each one's place in the set, `key` its
`__key__`."""


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
) -> Iterator[tuple[Answers, Batch]]:
    """Yields `sample` and `key` of this process's share of the samples, and the batches of them as the task sees them.

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
            shown = [(one, made) for one in several if (made := _or_left_out(one, round_))]
            if shown:
                views = collate([made for _, made in shown], view).to(device)
                with seeded(seed_of(seed, round_, "batch", turn), device):
                    views = view.on_device(views)
                yield rows_of([one for one, _ in shown]), views


def _shown(sample: Sample, *, view: View, seed: int, rounds: int) -> list[Sample | DamagedError]:
    """Returns the viewed sample of each round, or why it cannot be shown in one."""
    found: list[Sample | DamagedError] = []
    for round_ in range(rounds):
        with seeded(seed_of(seed, round_, sample["__place__"])):
            try:
                with as_damaged():
                    shown = view(sample)
                if not any(shown.get(key) for key in view.preprocess):
                    raise LackingError(f"a view without {' or '.join(sorted(view.preprocess))}")
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


def rows_of(samples: Sequence[Made[Any]]) -> Answers:
    """Returns which samples rows are of."""
    return {"sample": torch.tensor([one.place for one in samples]), "key": [one.about["__key__"] for one in samples]}


def gathered(found: Sequence[Answers]) -> Answers:
    """Concatenates every process's rows, by name, and sorts them by `sample`."""
    everywhere = [{k: v if isinstance(v, list) else v.cpu() for k, v in part.items()} for part in found]
    parts = [part for share in dist.gather_objects(everywhere) for part in share]
    if not parts:
        raise no_samples_error("the evaluation data has no sample that the task can be asked about")
    order = torch.cat([part["sample"] for part in parts]).argsort(stable=True)
    return {name: _joined([part[name] for part in parts], order) for name in parts[0]}


def _joined(parts: Sequence[Tensor] | Sequence[list[str]], order: Tensor) -> Tensor | list[str]:
    if isinstance(parts[0], Tensor):
        return torch.cat(parts)[order]  # type: ignore[arg-type]
    texts = list(itertools.chain.from_iterable(parts))
    return [texts[place] for place in order.tolist()]


def per_group(values: Tensor, groups: Tensor) -> Tensor:
    """Averages rows (N,) of each group: (G,)."""
    kinds, number = groups.unique(return_inverse=True)
    return torch.zeros(len(kinds)).index_add(0, number, values.float()) / number.bincount()


def sample_score(
    values: Tensor, samples: Tensor, keys: Mapping[int, str], *, chance: float, trivial: float | None
) -> Score:
    """Scores rows (N,) of samples (N,), each sample once; what each reaches is kept under its key."""
    means = per_group(values, samples)
    parts = named((keys[number] for number in samples.unique().tolist()), means.tolist())
    return bootstrap(means, chance=chance, trivial=trivial, parts=parts)
