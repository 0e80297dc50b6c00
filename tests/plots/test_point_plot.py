"""Images of match_classes scans and of clouds coloured by their features."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmssl.data.writer import build_from
from mmssl.encoders import create_encoder
from mmssl.modalities.points import Cloud, encode
from mmssl.plots import pca, register
from mmssl.plots.scatter import dots, look_down, on_canvas
from mmssl.types import Trained


def sample(number: int) -> dict[str, bytes]:
    cloud = Cloud(np.random.default_rng(number).uniform(-1, 1, (300, 3)))
    meta = {role: {"camera_to_world": np.eye(4).tolist()} for role in ("points_a", "points_b")}
    return {"points_a.ply": encode(cloud), "points_b.ply": encode(cloud), "json": json.dumps(meta).encode()}


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Any]:
    build_from(sample, 3, tmp_path / "shards", workers=1)
    return {"shards": str(tmp_path / "shards"), "fields": {"points": "points_a.ply"}}


@pytest.fixture
def trained() -> Trained:
    return Trained({"points": create_encoder("pointnet", widths=[8, 16])})


def colors(image: Any) -> set[tuple[int, ...]]:
    return {tuple(color) for color in np.asarray(image).reshape(-1, 3).tolist()}


def test_lines_are_green_where_right_and_red_where_wrong(data: dict[str, Any], trained: Trained) -> None:
    lax = dict(register.plot(trained, data=data, count=2, rotation="none", threshold=9.0, side=120))
    assert list(lax) == ["register_0", "register_1"]
    assert register.RIGHT in colors(lax["register_0"])
    assert register.WRONG not in colors(lax["register_0"])
    strict = dict(register.plot(trained, data=data, count=1, rotation="any", threshold=0.0, side=120))
    assert register.WRONG in colors(strict["register_0"])
    assert register.RIGHT not in colors(strict["register_0"])


def test_clouds_in_the_colours_of_their_features(data: dict[str, Any], trained: Trained) -> None:
    found = dict(pca.plot(trained, data=data, count=3, pose="points_a.camera_to_world", side=100))
    assert list(found) == ["pca"]
    assert len(colors(found["pca"])) > 100
    assert found["pca"].width > 300


def test_like_features_have_like_colours() -> None:
    groups = torch.randn(3, 8)[torch.arange(3).repeat_interleave(50)]
    found = pca.principal_colors(groups + 0.01 * torch.randn(150, 8)).astype(int).reshape(3, 50, 3)
    within = np.abs(found - found.mean(1, keepdims=True))[..., :2].mean()
    between = np.abs(found.mean(1)[0] - found.mean(1)[1])[:2].max()
    assert between > 10 * within


def test_the_nearest_dot_is_on_top() -> None:
    seen = np.array([[0.0, 0.0, 1.0], [0.0, 0.0, 2.0], [1.0, 1.0, 1.0]])
    pixels = on_canvas(seen, 50)
    assert (pixels >= 0).all()
    assert (pixels < 50).all()
    drawn = dots(pixels, seen[:, 2], np.array([[9, 0, 0], [0, 9, 0], [0, 0, 9]], dtype=np.uint8), 50)
    column, row = pixels[0].round().astype(int)
    assert drawn[row, column].tolist() == [9, 0, 0]
    far_and_near = look_down(np.array([[0.0, 0, 5], [0, 0, 1]]))
    assert far_and_near[0, 1] < far_and_near[1, 1], "from above, what is further away stands higher"
