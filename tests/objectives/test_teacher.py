"""The teacher: a copy that sees no gradient, projects what it is shown, and follows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmssl.nn.head import Projection
from mmssl.objectives.teacher import Teacher
from mmssl.types import Encoder, Features


class Tiny(Encoder):
    modality, dim = "pulse", 4

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(3, 4), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Features:
        return Features(self.norm(self.layer(x)))


def made(**options: bool) -> tuple[Teacher, Tiny, Projection]:
    encoder, head = Tiny(), Projection(4, out=2, hidden=(3,))
    return Teacher(encoder, head, **options), encoder, head


def test_it_begins_as_the_network_and_stays_when_that_moves() -> None:
    teacher, encoder, head = made()
    for mine, theirs in ((teacher.encoder, encoder), (teacher.head, head)):
        before = [p.clone() for p in theirs.parameters()]
        with torch.no_grad():
            for p in theirs.parameters():
                p.add_(1.0)
        for kept, old, new in zip(mine.parameters(), before, theirs.parameters(), strict=True):
            assert torch.equal(kept, old) and not kept.requires_grad and new.requires_grad
    assert teacher.training and not teacher.separate


def test_it_projects_every_view_without_gradient_together_or_apart() -> None:
    views = [torch.randn(5, 3), 3 * torch.randn(5, 3)]
    for separate in (False, True):
        teacher, encoder, head = made(separate=separate)
        found = teacher([view.requires_grad_() for view in views], 5)
        pooled = [encoder(view).pooled for view in views] if separate else encoder(torch.cat(views)).pooled.split(5)
        for mine, features in zip(found, pooled, strict=True):
            torch.testing.assert_close(mine, head.layers(features).detach())
            assert not mine.requires_grad


def test_encoder_and_head_follow_by_what_the_decay_leaves_and_copy_statistics() -> None:
    teacher, encoder, head = made()
    encoder(torch.randn(6, 3))
    with torch.no_grad():
        for p in (*encoder.parameters(), *head.parameters()):
            p.add_(torch.randn_like(p))
    before = [p.clone() for p in teacher.parameters()]
    teacher.follow(encoder, head, decay=0.75)
    fast = [*encoder.parameters(), *head.parameters()]
    for old, now, goal in zip(before, teacher.parameters(), fast, strict=True):
        torch.testing.assert_close(now, 0.75 * old + 0.25 * goal.detach())
    assert teacher.encoder.norm.running_mean.equal(encoder.norm.running_mean)
