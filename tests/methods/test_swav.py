"""SwAV by its formula (Caron et al., NeurIPS 2020), written in plain torch from its own head and prototypes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mmssl.errors import UserError
from mmssl.methods import swav
from mmssl.methods.swav import SwAV
from mmssl.types import Batch
from mmssl.views.swav import view as swav_view

sys.path.insert(0, str(Path(__file__).parent))
from by_hand import Tiny, defaults, evenness, perceptron, pictures, same, shake, spread, unit

OPTIONS: dict[str, Any] = {
    "embed_dim": 4,
    "hidden": (7,),
    "prototypes": 5,
    "temperature": 0.3,
    "epsilon": 0.2,
    "iterations": 2,
    "frozen": 0.0,
}


def made(**options: Any) -> tuple[Tiny, SwAV]:
    encoder = Tiny()
    objective = SwAV({"image": encoder}, **OPTIONS | options)
    shake(objective)
    return encoder, objective


def embeddings(encoder: Tiny, objective: SwAV, shown: Batch) -> list[Tensor]:
    """Of all views, which BatchNorm sees together."""
    pooled = torch.cat([encoder(x).pooled for x in shown.views["image"]])
    return list(unit(perceptron(objective.head, pooled, norm=True)).chunk(len(shown.views["image"])))


def scores(objective: SwAV, x: Tensor) -> Tensor:
    return x @ unit(objective.prototypes.directions).T


def swapped(scored: list[Tensor], assigned: list[Tensor], rows: list[int], temperature: float) -> Tensor:
    """`assigned` holds the rows that are present, in order."""
    losses = []
    for i, given in enumerate(assigned):
        for v, other in enumerate(scored):
            for place, row in enumerate(rows) if v != i else ():
                losses.append(-(given[place] * (other[row] / temperature).log_softmax(dim=0)).sum())
    return torch.stack(losses).mean()


@pytest.mark.parametrize("assign", [1, 2, 3])
def test_the_loss_is_the_papers_in_value_and_gradient(assign: int) -> None:
    encoder, objective = made(assign=assign)
    objective.after_step({"image": encoder}, 0.5)  # when a queue, if there were one, would be used
    shown, rows = pictures([4, 4, 2], 6, absent=[1, 4]), [0, 2, 3, 5]
    with torch.no_grad():  # the last prototype is nobody's
        objective.prototypes.directions[-1] = -embeddings(encoder, objective, shown)[0].sum(dim=0)
    found = objective({"image": encoder}, shown)
    embedded = embeddings(encoder, objective, shown)
    scored = [scores(objective, x) for x in embedded]
    assigned = [spread(x[rows], epsilon=0.2, iterations=2) for x in scored[:assign]]
    same(found.total, swapped(scored, assigned, rows, 0.3), encoder, objective)
    torch.testing.assert_close(found.embeddings["image"], embedded[0].detach())
    assert not found.embeddings["image"].requires_grad
    chosen = torch.tensor([sum(int(row.argmax()) == k for row in scored[0][rows]) for k in range(5)])
    assert chosen[-1] == 0
    torch.testing.assert_close(found.logs["assignment_entropy"], evenness(chosen))
    torch.testing.assert_close(found.logs["chance_loss"], torch.tensor(5.0).log())


def test_the_queue_of_each_view_is_assigned_along_with_it() -> None:
    encoder, objective = made(queue=7, queue_from=0.25, assign=2)
    assert not any(queue.rows.any() for queue in objective.queues) and objective.done == 0, "empty at first"
    kept: list[list[Tensor]] = [[], []]
    for step, progress in enumerate((0.125, 0.25, 0.5)):
        shown = pictures([4, 4, 4], 3, absent=[step], seed=step)
        rows = [row for row in range(3) if row != step]
        found = objective({"image": encoder}, shown).total
        embedded = embeddings(encoder, objective, shown)
        scored = [scores(objective, x) for x in embedded]
        waiting = [torch.stack(rows) if rows and step > 1 else torch.zeros(0, 4) for rows in kept]  # due from step 2 on
        both = [torch.cat([s[rows], scores(objective, w)]) for s, w in zip(scored, waiting, strict=False)]
        assigned = [spread(x, epsilon=0.2, iterations=2)[:2] for x in both]
        torch.testing.assert_close(found, swapped(scored, assigned, rows, 0.3), msg=f"step {step}")
        objective.after_step({"image": encoder}, progress)
        for queue, new, old in zip(objective.queues, embedded, kept, strict=False):
            old += list(new[rows].detach())
            torch.testing.assert_close(queue.rows, torch.cat([torch.stack(old), torch.zeros(7 - len(old), 4)]))
            assert not queue.rows.requires_grad


def test_without_training_the_queue_keeps_what_it_had() -> None:
    encoder, objective = made(queue=4)
    objective.eval()({"image": encoder}, pictures([4, 4], 3))
    objective.after_step({"image": encoder}, 0.5)
    assert not objective.queues[0].rows.any()
    assert len(made(queue=0)[1].queues) == 0 and len(made(queue=1, assign=3)[1].queues) == 3


def test_prototypes_are_of_unit_length_and_thaw_in_their_time() -> None:
    encoder, objective = made(frozen=0.25)
    thawed = [float(objective.prototypes.trainable)]
    for progress in (0.2, 0.25, 0.3):
        shake(objective.prototypes)
        before = objective.prototypes.directions.detach().clone()
        objective.after_step({"image": encoder}, progress)
        torch.testing.assert_close(objective.prototypes.directions.detach(), unit(before))
        assert objective.done == pytest.approx(progress)
        thawed.append(float(objective.prototypes.trainable))
    assert thawed == [0, 0, 1, 1]
    assert made(frozen=0.0)[1].prototypes.trainable == 1


def test_it_says_how_many_views_it_needs() -> None:
    with pytest.raises(UserError, match="assign is 0; expected at least 1 view"):
        made(assign=0)
    for assign, least in ((1, 2), (3, 3)):
        encoder, objective = made(assign=assign)
        objective({"image": encoder}, pictures([4] * least, 3))
        with pytest.raises(UserError, match=f"the task compares {least} views"):
            objective({"image": encoder}, pictures([4] * (least - 1), 3))
    _, objective = made()
    assert objective.spaces() == {"image": objective.head}
    assert SwAV({"a": Tiny(), "b": Tiny()}, **OPTIONS, encoder="b").uses == ("b",)


def test_defaults_are_the_papers() -> None:
    """main_swav.py: nmb_prototypes, feat_dim, hidden_mlp, crops_for_assign, temperature, epsilon, sinkhorn_iterations;
    swav_800ep_pretrain.sh: one of 800 epochs frozen; _200ep_bs256: the queue from epoch 15.
    """
    assert defaults(SwAV) == {
        "embed_dim": 128,
        "hidden": (2048,),
        "prototypes": 3000,
        "assign": 2,
        "temperature": 0.1,
        "epsilon": 0.05,
        "iterations": 3,
        "queue": 0,
        "queue_from": 0.075,
        "frozen": 1 / 800,
        "encoder": None,
    }
    assert (swav.method.view, swav.method.objective) == (swav_view, SwAV)
