"""What moves with views is on a CUDA device as on a CPU, and never makes the host wait."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mmssl.data.collate import collate
from mmssl.numerics.geometry import same_place
from mmssl.transforms.fields import warped
from mmssl.transforms.geometry import Rotate
from mmssl.transforms.image import Crop, ImagePreprocess
from mmssl.types import Batch, Ragged
from mmssl.views.template import Views

DEVICE = "cuda"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
KINDS: dict[str, Any] = {"mask": "mask", "boxes": "boxes", "keypoints": "keypoints", "flow": "flow"}


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_turned_views_and_their_cells_never_make_the_host_wait() -> None:
    view = Views(2, image=[Crop(), Rotate(degrees=30.0)], fields=KINDS)({"image": ImagePreprocess(32)})
    sample: dict[str, Any] = {"image": np.zeros((40, 50, 3), np.uint8), "mask": np.ones((40, 50), int)}
    sample |= {"boxes": [[1, 2, 30, 30]], "keypoints": [], "flow": np.zeros((40, 50, 2))}
    shown = collate([view(sample) for _ in range(4)], view).to(DEVICE)

    def step() -> tuple[Batch, torch.Tensor]:
        moved = view.on_device(shown.map(lambda x: x))
        one, other = moved.places["image"]
        return moved, same_place(one, other, grid=(8, 8))

    step()  # the first may set things up
    torch.cuda.set_sync_debug_mode("error")
    try:
        moved, near = step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    one, other = (place.cpu() for place in moved.places["image"])
    assert near.cpu().equal(same_place(one, other, grid=(8, 8)))


def test_fields_move_as_on_a_cpu() -> None:
    change = torch.tensor([[[0.9, -0.3, 0.1], [0.2, 1.1, -0.2]], [[1.0, 0, 0], [0, 1, 0]]])
    rows = Ragged(torch.rand(5, 4) * 20, torch.tensor([3, 2]))
    values: dict[str, Any] = {"boxes": rows, "keypoints": Ragged(rows.values[:, :2], rows.lengths)}
    values |= {"depth": torch.rand(2, 24, 32), "flow": torch.rand(2, 2, 24, 32), "normals": torch.rand(2, 3, 24, 32)}
    for kind, value in values.items():
        found = warped(kind, value.to(DEVICE), change.to(DEVICE), (24, 32))  # type: ignore[arg-type]
        expected = warped(kind, value, change, (24, 32))  # type: ignore[arg-type]
        pairs = (found.values.cpu(), expected.values) if isinstance(value, Ragged) else (found.cpu(), expected)
        torch.testing.assert_close(*pairs, atol=1e-4, rtol=1e-4)
