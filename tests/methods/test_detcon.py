"""DetCon against its formula in plain torch (Henaff et al., ICCV 2021), and its teacher after a step."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.methods import byol, detcon
from mmssl.numerics.seeded_random import draws
from mmssl.transforms.image import ImagePreprocess
from mmssl.transforms.segments import Felzenszwalb
from mmssl.types import Batch, Encoder

sys.path.insert(0, str(Path(__file__).parent))
from picture_cells import PRESENT, PictureCells, compare, defaults, pictures
from two_views import follows, stir, weights_of

HERE = PRESENT.nonzero()[:, 0].tolist()


def started(kind: type[detcon.DetConS]) -> tuple[detcon.DetConS, dict[str, Encoder], Batch]:
    """A run whose teacher lags behind, and views of 2 x 3 cells in up to three segments, numbers 0, 1 and 300."""
    torch.manual_seed(0)
    encoders: dict[str, Encoder] = {"image": PictureCells()}
    own = {"momentum": 0.8} if kind is detcon.DetConB else {}
    objective = kind(encoders, embed_dim=4, hidden=(9,), temperature=0.3, masks=3, **own)
    stir(objective.head, encoders["image"])
    batch = pictures(2)
    cells = torch.tensor([0, 1, 300])[torch.randint(3, (2, 6, 2, 3))]
    cells[:, 0] = 1  # a single segment
    batch.fields["image"] = {"mask": list(cells.repeat_interleave(4, 2).repeat_interleave(4, 3))}
    batch.extra["seed"] = torch.arange(6) + 5
    return objective, encoders, batch


def picked(batch: Batch, view: int, masks: int) -> list[list[int]]:
    """The segments drawn of each image: the largest of hashed numbers among those that its cells show."""
    mask, found = batch.fields["image"]["mask"][view][:, ::4, ::4].clamp(max=255), []
    chances = draws(batch.extra["seed"], 2, masks, 256)[:, view]
    for b in range(6):
        there = mask[b].unique().tolist()
        found.append([max(there, key=lambda number, k=k, b=b: float(chances[b, k, number])) for k in range(masks)])
    return found


def means(tokens: Tensor, mask: Tensor, numbers: list[list[int]]) -> Tensor:
    """The mean (B K, D) of the cells of each segment."""
    cells = mask[:, ::4, ::4].clamp(max=255).flatten(1)
    return torch.stack(
        [x[cell == n].mean(dim=0) for x, cell, ns in zip(tokens, cells, numbers, strict=True) for n in ns]
    )


def cost(asked: Tensor, keys: list[Tensor], numbers: list[list[list[int]]], view: int) -> Tensor:
    """Of regions of a view, found in the other one, temperature 0.3: the mean over images and K."""
    terms, other = [], 1 - view
    for b in HERE:
        for k, n in enumerate(numbers[view][b]):
            scores = {
                (v, c, j): keys[v][c * 3 + j] @ asked[b * 3 + k] / 0.3
                for v in range(2)
                for c in HERE
                for j, m in enumerate(numbers[v][c])
                if not (v == view and c == b and m == n)
            }
            right = [key for key in scores if key[0] == other and key[1] == b and numbers[other][b][key[2]] == n]
            total = torch.stack(list(scores.values())).logsumexp(0)
            times = numbers[view][b].count(n)
            terms.append(sum((total - scores[key] for key in right), asked.new_zeros(())) / max(len(right), 1) / times)
    return torch.stack(terms).mean()


@pytest.mark.parametrize("kind", [detcon.DetConS, detcon.DetConB])
def test_segments_find_themselves_in_the_other_view(kind: type[detcon.DetConS]) -> None:
    objective, encoders, batch = started(kind)
    masks, views = batch.fields["image"]["mask"], batch.views["image"]
    numbers = [picked(batch, view, 3) for view in range(2)]
    assert any(len(set(each)) > 1 for each in numbers[0]) and any(len(set(each)) < 3 for each in numbers[0])
    x = [
        objective.head.layers(means(encoders["image"](v).tokens, mask, n))
        for v, mask, n in zip(views, masks, numbers, strict=True)
    ]
    asked, keys = x, x
    if isinstance(objective, detcon.DetConB):
        teacher = objective.teacher
        keys = [
            teacher.head.layers(means(teacher.encoder(v).tokens, mask, n)).detach()
            for v, mask, n in zip(views, masks, numbers, strict=True)
        ]
        asked = [objective.predictor(each) for each in x]
    asked, keys = [F.normalize(each, dim=1) for each in asked], [F.normalize(each, dim=1) for each in keys]
    expected = sum(cost(asked[view], keys, numbers, view) for view in range(2))
    loss = objective(encoders, batch)
    own = [objective.head, *([objective.predictor] if isinstance(objective, detcon.DetConB) else [])]
    compare(loss.total, expected, *own, encoders["image"])
    torch.testing.assert_close(loss.embeddings["image"], x[0].detach().view(6, 3, 4).mean(dim=1))


@pytest.mark.parametrize(("progress", "decay"), [(0.0, 0.8), (1 / 3, 0.85), (1.0, 1.0)])
def test_the_teacher_follows_ever_slower(progress: float, decay: float) -> None:
    objective, encoders, _ = started(detcon.DetConB)
    before = [weights_of(part) for part in (objective.teacher.encoder, objective.teacher.head)]
    objective.after_step(encoders, progress)
    follows(objective.teacher.encoder, before[0], encoders["image"], decay)
    follows(objective.teacher.head, before[1], objective.head, decay)


def test_a_view_without_masks_and_an_encoder_without_cells_are_refused() -> None:
    objective, encoders, batch = started(detcon.DetConS)
    show = {"image": ImagePreprocess(size=8)}
    objective.check_view(detcon.method.view(show))
    objective.check_view(detcon.method.view(show, image={"felzenszwalb": None}, fields={"mask": "mask"}))
    with pytest.raises(UserError, match="needs the field mask; give the view a step that makes it, or say"):
        objective.check_view(detcon.method.view(show, image={"felzenszwalb": None}))
    seen = encoders["image"](batch.views["image"][0])
    seen.grid = None
    with pytest.raises(UserError, match="this encoder gives none"):
        objective._draw(batch, 0, seen)


def test_views_and_defaults_are_the_papers() -> None:
    """BYOL's views and heads, segments of scale and least size 1000, 16 of them, temperature 0.1."""
    steps = detcon.view.modalities["image"]
    assert steps == [Felzenszwalb(scale=1000, sigma=0.8, min_size=1000), *byol.method.view.modalities["image"]]
    common = {"embed_dim": 256, "hidden": (4096,), "temperature": 0.1, "masks": 16}
    assert defaults(detcon.DetConS) == {**common, "encoder": None}
    assert defaults(detcon.DetConB) == {**common, "momentum": 0.996, "encoder": None}
    assert (detcon.method.objective, detcon.s.objective) == (detcon.DetConB, detcon.DetConS)
