"""What each option of CloudPair does, measured on clouds that say which of their points are shown."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from mmssl.errors import DamagedError, UserError
from mmssl.modalities.points import Cloud
from mmssl.transforms.points import PointsPreprocess
from mmssl.types import Sample, View
from mmssl.views import cloud_pair


def line(count: int = 120, step: float = 1.0) -> Cloud:
    """Points on a slope, a voxel apart, whose colour is their number."""
    xyz = np.arange(count)[:, None] * [step, 0.3 * step, 0.1 * step] + 0.5
    return Cloud(xyz, np.arange(count, dtype=np.uint8)[:, None].repeat(3, 1), np.tile([0.0, 0, 1], (count, 1)))


def view(points: int | None = None, *, rotation: str = "none", voxel: float = 0.5, **options: Any) -> View:
    """The view of pairs with options of its own, and of its steps."""
    own = {"jitter": "sigma", "feature_noise": "sigma", "feature_drop": "p"}
    steps: dict[str, Any] = {name: {own[name]: options.pop(name, 0.0)} for name in own} | {"voxels": {"size": voxel}}
    steps |= {"centre": None, "rotate": None} if rotation == "none" else {"rotate": {"axis": rotation}}
    given = {"poses": None, "radius": 0.5, "min_points": 10} | options
    return cloud_pair.view({"points": PointsPreprocess(points, ("color", "normal"))}, points=steps, **given)


def pair(**changed: Any) -> Sample:
    return {"points": line(), "points_b": line(), **changed}


def numbers(cloud: torch.Tensor) -> torch.Tensor:
    return (cloud[:, 3] * 255).round().long()


def matches(shown: Sample) -> torch.Tensor:
    found: torch.Tensor = shown["extra"]["matches"]
    return found[found[:, 0] >= 0]


def test_matches_come_in_random_order() -> None:
    orders = [matches(view(matches=200)(pair())) for _ in range(20)]
    for found in orders:
        assert sorted(map(tuple, found.tolist())) == [(i, i) for i in range(120)]
    firsts = torch.stack([found[:, 0].float() for found in orders])
    assert len({tuple(first.tolist()) for first in firsts}) == 20
    along = torch.arange(120.0)
    assert max(abs(float(np.corrcoef(first, along)[0, 1])) for first in firsts) < 0.35
    assert (view(matches=200)(pair())["extra"]["matches"][120:] == -1).all()


def test_those_that_are_too_many_are_drawn_evenly() -> None:
    seen = torch.zeros(120)
    for _ in range(150):
        found = matches(view(matches=30)(pair()))
        assert len(found[:, 0].unique()) == 30
        seen[found[:, 0]] += 1
    assert seen.min() >= 18
    assert seen.max() <= 60


@pytest.mark.parametrize(("radius", "voxel", "reach"), [(0.5, 0.5, 0), (2.2, 0.5, 1), (4.3, 0.5, 2), (2.2, 1.0, 2)])
def test_radius_is_in_voxels(radius: float, voxel: float, reach: int) -> None:
    """Neighbours on the slope are 1.049 m apart."""
    found = matches(view(matches=2000, radius=radius, voxel=voxel)(pair()))
    assert {abs(a - b) for a, b in found.tolist()} == set(range(reach + 1))


def test_one_scale_for_both() -> None:
    lengths = []
    for _ in range(60):
        a, b = view(scale=(0.5, 2.0))(pair())["points"]
        own = [float(torch.linalg.norm(x[-1, :3] - x[0, :3])) for x in (a, b)]
        assert own[0] == pytest.approx(own[1], rel=1e-5)
        lengths.append(own[0] / float(np.linalg.norm(line().xyz[-1] - line().xyz[0])))
    assert 0.5 <= min(lengths) < 0.65
    assert 1.8 < max(lengths) <= 2.0 + 1e-6


def test_each_view_is_turned_about_its_own_mean_with_its_normals() -> None:
    for rotation in ("vertical", "any"):
        a, b = view(rotation=rotation)(pair())["points"]
        for shown in (a, b):
            assert shown[:, :3].mean(0).abs().max() < 1e-3
            tilt = float((line().xyz[1] - line().xyz[0]) @ [0, 0, 1])
            assert float((shown[1, :3] - shown[0, :3]) @ shown[0, 6:]) == pytest.approx(tilt, abs=1e-3)
            assert torch.allclose(shown[:, 8], torch.ones(len(shown)), atol=1e-5) == (rotation == "vertical")
        assert (a[0, :3] - b[0, :3]).abs().max() > 1e-2
    still = view()(pair())["points"]
    for shown in still:
        np.testing.assert_allclose(shown[:, :3], line().xyz, atol=1e-4)


def test_jitter_and_noise_are_drawn_for_each_view() -> None:
    a, b = view(jitter=0.2, feature_noise=0.3)(pair())["points"]
    plain, _ = view()(pair())["points"]
    for shown in (a, b):
        away = shown - plain
        assert away[:, :3].std() == pytest.approx(0.2, rel=0.15)
        assert away[:, 3:].std() == pytest.approx(0.3, rel=0.1)
        assert away.mean().abs() < 0.06
    assert not torch.allclose(a, b)
    assert len(matches(view(jitter=5.0)(pair()))) == 120, "what is the same place is known before"


def test_features_are_dropped_by_chance() -> None:
    shown = [cloud for _ in range(150) for cloud in view(feature_drop=0.3)(pair())["points"]]
    dropped = [bool((cloud[:, 3:] == 1).all()) for cloud in shown]
    assert np.mean(dropped) == pytest.approx(0.3, abs=0.08)
    for cloud, drop in zip(shown, dropped, strict=True):
        assert drop or numbers(cloud).tolist() == list(range(120))
        np.testing.assert_allclose(cloud[:, :3], line().xyz, atol=1e-4)


def test_crops_are_so_large_and_overlap() -> None:
    shares, shared = [], []
    for _ in range(60):
        a, b = view(pair="crops", crop=(0.4, 0.7), overlap=0.5)({"points": line()})["points"]
        shares += [len(a) / 120, len(b) / 120]
        shared.append(len(set(numbers(a).tolist()) & set(numbers(b).tolist())) / max(len(a), len(b)))
    assert 0.39 < min(shares) < 0.45
    assert 0.65 < max(shares) < 0.71
    assert min(shared) >= 0.5
    assert min(shared) < 0.6


@pytest.mark.parametrize(("overlap", "fine"), [(0.25, True), (0.26, False)])
def test_the_least_overlap(overlap: float, fine: bool) -> None:
    """30 of 120 points of the one have a match among the 60 of the other."""
    sample = pair(points_b=Cloud(line(150).xyz[90:], line(60).color, line(60).normal))
    if fine:
        assert len(matches(view(overlap=overlap, matches=200)(sample))) == 30
    else:
        with pytest.raises(DamagedError, match="clouds that hardly overlap: 25%, expected 26%"):
            view(overlap=overlap)(sample)


@pytest.mark.parametrize(("least", "fine"), [(120, True), (121, False)])
def test_the_fewest_points(least: int, fine: bool) -> None:
    if fine:
        assert len(view(min_points=least)(pair())["points"][0]) == 120
    else:
        with pytest.raises(DamagedError, match="a cloud with too few points: 120, expected 121"):
            view(min_points=least)(pair())


def test_points_are_thinned_by_voxels_and_then_at_random() -> None:
    coarse = view(voxel=2.0)(pair())["points"][0]
    cells = np.floor(line().xyz / 2.0).astype(int)
    assert len(coarse) == len(np.unique(cells, axis=0))
    few = view(points=50, overlap=0.01)(pair())["points"]
    assert [len(x) for x in few] == [50, 50]
    assert numbers(few[0]).tolist() != numbers(few[1]).tolist()
    assert len(numbers(few[0]).unique()) == 50
    assert numbers(few[0]).max() > 100


def test_what_it_reads_and_shows() -> None:
    made = partial(cloud_pair.view, {"points": PointsPreprocess(None)})
    assert made().reads == ("points", "points_b", "meta")
    assert made(poses=None).reads == ("points", "points_b")
    assert made(pair="crops").reads == ("points",)
    assert made(fields={"part": "labels"}).reads == ("points", "part", "points_b", "part_b", "meta")
    assert made(pair="crops", fields={"part": "labels"}).reads == ("points", "part")
    assert made().shows == {"points": 2}
    absent = view(matches=3)({})
    assert absent["extra"]["matches"].tolist() == [[-1, -1]] * 3


def test_bounds() -> None:
    for options in ({"pair": "crops", "crop": (0.01, 1.0)}, {"scale": (0.01, 100.0)}, {"voxel": 1e-3}):
        view(**options)
    for options in (
        {"pair": "crops", "crop": (0.009, 1.0)},
        {"pair": "crops", "crop": (0.5, 1.01)},
        {"scale": (0.009, 1.0)},
        {"scale": (1.0, 101.0)},
        {"voxel": 0.0},
    ):
        with pytest.raises(UserError, match=list(options)[-1]):
            view(**options)
    with pytest.raises(UserError, match="radius is in voxels, but the view of points has no step voxels"):
        cloud_pair.view({"points": PointsPreprocess()}, points={"voxels": None})


@pytest.mark.parametrize("kind", ["posed", "crops"])
def test_labels_and_places_follow_the_points(kind: str) -> None:
    """Of two scans that differ in length and in what is not finite; their places are in one frame."""
    scans = [np.r_[line(count).xyz, np.full((3, 3), np.nan)][::-1] for count in (120, 110)]
    sample: Sample = {"points": scans[0], "part": np.arange(123)}
    sample |= {"points_b": scans[1], "part_b": np.arange(113) + 1000}
    pose = np.eye(4)
    pose[:3] = [[0, -1, 0, 5], [1, 0, 0, 6], [0, 0, 1, 7]]
    options: dict[str, Any] = {
        "poses": ("a", "b"),
        "fields": {"part": "labels"},
        "min_points": 60,
        "scale": (0.5, 0.5),
        "crop": (0.8, 0.8),
    }
    made = cloud_pair.view(
        {"points": PointsPreprocess(60)},
        pair=kind,
        points={"voxels": {"size": 0.4}},
        radius=0.1,
        overlap=0.1,
        **options,
    )
    common = scans[0] @ pose[:3, :3].T + pose[:3, 3] if kind == "posed" else scans[0]
    for _ in range(5):
        shown = made({**sample, "meta": {"a": pose.tolist(), "b": pose.tolist()}})
        parts = []
        for x, place, labels in zip(
            shown["points"], shown["places"]["points"], shown["fields"]["points"]["part"], strict=True
        ):
            number = labels.values.numpy()
            assert len(number) == len(x) == 60
            rows = number - 1000 + 10 if kind == "posed" and number.max() > 1000 else number
            found = x[:, :3] @ place[:, :3].T + place[:, 3]
            np.testing.assert_allclose(found, common[rows], atol=1e-4)
            parts.append(rows)
        pairs = matches(shown)
        assert len(pairs) > 10 and (parts[0][pairs[:, 0]] == parts[1][pairs[:, 1]]).all()
