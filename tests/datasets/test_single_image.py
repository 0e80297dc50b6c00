"""Crops of one image (Asano et al., ICLR 2020)."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from mmssl.data.shards import Source


@pytest.fixture(scope="module")
def single(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("single_image")


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Red tells the column and green the row of a pixel."""
    file = tmp_path_factory.mktemp("one") / "street.png"
    across, down = np.meshgrid(np.arange(200), np.arange(150))
    Image.fromarray(np.stack([across, down, np.zeros_like(down)], axis=2).astype(np.uint8)).save(file)
    return file


def crops(single: ModuleType, file: Path, **options: float) -> object:
    known = {"size": 16, "first": 0.5, "least": 0.1, "degrees": 0.0, "shear": 0.0, "seed": 3}
    return single.Crops(str(file), **{**known, **options})


def test_the_command_writes_as_many_crops_and_names_the_image(
    single: ModuleType, picture: Path, tmp_path: Path
) -> None:
    given = ["--image", str(picture), "--count", "7", "--size", "24", "--smallest", "20", "--workers", "1"]
    assert single.main([str(tmp_path / "out"), *given]) == 0
    found = list(Source(shards=str(tmp_path / "out")).samples({"image", "meta"}))
    assert len(found) == 7 and {sample["image"].size for sample in found} == {(24, 24)}
    assert {sample["meta"]["file"] for sample in found} == {"street.png"}
    assert len({tuple(sample["meta"]["box"]) for sample in found}) == 7


def test_boxes_lie_in_a_square_of_half_the_shorter_side_and_have_every_area(single: ModuleType, picture: Path) -> None:
    make = crops(single, picture)
    boxes = np.array([json.loads(make(number)["json"])["box"] for number in range(300)])
    assert boxes[:, :2].min() >= 0 and (boxes[:, 2:] <= [200, 150]).all()
    width, height = (boxes[:, 2:] - boxes[:, :2]).T
    shares = width * height / 75**2
    assert max(width.max(), height.max()) <= 75 and boxes[:, 0].max() > 130 and boxes[:, 1].max() > 80
    assert 0.09 < shares.min() < 0.16 and shares.max() > 0.8 and shares.mean() == pytest.approx(0.5, abs=0.08)
    assert 0.7 < (width / height).min() < 0.8 and 1.25 < (width / height).max() < 1.45


def test_a_crop_shows_the_centre_of_its_box(single: ModuleType, picture: Path) -> None:
    import io

    make, plain = crops(single, picture), 0
    for number in range(40):
        made = make(number)
        left, top, right, bottom = json.loads(made["json"])["box"]
        middle = np.asarray(Image.open(io.BytesIO(made["jpg"])).convert("RGB"))[6:10, 6:10].mean(axis=(0, 1))
        near = abs(middle[0] - (left + right) / 2) < 3 and abs(middle[1] - (top + bottom) / 2) < 3
        plain += near
    assert 10 < plain < 32, "about half keep their colours"


def test_turning_and_shearing_are_those_of_the_matrix(single: ModuleType, picture: Path) -> None:
    straight, turned = crops(single, picture), crops(single, picture, degrees=30.0)
    same = [straight(number)["json"] == turned(number)["json"] for number in range(5)]
    assert all(same), "the box is drawn first"
    assert any(straight(number)["jpg"] != turned(number)["jpg"] for number in range(5))
    sheared = crops(single, picture, shear=30.0)
    assert any(straight(number)["jpg"] != sheared(number)["jpg"] for number in range(5))


def test_a_number_is_always_the_same_crop_and_another_seed_others(single: ModuleType, picture: Path) -> None:
    one, other = crops(single, picture), crops(single, picture, seed=4)
    assert one(5) == one(5) and one(5) != one(6) and one(5) != other(5)


def test_what_cannot_be_is_said(
    single: ModuleType, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert single.main([str(tmp_path / "a"), "--image", str(tmp_path / "none.jpg")]) == 2
    assert "there is no file" in capsys.readouterr().err
    assert single.main([str(tmp_path / "b"), "--image", str(picture), "--smallest", "1000"]) == 2
    side = 75 * math.sqrt(1 / 1000)
    assert f"is too small: the smallest crop would have {side:.1f} px" in capsys.readouterr().err
    assert single.main([str(tmp_path / "c"), "--image", str(picture), "--first", "2"]) == 2
    assert "expected 0 < first <= 1" in capsys.readouterr().err
