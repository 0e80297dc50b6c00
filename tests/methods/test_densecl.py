"""DenseCL by its formula (Wang et al., CVPR 2021, eqs. 1 to 3), a cell at a time."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.methods import densecl
from mmssl.methods.densecl import DenseCL
from mmssl.views import moco_v2

sys.path.insert(0, str(Path(__file__).parent))
from by_hand import defaults, same, shake, unit
from crops import PRESENT, Cells, shown


def made(**options: Any) -> tuple[Cells, DenseCL]:
    torch.manual_seed(0)
    encoder = Cells()
    objective = DenseCL({"image": encoder}, **{"embed_dim": 6, "queue": 7, "momentum": 0.8, **options})
    shake(encoder, objective)
    return encoder, objective


@pytest.mark.parametrize("options", [{}, {"hidden": (8,), "temperature": 0.4, "weight": 0.3}])
def test_crops_and_cells_find_their_keys_against_two_queues(options: dict[str, Any]) -> None:
    encoder, objective = made(**options)
    temperature, weight = options.get("temperature", 0.2), options.get("weight", 0.5)
    teacher, losses, matched = objective.teacher, [], []
    batch = shown()
    seen, taught = encoder(batch.views["image"][0]), teacher.encoder(batch.views["image"][1])
    first = torch.zeros(1, dtype=torch.long)
    for row in PRESENT.nonzero()[:, 0].tolist():
        q = unit(objective.head.layers(seen.pooled[row]))
        k = unit(teacher.head.layers(taught.pooled[row])).detach()
        scores = torch.cat([(q @ k)[None], objective.queue.rows @ q]) / temperature
        crop, cells = F.cross_entropy(scores[None], first), []
        for i in range(9):
            match = int((unit(taught.tokens[row]) @ unit(seen.tokens[row, i])).argmax())
            q = unit(objective.cells.layers(seen.tokens[row, i]))
            k = unit(objective.teacher_cells.layers(taught.tokens[row, match])).detach()
            scores = torch.cat([(q @ k)[None], objective.cell_queue.rows @ q]) / temperature
            cells.append(F.cross_entropy(scores[None], first))
            matched.append(match)
        losses.append((1 - weight) * crop + weight * torch.stack(cells).mean())
    assert len(set(matched)) > 2, "the case tells cells apart"
    loss = objective({"image": encoder}, batch)
    same(loss.total, torch.stack(losses).mean(), encoder, objective)
    torch.testing.assert_close(loss.embeddings["image"], unit(objective.head.layers(seen.pooled)).detach())
    assert loss.answers["correct"].isnan().tolist() == (~PRESENT).tolist() and loss.logs["accuracy"].isfinite()


def test_after_a_step_averaged_cells_stand_in_their_queue_and_both_heads_follow() -> None:
    encoder, objective = made()
    batch, queues = shown(), (objective.queue, objective.cell_queue)
    taught = objective.teacher.encoder(batch.views["image"][1])
    keys = unit(objective.teacher.head.layers(taught.pooled))[PRESENT]
    cells = unit(objective.teacher_cells.layers(taught.tokens).mean(dim=1))[PRESENT]
    before = [queue.rows.clone() for queue in queues]
    objective({"image": encoder}, batch)
    assert all(queue.rows.equal(rows) for queue, rows in zip(queues, before, strict=True)), "not before the step"
    was = [p.clone() for p in objective.teacher_cells.parameters()]
    objective.after_step({"image": encoder}, 0.5)
    for queue, new, rows in zip(queues, (keys, cells), before, strict=True):
        torch.testing.assert_close(queue.rows, torch.cat([new.detach(), rows[4:]]))
    for p, q, r in zip(objective.teacher_cells.parameters(), objective.cells.parameters(), was, strict=True):
        torch.testing.assert_close(p, 0.8 * r + 0.2 * q)
        assert not p.requires_grad


def test_options_and_defaults_are_the_papers() -> None:
    _, objective = made()
    for head in (objective.head, objective.cells):
        assert [type(m).__name__ for m in head.layers] == ["Linear", "ReLU", "Linear"]
        assert (head.layers[0].out_features, head.layers[-1].out_features) == (5, 6)
    assert defaults(DenseCL) == {
        "embed_dim": 128,
        "hidden": None,
        "temperature": 0.2,
        "queue": 65536,
        "momentum": 0.999,
        "weight": 0.5,
        "encoder": None,
    }
    assert (densecl.method.view, densecl.method.objective) == (moco_v2.view, DenseCL)
    with pytest.raises(UserError, match=r"weight is 1\.5; expected the share"):
        made(weight=1.5)
