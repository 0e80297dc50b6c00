"""A moving average against its recursion."""

from __future__ import annotations

import torch
from torch import nn

from mmssl.nn.ema import ema_update


def test_weights_follow_the_recursion_and_buffers_are_copied() -> None:
    model, average = (nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).double() for _ in range(2))
    expected = [p.detach().clone() for p in average.parameters()]
    for step in range(4):
        with torch.no_grad():
            for weight in model.parameters():
                weight += torch.randn_like(weight)
            model[1].running_mean += 1.0
            model[1].num_batches_tracked += 2
        decay = (0.9, 0.5, 1.0, 0.0)[step]
        ema_update(average, model, decay=decay)
        expected = [
            decay * mine + (1 - decay) * p.detach() for mine, p in zip(expected, model.parameters(), strict=True)
        ]
        for mine, p in zip(expected, average.parameters(), strict=True):
            torch.testing.assert_close(p.detach(), mine)
        for module in (average, model):
            assert module[1].running_mean.tolist() == [step + 1, step + 1]
            assert module[1].num_batches_tracked == 2 * (step + 1)
    assert average[1].running_mean.data_ptr() != model[1].running_mean.data_ptr()
