"""No loss is lowered to half precision: inside autocast, and of embeddings that a network gives in it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.losses.barlow import barlow
from mmssl.losses.contrast import Contrast, in_batch
from mmssl.losses.cosine import negative_cosine
from mmssl.losses.infonce import info_nce
from mmssl.losses.local_global import local_global
from mmssl.losses.nce import nce
from mmssl.losses.nt_xent import nt_xent
from mmssl.losses.sigmoid import pairwise_sigmoid
from mmssl.losses.vicreg import vicreg

HERE = torch.ones(6, dtype=torch.bool)
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "barlow": lambda a, b: torch.stack(barlow(a, b)),
    "cosine": negative_cosine,
    "in_batch": lambda a, b: info_nce(in_batch(a, b, scale=10.0, present=HERE)),
    "info_nce": lambda a, b: info_nce(Contrast(a, b, 10.0, positives=HERE.expand(6, 6))),
    "local_global": lambda a, b: local_global(b.view(6, 2, 16), a[:, :16]),
    "local_global, infonce": lambda a, b: local_global(b.view(6, 2, 16), a[:, :16], measure="infonce"),
    "nce": lambda a, b: nce(Contrast(a, b.flip(0), 10.0, own=b), 3.0, 20),
    "nt_xent": lambda a, b: nt_xent(a, b, temperature=0.1),
    "queue": lambda a, b: info_nce(Contrast(a, b.flip(0), 10.0, own=b)),
    "sigmoid": lambda a, b: pairwise_sigmoid(Contrast(a, b, 10.0), bias=-3.0),
    "vicreg": lambda a, b: torch.stack(vicreg(a, b)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_taken_in_full_precision(name: str) -> None:
    views = [F.normalize(torch.randn(6, 32), dim=1) for _ in range(2)]
    expected = LOSSES[name](*views)
    with torch.autocast("cpu", torch.bfloat16):
        found = LOSSES[name](*views)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    half = [view.bfloat16() for view in views]
    exact = LOSSES[name](*(view.float() for view in half))
    for mixed in (half, [half[0], half[1].float()], [half[0].float(), half[1]]):
        torch.testing.assert_close(LOSSES[name](*mixed), exact, rtol=1e-6, atol=1e-6)
