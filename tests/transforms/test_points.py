"""What each operation does to a cloud, its colours and its normals, against scipy and by hand."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.transform import Rotation

from mmssl.errors import DamagedError, UserError
from mmssl.modalities.points import FAR, Cloud
from mmssl.transforms import points
from mmssl.transforms.local_shape import RADII, local_shape, local_surface
from mmssl.transforms.point_steps import FeatureDrop, FeatureNoise, Placed, Scale, Voxels, thinned
from mmssl.transforms.points import PointsPreprocess

AXES = np.eye(3, dtype=np.float32)


def cloud(count: int = 200, *, color: bool = True, normal: bool = True) -> Cloud:
    rng = np.random.default_rng(0)
    xyz, shade, way = (
        rng.normal(size=(count, 3)),
        rng.integers(0, 256, (count, 3), np.uint8),
        rng.normal(size=(count, 3)),
    )
    return Cloud(xyz, shade if color else None, way if normal else None)


def same_but_place(found: Cloud, given: Cloud) -> None:
    assert np.array_equal(found.color, given.color)
    assert np.array_equal(found.normal, given.normal)


def test_turning_about_the_vertical_turns_any_angle() -> None:
    turns = np.stack([points.random_rotation() for _ in range(1000)])
    assert turns.dtype == np.float32
    angles = np.arctan2(turns[:, 1, 0], turns[:, 0, 0])
    np.testing.assert_allclose(turns, Rotation.from_euler("z", angles[:, None]).as_matrix(), atol=1e-6)
    assert stats.kstest(angles, "uniform", (-np.pi, 2 * np.pi)).pvalue > 1e-3
    random.seed(1)
    by_name = points.random_rotation(axis="vertical")
    random.seed(1)
    assert np.array_equal(points.random_rotation(), by_name)


def test_turning_any_way_is_uniform_over_rotations() -> None:
    """Shoemake's: a quaternion of four Gaussians. Of uniform rotations the angle has density (1 - cos) / pi."""
    state = np.random.get_state()
    turns = np.stack([points.random_rotation(axis="any") for _ in range(1000)])
    np.random.set_state(state)
    quaternions = np.stack([np.random.standard_normal(4) for _ in range(1000)])  # w, x, y, z
    np.testing.assert_allclose(turns, Rotation.from_quat(quaternions[:, [1, 2, 3, 0]]).as_matrix(), atol=1e-5)
    assert turns.dtype == np.float32
    angles = Rotation.from_matrix(turns).magnitude()
    assert stats.kstest(angles, lambda a: (a - np.sin(a)) / np.pi).pvalue > 1e-3


def test_normals_turn_with_the_points() -> None:
    """A quarter turn about z takes x to y, and y to minus x."""
    quarter = Rotation.from_euler("z", 90, degrees=True).as_matrix().astype(np.float32)
    given = Cloud(2 * AXES, np.arange(9, dtype=np.uint8).reshape(3, 3), AXES[[1, 2, 0]])
    turned = points.rotate(given, quarter)
    np.testing.assert_allclose(turned.xyz, [[0, 2, 0], [-2, 0, 0], [0, 0, 2]], atol=1e-6)
    np.testing.assert_allclose(turned.normal, [[-1, 0, 0], [0, 0, 1], [0, 1, 0]], atol=1e-6)
    assert np.array_equal(turned.color, given.color)
    bare = points.rotate(Cloud(AXES), quarter)
    assert bare.normal is None
    any_way = Rotation.from_euler("xyz", [0.3, -1.0, 2.0])
    turned = points.rotate(cloud(), any_way.as_matrix())
    np.testing.assert_allclose(turned.xyz, any_way.apply(cloud().xyz), atol=1e-5)
    np.testing.assert_allclose(turned.normal, any_way.apply(cloud().normal), atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_normals_are_mirrored_with_the_points(axis: int) -> None:
    sign = np.ones(3)
    sign[axis] = -1
    found = points.mirror(cloud(), axis=axis)
    np.testing.assert_array_equal(found.xyz, cloud().xyz * sign)
    np.testing.assert_array_equal(found.normal, cloud().normal * sign)
    assert np.array_equal(found.color, cloud().color)
    assert points.mirror(cloud(normal=False), axis=axis).normal is None


def test_jitter_is_gaussian_for_each_coordinate() -> None:
    given = cloud(3000)
    for sigma, options in ((0.01, {}), (0.5, {"sigma": 0.5})):
        found = points.jitter(given, **options)
        moved = (found.xyz - given.xyz) / sigma
        assert stats.kstest(moved.ravel(), "norm").pvalue > 1e-3
        assert np.abs(np.corrcoef(moved.T) - np.eye(3)).max() < 0.1
        same_but_place(found, given)
    assert found.xyz.dtype == np.float32


def test_scale_is_uniform_and_one_for_the_whole_cloud() -> None:
    given = cloud(20)
    for bounds, options in (((0.8, 1.25), {}), ((2.0, 3.0), {"factor": (2.0, 3.0)})):
        step = Scale(**options)
        ratios = np.stack([step(Placed.whole(given)).cloud.xyz / given.xyz for _ in range(1000)])
        assert np.ptp(ratios, axis=(1, 2)).max() < 1e-5
        assert stats.kstest(ratios[:, 0, 0], "uniform", (bounds[0], bounds[1] - bounds[0])).pvalue > 1e-3
    same_but_place(points.scaled(given, 0.7), given)


def test_centring_leaves_what_is_no_place() -> None:
    given = Cloud(np.array([[1.0, 2, 3], [3, 6, 9]]), np.zeros((2, 3), np.uint8), AXES[:2])
    found = points.centred(given)
    assert found.xyz.tolist() == [[-1, -2, -3], [1, 2, 3]]
    assert points.mean(given).tolist() == [2, 4, 6]
    assert points.mean(given).dtype == np.float64
    same_but_place(found, given)


def test_a_subsample_draws_each_point_as_often_and_none_twice() -> None:
    given = cloud(10)
    drawn: Counter[int] = Counter()
    for _ in range(1000):
        shown = thinned(Placed.whole(given), 4)
        found = shown.cloud
        rows = [int(np.flatnonzero((given.xyz == one).all(1))[0]) for one in found.xyz]
        assert len(set(rows)) == 4
        assert shown.index.tolist() == rows
        assert np.array_equal(found.color, given.color[rows])  # type: ignore[index]
        assert np.array_equal(found.normal, given.normal[rows])  # type: ignore[index]
        drawn.update(rows)
    assert set(drawn) == set(range(10))
    assert all(330 < count < 470 for count in drawn.values()), drawn
    whole = Placed.whole(given)
    for enough in (10, 11, None):
        assert thinned(whole, enough) is whole
    assert len(thinned(whole, 9).cloud) == 9


def test_one_point_the_first_of_each_cube_is_kept() -> None:
    xyz = np.array(
        [[0.6, 0.1, 0.1], [0.1, 0.1, 0.1], [0.4, 0.4, 0.4], [-0.1, 0.1, 0.1], [0.7, 0.2, 0.2], [0.1, 0.6, 0.1]]
    )
    assert points.grid_index(Cloud(xyz), 0.5).tolist() == [0, 1, 3, 5]
    assert points.grid_index(Cloud(xyz), 0.25).tolist() == [0, 1, 2, 3, 5]
    assert points.grid_index(Cloud(xyz), 5.0).tolist() == [0, 3]
    for given in (cloud(), Cloud(np.r_[cloud().xyz, [[3e9, -2e9, 1e9], [3e9, -2e9, 1e9]]])):  # cells beyond int64
        cells = [tuple(np.floor(place / 0.7).astype(np.int64).tolist()) for place in given.xyz]
        firsts = [number for number, cell in enumerate(cells) if cell not in cells[:number]]
        assert points.grid_index(given, 0.7).tolist() == firsts
        assert 100 < len(firsts) < len(given)


def test_steps_on_voxels_and_features() -> None:
    given = Placed.whole(cloud())
    kept = Voxels(size=0.7)(given)
    assert kept.index.tolist() == points.grid_index(cloud(), 0.7).tolist()
    assert np.array_equal(kept.cloud.xyz, cloud().xyz[kept.index]) and np.array_equal(kept.to_view, np.eye(4))
    features = torch.rand(5000, 6)
    noise = (FeatureNoise(sigma=0.2)(features) - features) / 0.2
    assert stats.kstest(noise.numpy().ravel(), "norm").pvalue > 1e-3
    dropped = [FeatureDrop(p=0.3)(features[:1]) for _ in range(1000)]
    assert {tuple(x[0].tolist()) for x in dropped} == {tuple(features[0].tolist()), (1.0,) * 6}
    assert sum(bool((x == 1).all()) for x in dropped) == pytest.approx(300, abs=60)
    assert not any(step.varies() for step in (Voxels(), FeatureNoise(), FeatureDrop(p=0.5)))
    assert [FeatureDrop(p=(0.1, 0.9)).of_view(view, 2) for view in (0, 1)] == [FeatureDrop(p=0.1), FeatureDrop(p=0.9)]


@pytest.mark.parametrize(("share", "count"), [(0.1, 5), (0.5, 25), (0.93, 46), (1.0, 50), (0.0, 1), (1.5, 50)])
def test_a_crop_is_what_lies_nearest_to_one_of_the_points(share: float, count: int) -> None:
    given = cloud(50)
    order = np.linalg.norm(given.xyz[:, None] - given.xyz, axis=2).argsort(axis=1)
    crops = [sorted(row[:count].tolist()) for row in order]
    found = [points.crop_index(given, share).tolist() for _ in range(400)]
    assert all(crop in crops for crop in found)
    assert {tuple(crop) for crop in found} == {tuple(crop) for crop in crops}, "around any of them"


def test_what_an_encoder_is_shown_by_default() -> None:
    prepare = PointsPreprocess()
    assert prepare.config() == {"points": 4096, "features": (), "centre": False}
    assert prepare.modality == "points"
    assert len(prepare(np.zeros((4097, 3)))) == 4096
    few = cloud(50)
    assert prepare(few).equal(torch.from_numpy(few.xyz)), "as it was measured"


def test_columns_stand_in_the_order_of_the_features() -> None:
    given = cloud(30)
    parts = {
        "color": torch.from_numpy(given.color / np.float32(255)),  # type: ignore[operator]
        "normal": torch.from_numpy(given.normal),
        "shape": torch.from_numpy(local_shape(given.xyz)),
        "surface": torch.from_numpy(local_surface(given.xyz, given.normal)),
    }
    for features in (("color",), ("normal", "color"), ("shape", "normal"), ("surface", "color", "normal", "shape")):
        prepare = PointsPreprocess(None, list(features))  # type: ignore[arg-type]
        shown = prepare(given)
        assert shown.dtype == torch.float32
        torch.testing.assert_close(
            shown, torch.cat([torch.from_numpy(given.xyz), *map(parts.__getitem__, features)], 1)
        )
        assert prepare.blank().equal(torch.zeros(1, shown.shape[1]))
        assert prepare.features == features
    for lacking in ("color", "normal"):
        with pytest.raises(DamagedError, match=f"a cloud without {lacking}"):
            PointsPreprocess(None, (lacking,))(Cloud(given.xyz))
    with pytest.raises(DamagedError, match="a cloud without normal"):
        PointsPreprocess(None, ("surface",))(Cloud(given.xyz))
    with pytest.raises(UserError, match="no feature 'colour'; known: color, normal, shape, surface"):
        PointsPreprocess(features=("color", "colour"))


def test_thinning_is_the_same_each_time_and_keeps_the_order() -> None:
    given, prepare = cloud(100), PointsPreprocess(40, ("normal",))
    shown = prepare(given)
    rows = [int(np.flatnonzero((given.xyz == one).all(1))[0]) for one in shown[:, :3].numpy()]
    assert len(rows) == 40
    assert rows == sorted(set(rows))
    assert rows != list(range(40)), "from everywhere"
    assert shown.equal(prepare(given))
    assert PointsPreprocess(100)(given).equal(torch.from_numpy(given.xyz))
    assert PointsPreprocess(None, centre=True)(given).numpy() == pytest.approx(given.xyz - given.xyz.mean(0), abs=1e-6)


def test_a_batch_is_packed_with_the_length_of_each_cloud() -> None:
    prepare = PointsPreprocess(None)
    clouds = [torch.full((count, 3), float(count)) for count in (2, 1, 3)]
    made = prepare.collate(clouds)
    assert made.values.tolist() == [[2, 2, 2]] * 2 + [[1, 1, 1]] + [[3, 3, 3]] * 3
    assert made.lengths.tolist() == [2, 1, 3] and not made.padded


def test_one_or_several_clouds() -> None:
    prepare = PointsPreprocess(None)
    for several in (np.zeros((2, 5, 3)), torch.zeros(2, 5, 3), [np.zeros((5, 3))] * 2):
        assert len(prepare.items(several)) == 2
    for one in (np.zeros((5, 3)), torch.zeros(5, 3), cloud()):
        assert len(prepare.items(one)) == 1


def test_only_axes_that_are_far_are_moved() -> None:
    """By the median of the first cloud, all clouds alike; at FAR exactly is far, on either side."""
    base = np.array([[0.0, 1, 2], [3, 4, 5], [30, 7, 8]])
    for at in (FAR, -FAR - 30):
        first, second = Cloud(np.add(base, [at, 0, 0])), Cloud(np.add(base, [at + 5, 2, 0]))
        a, b = points.nearby(first, second)
        np.testing.assert_allclose(a.xyz, base - [3, 0, 0], atol=1e-5)
        np.testing.assert_allclose(b.xyz, np.add(base, [2, 2, 0]), atol=1e-5)
    near = Cloud(base)
    only_second = points.nearby(near, Cloud(np.add(base, [0, FAR, 0])))
    np.testing.assert_allclose(only_second[0].xyz, base - [0, 4, 0], atol=1e-5)
    same = points.nearby(near, near)
    assert same[0] is near
    assert same[1] is near


def test_what_was_dropped_is_counted_once() -> None:
    prepare = PointsPreprocess(None)
    for dropped in (2, 3):
        xyz = np.ones((5, 3))
        xyz[:dropped] = np.nan
        prepare(xyz)
    assert prepare.take_notes() == Counter({"points that are not finite": 5})
    assert prepare.take_notes() == Counter()
    prepare(np.ones((5, 3)))
    assert prepare.take_notes() == Counter()


def by_hand(xyz: np.ndarray) -> np.ndarray:
    """Square roots of the eigenvalues of the covariance of what lies within a radius, in units of it."""
    rows: list[list[float]] = []
    for place in xyz:
        row: list[float] = []
        for radius in (0.1, 0.2, 0.4):
            near = xyz[np.linalg.norm(xyz - place, axis=1) <= radius]
            away = near - near.mean(axis=0)
            values = np.linalg.eigvalsh(away.T @ away / len(near))
            row += (np.sqrt(values.clip(min=0)) / radius).tolist()
        rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize("shift", [0.0, 1000.0])
def test_local_shape_is_the_covariance_of_the_neighbours(shift: float) -> None:
    xyz = np.random.default_rng(0).uniform(-0.4, 0.4, (150, 3)) * (1, 1, 0.3)
    found: Any = local_shape(xyz + shift)
    np.testing.assert_allclose(found, by_hand(xyz), atol=1e-5)
    assert found.dtype == np.float32
    assert RADII == (0.1, 0.2, 0.4)
    assert local_shape(xyz[:1]).tolist() == [[0.0] * 9]
