"""Every probe works on whatever an encoder reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset

from mmssl.encoders import create_encoder
from mmssl.evals.cluster import Cluster
from mmssl.evals.few_shot import FewShot
from mmssl.evals.finetune import Finetune
from mmssl.evals.knn import KNN
from mmssl.evals.linear import Linear
from mmssl.evals.low_shot_svm import LowShotSVM
from mmssl.evals.semi_supervised import SemiSupervised
from mmssl.judge import Judge
from mmssl.modalities import audio, points, video
from mmssl.types import Encoder, Trained

SMALL = {"name": "convnet", "image_size": 16, "widths": [8], "depths": [1], "stem_stride": 1}
Random = np.random.Generator


def film(kind: int, noise: Random) -> dict[str, bytes]:
    pixels = noise.integers(0, 80, (4, 16, 16, 3)) + 100 * kind
    return {"mp4": video.encode(pixels.astype(np.uint8), fps=4.0)}


def sound(kind: int, noise: Random) -> dict[str, bytes]:
    wave = np.sin(np.arange(4000) * (0.2 + kind)) * 0.5 + noise.normal(0, 0.02, 4000)
    return {"wav": audio.encode(wave.astype(np.float32), sample_rate=8000)}


def cloud(kind: int, noise: Random) -> dict[str, bytes]:
    return {"ply": points.encode(noise.normal(0, 1, (40, 3)).astype(np.float32) * [1, 1, 0.1 + kind])}


def words(kind: int, noise: Random) -> dict[str, bytes]:
    return {"txt": ("yes " if kind else "no ").encode() * int(noise.integers(1, 4))}


MODALITIES: dict[str, tuple[Callable[[int, Random], dict[str, bytes]], Callable[[], Encoder]]] = {
    "video": (film, lambda: create_encoder("frames", image=SMALL, frames=2)),
    "audio": (
        sound,
        lambda: create_encoder("spectrogram", backbone={**SMALL, "in_channels": 1}, sample_rate=8000, seconds=0.4),
    ),
    "points": (cloud, lambda: create_encoder("pointnet", widths=[8, 12], points=32)),
    "text": (words, lambda: create_encoder("transformer", width=16, depth=1, heads=2, vocab_size=280)),
}


def shards(folder: Path, make: Callable[[int, Random], dict[str, bytes]]) -> dict[str, Any]:
    noise = np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 16)):
        with webdataset.TarWriter(str(folder / f"{split}.tar")) as tar:
            for number in range(count):
                tar.write({"__key__": str(number), **make(number % 2, noise), "cls": number % 2})
    return {"train": {"shards": str(folder / "train.tar")}, "data": {"shards": str(folder / "test.tar")}}


@pytest.mark.parametrize("modality", MODALITIES)
def test_probes(modality: str, tmp_path: Path) -> None:
    make, build = MODALITIES[modality]
    sets = shards(tmp_path, make)
    torch.manual_seed(0)
    trained = Trained({modality: build().eval()})
    quick = {"epochs": 2, "batch": 8, "workers": 0}
    for probe, figure in (
        (KNN(**sets, k=(3,)), "k3"),
        (Linear(**sets), "top1"),
        (FewShot(**sets, ways=2, shots=(1,), episodes=10), "2-way/1-shot"),
        (LowShotSVM(**sets, shots=(2,), draws=2), "2-shot"),
        (Cluster(**sets, restarts=1), "accuracy"),
        (Finetune(**sets, **quick), "top1"),
        (SemiSupervised(**sets, **{**quick, "epochs": (2,)}, fractions=(0.5,)), "50%/finetune/top1"),
    ):
        found = dict(probe.run(trained))
        expected = ["random_init/", ""] if modality == "text" else ["raw/", "random_init/", ""]
        assert [f"{prefix}{figure}" in found for prefix in expected] == [True] * len(expected)
        assert 0 <= found[figure].low <= found[figure].value <= found[figure].high <= 1
        assert (found[figure].trivial is None) == (modality == "text")
    assert dict(Linear(**sets).run(trained))["top1"].value > 0.8


def test_what_does_not_change_is_judged_once_and_features_are_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmssl.evals.parts import labelled

    sets = shards(tmp_path, film)
    embedded: list[str] = []
    real = labelled.embed_stream
    monkeypatch.setattr(labelled, "embed_stream", lambda *a, **o: (embedded.append(""), real(*a, **o))[1])
    trained = Trained({"video": MODALITIES["video"][1]().eval()})
    judge = Judge({"knn": {**sets, "k": [3]}, "cluster": {**sets, "restarts": 1}})
    first = judge.run(trained)
    assert len(embedded) == 6  # two sets of three encoders
    again = judge.run(trained)
    assert len(embedded) == 8  # the encoder may have changed, its baselines not
    assert {key: score.value for key, score in first.items()} == {key: score.value for key, score in again.items()}
    with torch.no_grad():
        for parameter in trained.encoders["video"].parameters():
            parameter.zero_()
    assert judge.run(trained)["knn/k3"].value == 0.5
