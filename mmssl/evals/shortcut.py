"""Shortcuts: what a task is worth with each guard of its View let down, and what low-level statistics would answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from mmssl import dist
from mmssl.data.subset import limited
from mmssl.errors import UserError
from mmssl.evals.parts.low_level import look, loudness, pair_features, together
from mmssl.evals.parts.needs import Needs
from mmssl.evals.parts.pretext import Answers, answer, ask_some, gathered, per_group, show
from mmssl.evals.parts.score import bootstrap
from mmssl.evals.parts.source import open_source
from mmssl.evals.parts.trivial import linear_answers, statistics
from mmssl.evals.parts.untrained import WithUntrained
from mmssl.objectives.matching import Matching, next_present
from mmssl.types import Batch, Objective, Score, Trained


class Shortcut(WithUntrained):
    """Asks a task with all guards on, and with each one let down: the network's accuracy, and a linear model's.

    The latter, on low-level statistics of what is shown (mean colour, contrast, gradients, loudness, size of clouds),
    is the figure's trivial. A task whose answer is neither a class nor a pair that matches has the accuracy only.
    Intervals are over samples.

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
        rounds: int = 2,
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
        """Yields <guards>/accuracy and <guards>/explained, guards being `on` or `without_<guard>`.

        explained: the share of the accuracy above chance that the linear model reaches as well, from 0 to 1.
        """
        guards = trained.task(self.task).show(trained.encoders).guards
        for name, changed in [("on", {}), *((f"without_{guard}", down) for guard, down in guards.items())]:
            rows, chance = self._rows(trained, changed), self._chance(trained, changed)
            correct = per_group(rows["correct"], rows["sample"])
            if "label" not in rows:
                yield f"{name}/accuracy", bootstrap(correct, chance=chance)
                continue
            linear = per_group(linear_model(rows), rows["sample"])
            yield f"{name}/accuracy", bootstrap(correct, chance=chance, trivial=float(linear.mean()))
            yield f"{name}/explained", explained(correct, linear, chance=chance)

    def _chance(self, trained: Trained, changed: Mapping[str, Any]) -> float:
        """Returns what the View says, one half for pairs that match or not, and nan where nobody knows."""
        pretext = trained.task(self.task)
        unknown = 0.5 if isinstance(pretext.objective, Matching) else float("nan")
        said = getattr(pretext.show(trained.encoders, **changed), "chance", None)
        return float(unknown if said is None else said)

    def _rows(self, trained: Trained, changed: Mapping[str, Any]) -> Answers:
        """Asks about every sample; those that could not be asked about are left out."""
        found = []
        options = {"seed": self.seed, "batch": self.batch, "rounds": self.rounds, **changed}
        for which, batch in show(trained, self.task, self.source, **options):
            answers = answer(trained, self.task, batch).answers
            if "correct" not in answers:
                raise UserError(f"the task {self.task!r} has no right answer to take a shortcut to; judge another task")
            row = {"sample": which["sample"], "correct": answers["correct"]}
            row |= labelled(trained.task(self.task).objective, batch)
            answered = ~row["correct"].isnan()
            found.append({key: value[answered.to(value.device)] for key, value in row.items()})
        return gathered(found)


def labelled(objective: Objective, batch: Batch) -> Answers:
    """Returns the questions of a batch for the linear model: `features` (B, Q, F) and `label` (B, Q) of each sample.

    A class is one question; a class of each view (B, V) is one about each view alone; a pair is two, with its own
    sound and with the wrong one. Nothing where a task asks something else.
    """
    if isinstance(objective, Matching):
        seen, sounds = batch.views[objective.visual][0], batch.views["audio"]
        kind = batch.extra.get("kind", torch.zeros(len(seen), device=seen.device))
        with dist.alone():
            following, _ = next_present(batch.present(objective.visual) & batch.present("audio"))
        wrong = torch.where((kind > 0)[:, None], sounds[-1], sounds[-1][following])
        features = torch.stack(
            [pair_features(look(seen), loudness(sound), together(seen, sound)) for sound in (sounds[0], wrong)], dim=1
        )
        return {"features": features, "label": torch.tensor([[1, 0]]).expand(len(seen), 2)}
    if batch.target is None or batch.target.is_floating_point() or batch.target.ndim > 2:
        return {}
    if batch.target.ndim == 1:
        features = torch.cat(list(statistics(batch.views).values()), dim=1)
        return {"features": features[:, None], "label": batch.target[:, None]}
    alone = [{key: [views[number]] for key, views in batch.views.items()} for number in range(batch.target.shape[1])]
    features = torch.stack([torch.cat(list(statistics(one).values()), dim=1) for one in alone], dim=1)  # (B, Q, F)
    return {"features": features, "label": batch.target}


def linear_model(rows: Answers) -> Tensor:
    """Returns how many of each sample's questions a linear model answers right (N,), from 0 to 1."""
    questions = rows["label"].shape[1]
    groups = rows["sample"].repeat_interleave(questions)
    right = linear_answers(rows["features"].flatten(0, 1), rows["label"].flatten(), groups=groups)
    return right.unflatten(0, (-1, questions)).mean(dim=1)


def explained(correct: Tensor, linear: Tensor, *, chance: float) -> Score:
    """Scores (trivial - chance) / (accuracy - chance), from 0 to 1, resampling both answers together."""

    def share(rows: Tensor) -> Tensor:
        accuracy, trivial = (values.double()[rows.long()].mean(dim=-1) - chance for values in (correct, linear))
        return (trivial.clamp(min=0) / accuracy.clamp(min=1e-9)).clamp(max=1)

    return bootstrap(torch.arange(len(correct)), chance=0.0, statistic=share)


evaluation = Shortcut
