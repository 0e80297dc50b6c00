"""One model trained by several processes: what is made of it before, and what wraps it.

DDP is all there is; FSDP2 (`fully_shard`) goes into `wrap`, and what it does to a saved state beside it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar, cast

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from mmssl import dist
from mmssl.objectives.accumulated import Accumulated
from mmssl.objectives.bank import SampleRows
from mmssl.objectives.queue import Queue

M = TypeVar("M", bound=nn.Module)


def sync_batch_norm(model: M, device: torch.device) -> M:
    """Returns the model with BatchNorm over the batch of all processes, which torch has for CUDA only."""
    if dist.world() == 1 or device.type != "cuda":
        return model
    return cast("M", nn.SyncBatchNorm.convert_sync_batchnorm(model))


def wrap(model: nn.Module) -> nn.Module:
    """Wraps a model whose every trainable parameter gets a gradient, so that its gradients are means over processes."""
    if dist.world() == 1:
        return model
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, equal_everywhere(model))
    return DistributedDataParallel(model)


def accumulating(wrapped: nn.Module, *, last: bool) -> AbstractContextManager[Any]:
    """Returns a context for one part of a step's batch: gradients are exchanged after the last part only."""
    if last or not isinstance(wrapped, DistributedDataParallel):
        return nullcontext()
    return wrapped.no_sync()


def freeze_idle(model: nn.Module, batches: dict[str, Any]) -> None:
    """Freezes trainable parameters that no task's loss reaches, with a line that names them.

    DDP would stop at them ("Expected to have finished reduction"). One trial step finds them; the
    random state and the buffers are put back after it, and what it left for `after_step` is dropped.
    """
    buffers = {key: value.clone() for key, value in model.named_buffers()}
    devices = [next(model.parameters()).device] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        total, _ = model(batches)
        total.backward()
    for key, value in model.named_buffers():
        value.copy_(buffers[key])
    for module in model.modules():
        if isinstance(module, Accumulated):
            module.take()
    idle = [(key, p) for key, p in model.named_parameters() if p.requires_grad and p.grad is None]
    for _, parameter in idle:
        parameter.requires_grad_(False)
    model.zero_grad(set_to_none=True)
    if idle and dist.rank() == 0:
        tqdm.write(f"frozen, since no task's loss reaches them: {', '.join(key for key, _ in idle)}")


def equal_everywhere(model: nn.Module) -> list[str]:
    """Returns the names of queues' and banks' buffers: all processes write the same gathered rows into them.

    DDP would otherwise send all of them from the first process to the others at every step.
    """
    kept = [(name, module) for name, module in model.named_modules() if isinstance(module, Queue | SampleRows)]
    return [f"{name}.{key}" for name, module in kept for key, _ in module.named_buffers(recurse=False)]
