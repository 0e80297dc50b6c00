"""Registration, figure by figure: ratios, thresholds from both sides, chance, what is trivial, which scans."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from given import defaults, give, written
from scipy.spatial.transform import Rotation
from torch import Tensor

from mmssl import dist
from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.evals import register
from mmssl.evals.parts.report import reporting
from mmssl.evals.register import UNLEARNT, WARM, Register
from mmssl.modalities.points import Cloud
from mmssl.transforms.pairs import POSES, Scan
from mmssl.types import Encoder, Features, Head, Ragged, Trained

OFF: dict[str, Any] = {"data": {}, "fpfh": False, "ransac": False}


def test_defaults() -> None:
    # Deng et al., CVPR 2018 (PPFNet), and Choy et al., ICCV 2019 (FCGF): 10 cm and 5% right matches; 15 degrees, 30 cm.
    assert defaults(Register) == {
        "encoder": "points",
        "space": None,
        "poses": POSES,
        "limit": None,
        "voxel": 0.05,
        "points": 5000,
        "rotation": "any",
        "cut": 1.0,
        "matching": "one_way",
        "threshold": 0.1,
        "inliers": 0.05,
        "angles": (5, 15, 30),
        "overlaps": (0.3, 0.6),
        "rooms": None,
        "fpfh": True,
        "fpfh_radius": None,
        "fpfh_normals": None,
        "ransac": True,
        "rotation_error": 15.0,
        "translation_error": 0.3,
        "baselines": True,
    }
    assert (UNLEARNT, WARM) == (("coordinates", "shape", "surface", "fpfh"), 8)


def made(monkeypatch: pytest.MonkeyPatch, samples: list[Any] | None = None, **options: Any) -> Register:
    give(monkeypatch, "mmssl.evals.register", samples or [])
    return Register(**{**OFF, **options})


def scan(xyz: Any) -> Scan:
    return Scan(Cloud(np.array(xyz, dtype=float)), np.eye(4), np.zeros(3), np.eye(4))


LINE = [[float(n), 0, 0] for n in range(20)]


def feature(places: Any) -> Any:
    return lambda scan: torch.tensor([[float(x)] for x in places(scan.cloud.xyz[:, 0])])


@pytest.mark.parametrize(("shift", "right"), [(0.0, 20), (0.09, 20), (0.11, 0)])
def test_a_match_is_right_within_the_threshold(shift: float, right: int, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = made(monkeypatch)
    b = [[x + shift, y, z] for x, y, z in LINE]
    row = judge._judge(scan(LINE), scan(b), {"": feature(lambda x: x)})
    assert row["hit_ratio"] == right / 20
    assert row["chance/hit_ratio"] == pytest.approx(20 / 20 / 20 if right else 0.0), "each has one of twenty near"
    assert row["chance/registration_recall"] == 0.0


def test_chance_is_the_mean_share_of_points_that_lie_near(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = np.random.uniform(0, 1, (30, 3)), np.random.uniform(0, 1, (50, 3))
    row = made(monkeypatch, threshold=0.4)._judge(scan(a), scan(b), {})
    near = np.linalg.norm(a[:, None] - b[None], axis=2) <= 0.4
    assert row["chance/hit_ratio"] == pytest.approx(near.mean())
    assert row["chance/feature_match_recall"] == 1.0


@pytest.mark.parametrize(("inliers", "recalled"), [(0.2, 0.0), (0.15, 1.0), (0.25, 0.0)])
def test_a_pair_is_recalled_with_more_than_so_many_right(
    inliers: float, recalled: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = [0, 1, 2, 3, *[19 - n for n in range(4, 20)]]  # four of twenty are right
    ways = {"way/": feature(lambda x: np.array(where)[x.astype(int)] if len(x) == 20 else x)}
    a, b = scan(LINE), scan([*LINE, [99.0, 0, 0]])
    row = made(monkeypatch, inliers=inliers)._judge(a, b, ways)
    assert row["way/hit_ratio"] == pytest.approx(0.2)
    assert row["way/feature_match_recall"] == recalled
    assert "way/registration_recall" not in row


def test_matches_are_one_way_or_mutual(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = scan(LINE[:4]), scan(LINE[:4])
    mine, theirs = torch.tensor([[0.0], [0.1], [5.0], [9.0]]), torch.tensor([[0.0], [6.0], [5.1], [9.0]])
    alike = {"": lambda s: mine if s is a else theirs}
    assert made(monkeypatch)._judge(a, b, alike)["hit_ratio"] == 0.75  # the second finds the first
    assert made(monkeypatch, matching="mutual")._judge(a, b, alike)["hit_ratio"] == 1.0
    monkeypatch.setattr(register, "nearest_features", lambda a, b, *, mutual: torch.zeros(0, 2, dtype=torch.long))
    assert made(monkeypatch)._judge(a, b, alike)["hit_ratio"] == 0.0, "no match is none right"


@pytest.mark.parametrize(
    ("degrees", "metres", "found"), [(14.9, 0.29, 1.0), (15.1, 0.0, 0.0), (0.0, 0.31, 0.0), (15.1, 0.31, 0.0)]
)
def test_a_pose_is_found_within_both_errors(
    degrees: float, metres: float, found: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    poses = [np.eye(4), np.eye(4)]
    for n, pose in enumerate(poses):
        pose[:3, :3], pose[:3, 3] = Rotation.from_euler("xyz", [n, 0.5, 2]).as_matrix(), (n, 2, 3)
    a, b = (Scan(Cloud(np.random.uniform(0, 1, (9, 3))), pose, np.zeros(3), pose) for pose in poses)
    off = np.linalg.inv(poses[1]) @ poses[0]  # a's points in b's frame
    off[:3, :3] = off[:3, :3] @ Rotation.from_euler("y", degrees, degrees=True).as_matrix()
    off[:3, 3] += (0, metres, 0)
    told: list[Any] = []
    monkeypatch.setattr(register, "ransac", lambda *a, voxel: told.append((*a, voxel)) or off)
    judge = made(monkeypatch, voxel=0.07)
    pairs = torch.zeros(3, 2, dtype=torch.long)
    assert judge._registered(a, b, pairs) == found
    assert told[0][0] is a.cloud.xyz and told[0][1] is b.cloud.xyz and told[0][2] is pairs and told[0][3] == 0.07
    assert made(monkeypatch, rotation_error=16.0, translation_error=0.4)._registered(a, b, pairs) == 1.0


def test_poses_are_sought_for_the_encoder_and_fpfh_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(register, "open3d", lambda: None)
    monkeypatch.setattr(Register, "_registered", lambda self, a, b, pairs: float(len(pairs)))
    ways = dict.fromkeys(("", "random_init/", "coordinates/", "fpfh/"), feature(lambda x: x))
    row = made(monkeypatch, ransac=True)._judge(scan(LINE), scan(LINE), ways)
    recalls = {name: value for name, value in row.items() if "registration" in name}
    assert recalls == {"registration_recall": 20.0, "fpfh/registration_recall": 20.0, "chance/registration_recall": 0.0}


class Places(Encoder):
    modality = "points"

    def __init__(self) -> None:
        super().__init__()
        self.dim, self.inner = 3, create_encoder("pointnet", widths=[4, 4])
        self.preprocess = self.inner.preprocess
        self.shown: list[tuple[bool, Tensor]] = []

    def forward(self, x: Ragged) -> Features:
        self.shown.append((torch.is_inference_mode_enabled(), x))
        return Features(x.values[:, :3].mean(0, keepdim=True), x.values[:, :3], lengths=x.lengths)

    def config(self) -> dict[str, Any]:
        return self.inner.config()


class Halved(Head):
    def __init__(self, dim: int = 3) -> None:
        super().__init__()

    def forward(self, features: Features) -> Tensor:
        assert features.tokens is not None
        return features.tokens[:, :2]

    def config(self) -> dict[str, Any]:
        return {"dim": 3}


def test_figures_stand_beside_chance_and_the_best_of_what_is_not_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {
        "chance/hit_ratio": [0.0, 0.02],
        "hit_ratio": [0.5, 0.7],
        "random_init/hit_ratio": [0.1, 0.3],
        "coordinates/hit_ratio": [0.2, 0.2],
        "shape/hit_ratio": [0.4, 0.2],
        "fpfh/hit_ratio": [0.1, 0.2],
        "registration_recall": [1.0, 0.0],
        "fpfh/registration_recall": [1.0, 1.0],
        "chance/registration_recall": [0.0, 0.0],
        "feature_match_recall": [1.0, 1.0],
        "chance/feature_match_recall": [0.0, 1.0],
    }
    table = {name: torch.tensor(row) for name, row in rows.items()}
    monkeypatch.setattr(Register, "_table", lambda self, ways: (["kitchen", "hall"], table))
    found = written(dict(made(monkeypatch).run(Trained({"points": Places()}))))
    assert list(found) == [name for name in rows if not name.startswith("chance/")]
    for name, score in found.items():
        assert score.value == pytest.approx(np.mean(rows[name])) and score.n == 2
        assert score.parts == pytest.approx(dict(zip(("kitchen", "hall"), rows[name], strict=True)))
    assert found["hit_ratio"].chance == pytest.approx(0.01) and found["fpfh/hit_ratio"].chance == pytest.approx(0.01)
    assert found["feature_match_recall"].chance == 0.5
    for name in ("hit_ratio", "random_init/hit_ratio"):
        assert found[name].trivial == pytest.approx(0.3)
    assert found["registration_recall"].trivial == 1.0
    assert found["feature_match_recall"].trivial is None
    assert found["shape/hit_ratio"].trivial is None and found["fpfh/registration_recall"].trivial is None


def test_each_way_describes_a_scan_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, Any] = {}
    monkeypatch.setattr(register, "open3d", lambda: None)
    monkeypatch.setattr(
        register, "fpfh", lambda cloud, *, eye, radius, normals: torch.tensor([[radius, normals, *eye]])
    )
    monkeypatch.setattr(register, "surface", lambda scan: scan.eye)
    monkeypatch.setattr(register, "coordinates", lambda xyz, *, rotation: (rotation, xyz))
    monkeypatch.setattr(register, "local_shape", lambda xyz: xyz + 1)
    monkeypatch.setattr(Register, "_unlearnt", lambda self, encoder: encoder)
    monkeypatch.setattr(Register, "_table", lambda self, ways: told.update(ways) or ([], {}))
    encoder = Places()
    encoder.spaces["half"] = Halved()
    list(made(monkeypatch, fpfh=True, voxel=0.3, rotation="vertical").run(Trained({"points": encoder})))
    assert list(told) == ["", "random_init/", "coordinates/", "shape/", "fpfh/"]
    some = Scan(Cloud(np.random.uniform(-1, 1, (5, 3))), np.eye(4), np.array([1.0, 2, 3]), np.eye(4))
    xyz = some.cloud.xyz
    assert told["fpfh/"](some).tolist() == [pytest.approx([1.5, 0.6, 1, 2, 3])], "five voxels, and two"
    assert told["coordinates/"](some)[0] == "vertical" and told["coordinates/"](some)[1] is xyz
    assert torch.equal(told["shape/"](some), torch.from_numpy(xyz + 1))
    unit = xyz / np.linalg.norm(xyz, axis=1, keepdims=True)
    for way in ("", "random_init/"):
        np.testing.assert_allclose(told[way](some), unit, atol=1e-5)
    assert encoder.shown[0][0], "without gradients"
    list(made(monkeypatch, space="half").run(Trained({"points": encoder})))
    two = xyz[:, :2]
    np.testing.assert_allclose(told[""](some), two / np.linalg.norm(two, axis=1, keepdims=True), atol=1e-5)
    encoder.preprocess.features = ("surface",)
    for normals in (0.0, 0.7):
        options = {"fpfh": True, "fpfh_radius": 0.9, "fpfh_normals": normals}
        list(made(monkeypatch, **options).run(Trained({"points": encoder})))
        assert told["fpfh/"](some).tolist() == [pytest.approx([0.9, normals, 1, 2, 3])]
    assert told["surface/"](some) is some.eye


def pairs(count: int) -> list[dict[str, Any]]:
    return [{key: Cloud(np.random.uniform(0, 1, (9, 3))) for key in ("points", "points_b")} for _ in range(count)]


def test_scans_are_taken_as_told_and_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(register, "fixed_scans", lambda sample, **o: told.append(o) or sample["__number__"])
    shown: dict[str, Any] = {"poses": None, "voxel": 0.2, "points": 7, "rotation": "none", "cut": 0.6}
    judge = made(monkeypatch, pairs(6), limit=5, **shown)
    places = [(one.place, one.value and one.value[0]) for one in judge._scans()]
    assert places == [(n, number) for n, number in enumerate((0, 1, 2, 3, 5))] and told == [shown] * 5
    assert [(one.place, one.value) for one in judge._scans(rank=1, world=2)] == [(1, (1, "")), (3, (3, ""))]
    assert len(list(made(monkeypatch, pairs(6), poses=None)._scans())) == 6
    assert judge._wanted() == {"points", "points_b"}
    assert made(monkeypatch)._wanted() == {"points", "points_b", "meta"}
    judge.check(Trained({"points": Places()}))
    for wrong, message in (({"poses": POSES}, "has 'meta'"), ({"space": "nope", "poses": None}, "no space 'nope'")):
        with pytest.raises(UserError, match=message):
            made(monkeypatch, pairs(1), **wrong).check(Trained({"points": Places()}))


def turned(degrees: float, xyz: Any = LINE) -> Scan:
    camera = np.eye(4)
    camera[:3, :3] = Rotation.from_euler("y", degrees, degrees=True).as_matrix()
    return Scan(Cloud(np.array(xyz, dtype=float)), np.eye(4), np.zeros(3), camera)


def test_a_pair_has_a_ceiling_an_overlap_and_an_angle(monkeypatch: pytest.MonkeyPatch) -> None:
    """All five points of the one lie near one of the twenty of the other, of which a quarter lies near them."""
    judge = made(monkeypatch)
    one, other = turned(-10, LINE[:5]), turned(25)
    row = judge._judge(one, other, {})
    assert (row["ceiling/hit_ratio"], row["overlap"], row["angle"]) == (1.0, 0.25, pytest.approx(35))
    row = judge._judge(other, one, {})
    assert (row["ceiling/hit_ratio"], row["overlap"], row["angle"]) == (0.25, 0.25, pytest.approx(35))
    assert row["ceiling/feature_match_recall"] == 1.0
    assert "angle" not in made(monkeypatch, poses=None)._judge(one, other, {})


def test_pairs_are_parted_by_angle_and_overlap_and_figures_kept_of_rooms(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {
        "chance/hit_ratio": [0.0, 0.2, 0.1, 0.1],
        "hit_ratio": [0.9, 0.7, 0.5, 0.1],
        "fpfh/hit_ratio": [0.3, 0.2, 0.1, 0.0],
        "chance/feature_match_recall": [0.0] * 4,
        "feature_match_recall": [1.0] * 4,
        "angle": [3.0, 12.0, 20.0, 90.0],
        "overlap": [0.9, 0.5, 0.5, 0.1],
    }
    table = {name: torch.tensor(row) for name, row in rows.items()}
    keys = ["kitchen", "hall", "kitchen", "hall"]
    monkeypatch.setattr(Register, "_table", lambda self, ways: (keys, dict(table)))
    judge = made(monkeypatch, angles=(12, 40), overlaps=(0.05, 0.3), rooms="place", poses=None)
    found = written(dict(judge.run(Trained({"points": Places()}))))
    values = {name: (score.n, score.value) for name, score in found.items() if "/" not in name}
    assert values == {
        "hit_ratio": (4, pytest.approx(0.55)),
        "feature_match_recall": (4, 1.0),
        "hit_ratio_angle_0-12": (1, pytest.approx(0.9)),
        "hit_ratio_angle_12-40": (2, pytest.approx(0.6)),
        "hit_ratio_angle_40-": (1, pytest.approx(0.1)),
        "hit_ratio_overlap_0.05-0.3": (1, pytest.approx(0.1)),
        "hit_ratio_overlap_0.3-": (3, pytest.approx(0.7)),
    }
    assert found["hit_ratio"].parts == pytest.approx({"kitchen": 0.7, "hall": 0.4})
    middle = found["hit_ratio_angle_12-40"]
    assert (middle.chance, middle.trivial) == (pytest.approx(0.15), pytest.approx(0.15))
    assert found["fpfh/hit_ratio_angle_12-40"].value == pytest.approx(0.15)
    for share in (0, 1.1):
        with pytest.raises(UserError, match=f"cut is {share}; expected a share"):
            made(monkeypatch, cut=share)
    for name in ("angles", "overlaps"):
        with pytest.raises(UserError, match=f"{name} is .* edges above 0 that rise"):
            made(monkeypatch, **{name: (15, 5)})


def test_the_room_is_read_from_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    given = [{**pair, "meta": {"place": {"room": room}}} for pair, room in zip(pairs(3), "aba", strict=True)]
    given[2]["meta"] = {}
    judge = made(monkeypatch, given, poses=None, rooms="place.room")
    assert judge._wanted() == {"points", "points_b", "meta"}
    with reporting() as report:
        keys, table = judge._table({})
    assert keys == ["a", "b"] and len(table["ceiling/hit_ratio"]) == 2
    assert any("a scan without a room" in line for line in report.lines())


def test_rows_of_all_processes_are_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = made(monkeypatch, pairs(3), poses=None)
    monkeypatch.setattr(Register, "_judge", lambda self, a, b, ways: {"x": len(a.cloud.xyz) + ways})
    monkeypatch.setattr(dist, "gather_objects", lambda mine: [[(4, "e", {"x": 4})], mine, [(3, "d", {"x": 3})]])
    keys, table = judge._table(10)  # type: ignore[arg-type]
    assert keys == ["0", "1", "2", "d", "e"] and table["x"].tolist() == [19.0, 19.0, 19.0, 3.0, 4.0]
    monkeypatch.setattr(dist, "world", lambda: 2)
    monkeypatch.setattr(dist, "rank", lambda: 1)
    keys, table = judge._table(10)  # type: ignore[arg-type]
    assert keys == ["1", "d", "e"] and table["x"].tolist() == [19.0, 3.0, 4.0]
    monkeypatch.setattr(dist, "gather_objects", lambda mine: [mine] if isinstance(mine, tuple) else [[]])
    with reporting(), pytest.raises(UserError, match="no whole pair of clouds with poses"):
        judge._table(10)  # type: ignore[arg-type]


def test_random_weights_see_some_pairs_first(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh, told = Places(), list[Any]()
    monkeypatch.setattr(register, "untrained", lambda encoder, *, spaces: told.append((encoder, *spaces)) or fresh)
    judge, encoder = made(monkeypatch, pairs(11), poses=None, space="half"), Places()
    encoder.spaces["half"] = fresh.spaces["half"] = Halved()
    assert judge._unlearnt(encoder) is fresh and told == [(encoder, "half")]
    assert len(fresh.shown) == 2 * 8 and not fresh.training and not encoder.shown
    few = made(monkeypatch, pairs(11), poses=None, limit=3)
    fresh.shown.clear()
    few._unlearnt(encoder)
    assert len(fresh.shown) == 2 * 3


@pytest.mark.parametrize("options", [{"fpfh": True}, {"ransac": True}])
def test_open3d_is_asked_for_where_it_is_needed(options: dict[str, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(register, "open3d", lambda: asked.append(1))
    made(monkeypatch, **options)
    made(monkeypatch)
    assert asked == [1]
