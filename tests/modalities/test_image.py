"""Images come out upright, in RGB, no larger than needed, and damage is named."""

import io
import random
import warnings

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from mmssl import modalities
from mmssl.errors import DamagedError, UserError
from mmssl.limits import limit
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


NOISE = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
DEEP = np.random.default_rng(1).integers(0, 65536, (30, 40), dtype=np.uint16)
RAW = {
    **{f"png {mode}": (mode, "PNG", {}) for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "I;16")},
    **{f"jpeg {mode}": (mode, "JPEG", {}) for mode in ("RGB", "L", "CMYK")},
    **{f"webp {mode}": (mode, "WEBP", {}) for mode in ("RGB", "RGBA")},
    **{f"bmp {mode}": (mode, "BMP", {}) for mode in ("RGB", "L", "P", "1")},
    **{f"tiff {mode}": (mode, "TIFF", {}) for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16")},
    "tiff lzw": ("RGB", "TIFF", {"compression": "tiff_lzw"}),
    "tiff deflate": ("L", "TIFF", {"compression": "tiff_deflate"}),
    "gif": ("P", "GIF", {}),
}


def of_mode(mode):
    return Image.fromarray(DEEP) if mode == "I;16" else Image.fromarray(NOISE).convert(mode)


def written(picture, format, **options):
    stream = io.BytesIO()
    picture.save(stream, format, **options)
    return stream.getvalue()


def plain(data):
    """Returns what Pillow alone makes of an image, None where it refuses, or where a side exceeds the limit."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            opened = Image.open(io.BytesIO(data))
            opened.load()
            return opened if max(opened.size) <= limit("picture_side") else None
    except Exception:
        return None


def tried(data, *steps):
    """Returns what the steps make of an image, None where one refuses it."""
    try:
        opened = image.decode(data)
        return [step(opened) for step in steps]
    except DamagedError:
        return None


@pytest.mark.parametrize("kind", RAW)
def test_damage_is_what_pillow_refuses(kind):
    """Single flipped bits and cut ends, read as crops are (size first), as evaluations do, and raw."""
    mode, format, options = RAW[kind]
    data, rng, refused = written(of_mode(mode), format, **options), random.Random(0), 0
    for trial in range(40):
        wrong = bytearray(data[: rng.randrange(len(data))] if trial % 4 == 0 else data)
        if trial % 4:
            bit = rng.randrange(8 * len(wrong))
            wrong[bit // 8] ^= 1 << bit % 8
        expected = plain(wrong)
        refused += expected is None
        for steps in ([image.size, image.pixels], [image.pixels], [image.values]):
            found = tried(bytes(wrong), *steps)
            assert (found is None) == (expected is None), (trial, steps)
            if found and expected.mode == "RGB":
                assert np.array_equal(np.asarray(found[-1]), np.asarray(expected))
    assert refused >= (30 if format == "PNG" else 5)


def test_damage_stays_damage_when_asked_again():
    """Pillow hands out what it could read, as if it were the image, from the second time on."""
    data = bytearray(written(Image.fromarray(NOISE), "PNG"))
    data[len(data) // 2] ^= 1
    opened = image.decode(bytes(data))
    for step in (image.size, image.pixels, image.values, image.pixels, image.size, image.encode):
        with pytest.raises(DamagedError, match="damaged image"):
            step(opened)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_damaged_notes_do_not_damage_the_picture(format):
    data = written(Image.fromarray(NOISE), format, exif=b"Exif\0\0MM\0\x2a\0\0\xff\xff rubbish")
    opened = image.decode(data)
    assert image.size(opened) == (40, 30)
    assert np.array_equal(np.asarray(image.pixels(opened)), np.asarray(plain(data)))


def behind_the_pixels(data):
    """Moves a PNG's EXIF to where the standard allows it as well, after the pixels."""
    chunks, at = [], 8
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        chunks.append(data[at:end])
        at = end
    return data[:8] + b"".join(sorted(chunks, key=lambda c: (c[4:8] == b"IEND", c[4:8] == b"eXIf")))


@pytest.mark.parametrize("kind", ["WEBP", "TIFF", "PNG", "PNG behind"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_every_format(kind, orientation):
    exif = Image.Exif()
    exif[image.ORIENTATION] = orientation
    upright = Image.fromarray(smooth(32, 24))
    stored = upright.transpose(UNTURN[orientation]) if orientation > 1 else upright
    format = kind.split()[0]
    options = {"lossless": True} if format == "WEBP" else {}
    data = written(stored, format, exif=exif, **options)
    data = behind_the_pixels(data) if kind == "PNG behind" else data
    for read in (image.pixels, image.values):
        opened = image.decode(data)
        assert image.size(opened) == (32, 24)
        assert np.array_equal(np.asarray(read(opened)), smooth(32, 24))
        assert image.size(opened) == (32, 24), "also once it is decoded"
    again = image.pixels(image.decode(image.encode(data, format="png")))
    assert np.array_equal(np.asarray(again), smooth(32, 24)), "what is written again stands upright too"


@pytest.mark.parametrize(("extension", "format"), [("bmp", "BMP"), ("tif", "TIFF"), ("tiff", "TIFF"), ("gif", "GIF")])
def test_more_formats(extension, format):
    grey = Image.fromarray(NOISE[..., 0])
    opened = modalities.decode(f"{extension}", written(grey, format))
    assert modalities.EXTENSIONS[extension] == "image"
    assert np.array_equal(np.asarray(image.pixels(opened)), NOISE[..., :1].repeat(3, axis=2))


@pytest.mark.parametrize("format", ["GIF", "TIFF", "WEBP", "PNG"])
def test_the_first_of_several_frames_is_read(format):
    frames = [Image.new("RGB", (8, 6), shade) for shade in ("red", "lime", "blue")]
    options = {"lossless": True} if format == "WEBP" else {}
    data = written(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert getattr(Image.open(io.BytesIO(data)), "n_frames", 1) == 3
    assert np.array_equal(np.asarray(image.pixels(image.decode(data))), np.asarray(frames[0]))


RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
SHARES = RAMP / np.float32(255)
WIDE = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16) // 257 * 256 + 255
NUMBERS = {
    "uint8": (RAMP, RAMP),
    "uint16": (WIDE, RAMP),
    "uint16 big-endian": (WIDE.astype(">u2"), RAMP),
    "int16": (RAMP.astype(np.int16), RAMP),
    "int32": (RAMP.astype(np.int32), RAMP),
    "int64": (RAMP.astype(np.int64), RAMP),
    "float16": (SHARES.astype(np.float16), RAMP),
    "float32": (SHARES, RAMP),
    "float64": (SHARES.astype(np.float64), RAMP),
    "bool": (RAMP > 100, (RAMP > 100) * 255),
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_numbers_of_any_type_become_eight_bits(kind):
    """256 shades come out as they went in, of arrays, tensors, PIL images and, where it can be written, TIFF."""
    array, expected = NUMBERS[kind]
    made = [
        array,
        np.stack([array] * 3, axis=2),
        torch.from_numpy(np.stack([array.astype(array.dtype.newbyteorder("="))])),
    ]
    if kind in ("uint8", "uint16", "int32", "float32", "bool"):
        made.append(Image.fromarray(array))
        stream = io.BytesIO()
        Image.fromarray(array).save(stream, "TIFF")
        made.append(stream.getvalue())
    for raw in made:
        seen = np.asarray(image.pixels(image.load(raw)))
        assert np.array_equal(seen, np.stack([expected] * 3, axis=2))


def test_modes_of_pil_become_rgb():
    """Against numpy: alpha over white, straight or premultiplied; the rest as Pillow's own conversions have it."""
    grey, alpha = RAMP.astype(float), np.flip(RAMP).astype(float)
    over = grey * alpha / 255 + 255 - alpha
    straight = Image.merge("LA", [Image.fromarray(RAMP), Image.fromarray(np.flip(RAMP).copy())])
    palette = Image.fromarray(RAMP).convert("P")
    palette.putalpha(Image.fromarray(np.flip(RAMP).copy()))
    cases = {
        "LA": (straight, over, 1),
        "La": (straight.convert("La"), over, 2),
        "RGBA": (straight.convert("RGBA"), over, 1),
        "RGBa": (straight.convert("RGBA").convert("RGBa"), over, 2),
        "PA": (palette, over, 1),
        "RGBX": (Image.fromarray(RAMP).convert("RGBX"), grey, 0),
        "YCbCr": (Image.fromarray(RAMP).convert("YCbCr"), grey, 1),
        "HSV": (Image.fromarray(RAMP).convert("HSV"), grey, 1),
        "LAB": (ImageCms.profileToProfile(Image.fromarray(RAMP).convert("RGB"), *PROFILES, outputMode="LAB"), grey, 2),
        "CMYK": (Image.fromarray(RAMP).convert("CMYK"), grey, 1),
        "I;16": (Image.fromarray(WIDE), grey, 0),
        "I;16B": (Image.frombytes("I;16B", (16, 16), WIDE.astype(">u2").tobytes()), grey, 0),
        "I;16L": (Image.frombytes("I;16L", (16, 16), WIDE.astype("<u2").tobytes()), grey, 0),
        "I;16N": (Image.frombytes("I;16N", (16, 16), WIDE.tobytes()), grey, 0),
        "I": (Image.fromarray(RAMP).convert("I"), grey, 0),
        "F": (Image.fromarray(SHARES), grey, 0),
        "1": (Image.fromarray(RAMP > 100), (RAMP > 100) * 255.0, 0),
    }
    for name, (picture, expected, tolerance) in cases.items():
        assert picture.mode == name
        seen = np.asarray(image.pixels(picture)).astype(float)
        assert np.abs(seen - expected[..., None]).max() <= tolerance, name


PROFILES = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")


@pytest.mark.parametrize("wrong", [256, -1, 1.01, -0.01, float("nan")])
def test_numbers_out_of_range_are_refused(wrong):
    """What a caller hands over is the caller's mistake; of a file it is a sample that is counted."""
    array = np.full((4, 4), wrong, dtype=np.float32 if isinstance(wrong, float) else np.int32)
    picture = Image.fromarray(array)
    for made in (array, picture):
        with pytest.raises(UserError, match=r"expected an image of .* in \[0, ") as caught:
            image.pixels(image.load(made))
        assert not isinstance(caught.value, DamagedError)
    with pytest.raises(DamagedError, match="expected an image of") as damaged:
        image.pixels(image.decode(written(picture, "TIFF")))
    assert damaged.value.reason == "an image of numbers out of range"


def test_values_are_undiminished(tmp_path):
    for format in ("PNG", "TIFF"):
        (tmp_path / "depth").write_bytes(written(Image.fromarray(DEEP), format))
        found = image.values(image.load(tmp_path / "depth"))
        assert found.dtype == np.uint16
        assert np.array_equal(found, DEEP)
    big = Image.frombytes("I;16B", (40, 30), DEEP.astype(">u2").tobytes())
    assert image.values(big).dtype.isnative
    assert np.array_equal(image.values(big), DEEP)
    assert np.array_equal(image.values(image.load(DEEP)), DEEP)
    assert np.array_equal(image.values(image.decode(image.encode(DEEP, format="png"))), DEEP)
    for array in (DEEP.astype(np.int32) * 1000, DEEP.astype(np.float32) / 7):
        assert np.array_equal(image.values(image.decode(written(Image.fromarray(array), "TIFF"))), array)
    labels = Image.fromarray(NOISE[..., 0] % 5)
    labels.putpalette(list(range(15)))
    assert np.array_equal(image.values(image.decode(written(labels, "PNG"))), NOISE[..., 0] % 5)


def test_a_clear_shade_of_16_bits_shows_white():
    deep = Image.fromarray(np.array([[1000, 1001], [0, 40000]], dtype=np.uint16))
    seen = np.asarray(image.pixels(image.decode(written(deep, "PNG", transparency=1000))))
    assert seen[..., 0].tolist() == [[255, 3], [0, 156]]


@pytest.mark.parametrize("format", ["jpeg", "png", "webp"])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "F", "I;16"])
def test_every_mode_can_be_written(format, mode):
    made = {"I": RAMP.astype(np.int32), "F": SHARES, "I;16": WIDE}
    picture = Image.fromarray(made[mode]) if mode in made else Image.fromarray(RAMP).convert("L").convert(mode)
    back = np.asarray(image.pixels(image.decode(image.encode(picture, format=format, quality=100))))
    assert np.abs(back.astype(float) - np.asarray(image.pixels(picture))).mean() < 3


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
        np.full((4, 4), 256),
        np.full((4, 4), -1),
        np.full((4, 4), np.nan),
        np.full((4, 4), 1j),
        np.full((4, 4), "a"),
        tmp_path / "no.png",
    ):
        with pytest.raises(UserError):
            image.load(wrong)
    with pytest.raises(UserError, match="gif"):
        image.encode(smooth(), format="gif")
