"""Pictures come out upright, in RGB, no larger than needed, and damage is named."""

import io
import random

import numpy as np
import pytest
import torch
from PIL import Image

from mmssl.errors import DamagedError, UserError
from mmssl.modalities import image


def smooth(width=64, height=48):
    rows, columns = np.mgrid[0:height, 0:width]
    red, green = columns * 255 / (width - 1), rows * 255 / (height - 1)
    return np.stack([red, green, np.full_like(red, 128)], axis=-1).astype(np.uint8)


@pytest.mark.parametrize(("format", "tolerance"), [("jpeg", 6), ("png", 0), ("webp", 8)])
def test_written_pictures_read_back(format, tolerance):
    back = image.pixels(image.decode(image.encode(smooth(), format=format, quality=95), format))
    assert np.abs(np.asarray(back).astype(int) - smooth()).max() <= tolerance


@pytest.mark.parametrize(("min_size", "expected"), [(None, 600), (400, 600), (300, 300), (200, 300), (75, 75), (9, 75)])
def test_jpeg_is_decoded_no_larger_than_needed(min_size, expected):
    opened = image.decode(image.encode(smooth(800, 600)))
    small = image.pixels(opened, min_size=min_size)
    assert min(small.size) == expected
    shrunk = Image.fromarray(smooth(800, 600)).resize(small.size)
    assert np.abs(np.asarray(small).astype(int) - np.asarray(shrunk)).mean() < 3
    assert image.pixels(opened).size == (800, 600), "the handle must stay as good as new"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation):
    exif = Image.Exif()
    exif[image.ORIENTATION] = orientation
    stream = io.BytesIO()
    upright = Image.fromarray(smooth(320, 240))
    stored = upright.transpose(UNTURN[orientation]) if orientation > 1 else upright
    stored.save(stream, "JPEG", exif=exif, quality=95)
    opened = image.decode(stream.getvalue())
    assert image.size(opened) == (320, 240)
    for min_size in (None, 100):
        seen = image.pixels(opened, min_size=min_size).resize((320, 240))
        assert np.abs(np.asarray(seen).astype(int) - smooth(320, 240)).mean() < 3


UNTURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def saved(picture, format="PNG", **options):
    stream = io.BytesIO()
    picture.save(stream, format, **options)
    return image.pixels(image.decode(stream.getvalue()))


def test_modes_become_rgb():
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    half = Image.new("LA", (4, 4), (0, 128))
    deep = Image.fromarray(np.full((4, 4), 0x8000, dtype=np.uint16))
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    cases = {
        "transparent shows white": (saved(clear), (255, 255, 255)),
        "half clear black is grey": (saved(half), (127, 127, 127)),
        "16 bit grey is scaled": (saved(deep), (128, 128, 128)),
        "palette": (saved(palette), (10, 20, 30)),
        "clear palette": (saved(palette, transparency=1), (255, 255, 255)),
        "clear colour": (saved(Image.new("RGB", (4, 4), (1, 2, 3)), transparency=(1, 2, 3)), (255, 255, 255)),
        "bilevel": (saved(Image.new("1", (4, 4), 1)), (255, 255, 255)),
        "CMYK": (saved(Image.new("CMYK", (4, 4), (0, 0, 0, 255)), "JPEG"), (0, 0, 0)),
    }
    for name, (picture, color) in cases.items():
        assert picture.mode == "RGB", name
        assert np.abs(np.asarray(picture).astype(int)[0, 0] - color).max() <= 1, name


@pytest.mark.parametrize("format", ["jpeg", "png", "webp"])
def test_truncated_pictures_are_damaged(format):
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    data = image.encode(noise, format=format)
    for share in (0.01, 0.3, 0.6, 0.9):
        with pytest.raises(DamagedError):
            image.pixels(image.decode(data[: int(len(data) * share)], format), min_size=10)


@pytest.mark.parametrize("format", ["jpeg", "png", "webp"])
def test_flipped_bytes_give_a_picture_or_damage(format):
    data, rng, damaged = image.encode(smooth(), format=format), random.Random(0), 0
    for _ in range(150):
        wrong = bytearray(data)
        for _ in range(rng.randint(1, 8)):
            wrong[rng.randrange(len(wrong))] = rng.randrange(256)
        try:
            assert image.pixels(image.decode(bytes(wrong)), min_size=16).mode == "RGB"
        except DamagedError:
            damaged += 1
    assert damaged > 5


def test_a_bomb_is_damage():
    bomb = image.encode(np.zeros((1, 1, 3), dtype=np.uint8), format="png")
    size = (50_000).to_bytes(4, "big")
    head = bomb[12:16] + size + size + bomb[24:29]
    import zlib

    with pytest.raises(DamagedError, match="too large"):
        image.pixels(image.decode(bomb[:12] + head + zlib.crc32(head).to_bytes(4, "big") + bomb[33:]))


def test_load_takes_what_people_have(tmp_path):
    (tmp_path / "a.png").write_bytes(image.encode(smooth(), format="png"))
    tensor = torch.from_numpy(smooth()).permute(2, 0, 1)
    for raw in (tmp_path / "a.png", str(tmp_path / "a.png"), tensor, tensor / 255, smooth(), Image.fromarray(smooth())):
        assert np.array_equal(np.asarray(image.pixels(image.load(raw))), smooth())
    assert image.load(smooth()[..., :1]).mode == "L"
    for wrong in (
        3,
        np.zeros((3, 4, 4), np.uint8),
        np.full((4, 4, 3), 2.0),
        np.zeros((4, 4), int),
        tmp_path / "no.png",
    ):
        with pytest.raises(UserError):
            image.load(wrong)
    with pytest.raises(UserError, match="gif"):
        image.encode(smooth(), format="gif")
