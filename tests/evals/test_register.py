"""Registration: figures against hand-made answers, the baselines, and what is missing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmssl.data.writer import build_from
from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.evals.parts.descriptors import coordinates, fpfh, pose_errors, ransac
from mmssl.evals.register import Register
from mmssl.modalities.points import Cloud, encode
from mmssl.transforms.pairs import move
from mmssl.transforms.points import random_rotation
from mmssl.types import Encoder, Features, Ragged, Trained


def scene() -> np.ndarray:
    """A floor, a wall, a slope and a box, no two places alike."""
    rng = np.random.default_rng(0)
    flat = rng.uniform(0, 1.5, (1600, 3))
    flat[:600, 2] = 0
    flat[600:1000, 0] = 0
    flat[1000:1200, 2] = 0.4 * flat[1000:1200, 0] + 0.2
    box = rng.uniform(0.7, 1.0, (400, 3))
    box[np.arange(400), np.arange(400) % 3] = 1.0
    flat[1200:] = box
    return flat


def pose() -> np.ndarray:
    found = np.eye(4)
    found[:3, :3], found[:3, 3] = random_rotation(axis="any"), np.random.uniform(-1, 1, 3)
    return found


def sample(number: int) -> dict[str, bytes]:
    np.random.seed(number)
    poses = {role: pose() for role in ("points_a", "points_b")}
    meta: dict[str, Any] = {role: {"camera_to_world": p.tolist()} for role, p in poses.items()}
    if number == 3:
        meta["points_a"]["camera_to_world"][0][0] += 1
    clouds = {f"{role}.ply": encode(move(Cloud(scene()), np.linalg.inv(p))) for role, p in poses.items()}
    return {**clouds, "json": json.dumps(meta).encode()}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Four pairs, the last with a pose that is not rigid."""
    out = tmp_path_factory.mktemp("pairs") / "shards"
    build_from(sample, 4, out, workers=1)
    return {"shards": str(out), "fields": {"points": "points_a.ply"}}


class Sizes(Encoder):
    """Knows points by how far they are from the cloud's mean, which no turn changes."""

    modality = "points"

    def __init__(self) -> None:
        super().__init__()
        self.dim, self.inner = 3, create_encoder("pointnet", widths=[4, 4])
        self.preprocess = self.inner.preprocess
        self.sharp = torch.nn.Parameter(torch.tensor(60.0))

    def forward(self, x: Ragged) -> Features:
        away = self.sharp * x.values[:, :3].norm(dim=1, keepdim=True)
        tokens = torch.cat([torch.cos(away * k) for k in (0.02, 0.05)] + [torch.sin(away * 0.02)], dim=1)
        return Features(tokens.mean(0, keepdim=True), tokens, lengths=x.lengths)

    def config(self) -> dict[str, Any]:
        return self.inner.config()


def test_figures_and_baselines(data: dict[str, Any]) -> None:
    trained = Trained({"points": Sizes()})
    found = dict(Register(data=data, voxel=0.06, ransac=True, angles=(179.9,), overlaps=(0.2,)).run(trained))
    ways = ("", "random_init/", "coordinates/", "shape/", "fpfh/", "ceiling/")
    figures = ("hit_ratio", "hit_ratio_angle_0-179.9", "hit_ratio_overlap_0.2-", "feature_match_recall")
    recalls = {"registration_recall", "fpfh/registration_recall"}
    assert found.keys() == {f"{way}{figure}" for way in ways for figure in figures} | recalls
    assert all(score.n == 3 for score in found.values()), "the pair whose pose is not rigid is left out"
    hit = found["hit_ratio"]
    assert 0 < hit.chance < 0.05 < found["fpfh/hit_ratio"].value
    assert hit.value > 2 * hit.chance
    assert hit.trivial == pytest.approx(
        max(found[f"{way}/hit_ratio"].value for way in ("coordinates", "shape", "fpfh"))
    )
    assert found["fpfh/registration_recall"].value == 1.0
    assert found["ceiling/hit_ratio"].value == 1.0 and found["hit_ratio_angle_0-179.9"] == hit, "all are in these bins"
    again = dict(Register(data=data, voxel=0.06, ransac=False, angles=(), overlaps=()).run(trained))
    assert again == {name: found[name] for name in again}, "nothing is left to chance"


def test_without_open3d(data: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open3d", None)
    for options in ({"ransac": False}, {"fpfh": False}):
        with pytest.raises(UserError, match=r"pip install 'mmssl\[points\]'"):
            Register(data=data, **options)  # type: ignore[arg-type]
    encoder = create_encoder("pointnet", widths=[8, 8])
    judged = Register(data=data, fpfh=False, ransac=False, voxel=0.1, limit=2, matching="mutual")
    found = dict(judged.run(Trained({"points": encoder})))
    assert found["hit_ratio"].n == 2
    assert "fpfh/hit_ratio" not in found
    assert found["hit_ratio"].trivial is not None
    with pytest.raises(UserError, match="no space 'pointcontrast'"):
        list(Register(data=data, fpfh=False, ransac=False, space="pointcontrast").run(Trained({"points": encoder})))


@pytest.mark.parametrize(("rotation", "width"), [("any", 1), ("vertical", 2), ("none", 3)])
def test_places_are_told_as_far_as_the_rotation_leaves_them_alone(rotation: Any, width: int) -> None:
    xyz = scene()
    turn = {"none": np.eye(3), "any": pose()[:3, :3]}.get(rotation, random_rotation(axis="vertical"))
    found = coordinates(xyz, rotation=rotation)
    assert found.shape == (1600, width)
    torch.testing.assert_close(found, coordinates(xyz @ turn.T, rotation=rotation))


def test_fpfh_does_not_turn_and_ransac_finds_the_pose() -> None:
    xyz, motion = scene(), pose()
    moved = move(Cloud(xyz), motion).xyz
    eye = np.array([0.5, 0.5, 2.0])
    radii = {"radius": 0.3, "normals": 0.12}
    a, b = fpfh(Cloud(xyz), eye=eye, **radii), fpfh(Cloud(moved), eye=motion[:3, :3] @ eye + motion[:3, 3], **radii)
    assert a.shape == (1600, 33)
    assert torch.cosine_similarity(a, b).median() > 0.99
    pairs = torch.arange(1600)[:, None].repeat(1, 2)
    pairs[::2, 1] = torch.randint(1600, (800,))
    degrees, metres = pose_errors(ransac(xyz, moved, pairs, voxel=0.06), motion)
    assert degrees < 1
    assert metres < 0.02
    assert pose_errors(np.eye(4), np.diag([-1.0, -1.0, 1.0, 1.0]))[0] == pytest.approx(180)


def test_nothing_to_judge(tmp_path: Path) -> None:
    build_from(lambda number: sample(3), 2, tmp_path / "bad", workers=1)
    judged = Register(
        data={"shards": str(tmp_path / "bad"), "fields": {"points": "points_a.ply"}}, fpfh=False, ransac=False
    )
    with pytest.raises(UserError, match="no whole pair"):
        list(judged.run(Trained({"points": create_encoder("pointnet", widths=[8, 8])})))
