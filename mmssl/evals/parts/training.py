"""How evaluations train: every process on its share, the rate along a cosine."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mmssl import dist
from mmssl.data.loader import Loader
from mmssl.data.report import Report, added
from mmssl.evals.parts.progress import counted
from mmssl.evals.parts.report import warn
from mmssl.optim.schedule import warmup_cosine
from mmssl.types import Batch


def descend(
    model: nn.Module,
    loader: Loader,
    optimizer: torch.optim.Optimizer,
    loss: Callable[[Batch], Tensor],
    *,
    epochs: int,
    what: str,
) -> None:
    """Trains a model; the rates of the optimizer's groups rise over a tenth of the steps and fall along a cosine.

    loss: of a batch on the model's device. what: the name under which samples that are left out are told.
    Gradients, and in the end statistics, are averaged over the processes.
    """
    device = next(model.parameters()).device
    peaks = [group["lr"] for group in optimizer.param_groups]
    steps = epochs * len(loader)
    batches = (batch for epoch in range(epochs) for batch in loader.epoch(epoch))
    for step, batch in enumerate(counted(batches, total=steps, desc=what, unit="step")):
        factor = warmup_cosine(step, steps=steps, warmup=steps // 10)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * factor
        optimizer.zero_grad(set_to_none=True)
        loss(batch.to(device)).backward()
        gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
        if dist.world() > 1:
            mean = dist.total(torch.cat([gradient.flatten() for gradient in gradients])) / dist.world()
            for gradient, part in zip(gradients, mean.split([one.numel() for one in gradients]), strict=True):
                gradient.copy_(part.view(gradient.shape))
        optimizer.step()
    _tell_damaged(loader, what)
    for buffer in model.buffers():
        if buffer.is_floating_point():  # each process saw its own share
            buffer.copy_(dist.total(buffer) / dist.world())


def _tell_damaged(loader: Loader, what: str) -> None:
    """Warns of training samples that could not be shown; the loader counts each as often as it was drawn."""
    whole = Report.from_plain(added(dist.gather_objects(loader.report())))
    if bad := whole.damaged.total() + whole.lacking.total():
        warn(f"{bad} of {whole.drawn} draws of {what} were left out: {whole.text()}")
