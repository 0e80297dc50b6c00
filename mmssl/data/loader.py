"""Batches of viewed samples from shards: equal on every rank, different every epoch, resumable exactly."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from functools import partial
from typing import Annotated, Any, TypedDict

import torch

from mmssl.data.crew import Crew
from mmssl.data.held import Held
from mmssl.data.mixture import Mixture
from mmssl.data.plan import Plan
from mmssl.data.report import Counts, Report
from mmssl.data.shards import Source
from mmssl.data.stream import Stream, WorkerBatch
from mmssl.data.watch import Death, Lost, Watch
from mmssl.errors import UserError
from mmssl.schema import Count, Positive, at_least, at_most
from mmssl.types import Batch, View

ORDER = 3  # of what comes out of the shuffle buffer: another number is another order, of which draws are no place
ORDER_IN_MEMORY = 1  # likewise of images held in memory
LAYOUT = ("batch", "world", "workers", "order")  # under which a state continues bit-exactly

_WorkerBatches = Crew[WorkerBatch] | Generator[WorkerBatch, None, None]


class _Later(TypedDict, total=False):
    lost: list[tuple[Count, Count, Count, Count, str]]  # place and reason of what ended its worker
    order: Count  # ORDER


class LoaderState(_Later):
    """Where a loader stands: `Loader.state`."""

    epoch: Count
    base: Count
    batches: Count
    draws: list[Count]
    batch: Positive
    world: Positive
    workers: Positive
    report: Counts


class Loader:
    """The batches of one task on one rank.

    batch: samples per rank.
    seed: of the order of samples, and of what views draw.
    epoch_samples: of an epoch, over all ranks; by default as many as the set, or all sources together, hold; needed
        where that is not known.
    workers: processes per rank; the order of samples depends on their number.
    shuffle_mb: MiB of encoded samples that each worker shuffles among.
    max_damaged: ratio of damaged samples above which training stops; whole ones that lack what the task needs, such as
        sound, are skipped and counted apart.
    strict: whether the first damaged sample stops it.
    in_memory: whether all images are opened once, by `workers`, and kept by each rank as uint8; crops and flips are
        then drawn and made on the accelerator too. For images of one size; whoever takes the batches gives them to
        `View.cut`. Each epoch is a permutation of the whole set.
    rank: of this process.
    world: how many processes there are.
    """

    def __init__(
        self,
        source: Source,
        view: View,
        *,
        batch: Positive,
        seed: int = 0,
        epoch_samples: Positive | None = None,
        workers: Annotated[int, at_least(0), at_most(1024)] = 2,
        shuffle_mb: Annotated[float, at_least(0)] = 64,
        max_damaged: Annotated[float, at_least(0), at_most(1)] = 0.05,
        strict: bool = False,
        in_memory: bool = False,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.source, self.view = source, view
        self.batch, self.seed, self.workers, self.rank, self.world = batch, seed, workers, rank, world
        self.shuffle_bytes, self.max_damaged, self.strict = shuffle_mb * 2**20, max_damaged, strict
        source.check_whole(max_damaged)
        source.check(view.reads)
        self.in_memory = view.holds() if in_memory else None  # the key and the field of the images
        self._held: Held | None = None
        self.epoch_samples = self._epoch_samples(epoch_samples)
        self._tally = Report()
        self._lost = Lost()
        self._waiting: tuple[int, _WorkerBatches] | None = None  # running workers and the epoch they go on with
        self._state = self._fresh(self._plan(0))

    def _epoch_samples(self, asked: int | None) -> int:
        count = self.source.count
        if asked is None and count is None:
            first = self.source.shards[0]
            raise UserError(f"the number of samples in {first}, ... is not known; say epoch_samples")
        smallest = min(n for n in (asked, count) if n is not None)
        if smallest < self.batch * self.world:
            what = "set has" if smallest == count else "epoch is"
            raise UserError(
                f"the {what} {smallest} samples, fewer than one batch of {self.batch} on each of {self.world} rank(s)"
            )
        return asked or smallest

    def __len__(self) -> int:
        """Returns batches per rank and epoch."""
        return self._plan(0).batches

    def _plan(self, epoch: int, base: int = 0) -> Plan:
        counts = self.source.counts
        return Plan(
            seed=self.seed,
            epoch=epoch,
            base=base,
            world=self.world,
            workers=1 if self.in_memory else max(1, self.workers),
            batch=self.batch,
            batches=(self.epoch_samples - base) // (self.batch * self.world),
            shards=len(self.source.shards),
            counts=tuple(counts) if counts else None,
            mix=self.source.mix(self.epoch_samples) if isinstance(self.source, Mixture) else None,
        )

    def _fresh(self, plan: Plan) -> dict[str, Any]:
        order = ORDER_IN_MEMORY if self.in_memory else ORDER
        layout = {"batch": self.batch, "world": self.world, "workers": plan.workers, "order": order}
        return {"epoch": plan.epoch, "base": plan.base, "batches": 0, "draws": [0] * plan.workers, **layout}

    def epoch(self, number: int, resume: dict[str, Any] | None = None) -> Iterator[Batch]:
        """Yields the epoch's batches, or with a state those that were not yet delivered when it was taken.

        A state continues bit-exactly under the same batch, world and workers, on the rank that took it. If one of
        these changed, or the state is of an earlier mmssl that shuffled otherwise, as many samples as were left are
        drawn from a fresh shuffle (some may come a second time).
        """
        if resume is None:
            plan = self._plan(number)
            state = self._fresh(plan)
        else:
            plan, state = self._resumed(number, resume)
        waiting, self._waiting, self._state = self._waiting, None, state
        if waiting and waiting[0] == number and resume is None:
            return self._deliver(waiting[1], plan, state)
        if waiting:
            waiting[1].close()
        return self._deliver(self._start(plan, state), plan, state)

    def _resumed(self, number: int, resume: dict[str, Any]) -> tuple[Plan, dict[str, Any]]:
        if resume["epoch"] != number:
            raise UserError(f"the state is of epoch {resume['epoch']}; it cannot resume epoch {number}")
        self._tally = Report.from_plain(resume["report"])
        plan = self._plan(number, resume["base"])
        state = self._fresh(plan)
        if all(resume.get(key) == state[key] for key in LAYOUT):
            self._lost = Lost({tuple(place): reason for *place, reason in resume.get("lost", ())})
            return plan, {**state, "batches": resume["batches"], "draws": list(resume["draws"])}
        plan = self._plan(number, resume["base"] + resume["batches"] * resume["batch"] * resume["world"])
        return plan, self._fresh(plan)

    def _start(self, plan: Plan, state: dict[str, Any]) -> _WorkerBatches:
        if self.in_memory:
            held = self._hold(*self.in_memory)
            made = held.batches(plan, rank=self.rank, done=state["batches"], full=len(self))
        else:
            stream = self._stream(plan, state)
            if self.workers:
                return Crew([partial(stream.run, place) for place in range(self.workers)], pin=True)
            made = stream.run(0, Watch())
        pin = torch.cuda.is_available()
        return (worker_batch.pin_memory() if pin else worker_batch for worker_batch in made)

    def _hold(self, key: str, field: str) -> Held:
        """Returns the images, opened when they are first needed; a run that is resumed counted them before."""
        if self._held is None:
            self._held = Held(self.source, key, field, workers=self.workers, strict=self.strict)
            counted = self._held.report
            counted.check(most=self.max_damaged, of=counted.drawn, known=self.source.broken, complete=True)
            if self.rank == 0 and not self._tally.drawn:
                self._tally.add(counted)
        return self._held

    def _stream(self, plan: Plan, state: dict[str, Any]) -> Stream:
        return Stream(
            source=self.source,
            view=self.view,
            plan=plan,
            rank=self.rank,
            full=len(self),
            done=state["batches"],
            draws=list(state["draws"]),
            shuffle_bytes=self.shuffle_bytes,
            max_damaged=self.max_damaged,
            strict=self.strict,
            lost=dict(self._lost.reasons),
        )

    def _deliver(self, worker_batches: _WorkerBatches, plan: Plan, state: dict[str, Any]) -> Iterator[Batch]:
        try:
            while state["batches"] < plan.batches:
                worker_batch = self._next(worker_batches, plan, state)
                self._tally.add(worker_batch.tally)
                state["batches"] += 1
                state["draws"][worker_batch.worker] = worker_batch.draws
                whole = max(self.source.count or 0, self.epoch_samples)
                complete = state["batches"] == plan.batches
                self._tally.check(most=self.max_damaged, of=whole, known=self.source.broken, complete=complete)
                yield worker_batch.batch
        except BaseException:
            worker_batches.close()
            raise
        self._waiting = plan.epoch + 1, worker_batches

    def _next(self, worker_batches: _WorkerBatches, plan: Plan, state: dict[str, Any]) -> WorkerBatch:
        """Returns the next worker_batch; where its worker died another makes it, as after a resume."""
        while True:
            try:
                return next(worker_batches)
            except Death as death:
                assert isinstance(worker_batches, Crew)
                self._lost.add(death)
                worker_batches.replace(
                    partial(self._stream(plan, state).run, 0)
                )  # whose turn it is comes first from here on

    @property
    def place(self) -> tuple[int, int, int]:
        """Where this rank stands: epoch, samples of it that other plans delivered, batches of it delivered since."""
        return self._state["epoch"], self._state["base"], self._state["batches"]

    def state(self) -> dict[str, Any]:
        """Returns where this rank stands after the latest delivered batch, as plain values."""
        draws, now = self._state["draws"], (self._state["epoch"], self._state["base"])
        lost = [
            [*place, reason]
            for place, reason in self._lost.reasons.items()
            if place[0] > now[0] or (place[:2] == now and place[3] >= draws[place[2]])
        ]
        return {**self._state, "draws": list(draws), "lost": lost, "report": self.report()}

    def report(self) -> Counts:
        """Returns counts since the run began, of this rank."""
        return self._tally.plain()
