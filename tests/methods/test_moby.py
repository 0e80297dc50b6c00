"""MoBY against its loss (Xie et al., 2021), and its queues and teacher after a step."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.encoders import create_encoder
from mmssl.methods import moby
from mmssl.types import Encoder
from mmssl.views.byol import view as byol_view

sys.path.insert(0, str(Path(__file__).parent))
from two_views import (
    DIM,
    HERE,
    defaults,
    detached,
    follows,
    outline,
    same,
    shown,
    stir,
    two_encoders,
    unit,
    weights_of,
)


def started(queue: int = 6) -> tuple[moby.MoBY, dict[str, Encoder]]:
    """A run whose teacher lags behind."""
    encoders = two_encoders()
    options = {"hidden": (9, 8), "temperature": 0.5, "queue": queue, "momentum": 0.8, "encoder": "pulse"}
    objective = moby.MoBY(encoders, embed_dim=4, **options)
    stir(objective.head, objective.predictor, encoders["pulse"])
    return objective, encoders


def taught(objective: moby.MoBY, views: list[Tensor]) -> list[Tensor]:
    teacher = objective.teacher
    return [unit(teacher.head.layers(teacher.encoder(view).pooled).float()).detach() for view in views]


@pytest.mark.parametrize("bf16", [False, True])
def test_each_prediction_finds_the_other_views_key_among_that_views_queue(bf16: bool) -> None:
    (objective, encoders), batch = started(queue=2), shown()
    views = batch.views["pulse"][:2]
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):  # for the networks alone
        embedded = [objective.head.layers(encoders["pulse"](view).pooled).float() for view in views]
        queries, keys = [unit(objective.predictor(x).float()) for x in embedded], taught(objective, views)
        loss = objective(encoders, batch)
    logits = [
        torch.cat([(queries[i] * keys[1 - i]).sum(1, keepdim=True), queries[i] @ objective.queues[1 - i].rows.T], 1)
        for i in range(2)
    ]
    expected = sum(F.cross_entropy(each[HERE] / 0.5, torch.zeros(4).long()) for each in logits)
    same(loss.total, expected, objective, encoders["pulse"])
    detached(loss, "pulse", embedded[0])
    right = torch.stack([(each.argmax(1) == 0).float() for each in logits]).mean(0)
    assert len(right[HERE].unique()) > 1, "the case tells right from wrong"
    torch.testing.assert_close(loss.answers["correct"], right.masked_fill(~HERE, torch.nan), equal_nan=True)
    torch.testing.assert_close(loss.logs["accuracy"], right[HERE].mean())


def test_a_key_among_others_like_it_is_not_found() -> None:
    (objective, encoders), batch = started(), shown()
    one_way = torch.tensor([1.0, 0.0, 0.0, 0.0])
    for module in (objective.predictor, objective.teacher.head.layers):
        module[-1].register_forward_hook(lambda _module, _args, out: one_way.expand(len(out), 4))
    for queue in objective.queues:
        queue.rows.copy_(one_way.expand(6, 4))
    assert objective(encoders, batch).logs["accuracy"] == 0, "all embeddings have collapsed"


def test_after_a_step_each_queue_holds_its_views_keys_of_those_present() -> None:
    (objective, encoders), batch = started(), shown()
    keys = taught(objective, batch.views["pulse"][:2])
    before = [queue.rows.clone() for queue in objective.queues]
    objective(encoders, batch)
    objective.eval()(encoders, shown())  # an evaluation leaves none
    assert all(torch.equal(queue.rows, rows) for queue, rows in zip(objective.queues, before, strict=True))
    objective.after_step(encoders, 0.5)
    for queue, new, old in zip(objective.queues, keys, before, strict=True):
        torch.testing.assert_close(queue.rows, torch.cat([new[HERE], old[4:]]))


@pytest.mark.parametrize(("progress", "decay"), [(0.0, 0.8), (1 / 3, 0.85), (0.5, 0.9), (1.0, 1.0)])
def test_the_teacher_follows_ever_slower(progress: float, decay: float) -> None:
    objective, encoders = started()
    objective(encoders, shown())
    before = [weights_of(part) for part in (objective.teacher.encoder, objective.teacher.head)]
    objective.after_step(encoders, progress)
    follows(objective.teacher.encoder, before[0], encoders["pulse"], decay)
    follows(objective.teacher.head, before[1], objective.head, decay)


def test_the_teacher_has_no_drop_path() -> None:
    vit = {"image_size": 16, "patch_size": 8, "width": 16, "depth": 2, "heads": 2}
    encoder = create_encoder("vit", drop_path=0.5, **vit)
    objective = moby.MoBY({"image": encoder}, embed_dim=4, hidden=(8,), queue=4)
    x = torch.rand(8, 3, 16, 16)
    torch.testing.assert_close(objective.teacher([x], 8), objective.teacher([x], 8), rtol=0, atol=0)
    assert not torch.equal(encoder(x).pooled, encoder(x).pooled)


def test_heads_and_defaults_are_the_authors() -> None:
    """The authors' configuration: 4096 keys, temperature 0.2, momentum 0.99, heads of two layers."""
    objective, _ = started()
    hidden = ["norm", "relu", "9-8", "norm", "relu", "8-4"]
    assert outline(objective.head.layers) == [f"{DIM}-9", *hidden]
    assert outline(objective.predictor) == ["4-9", *hidden]
    assert objective.spaces() == {"pulse": objective.head}
    paper = {"embed_dim": 256, "hidden": (4096,), "temperature": 0.2, "queue": 4096, "momentum": 0.99, "encoder": None}
    assert defaults(moby.MoBY) == paper
    assert (moby.method.view, moby.method.objective) == (byol_view, moby.MoBY)
