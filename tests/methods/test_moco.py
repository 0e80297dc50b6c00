"""MoCo's three versions against their papers' losses; the queue and the teacher after a step."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.methods import moco
from mmssl.transforms.color import Blur, ColorJitter
from mmssl.transforms.image import ImagePreprocess
from mmssl.types import Encoder
from mmssl.views.byol import view as byol_view
from mmssl.views.moco import view as moco_view
from mmssl.views.moco_v2 import view as moco_v2_view

sys.path.insert(0, str(Path(__file__).parent))
from two_views import (
    DIM,
    HERE,
    Tiny,
    defaults,
    detached,
    follows,
    outline,
    pick_own,
    same,
    shown,
    stir,
    two_encoders,
    unit,
    weights_of,
)


def started(kind: type[moco.MoCo], **more: bool) -> tuple[moco.MoCo, dict[str, Encoder]]:
    """A run whose teacher lags behind."""
    encoders = two_encoders()
    options = {"hidden": (9,), "temperature": 0.5, "queue": 9, "momentum": 0.75, "encoder": "pulse"}
    objective = kind(encoders, embed_dim=4, **options, **more)
    stir(objective.head, encoders["pulse"])
    return objective, encoders


def taught(objective: moco.MoCo | moco.MoCoV3, view: Tensor) -> Tensor:
    return unit(objective.teacher.head.layers(objective.teacher.encoder(view).pooled).float()).detach()


@pytest.mark.parametrize("kind", [moco.MoCo, moco.MoCoV2])
def test_a_query_finds_its_key_among_it_and_the_queue(kind: type[moco.MoCo]) -> None:
    (objective, encoders), batch = started(kind), shown()
    asked, key_view, _ = batch.views["pulse"]
    queries, keys = unit(objective.head.layers(encoders["pulse"](asked).pooled)), taught(objective, key_view)
    logits = torch.stack(
        [torch.cat([(q * k).sum()[None], objective.queue.rows @ q]) / 0.5 for q, k in zip(queries, keys, strict=True)]
    )
    loss = objective(encoders, batch)
    same(loss.total, F.cross_entropy(logits[HERE], torch.zeros(4).long()), objective, encoders["pulse"])
    detached(loss, "pulse", queries)
    right = (logits.argmax(dim=1) == 0).float()
    assert 0 < right[HERE].mean() < 1, "the case tells right from wrong"
    torch.testing.assert_close(loss.logs["accuracy"], right[HERE].mean())
    torch.testing.assert_close(loss.answers["correct"], right.masked_fill(~HERE, torch.nan), equal_nan=True)
    assert not loss.answers["correct"].requires_grad


@pytest.mark.parametrize("kind", [moco.MoCo, moco.MoCoV2])
def test_both_views_may_ask_for_each_other(kind: type[moco.MoCo]) -> None:
    """The mean of both ways, and behind the step the second views' keys stand in the queue before the first views'."""
    (objective, encoders), batch = started(kind, symmetric=True), shown()
    losses, right, queue = [], [], objective.queue.rows.clone()
    keys = [taught(objective, batch.views["pulse"][1 - view]) for view in range(2)]
    for view in range(2):
        queries = unit(objective.head.layers(encoders["pulse"](batch.views["pulse"][view]).pooled))
        logits = torch.cat([(queries * keys[view]).sum(dim=1, keepdim=True), queries @ queue.T], dim=1) / 0.5
        losses.append(F.cross_entropy(logits[HERE], torch.zeros(4).long()))
        right.append((logits.argmax(dim=1) == 0).float())
    loss = objective(encoders, batch)
    same(loss.total, torch.stack(losses).mean(), objective, encoders["pulse"])
    assert not right[0][HERE].equal(right[1][HERE]), "the case tells them apart"
    torch.testing.assert_close(loss.answers["correct"][HERE], torch.stack(right).mean(dim=0)[HERE])
    objective.after_step(encoders, 0.5)
    torch.testing.assert_close(objective.queue.rows, torch.cat([keys[0][HERE], keys[1][HERE], queue[8:]]))


def test_a_key_among_others_like_it_is_not_found() -> None:
    (objective, encoders), batch = started(moco.MoCo), shown()
    one_way = torch.tensor([1.0, 0.0, 0.0, 0.0])
    with torch.no_grad():
        for head in (objective.head, objective.teacher.head):
            head.layers[-1].weight.zero_()
            head.layers[-1].bias.copy_(one_way)
    objective.queue.rows.copy_(one_way.expand(9, 4))
    assert objective(encoders, batch).logs["accuracy"] == 0, "all embeddings have collapsed"


def test_after_a_step_the_keys_of_those_present_stand_in_the_queue_and_the_teacher_has_moved() -> None:
    (objective, encoders), batch = started(moco.MoCo), shown()
    keys, queue = taught(objective, batch.views["pulse"][1]), objective.queue.rows.clone()
    objective(encoders, batch)
    assert torch.equal(objective.queue.rows, queue), "not before the step"
    before = [weights_of(part) for part in (objective.teacher.encoder, objective.teacher.head)]
    objective.after_step(encoders, 0.5)
    torch.testing.assert_close(objective.queue.rows, torch.cat([keys[HERE], queue[4:]]))
    follows(objective.teacher.encoder, before[0], encoders["pulse"], 0.75)
    follows(objective.teacher.head, before[1], objective.head, 0.75)
    objective.after_step(encoders, 0.5)
    assert objective.queue.place == 4, "keys are pushed once"
    objective.eval()(encoders, batch)
    objective.after_step(encoders, 0.5)
    assert objective.queue.place == 4, "an evaluation leaves none"


def test_heads_are_linear_or_have_one_hidden_layer_without_norm() -> None:
    for kind, expected in (
        (moco.MoCo, [f"{DIM}-4 +bias"]),
        (moco.MoCoV2, [f"{DIM}-{DIM} +bias", "relu", f"{DIM}-4 +bias"]),
    ):
        made = kind(two_encoders(), embed_dim=4, queue=3, encoder="pulse")
        assert outline(made.head.layers) == expected
        assert made.spaces() == {"pulse": made.head}
    given = moco.MoCo(two_encoders(), embed_dim=4, hidden=(9,), queue=3, encoder="pulse")
    assert outline(given.head.layers) == [f"{DIM}-9 +bias", "relu", "9-4 +bias"]


@pytest.mark.parametrize("bf16", [False, True])
def test_the_third_version_predicts_both_ways_within_the_batch(bf16: bool) -> None:
    encoders, batch = two_encoders(), shown()
    options = {"hidden": (9, 8), "temperature": 0.4, "momentum": 0.8, "encoder": "pulse"}
    objective = moco.MoCoV3(encoders, embed_dim=4, **options)
    assert outline(objective.head.layers) == [
        *(f"{DIM}-9", "norm", "relu", "9-8", "norm", "relu", "8-4", "norm, bare"),
    ]
    assert outline(objective.predictor) == ["4-9", "norm", "relu", "9-4", "norm, bare"]
    stir(objective.head, objective.predictor, encoders["pulse"])
    views = batch.views["pulse"][:2]
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):  # for the networks alone
        projected = [objective.head.layers(encoders["pulse"](view).pooled).float() for view in views]
        queries = [unit(objective.predictor(x).float())[HERE] for x in projected]
        keys = [taught(objective, view)[HERE] for view in views]
        norms = [objective.head.layers[1], objective.teacher.encoder.norm]
        before = [norm.num_batches_tracked.item() for norm in norms]
        loss = objective(encoders, batch)
    after = [norm.num_batches_tracked.item() - 2 for norm in norms]
    assert after == before, "a third view is not projected, and not shown to the teacher"
    expected = 2 * 0.4 * (pick_own(queries[0], keys[1], 0.4) + pick_own(queries[1], keys[0], 0.4))
    same(loss.total, expected, objective, encoders["pulse"])
    detached(loss, "pulse", projected[0])
    assert objective.spaces() == {"pulse": objective.head}


@pytest.mark.parametrize(("progress", "decay"), [(0.0, 0.8), (0.5, 0.9), (1.0, 1.0), (1 / 3, 0.85)])
def test_the_third_versions_teacher_follows_ever_slower(progress: float, decay: float) -> None:
    """Momentum 1 - (1 - m) (1 + cos(pi k / K)) / 2."""
    encoders = two_encoders()
    objective = moco.MoCoV3(encoders, embed_dim=4, hidden=(9,), momentum=0.8, encoder="pulse")
    stir(objective.head, encoders["pulse"])
    before = [weights_of(part) for part in (objective.teacher.encoder, objective.teacher.head)]
    objective.after_step(encoders, progress)
    follows(objective.teacher.encoder, before[0], encoders["pulse"], decay)
    follows(objective.teacher.head, before[1], objective.head, decay)


def test_the_third_version_may_freeze_a_part_of_the_encoder() -> None:
    encoders = {"pulse": Tiny()}
    moco.MoCoV3(encoders, embed_dim=4, hidden=(9,))
    assert all(p.requires_grad for p in encoders["pulse"].parameters())
    moco.MoCoV3(encoders, embed_dim=4, hidden=(9,), freeze="layer")
    assert [name for name, p in encoders["pulse"].named_parameters() if not p.requires_grad] == [
        "layer.weight",
        "layer.bias",
    ]
    with pytest.raises(UserError, match="freeze is 'layers', but the encoder has no such part; it has layer, norm$"):
        moco.MoCoV3(encoders, embed_dim=4, hidden=(9,), freeze="layers")


def test_views_are_the_papers() -> None:
    preprocess = {"image": ImagePreprocess(16)}
    made = [method.view(preprocess).steps["image"] for method in (moco.method, moco.v2, moco.v3)]
    colors = [next(step for step in steps[0] if isinstance(step, ColorJitter)) for steps in made]
    assert [(step.p, step.hue) for step in colors] == [(1.0, 0.4), (0.8, 0.1), (0.8, 0.1)]
    blurs = [[step.p for view in steps for step in view if isinstance(step, Blur)] for steps in made]
    assert blurs == [[], [0.5, 0.5], [1.0, 0.1]]


def test_the_defaults_are_the_papers() -> None:
    """As each paper trains on ImageNet; the second version differs in its temperature, the third is that for a ViT."""
    paper = {"embed_dim": 128, "hidden": None, "temperature": 0.07, "queue": 65536, "momentum": 0.999, "encoder": None}
    paper |= {"symmetric": False}
    assert defaults(moco.MoCo) == paper
    assert defaults(moco.MoCoV2) == paper | {"temperature": 0.2}
    assert moco.MoCoV2(two_encoders(), queue=3, encoder="pulse").temperature == 0.2
    assert defaults(moco.MoCoV3) == {
        "embed_dim": 256,
        "hidden": (4096, 4096),
        "temperature": 0.2,
        "momentum": 0.99,
        "freeze": None,
        "encoder": None,
    }
    assert [method.view for method in (moco.method, moco.v2, moco.v3)] == [moco_view, moco_v2_view, byol_view]
    assert [method.objective for method in (moco.method, moco.v2, moco.v3)] == [moco.MoCo, moco.MoCoV2, moco.MoCoV3]
