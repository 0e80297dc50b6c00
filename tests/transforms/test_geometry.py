"""Images that are turned and moved as a batch."""

from __future__ import annotations

import math

import torch
from scipy import stats

from mmssl.transforms.geometry import Rotate, rotate, rotation, warp


def test_a_quarter_turn_is_exact_and_against_the_clock() -> None:
    x = torch.rand(2, 3, 6, 6)
    torch.testing.assert_close(warp(x, rotation(torch.tensor([90.0, 0.0])))[0], x[0].rot90(1, (1, 2)))
    torch.testing.assert_close(warp(x, rotation(torch.tensor([90.0, 0.0])))[1], x[1])


def test_a_wide_picture_is_turned_and_not_skewed() -> None:
    x = torch.zeros(1, 1, 9, 21)
    x[0, 0, 4, 10:13] = 1  # a line to the right of the middle
    turned = warp(x, rotation(torch.tensor([90.0])), fill=0.0)
    expected = torch.zeros(9, 21)
    expected[2:5, 10] = 1
    torch.testing.assert_close(turned[0, 0], expected, atol=1e-4, rtol=0)


def test_what_lies_outside_is_mirrored_or_filled() -> None:
    x = torch.ones(2, 3, 8, 8)
    moved = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]).expand(2, 2, 3)
    filled = warp(x, moved, fill=0.5)
    torch.testing.assert_close(filled[..., :4], torch.ones(2, 3, 8, 4))
    torch.testing.assert_close(filled[..., 4:], torch.full((2, 3, 8, 4), 0.5))
    torch.testing.assert_close(warp(x, moved), x)


def test_each_picture_turns_by_its_own_angle() -> None:
    x = torch.rand(1, 3, 16, 16).expand(4, -1, -1, -1)
    turned, maps = rotate(x, degrees=20)
    assert turned.shape == x.shape
    assert maps.shape == (4, 2, 3)
    assert len({round(float(one.sum()), 3) for one in turned}) == 4
    torch.testing.assert_close(rotate(x, degrees=0)[0], x)
    torch.manual_seed(1)
    found = Rotate(degrees=5.0).on_device(x)
    torch.manual_seed(1)
    assert all(a.equal(b) for a, b in zip(found, rotate(x, degrees=5), strict=True))
    assert [(Rotate(degrees=d).active(), Rotate(degrees=d).varies()) for d in (0.0, 1.0)] == [(False,) * 2, (True,) * 2]


def test_angles_are_uniform_either_way() -> None:
    """Where all that is shown lies inside, a slope turns with its image."""
    slope = torch.linspace(-1, 1, 16).expand(400, 1, 16, 16)
    for degrees in (20.0, 3.0):
        down, right = torch.gradient(rotate(slope, degrees=degrees)[0][:, 0, 5:11, 5:11], dim=(1, 2))
        angles = torch.rad2deg(torch.atan2(-down.mean((1, 2)), right.mean((1, 2)))).numpy()
        assert stats.kstest(angles, "uniform", (-degrees, 2 * degrees)).pvalue > 1e-3


def test_rotations_by_hand() -> None:
    found = rotation(torch.tensor([0.0, 30.0, 90.0]))
    root = math.sqrt(3) / 2
    expected = [[[1, 0, 0], [0, 1, 0]], [[root, -0.5, 0], [0.5, root, 0]], [[0, -1, 0], [1, 0, 0]]]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_a_map_points_from_the_result_to_the_picture() -> None:
    """Shifts are halves of a side, a scale of 2 shows the whole twice as far away, and mirrored edges repeat."""
    x = torch.arange(48.0).view(1, 1, 6, 8)
    right = warp(x, torch.tensor([[[1.0, 0, 0.5], [0, 1, 0]]]), fill=-1.0)
    torch.testing.assert_close(right[..., :6], x[..., 2:])
    assert (right[..., 6:] == -1).all()
    down = warp(x, torch.tensor([[[1.0, 0, 0], [0, 1, 1 / 3]]]))
    torch.testing.assert_close(down[0, 0], x[0, 0, [1, 2, 3, 4, 5, 5]])
    smaller = warp(torch.ones(1, 1, 8, 8), torch.tensor([[[2.0, 0, 0], [0, 2, 0]]]), fill=0.0)
    assert smaller[0, 0].round().nonzero().unique().tolist() == [2, 3, 4, 5]
    wide = torch.zeros(1, 1, 5, 9)
    wide[0, 0, 0, 4] = 1  # above the middle
    sheared = warp(wide, torch.tensor([[[1.0, 1.0, 0], [0, 1, 0]]]), fill=0.0)
    assert int(sheared[0, 0, 0].argmax()) == 6, "as far as it is above, whatever the image's shape"
    assert warp(x.double(), torch.eye(2, 3)[None], fill=0.5).dtype == torch.float64
