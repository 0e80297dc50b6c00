"""CIFAR-10: the official archive and folders of images become the same shards."""

from __future__ import annotations

import io
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from mmssl.data.shards import Source
from mmssl.evals.parts.source import Examples


@pytest.fixture(scope="module")
def cifar10(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("cifar10")


def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)


def found(folder: Path) -> dict[bytes, int]:
    samples = Source(shards=str(folder)).samples({"image", "label"})
    return {np.asarray(sample["image"]).tobytes(): sample["label"] for sample in samples}


def archive(path: Path, batches: dict[str, object]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, value in batches.items():
            data = pickle.dumps(value)
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_the_official_archive(cifar10: ModuleType, tmp_path: Path) -> None:
    rows = pixels().transpose(0, 3, 1, 2).reshape(6, 3072)
    batches = {
        "data_batch_1": {b"data": rows[:2], b"labels": [9, 0]},
        "data_batch_2": {b"data": rows[2:4], b"labels": [1, 2]},
        "test_batch": {b"data": rows[4:], b"labels": [3, 4]},
    }
    source = archive(tmp_path / "cifar-10-python.tar.gz", batches)
    assert cifar10.main([str(tmp_path / "out"), "--source", str(source)]) == 0
    names = [picture.tobytes() for picture in pixels()]
    assert found(tmp_path / "out" / "train") == dict(zip(names[:4], [9, 0, 1, 2], strict=True))
    assert found(tmp_path / "out" / "test") == dict(zip(names[4:], [3, 4], strict=True))
    named = [s["label"] for s in Examples(shards=str(tmp_path / "out" / "train")).samples({"label"})]
    assert sorted(named) == ["airplane", "automobile", "bird", "truck"], "as in the archive's batches.meta"


def test_folders_of_pictures(cifar10: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, picture in enumerate(pixels()):
        file = tmp_path / ("test" if number > 3 else "train") / cifar10.CLASSES[number] / f"{number}.png"
        file.parent.mkdir(parents=True)
        file.write_bytes(cifar10.png(picture))
    for name in ("airplane/._0.png", ".x/airplane/0.png", "airplane/broken.png", "zebra/1.png"):
        (tmp_path / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / name).write_bytes(b"no image")
    with tarfile.open(tmp_path / "test.tar", "w") as tar:
        tar.add(tmp_path / "test", arcname=".")
    given = ["--train", str(tmp_path / "train"), "--test", str(tmp_path / "test.tar")]
    assert cifar10.main([str(tmp_path / "out"), *given]) == 0
    told = capsys.readouterr().out
    assert "train: passed over 1 files that are not CLASS/NAME.jpg or .png, such as zebra/1.png" in told
    assert "train: 4 samples" in told
    assert "left out 1: not an " in told
    names = [picture.tobytes() for picture in pixels()]
    assert found(tmp_path / "out" / "train") == dict(zip(names[:4], range(4), strict=True))
    assert found(tmp_path / "out" / "test") == dict(zip(names[4:], [4, 5], strict=True))


class Harm:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("harm",))


def test_wrong_sources(cifar10: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    harmful = archive(tmp_path / "x.tar.gz", {"test_batch": Harm()})
    cases = [
        ([], "give either --source"),
        (["--source", str(tmp_path / "none")], "neither a tar nor a folder"),
        (["--source", str(tmp_path / "empty")], "no data_batch_1"),
        (["--source", str(harmful)], "expected arrays only"),
        (["--train", str(tmp_path / "empty"), "--test", str(tmp_path / "empty")], "no image such as"),
    ]
    for arguments, message in cases:
        assert cifar10.main([str(tmp_path / "out"), *arguments]) == 2
        told = capsys.readouterr()
        assert message in told.err
        assert "harm" not in told.out
