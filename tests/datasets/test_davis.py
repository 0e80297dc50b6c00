"""DAVIS: frames and masks of a sequence become one sample; what does not fit is left out or refused."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from mmssl.data.shards import Source


@pytest.fixture(scope="module")
def davis(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("davis")


def written(folder: Path, sequence: str, masks: np.ndarray, *, palette: bool) -> None:
    """Writes frames whose grey is 40 + 20 t, and their masks."""
    for t, mask in enumerate(masks):
        frame = folder / f"JPEGImages/480p/{sequence}/{t:05d}.jpg"
        frame.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (61, 32), (40 + 20 * t,) * 3).save(frame)
        picture = Image.fromarray(mask)
        if palette:
            picture.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, *[0] * 759])
        path = folder / f"Annotations/480p/{sequence}/{t:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "in/DAVIS"
    masks = np.zeros((4, 32, 61), dtype=np.uint8)
    masks[:, 4:12, 8:20], masks[:, 20:28, 30:50], masks[:, 0, 0] = 1, 2, 255
    written(root, "two", masks, palette=True)
    written(root, "one", np.where(masks == 1, 255, 0).astype(np.uint8), palette=False)
    written(root, "partial", masks, palette=True)
    (root / "Annotations/480p/partial/00002.png").unlink()
    written(root, "learnt", masks, palette=True)
    written(root, "cut", masks, palette=True)
    (root / "JPEGImages/480p/cut/00001.jpg").write_bytes((root / "JPEGImages/480p/cut/00001.jpg").read_bytes()[:300])
    for name in ("JPEGImages/480p/two/._00000.jpg", "JPEGImages/480p/two/.DS_Store", "Annotations/480p/two/._1.png"):
        (root / name).write_bytes(b"hidden")
    (root / "ImageSets/2017").mkdir(parents=True)
    (root / "ImageSets/2017/train.txt").write_text("learnt\n")
    return root


def test_a_sequence_is_a_clip_with_masks(
    davis: ModuleType, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with tarfile.open(tmp_path / "in.tar", "w") as tar:
        tar.add(folder, arcname="DAVIS")
    assert davis.main([str(tmp_path / "a"), "--source", str(folder)]) == 0
    assert "left out 1: " in capsys.readouterr().out
    assert davis.main([str(tmp_path / "b"), "--source", str(tmp_path / "in.tar"), "--height", "16"]) == 0
    found = {s["__key__"]: s for s in Source(shards=str(tmp_path / "a/val")).samples({"video", "masks", "meta"})}
    assert sorted(found) == ["one", "two"], "a frame of 'partial' has no mask"
    assert [s["__key__"] for s in Source(shards=str(tmp_path / "a/train")).samples({"video"})] == ["learnt"]
    clip, masks, meta = found["two"]["video"], found["two"]["masks"]["masks"], found["two"]["meta"]
    assert meta == {"sequence": "two", "fps": 24, "frames": 4, "objects": 2}
    assert masks.shape == (4, 32, 60) and sorted(np.unique(masks)) == [0, 1, 2, 255]
    frames = clip.frames([(t + 0.5) / 24 for t in range(4)])
    np.testing.assert_allclose(frames.mean(axis=(1, 2, 3)), [40, 60, 80, 100], atol=3)
    assert sorted(np.unique(found["one"]["masks"]["masks"])) == [0, 1]
    assert found["one"]["meta"]["objects"] == 1
    small = next(Source(shards=str(tmp_path / "b/val")).samples({"video", "masks"}))
    assert small["masks"]["masks"].shape == (4, 16, 30) == (4, *small["video"].frames([0])[0].shape[:2])


def test_what_is_not_davis_is_one_clear_error(
    davis: ModuleType, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    for arguments, message in (
        (["--source", str(tmp_path / "none")], "neither a tar nor a folder"),
        (["--source", str(folder), "--resolution", "1080p"], "no JPEGImages/1080p"),
        (["--source", str(folder), "--height", "3"], "at least 16 pixels"),
    ):
        assert davis.main([out, *arguments]) == 2
        assert message in capsys.readouterr().err
    colors = Image.new("RGB", (61, 32))
    stream = io.BytesIO()
    colors.save(stream, "PNG")
    with pytest.raises(davis.DamagedError, match="but colours"):
        davis.numbered([Image.open(stream)], (61, 32), (60, 32))
    with pytest.raises(davis.DamagedError, match="another size"):
        davis.numbered([Image.open(stream)], (60, 32), (60, 32))
