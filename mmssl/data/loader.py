"""Batches of viewed samples from shards: equal on every rank, different every epoch, resumable exactly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from mmssl.data.plan import Plan
from mmssl.data.shards import Source
from mmssl.data.stream import Parcel, Stream
from mmssl.data.tally import Tally
from mmssl.data.workers import work
from mmssl.errors import UserError
from mmssl.schema import Positive, at_least, at_most
from mmssl.types import Batch, View


class Loader:
    """The batches of one task on one rank.

    batch: samples per rank. epoch_samples: over all ranks, the whole set by default; needed where its size is not
    known. workers: processes per rank; the order of samples depends on their number. shuffle_mb: bytes of encoded
    samples that each worker shuffles among. max_damaged: ratio of unusable samples above which training stops;
    strict: the first one stops it.
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
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.source, self.view = source, view
        self.batch, self.seed, self.workers, self.rank, self.world = batch, seed, workers, rank, world
        self.shuffle_bytes, self.max_damaged, self.strict = shuffle_mb * 2**20, max_damaged, strict
        source.check_whole(max_damaged)
        source.check(view.reads)
        self.epoch_samples = self._epoch_samples(epoch_samples)
        self._tally = Tally()
        self._waiting: tuple[int, Iterator[Parcel]] | None = None  # running workers and the epoch they go on with
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
            workers=max(1, self.workers),
            batch=self.batch,
            batches=(self.epoch_samples - base) // (self.batch * self.world),
            shards=len(self.source.shards),
            counts=tuple(counts) if counts else None,
        )

    def _fresh(self, plan: Plan) -> dict[str, Any]:
        layout = {"batch": self.batch, "world": self.world, "workers": plan.workers}
        return {"epoch": plan.epoch, "base": plan.base, "batches": 0, "draws": [0] * plan.workers, **layout}

    def epoch(self, number: int, resume: dict[str, Any] | None = None) -> Iterator[Batch]:
        """Yields the epoch's batches, or with a state those that were not yet delivered when it was taken.

        A state continues bit-exactly under the same batch, world and workers, on the rank that took it. If one of
        these changed, as many samples as were left are drawn from a fresh shuffle (some may come a second time).
        """
        if resume is None:
            plan = self._plan(number)
            state = self._fresh(plan)
        else:
            plan, state = self._resumed(number, resume)
        waiting, self._waiting, self._state = self._waiting, None, state
        if waiting and waiting[0] == number and resume is None:
            return self._deliver(waiting[1], plan, state)
        return self._deliver(self._start(plan, state), plan, state)

    def _resumed(self, number: int, resume: dict[str, Any]) -> tuple[Plan, dict[str, Any]]:
        if resume["epoch"] != number:
            raise UserError(f"the state is of epoch {resume['epoch']}; it cannot resume epoch {number}")
        self._tally = Tally.from_plain(resume["report"])
        plan = self._plan(number, resume["base"])
        state = self._fresh(plan)
        if all(resume[key] == state[key] for key in ("batch", "world", "workers")):
            return plan, {**state, "batches": resume["batches"], "draws": list(resume["draws"])}
        plan = self._plan(number, resume["base"] + resume["batches"] * resume["batch"] * resume["world"])
        return plan, self._fresh(plan)

    def _start(self, plan: Plan, state: dict[str, Any]) -> Iterator[Parcel]:
        stream = Stream(
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
        )
        return work(stream, workers=self.workers, pin=True)

    def _deliver(self, parcels: Iterator[Parcel], plan: Plan, state: dict[str, Any]) -> Iterator[Batch]:
        try:
            while state["batches"] < plan.batches:
                parcel = next(parcels)
                self._tally.add(parcel.tally)
                if parcel.error:
                    raise UserError(parcel.error)
                state["batches"] += 1
                state["draws"][parcel.worker] = parcel.draws
                whole = max(self.source.count or 0, self.epoch_samples)
                complete = state["batches"] == plan.batches
                self._tally.check(most=self.max_damaged, of=whole, known=self.source.broken, complete=complete)
                yield parcel.batch
            self._waiting = plan.epoch + 1, parcels
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker"):
                raise
            raise UserError(
                f"{error}: what it said, if anything, stands above; where memory is short, use fewer workers or a "
                "smaller shuffle_mb"
            ) from None
        finally:
            del parcels  # workers stop when nobody knows them; a traceback must not keep them

    @property
    def place(self) -> tuple[int, int, int]:
        """Where this rank stands: epoch, samples of it that other plans delivered, batches of it delivered since."""
        return self._state["epoch"], self._state["base"], self._state["batches"]

    def state(self) -> dict[str, Any]:
        """Returns where this rank stands after the latest delivered batch, as plain values."""
        return {**self._state, "draws": list(self._state["draws"]), "report": self.report()}

    def report(self) -> dict[str, Any]:
        """Returns counts since the run began: drawn, damaged (reason -> shard -> count), notes (text -> count)."""
        return self._tally.plain()
