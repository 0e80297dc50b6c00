"""Cross-entropy with few labels, and with those of a teacher."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from mmssl.losses.labels import labelled, soft_cross_entropy


def test_only_labels_that_are_known_of_samples_that_are_there_count() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0], [0.0, 0.0]], requires_grad=True)
    losses, counted, correct = labelled(logits, torch.tensor([0, 0, -1, 1]), torch.tensor([True, True, True, False]))
    assert counted.tolist() == [True, True, False, False]
    assert losses[:2].tolist() == pytest.approx([math.log(1 + math.exp(-2)), math.log(1 + math.exp(1))])
    assert correct[:2].tolist() == [1, 0] and correct[2:].isnan().all()
    assert labelled(logits.bfloat16(), torch.zeros(4).long(), counted)[0].dtype == torch.float32


def test_both_softmaxes_have_the_temperature_and_the_teacher_no_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    scores, taught = (torch.randn(5, 4, generator=generator, requires_grad=True) for _ in range(2))
    found = soft_cross_entropy(scores, taught, temperature=0.3)
    p, q = (taught.detach() / 0.3).softmax(1), scores.detach() / 0.3
    expected = [-sum(float(p[i, k] * (q[i, k] - q[i].logsumexp(0))) for k in range(4)) for i in range(5)]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)
    found.sum().backward()
    assert taught.grad is None and scores.grad is not None
    torch.testing.assert_close(scores.grad, (F.softmax(q, 1) - p) / 0.3)
    assert soft_cross_entropy(scores.bfloat16(), taught.bfloat16(), temperature=1.0).dtype == torch.float32
