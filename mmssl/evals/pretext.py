"""The task itself on samples that training never saw: how its questions are answered, sample by sample."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmssl.data.subset import limited
from mmssl.errors import UserError
from mmssl.evals.parts.needs import Needs
from mmssl.evals.parts.pretext import answer, ask_some, gathered, sample_score, show
from mmssl.evals.parts.source import open_source
from mmssl.evals.parts.untrained import WithUntrained
from mmssl.types import Score, Trained

SAID = "said/"  # in front of the names of answers, beside `sample` and `key`


class PretextTask(WithUntrained):
    """Asks a run's task about held-out samples, shown as in training, and averages what it says of its answers.

    Of colour tracking these are `correct`, `still` (copying the same cell of the frame before), their difference
    `margin`, and `changed`, the accuracy where copying fails. Settings are chosen by such figures where nothing else is
    known of the samples. Intervals are over samples, of which each counts once.

    data: held-out shards.
    task: the run's task.
    rounds: how often each sample is shown.
    baselines: also judge the encoders and the task's heads with random weights.
    limit: samples at most, drawn from a fixed seed.
    seed: of what the View draws.
    batch: samples at a time.
    """

    def __init__(
        self,
        *,
        data: dict[str, Any],
        task: str,
        rounds: int = 4,
        baselines: bool = False,
        limit: int | None = None,
        seed: int = 0,
        batch: int = 32,
    ) -> None:
        self.source, self.task, self.baselines = limited(open_source(data), limit), task, baselines
        self.rounds, self.batch, self.seed = rounds, batch, seed

    def needs(self, trained: Trained) -> Needs:
        reads = trained.task(self.task).show(trained.encoders).reads
        return Needs(task=self.task, data={"data": (self.source, reads)})

    def warm(self, fresh: Trained) -> None:
        ask_some(fresh, self.task, self.source)

    def judge(self, trained: Trained) -> Iterator[tuple[str, Score]]:
        """Yields the mean of each answer over the samples that were asked; chance is what the View says."""
        said = getattr(trained.task(self.task).show(trained.encoders), "chance", None)
        chance = {"correct": float("nan") if said is None else float(said)}
        found = []
        for which, batch in show(trained, self.task, self.source, seed=self.seed, batch=self.batch, rounds=self.rounds):
            answers = answer(trained, self.task, batch).answers
            if not answers:
                raise UserError(f"the task {self.task!r} tells no answers of single samples; judge another task")
            found.append({**which, **{f"{SAID}{name}": values.float() for name, values in answers.items()}})
        rows = gathered(found)
        keys = dict(zip(rows["sample"].tolist(), rows["key"], strict=True))
        for name in [name.removeprefix(SAID) for name in rows if name.startswith(SAID)]:
            asked = ~rows[SAID + name].isnan()
            values, samples = rows[SAID + name][asked], rows["sample"][asked]
            yield name, sample_score(values, samples, keys, chance=chance.get(name, float("nan")), trivial=None)


evaluation = PretextTask
