"""Anchors by hand, and which of them stands for a box."""

from __future__ import annotations

import torch

from mmssl.numerics.boxes import anchors, level_of, near_anchors


def test_anchors_have_four_sizes_and_five_shapes_around_the_corners_of_16_x_16_cells() -> None:
    found = anchors(64, device=torch.device("cpu"))
    assert found.shape == (16 * 16 * 20, 4)
    size = found[:20, 2:] - found[:20, :2]
    torch.testing.assert_close(size.prod(dim=1).sqrt(), torch.tensor([8.0, 16, 32, 64]).repeat_interleave(5))
    torch.testing.assert_close((size[:, 1] / size[:, 0])[:5], torch.tensor([0.5, 0.75, 1.0, 1.5, 2.0]))
    middle = (found[::20, :2] + found[::20, 2:]) / 2
    torch.testing.assert_close(middle[[0, 1, 16, 255]], torch.tensor([[0.0, 0], [4, 0], [0, 4], [60, 60]]))


def iou(a: torch.Tensor, b: torch.Tensor) -> float:
    width, height = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in range(2))
    both = max(0.0, float(width)) * max(0.0, float(height))
    areas = [float((x[2] - x[0]) * (x[3] - x[1])) for x in (a, b)]
    return both / (sum(areas) - both)


def test_one_of_those_that_overlap_enough_is_taken_and_else_the_nearest() -> None:
    torch.manual_seed(0)
    boxes = torch.tensor([[10.0, 12, 40, 44], [0, 0, 64, 1.0]])
    known, chances = anchors(64, device=torch.device("cpu")), torch.rand(2, 5120)
    for threshold in (0.5, 0.8):
        found = near_anchors(boxes, chances, side=64, iou=threshold)
        shares = [[iou(box, anchor) for anchor in known] for box in boxes]
        enough = [number for number, share in enumerate(shares[0]) if share > threshold]
        assert len(enough) > 1 and max(shares[1]) < threshold
        assert found[0].equal(known[max(enough, key=lambda number: float(chances[0, number]))])
        assert found[1].equal(known[shares[1].index(max(shares[1]))])


def test_boxes_lie_on_the_level_of_their_size() -> None:
    boxes = torch.tensor([[5.0, 5, 53, 53], [5, 5, 54, 53], [0, 0, 24, 96], [0, 0, 300, 300], [9, 9, 9, 9]])
    assert level_of(boxes, (48, 96, 192), 4).tolist() == [0, 1, 0, 3, 0]
    assert level_of(boxes[None], (48, 96, 192), 2).tolist() == [[0, 1, 0, 1, 0]], "the coarsest that there is"
