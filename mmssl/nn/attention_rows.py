"""Whom a network's first token attends to, read off as it runs: of any that calls torch's attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class AttentionRows(TorchFunctionMode):
    """Within it, keeps the weights that the first query of each attention gives to the keys.

    It sees `scaled_dot_product_attention` and `multi_head_attention_forward`, one of which nearly every library calls:
    ours, timm, transformers, torchvision and open_clip. What the network computes stays as it is.

    rows: (B, heads, keys) of each call, in order. queries: how many each call had.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[Tensor] = []
        self.queries: list[int] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            query, key, value = (args + tuple(kwargs[name] for name in ("query", "key", "value") if name in kwargs))[:3]
            others = {name: given for name, given in kwargs.items() if name not in ("query", "key", "value")}
            one = torch.eye(key.shape[-2], dtype=value.dtype, device=value.device).expand(*key.shape[:-1], -1)
            # the sum of rows of the identity, weighed by the weights, is the weights: masks and scales are as given
            self._keep(func(query, key, one, *args[3:], **others), query.shape[-2])
        elif func is F.multi_head_attention_forward:
            told = {**kwargs, "need_weights": True, "average_attn_weights": False}
            weights: Tensor = func(*args, **told)[1]
            self._keep(weights, args[0].shape[0])
        return func(*args, **kwargs)

    def _keep(self, weights: Tensor, queries: int) -> None:
        """weights: (B, heads, queries, keys)."""
        self.rows.append(weights[..., 0, :].detach().float())
        self.queries.append(queries)
