"""What encoders are shown of images, and the operations that views are made of."""

import pickle
import random

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Resize

from mmssl.modalities import image as pictures
from mmssl.modalities import video
from mmssl.transforms import image
from mmssl.transforms.base import Frame


def cropped(picture, size, **options):
    frame = Frame(*picture.size, size)
    image.Crop(**options).draw(frame)
    return image.framed(picture, frame)


def smooth(width, height):
    rows, columns = np.mgrid[0:height, 0:width]
    red, green = columns * 255 / (width - 1), rows * 255 / (height - 1)
    return np.stack([red, green, 255 - red], axis=-1).astype(np.uint8)


@pytest.mark.parametrize(("width", "height"), [(97, 61), (61, 97), (32, 32), (20, 15), (40, 56), (300, 200)])
def test_the_shorter_side_is_resized_as_torchvision_does(width, height):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))
    shown = image.ImagePreprocess(32, crop_ratio=0.8)(noise)
    expected = CenterCrop(32)(Resize(40, interpolation=Image.Resampling.BICUBIC)(noise))
    assert shown.shape == (3, 32, 32) and shown.dtype == torch.uint8
    assert np.array_equal(shown.permute(1, 2, 0).numpy(), np.asarray(expected))


def test_squash_keeps_the_whole_picture():
    shown = image.ImagePreprocess(16, resize="squash", interpolation="bilinear")(smooth(64, 32))
    assert shown[0, :, 0].max() < 10 and shown[0, :, -1].min() > 245


def test_shrinking_while_decoding_hardly_shows():
    data = pictures.encode(smooth(1600, 1200), quality=95)
    whole = pictures.pixels(pictures.decode(data))
    prepare = image.ImagePreprocess(64)
    assert (prepare(data).int() - prepare(whole).int()).abs().float().mean() < 1


def test_one_or_several():
    prepare = image.ImagePreprocess(8)
    assert len(prepare.items(torch.zeros(5, 3, 9, 9))) == 5
    assert len(prepare.items(np.zeros((4, 9, 9, 3), np.uint8))) == 4
    assert len(prepare.items(torch.zeros(3, 9, 9))) == len(prepare.items(smooth(9, 9))) == 1
    assert len(prepare.items([smooth(9, 9)] * 2)) == len(prepare.items(iter([smooth(9, 9)] * 2))) == 2
    batch = prepare.collate([prepare(item) for item in prepare.items(torch.zeros(5, 3, 9, 9))] + [prepare.blank()])
    assert batch.shape == (6, 3, 8, 8)


def test_config_makes_it_again():
    prepare = image.ImagePreprocess(40, "squash", "lanczos", 0.9)
    assert image.ImagePreprocess(**prepare.config()) == prepare == pickle.loads(pickle.dumps(prepare))


def test_a_clip_shows_its_middle():
    clip = video.Frames(np.stack([np.full((8, 8, 3), v, np.uint8) for v in (0, 100, 200)]), 10.0)
    assert image.ImagePreprocess(8)(clip).unique().tolist() == [100]
    assert np.asarray(image.opened(clip, time=0.25)).max() == 200


def test_random_crops_stay_within_their_bounds():
    random.seed(0)
    for _ in range(200):
        width, height = random.randint(1, 300), random.randint(1, 300)
        left, top, w, h = image.random_box(width, height, scale=(0.3, 0.6), ratio=(0.75, 4 / 3))
        assert 0 <= left <= left + w <= width and 0 <= top <= top + h <= height and w > 0 < h
        if min(width, height) > 50 and 0.8 < width / height < 1.25:
            assert 0.27 < w * h / (width * height) < 0.63 and 0.7 < w / h < 1.4


def test_crops_of_an_unread_jpeg_are_those_of_the_whole_picture():
    data = pictures.encode(smooth(1200, 900), quality=95)
    crops = []
    for picture in (pictures.decode(data), pictures.pixels(pictures.decode(data))):
        random.seed(3)
        crops.append(cropped(picture, 32, scale=(0.3, 0.9)).numpy().astype(int))
    assert np.abs(crops[0] - crops[1]).mean() < 2
    random.seed(4)
    assert np.abs(crops[0] - cropped(picture, 32, scale=(0.3, 0.9)).numpy()).mean() > 2


@pytest.mark.parametrize("shape", [(1, 900), (900, 1), (3, 1500), (2000, 5)])
@pytest.mark.parametrize("interpolation", image.FILTERS)
def test_extreme_shapes_are_cut_before_they_are_scaled(monkeypatch, shape, interpolation):
    """To what scaling them whole shows, but for rounding; that is kept to up to a longer side of 64 times the size."""
    noise = Image.fromarray(
        smooth(*shape[::-1])
        if 1 not in shape
        else np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8)
    )
    for crop_ratio in (1.0, 0.5):
        prepare = image.ImagePreprocess(8, interpolation=interpolation, crop_ratio=crop_ratio)
        cut = prepare(noise).int()
        with monkeypatch.context() as patch:
            patch.setattr(image, "LONGEST", 10**6)
            whole = prepare(noise).int()
        assert (cut - whole).abs().max() <= (0 if interpolation == "nearest" else 1)


def test_extreme_shapes_never_become_large_pictures(monkeypatch):
    """Every image that Pillow makes on the way is as small as the file's own or the encoder's."""
    made = []
    resize = Image.Image.resize
    monkeypatch.setattr(
        Image.Image, "resize", lambda self, size, *a, **k: made.append(size) or resize(self, size, *a, **k)
    )
    for width, height in [(1, 60000), (60000, 1), (2, 50000)]:
        picture = Image.new("RGB", (width, height), (10, 20, 30))
        for shape in ("shorter", "squash"):
            shown = image.ImagePreprocess(224, resize=shape, crop_ratio=0.875)(picture)
            assert shown.flatten(1).unique(dim=1).tolist() == [[10], [20], [30]]
        for _ in range(20):
            assert cropped(picture, 224).flatten(1).unique(dim=1).tolist() == [[10], [20], [30]]
    assert max(max(size) for size in made) <= 256
