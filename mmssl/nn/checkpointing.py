"""Gradient checkpointing: blocks whose activations are computed again in the backward pass instead of kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from mmssl.optim.groups import is_stack, with_weights


def checkpoint_blocks(network: nn.Module) -> int:
    """Has every block of a network keep its input alone, and returns how many there are.

    Outputs, gradients and buffers are those of the plain network: what is random is drawn the same again, and BatchNorm
    does not count a batch twice. A copy of the network does the same. Chen et al., 2016 (Training deep nets with
    sublinear memory cost).
    """
    found = blocks(network)
    for block in found:
        block.forward = MethodType(_forward, block)  # bound, so that a deep copy's is bound to the copy
    return len(found)


def blocks(network: nn.Module) -> list[nn.Module]:
    """Returns the innermost blocks, of transformers or residual networks: what sequences of blocks hold."""
    found = []
    for child in with_weights(network):
        found += blocks(child) or ([child] if is_stack(network) else [])
    return found


def _forward(block: nn.Module, *args: Any, **options: Any) -> Any:
    forward = type(block).forward
    if not torch.is_grad_enabled():
        return forward(block, *args, **options)
    if torch.compiler.is_compiling() or not any(True for _ in block.buffers()):  # compiled code changes buffers once
        return checkpoint(forward, block, *args, use_reentrant=False, **options)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _keeping_buffers(block)

    return checkpoint(forward, block, *args, use_reentrant=False, context_fn=contexts, **options)


@contextmanager
def _keeping_buffers(block: nn.Module) -> Iterator[None]:
    """Puts the buffers back after the block was computed again."""
    kept = [(buffer, buffer.clone()) for buffer in block.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in kept:
                buffer.copy_(value)
