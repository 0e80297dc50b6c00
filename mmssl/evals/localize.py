"""Where does it sound? Maps of a method against boxes or masks of what sounds: cIoU, its AUC, and the pointing game."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.data.plan import seed_of
from mmssl.data.subset import limited
from mmssl.evals.parts.compare import Comparer
from mmssl.evals.parts.needs import Needs
from mmssl.evals.parts.pretext import Answers, gathered, per_group, rows_of, sample_score
from mmssl.evals.parts.sounding import Moment, Sounding, Truth
from mmssl.evals.parts.source import open_source
from mmssl.evals.parts.stream import prepared_groups
from mmssl.evals.parts.untrained import WARM, WithUntrained
from mmssl.types import Score, Trained

SIZE = 224  # pixels at which map and truth are compared
THRESHOLDS = torch.linspace(0, 1, 21)
DRAWS = 4  # random maps for each image


class Localize(WithUntrained):
    """How well the map of what is heard covers what sounds, as Senocak et al. (CVPR 2018) measure it, and more.

    cIoU@0.5, the share of images with an IoU of 0.5 or more, and AUC, the area under that share over 21 thresholds:
    of the map above its median, which is half of the image and so never near what is small; and (same_area/...) of
    its highest cells, as many as the truth has. pointing: whether the highest value lies inside; other_sound/pointing:
    the same when another clip is heard, which tells how much the sound matters.
    trivial is a map that is highest in the centre, chance one of random cells. There is one truth for each image: no
    consensus of several annotators, which the c of cIoU stands for, is formed. Each figure keeps that of each clip.

    data: shards with images or videos, sound and truth.
    task: whose `similarity_map` is judged, or without one the products in its space.
    truth: `impacts` of the toy world, `boxes` or `masks`, as Sounding has them.
    moments: impacts per clip.
    baselines: also judge the encoders and the task's heads with random weights.
    limit: samples at most, drawn from a fixed seed.
    batch: clips at a time.
    """

    def __init__(
        self,
        *,
        data: dict[str, Any],
        task: str = "avol",
        truth: Truth = "impacts",
        moments: int = 1,
        baselines: bool = False,
        limit: int | None = None,
        batch: int = 16,
    ) -> None:
        self.source, self.baselines = limited(open_source(data), limit), baselines
        self.task, self.truth, self.moments, self.batch = task, truth, moments, batch

    def needs(self, trained: Trained) -> Needs:
        judge = Comparer(trained, self.task)
        judge.require_maps()
        reads = Sounding(judge.preprocess, judge.visual, truth=self.truth).reads
        return Needs(data={"data": (self.source, reads)})

    def warm(self, fresh: Trained) -> None:
        deque(itertools.islice(self._measured(Comparer(fresh, self.task)), WARM), maxlen=0)

    def judge(self, trained: Trained) -> Iterator[tuple[str, Score]]:
        """Yields cIoU@0.5, AUC, the same with same_area/, pointing, other_sound/pointing."""
        judge = Comparer(trained, self.task)
        found = gathered(list(self._measured(judge)))
        clip = found["sample"]
        keys = dict(zip(clip.tolist(), found["key"], strict=True))

        def score(name: str, rate: Callable[[Tensor], Tensor]) -> Score:
            prior = per_group(rate(found[f"centre/{name}"]), clip)
            by_chance = per_group(rate(found[f"random/{name}"]).mean(dim=1), clip)
            levels = {"chance": float(by_chance.mean()), "trivial": float(prior.mean())}
            return sample_score(rate(found[f"map/{name}"]), clip, keys, **levels)

        for name in ("", "same_area/"):
            yield f"{name}cIoU@0.5", score(f"{name}iou", lambda iou: (iou >= 0.5).float())
            yield f"{name}AUC", score(f"{name}iou", area_under)
        pointing = score("pointing", lambda inside: inside)
        yield "pointing", pointing
        answered = ~found["other/pointing"].isnan()
        inside = found["other/pointing"][answered]
        other = sample_score(inside, clip[answered], keys, chance=pointing.chance, trivial=pointing.trivial)
        yield "other_sound/pointing", other

    def _measured(self, judge: Comparer) -> Iterator[Answers]:
        """Yields this process's share of the chunks: how well each kind of map fits, each value (B,)."""
        sounding = Sounding(judge.preprocess, judge.visual, truth=self.truth, count=self.moments)
        for turn, several in prepared_groups(self.source, sounding.reads, sounding, size=self.batch):
            found = [(one, moment) for one in several for moment in one.value or ()]
            if found:
                which = rows_of([one for one, _ in found])
                moments = [moment for _, moment in found]
                yield {**which, **measure(judge, moments, which["sample"], seed=seed_of("maps", turn))}


def measure(judge: Comparer, moments: Sequence[Moment], clip: Tensor, *, seed: int) -> Answers:
    """Compares maps of moments with the truth: of their sound, another clip's (NaN if there is none), the centre's, and
    random ones. clip (B,): which one each moment is of.
    """
    truth = torch.stack([moment.truth for moment in moments])
    frames = [moment.frame for moment in moments]
    seen, heard = torch.stack([m.seen for m in moments]), torch.stack([m.heard for m in moments])
    other, there = next_clip(clip)
    maps, wrong = judge.maps(seen, heard, frames), judge.maps(seen, heard[other], frames)
    draw = torch.Generator().manual_seed(seed)
    noise = [fits(torch.rand(maps.shape, generator=draw), truth) for _ in range(DRAWS)]
    fitted = {"map": fits(maps, truth), "centre": fits(centre(maps), truth)}
    found = {f"{by}/{name}": values for by, fit in fitted.items() for name, values in fit.items()}
    found |= {f"random/{name}": torch.stack([fit[name] for fit in noise], dim=1) for name in noise[0]}
    return {**found, "other/pointing": fits(wrong, truth)["pointing"].where(there, torch.nan)}


def next_clip(clip: Tensor) -> tuple[Tensor, Tensor]:
    """Returns for each row (B,) the next one, around the end, that is of another clip, and whether there is one."""
    place = torch.arange(len(clip))
    steps = ((place - place[:, None]) % len(clip)).masked_fill(clip == clip[:, None], len(clip))
    return steps.argmin(dim=1), steps.amin(dim=1) < len(clip)


def centre(maps: Tensor) -> Tensor:
    """Returns maps of the same shape (B, H, W), highest in the middle."""
    down, across = (torch.linspace(-1, 1, n + 2)[1:-1] for n in maps.shape[1:])
    return -(down[:, None] ** 2 + across**2).expand_as(maps)


def fits(maps: Tensor, truth: Tensor) -> Answers:
    """Returns how maps (B, h, w) fit the truth (B, H, W) at 224 x 224: iou, same_area/iou and pointing, (B,) each."""
    scaled = F.interpolate(maps[:, None], (SIZE, SIZE), mode="bilinear", align_corners=False).flatten(1)
    where = F.interpolate(truth[:, None].float(), (SIZE, SIZE), mode="nearest").flatten(1) > 0.5
    order = scaled.argsort(dim=1, descending=True, stable=True)
    highest = torch.arange(SIZE * SIZE) < where.sum(dim=1, keepdim=True)
    return {
        "iou": iou(scaled > scaled.median(dim=1, keepdim=True).values, where),
        "same_area/iou": iou(torch.zeros_like(where).scatter(1, order, highest), where),
        "pointing": where.gather(1, order[:, :1])[:, 0].float(),
    }


def iou(chosen: Tensor, truth: Tensor) -> Tensor:
    """Returns intersection over union of masks (B, N) bool: (B,)."""
    return (chosen & truth).sum(dim=1) / (chosen | truth).sum(dim=1).clamp(min=1)


def area_under(values: Tensor) -> Tensor:
    """Returns each image's part in the area under the share of images whose IoU (B, ...) reaches a threshold."""
    reached = (values[..., None] >= THRESHOLDS).float()
    return torch.trapezoid(reached, THRESHOLDS, dim=-1)


evaluation = Localize
