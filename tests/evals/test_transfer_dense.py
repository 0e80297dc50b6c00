"""Segmentation by a linear layer: masks as the encoder sees them, figures against plain ones, images and videos."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image

from mmssl.encoders import create_encoder
from mmssl.errors import DamagedError, UserError
from mmssl.evals.parts.masked import prepared
from mmssl.evals.transfer_dense import TransferDense, accuracy, confusion, inside, mean_iou, per_class_iou, scaled
from mmssl.modalities import image, video
from mmssl.transforms.image import ImagePreprocess
from mmssl.types import Trained

SMALL = {"image_size": 16, "widths": [8, 16], "depths": [1, 1], "strides": [1, 2], "stem_stride": 1}


def scene(noise: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A bright square somewhere on noise, and its mask; a corner is void."""
    pixels, mask = noise.integers(0, 90, (16, 16, 3)), np.zeros((16, 16), np.uint8)
    top, left = noise.integers(0, 8, 2)
    pixels[top : top + 8, left : left + 8] += 140
    mask[top : top + 8, left : left + 8] = 2
    mask[0, 0] = 255
    return pixels.astype(np.uint8), mask


@pytest.fixture
def shards(tmp_path: Path) -> dict[str, dict[str, str]]:
    noise = np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 12)):
        with webdataset.TarWriter(str(tmp_path / f"{split}.tar")) as tar:
            for number in range(count):
                pixels, mask = scene(noise)
                stream = io.BytesIO()
                Image.fromarray(mask).save(stream, "PNG")
                films = io.BytesIO()
                np.savez(films, masks=np.stack([mask] * 4) > 0)
                fields = {"png": image.encode(pixels, format="png"), "mask.png": stream.getvalue()}
                fields |= {"mp4": video.encode(np.stack([pixels] * 4), fps=4.0), "masks.npz": films.getvalue()}
                tar.write({"__key__": str(number), **fields})
    return {"train": {"shards": str(tmp_path / "train.tar")}, "data": {"shards": str(tmp_path / "test.tar")}}


def test_a_bright_square_is_found(shards: dict[str, dict[str, Any]]) -> None:
    torch.manual_seed(0)
    encoder = create_encoder("convnet", **SMALL).eval()
    found = dict(TransferDense(**shards, foreground=True).run(Trained({"image": encoder})))
    assert list(found) == [f"{p}{n}" for p in ("raw/", "random_init/", "") for n in ("mIoU", "accuracy")]
    assert found["raw/mIoU"].value > 0.7
    assert found["random_init/accuracy"].value > found["accuracy"].trivial == pytest.approx(191 / 255, abs=0.01)
    assert found["mIoU"].n == 12 and found["mIoU"].low <= found["mIoU"].value <= found["mIoU"].high
    assert found["mIoU"].trivial == pytest.approx(191 / 255 / 2, abs=0.01)


def test_films_are_segmented_too(shards: dict[str, dict[str, Any]]) -> None:
    encoder = create_encoder("frames", image={"name": "convnet", **SMALL}, frames=2).eval()
    dense = TransferDense(**shards, mask="masks", baselines=False)
    found = dict(dense.run(Trained({"video": encoder})))
    assert found["accuracy"].value > found["accuracy"].trivial


def test_masks_are_cropped_as_their_pictures_are() -> None:
    mask = np.zeros((20, 40), np.uint8)
    mask[:, 20:] = 7
    picture = np.repeat(mask[..., None] * 30, 3, axis=2)
    x, classes = prepared(ImagePreprocess(size=16, crop_ratio=0.8), picture, Image.fromarray(mask))
    assert classes.shape == (1, 16, 16) and set(classes.unique().tolist()) == {0, 7}
    assert torch.equal(classes[0] == 7, x[0] > 105)
    coded = Image.fromarray(mask)
    coded.putpalette([0] * 768)
    assert torch.equal(prepared(ImagePreprocess(size=16), picture, coded)[1].unique(), torch.tensor([0, 7]).byte())
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 9, (20, 40), np.uint8)).save(stream, "PNG")
    broken = bytearray(stream.getvalue())
    broken[len(broken) // 2] ^= 1
    several = np.zeros((4, 4, 3, 3), np.uint8), np.full((4, 4), 300), {"a": mask, "b": mask}, np.zeros((4, 4))
    for wrong in (*several, image.decode(bytes(broken)), Image.fromarray(picture)):  # colours are no classes
        with pytest.raises(DamagedError):
            prepared(ImagePreprocess(size=16), picture, wrong)
    with pytest.raises(UserError, match="reads audio"):
        prepared(create_encoder("raw:audio").preprocess, None, mask)


def test_cells_know_the_share_of_each_class() -> None:
    truth = torch.tensor([[0, 0, 1, 255], [0, 3, 1, 255], [2, 2, 2, 2], [2, 2, 2, 0]])[None, None]
    found = inside(truth, (2, 2))
    assert found.shape == (1, 4, 255)
    rows = [{int(c): int(row[c]) for c in row.nonzero()[:, 0]} for row in found[0]]
    assert rows == [{0: 3, 3: 1}, {1: 2}, {2: 4}, {2: 3, 0: 1}]


def test_scores_lie_where_the_cells_do() -> None:
    scores = torch.arange(4.0)[None, :, None]  # a grid of 2 x 2
    assert scaled(scores, (2, 2), torch.Size([1, 4, 4]))[0, 0, 0, ::3, ::3].flatten().tolist() == [0, 1, 2, 3]


def test_figures_are_those_of_plain_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(4, (1, 6, 6), generator=generator)
    truth[0, 0, :2] = 255
    told = torch.randint(3, (1, 6, 6), generator=generator)  # class 3 was never learnt
    counts = confusion(told, truth, 3)[None]
    real = truth != 255
    shares = [float(((told == c) & (truth == c)).sum() / (((told == c) | (truth == c)) & real).sum()) for c in range(4)]
    assert float(mean_iou(counts)) == pytest.approx(sum(shares) / 4)
    assert per_class_iou(counts[0]) == pytest.approx({str(c): share for c, share in enumerate(shares[:3])})
    assert float(accuracy(counts)) == pytest.approx(float((told == truth)[real].float().mean()))
