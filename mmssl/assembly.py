"""A checked recipe's parts, built and joined: encoders, objectives, and each task's stream of batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

import torch

from mmssl import dist
from mmssl.data.full_pass import FullPass
from mmssl.data.loader import Loader
from mmssl.data.mixture import Mixture, open_set
from mmssl.data.plan import seed_of
from mmssl.data.seeds import seeded
from mmssl.data.shards import Source
from mmssl.data.subset import Subset
from mmssl.encoders import create_encoder, fetched
from mmssl.errors import UserError
from mmssl.evals.parts.labelled import read_labels
from mmssl.evals.parts.source import open_source
from mmssl.multitask import MultiTask
from mmssl.nn.checkpointing import checkpoint_blocks
from mmssl.objectives.bank import reserve
from mmssl.recipe import Recipe, split, split_data, split_encoder
from mmssl.starting import start
from mmssl.types import Batch, Encoder, Epoch, Objective, Pretext, View
from mmssl.weights import still, weights_until

LEARN_FROM = 100_000  # raw inputs that a tokenizer is trained on at most


class TaskStream:
    """One task's endless stream of batches, and where it stands.

    begins: whether a pass over the set begins that the objective has not been asked about, since somebody last set it
        to False: of a new run's first one before any batch is drawn, of each later one with its first batch.
    """

    def __init__(self, loader: Loader, view: View, resume: dict[str, Any] | None) -> None:
        self.loader, self.view = loader, view
        self.begins = resume is None
        self.batches = self._run(resume)

    def _run(self, resume: dict[str, Any] | None) -> Generator[Batch, None, None]:
        for epoch in count(resume["epoch"] if resume else 0):
            yield from self.loader.epoch(epoch, resume=resume)
            resume = None

    def close(self) -> None:
        """Stops the workers; where the garbage collector finds them instead, torch waits 5 s for each."""
        self.batches.close()

    def next(self, device: torch.device, *, progress: float = 0.0) -> Batch:
        """Returns the next batch on the device, as the View shows it when training is so far.

        What the View draws there depends on the batch's place in the run alone, so that a resumed run draws the same.
        """
        batch = next(self.batches).to(device)
        place = self.loader.place
        self.begins |= place[0] > 0 and place[1:] == (0, 1)
        self.view.progress = progress
        with seeded(seed_of(self.loader.seed, *place, "on device", self.loader.rank), device):
            return self.view.on_device(self.view.cut(batch) if self.loader.in_memory else batch)

    def sweep(self, device: torch.device) -> Iterator[Batch]:
        """Yields this process's share of the training set once, in order, as the preprocessing shows it."""
        loader = self.loader
        share = FullPass(loader.source, self.view.whole, batch=loader.batch, rank=loader.rank, world=loader.world)
        return (batch.to(device) for batch in share.batches(workers=loader.workers))

    def rest(self, device: torch.device) -> Iterator[Batch]:
        """Yields batches without end."""
        while True:
            yield self.next(device)

    def epoch(self, device: torch.device) -> Epoch:
        """Returns the pass that begins."""
        return Epoch(self.loader.place[0], partial(self.rest, device), partial(self.sweep, device))


def assemble(
    recipe: Recipe, folder: Path, *, device: torch.device, resume: dict[str, Any] | None
) -> tuple[MultiTask, dict[str, TaskStream]]:
    """Builds the module that trains, on the device, and task -> stream.

    folder: the run's, from which learnt preprocessing is taken back on a resume.
    resume: task -> the state of its loader.
    """
    torch.manual_seed(recipe.train.seed)
    encoders = {key: build_encoder(key, node) for key, node in recipe.encoders.items()}
    started = {*encoders} if resume else start(encoders, recipe.train.start)
    still(encoders, recipe.train.frozen)
    sources = _same_everywhere(recipe)
    objectives = _build_objectives(recipe, encoders, started)
    for weight, share in weights_until(encoders, recipe.train.frozen).items():
        if share == 1:
            weight.requires_grad_(False)
    for key in [key for key, encoder in encoders.items() if encoder.learns_preprocess]:
        if resume:
            encoders[key].load_files(folder / "encoders" / key)
        else:
            _learn_preprocess(encoders[key], key, objectives, sources)
    weights = {key: task.weight for key, task in recipe.tasks.items()}
    for key, objective in objectives.items():
        reserve(objective, sources[key].count)
        sources[key] = _chosen(recipe, key, objective, sources[key])
    _checkpoint(encoders, recipe.train.checkpointing)
    model = MultiTask(encoders, objectives, weights).to(device)
    streams = {}
    for key, pretext in pretexts(recipe, objectives).items():
        view = pretext.show(encoders)
        try:
            view.check()
            loader = _loader(recipe, key, sources[key], view)
        except UserError as error:
            raise UserError(f"tasks.{key}: {error}") from None
        streams[key] = TaskStream(loader, view, resume[key] if resume else None)
    return model, streams


def _same_everywhere(recipe: Recipe) -> dict[str, Source]:
    """Opens each task's set; UserError, on every process, where one cannot or finds other shards than the rest.

    Shards are known by name and number of samples: folders may be mounted elsewhere on each machine.
    """
    found: dict[str, Source] = {}
    told: dict[str, list[tuple[str, int | None]]] = {}
    error = ""
    try:
        for key, task in recipe.tasks.items():
            source = found[key] = open_set(split_data(task.data, where=f"tasks.{key}.data")[0])
            counts: Sequence[int | None] = source.counts or [None] * len(source.shards)
            told[key] = [(Path(shard).name, n) for shard, n in zip(source.shards, counts, strict=True)]
    except UserError as raised:
        error = str(raised)
    everyone = dist.gather_objects((error, seed_of(repr(told))))
    for rank, (error, _) in enumerate(everyone):
        if error:
            raise UserError(error if dist.world() == 1 else f"rank {rank}: {error}")
    if len(set(everyone)) > 1:
        raise UserError(_difference(dist.gather_objects(told)))
    return found


def _difference(told: list[dict[str, list[tuple[str, int | None]]]]) -> str:
    """Returns in which task, and of which shards, the processes differ."""
    for key, first in told[0].items():
        for rank, mine in enumerate(listed[key] for listed in told):
            if mine == first:
                continue
            sides = {0: Counter(first) - Counter(mine), rank: Counter(mine) - Counter(first)}
            only = [f"rank {r} alone has {_spell(list(shards.elements()))}" for r, shards in sides.items() if shards]
            detail = "; ".join(only) or "they are listed in another order"
            return (
                f"tasks.{key}: ranks see different shards, {len(first)} on rank 0 and {len(mine)} on rank {rank}: "
                f"{detail}; every machine needs the same set"
            )
    raise AssertionError("the processes differ in something")


def _spell(shards: list[tuple[str, int | None]]) -> str:
    listed = [name if samples is None else f"{name} ({samples} samples)" for name, samples in shards[:5]]
    return ", ".join(listed) + (f" and {len(shards) - 5} more" if len(shards) > 5 else "")


def build_encoder(key: str, node: Mapping[str, Any]) -> Encoder:
    """Builds one encoder of a recipe and checks that it reads what the recipe says."""
    where = f"encoders.{key}"
    shared, own = split_encoder(node, where=where)
    name, options = split(own)
    encoder = create_encoder(name, where=where, **options)
    said, reads = shared.modality or key.partition("_")[0], encoder.modality
    if said != reads:
        raise UserError(f"{where}: {name!r} reads {reads}; list it under {reads!r}, or say modality: {reads}")
    if shared.field:
        encoder.preprocess.field = shared.field
    return encoder


def _chosen(recipe: Recipe, key: str, objective: Objective, source: Source) -> Source:
    """Returns the source with those samples alone that an objective wants to be shown."""
    options = split_data(recipe.tasks[key].data, where=f"tasks.{key}.data")[0]

    def labels(field: str) -> dict[int, int]:
        parts = options.get("sources", [options])
        return read_labels(
            [open_source({k: part[k] for k in part if k in ("shards", "fields")}) for part in parts], field
        )

    try:
        numbers = objective.choose(labels)
    except UserError as error:
        raise UserError(f"tasks.{key}: {error}") from None
    return source if numbers is None else Subset(source, numbers)


def _checkpoint(encoders: Mapping[str, Encoder], asked: bool | list[str]) -> None:
    """Has encoders compute their blocks again in the backward pass; UserError where there are none."""
    keys = list(encoders) if asked is True else asked or []
    without = [key for key in keys if not checkpoint_blocks(encoders[key])]
    if without and (asked is not True or without == keys):
        lack = f"{', '.join(without)} {'has' if len(without) == 1 else 'have'} no blocks"
        raise UserError(f"train.checkpointing: {lack}, as transformers and residual networks have; leave it out")


def _build_objectives(recipe: Recipe, encoders: Mapping[str, Encoder], started: set[str]) -> dict[str, Objective]:
    """Builds every task's objective; UserError where one freezes an encoder whose weights are random."""
    objectives = {}
    for task in recipe.tasks:
        before = _trainable(encoders)
        objectives[task] = build_objective(recipe, task, encoders)
        for key in before - _trainable(encoders) - started:
            if not any(fetched(encoders[key].name, encoders[key].options, trust_code=True)):
                raise UserError(
                    f"tasks.{task} learns from {key} and does not train it; set train.start.{key} to a trained "
                    f"encoder's folder, such as RUN/encoders/..."
                )
    return objectives


def _trainable(encoders: Mapping[str, Encoder]) -> set[str]:
    return {key for key, encoder in encoders.items() if any(p.requires_grad for p in encoder.parameters())}


def build_objective(recipe: Recipe, key: str, encoders: Mapping[str, Encoder]) -> Objective:
    """Builds one task's objective and checks that the run has the encoders that it needs."""
    kind, options = recipe.tasks[key].objective
    for modality in kind.modalities:
        if modality not in encoders:
            raise UserError(f"tasks.{key} needs an encoder for {modality!r}; the run has {', '.join(encoders)}")
    return kind(encoders, **options)


def pretexts(recipe: Recipe, objectives: Mapping[str, Objective]) -> dict[str, Pretext]:
    """Returns what evaluations may ask again: each task's objective, and the view that it trained with."""
    return {key: Pretext(objective, *recipe.tasks[key].view) for key, objective in objectives.items()}


def _learn_preprocess(
    encoder: Encoder, key: str, objectives: Mapping[str, Objective], sources: Mapping[str, Source]
) -> None:
    """Trains a tokenizer or the like on the stream of the first task that uses it."""
    task = next((task for task, objective in objectives.items() if key in objective.uses), None)
    if task is not None:
        field = encoder.preprocess.field
        source = sources[task]
        parts = source.having(field) if isinstance(source, Mixture) else [source]
        streams = [islice(part.samples({field}), LEARN_FROM // len(parts)) for part in parts]
        encoder.learn_preprocess(sample[field] for sample in chain(*streams) if field in sample)


def _loader(recipe: Recipe, key: str, source: Source, view: View) -> Loader:
    """Builds one task's loader for this process."""
    task = recipe.tasks[key]
    parts = dist.world() * recipe.train.accumulate
    if task.batch % parts:
        raise UserError(f"batch is {task.batch}; expected a multiple of processes x accumulate = {parts}")
    return Loader(
        source,
        view,
        batch=task.batch // parts,
        seed=recipe.train.seed,
        rank=dist.rank(),
        world=dist.world(),
        **split_data(task.data, where=f"tasks.{key}.data")[1],
    )
