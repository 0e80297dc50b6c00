"""Temporal order: whether a task about it is answered right, and whether nearness of frames would do as well."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.data.subset import limited
from mmssl.errors import UserError
from mmssl.evals.parts.needs import Needs
from mmssl.evals.parts.pretext import Answers, answer, ask_some, gathered, sample_score, show
from mmssl.evals.parts.source import open_source
from mmssl.evals.parts.trivial import linear_answers, statistics
from mmssl.evals.parts.untrained import WithUntrained
from mmssl.objectives.frame_order import each_frame
from mmssl.transforms.ordered import OrderedFrames
from mmssl.types import Batch, Encoder, Score, Trained
from mmssl.views.composed import Composed


class Order(WithUntrained):
    """Accuracy of verification (shuffle_and_learn), prediction (opn) or the odd one out, on held-out clips.

    A figure's trivial is that of a linear model on each frame's mean colour, contrast and gradients; of `nearest` that
    of raw pixels. Intervals are over clips, and each figure keeps that of each clip.

    data: shards with video.
    task: the run's task.
    rounds: how often each clip is shown, other frames each time.
    baselines: also judge the encoder and the task's heads with random weights.
    limit: samples at most, drawn from a fixed seed.
    seed: of the frames that are shown.
    batch: clips at a time.
    """

    def __init__(
        self,
        *,
        data: dict[str, Any],
        task: str = "opn",
        rounds: int = 3,
        baselines: bool = False,
        limit: int | None = None,
        seed: int = 0,
        batch: int = 32,
    ) -> None:
        self.source, self.task, self.baselines = limited(open_source(data), limit), task, baselines
        self.shown = {"seed": seed, "rounds": rounds, "batch": batch}

    def needs(self, trained: Trained) -> Needs:
        ordered(trained, self.task)
        return Needs(task=self.task, data={"data": (self.source, ("video",))})

    def warm(self, fresh: Trained) -> None:
        ask_some(fresh, self.task, self.source)

    def judge(self, trained: Trained) -> Iterator[tuple[str, Score]]:
        """Yields accuracy; chain/pixels and chain/features: the accuracy of taking what is near for near in time;
        nearest: how often a frame's nearest other frame in the encoder's features is its neighbour in time; and
        ambiguous/accuracy, ambiguous/nearest: on motion-ambiguous clips, where the chain of raw pixels is wrong.
        """
        asked = ordered(trained, self.task)
        rows = self._rows(trained, asked)
        clip, hard = rows["sample"], rows["by_pixels"] == 0
        keys = dict(zip(clip.tolist(), rows["key"], strict=True))
        linear = linear_answers(rows["statistics"], rows["target"], groups=clip)

        def score(right: str, chance: float, trivial: Tensor, where: Tensor) -> Score:
            mean = float(trivial[where].float().mean())
            return sample_score(rows[right][where], clip[where], keys, chance=chance, trivial=mean)

        everywhere = torch.ones_like(hard)
        yield "accuracy", score("correct", asked.chance, linear, everywhere)
        yield "chain/pixels", score("by_pixels", asked.chance, linear, everywhere)
        yield "chain/features", score("by_features", asked.chance, linear, everywhere)
        yield "nearest", score("near_features", float(rows["near_chance"].mean()), rows["near_pixels"], everywhere)
        if hard.any():
            yield "ambiguous/accuracy", score("correct", asked.chance, linear, hard)
            near_chance = float(rows["near_chance"][hard].mean())
            yield "ambiguous/nearest", score("near_features", near_chance, rows["near_pixels"], hard)

    def _rows(self, trained: Trained, asked: OrderedFrames) -> Answers:
        found = []
        for which, batch in show(trained, self.task, self.source, **self.shown):
            assert batch.target is not None
            row = {**which, "target": batch.target, **answer(trained, self.task, batch).answers}
            row["statistics"] = torch.cat(list(statistics(batch.views).values()), dim=1)
            for name, vectors in described(trained.encoders["video"], batch).items():
                distances = torch.cdist(vectors, vectors).cpu()  # (B, V, T, T)
                row[f"by_{name}"] = (asked.by_nearness(distances) == batch.target.cpu()).float()
                row[f"near_{name}"], row["near_chance"] = nearest_in_time(distances, batch.extra["order"].cpu())
            found.append(row)
        return gathered(found)


def ordered(trained: Trained, task: str) -> OrderedFrames:
    """Returns what a task asks about the order of frames; UserError for one that asks something else."""
    view = trained.task(task).show(trained.encoders)
    if not (isinstance(view, Composed) and "video" in view.tasks):
        raise UserError(f"{task!r} is not about the order of frames; name a task of opn or shuffle_and_learn")
    return view.tasks["video"]


def described(encoder: Encoder, batch: Batch) -> dict[str, Tensor]:
    """Returns every shown frame as raw pixels, each frame's own brightness and contrast taken out, and as features.

    Both (B, V, T, D) of unit length.
    """
    shown = torch.stack(batch.views["video"], dim=1)  # (B, V, 3, T, H, W)
    pixels = shown.float().mean(dim=2).flatten(3)
    with torch.inference_mode():
        features = torch.stack([each_frame(encoder, video) for video in batch.views["video"]], dim=1)
    pixels = pixels - pixels.mean(dim=-1, keepdim=True)
    return {"pixels": F.normalize(pixels, dim=-1), "features": F.normalize(features.float(), dim=-1)}


def nearest_in_time(distances: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """Returns how often (B,) a frame's nearest other one is its neighbour in time, and how often by chance.

    distances (B, V, T, T) between shown frames; order (B, V, T): when each comes.
    """
    apart = (order[..., None] - order[..., None, :]).abs()
    nearest = distances.masked_fill(apart == 0, torch.inf).argmin(dim=-1, keepdim=True)
    found = (apart.gather(-1, nearest) == 1).float()
    by_chance = (apart == 1).sum(dim=-1) / (order.shape[-1] - 1)
    return found.flatten(1).mean(dim=1), by_chance.flatten(1).mean(dim=1)


evaluation = Order
