"""JPEGs that libjpeg-turbo decodes itself have the values that Pillow gives, bit by bit, or are refused alike."""

from __future__ import annotations

import io
import pickle
import random
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageOps

from mmssl.errors import DamagedError
from mmssl.modalities import image, jpeg

EXIF = Image.Exif()
EXIF[0x0112] = 6  # turned by a quarter
FRAME = b"\xff\xc0\x00\x11\x08"  # what a frame of three colours begins with


def made(width: int = 32, height: int = 32, *, mode: str = "RGB", seed: int = 0, **options: Any) -> bytes:
    """Returns a JPEG of smooth colours with some noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((width, height))
    noisy = np.asarray(coarse) // 2 + rng.integers(0, 99, (height, width, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noisy).convert(mode).save(stream, "JPEG", **options)
    return stream.getvalue()


def by_pillow(data: bytes, min_size: int | None = None) -> bytes | None:
    """Returns the pixels as Pillow opens them from a file, set to shrink them, or None where it refuses."""
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"]) as picture:
            if min_size and min(picture.size) >= 2 * min_size:
                picture.draft(None, (min_size, min_size))
            return image.to_rgb(ImageOps.exif_transpose(picture)).tobytes()
    except Exception:
        return None


def ours(data: bytes, min_size: int | None = None) -> bytes | None:
    """Returns the pixels, or None where they are refused."""
    try:
        return image.pixels(image.decode(data), min_size=min_size).tobytes()
    except DamagedError:
        return None


def is_read(data: bytes, min_size: int | None = None) -> bool:
    """Tells whether libjpeg-turbo decodes a file itself."""
    return jpeg.read(image.decode(data), min_size) is not None


KINDS: list[dict[str, Any]] = [
    {},
    {"quality": 30, "subsampling": 0},
    {"subsampling": 1},
    {"mode": "L"},
    {"progressive": True},
    {"optimize": True, "restart_marker_rows": 1},
    {"comment": b"a comment"},
    {"icc_profile": b"profile"},
    {"exif": EXIF.tobytes()},
]


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize("sides", [(32, 32), (31, 47), (1, 1), (200, 141)])
def test_values_are_pillows_at_every_scale(sides: tuple[int, int], options: dict[str, Any]) -> None:
    data = made(*sides, **options)
    for min_size in (None, *{max(1, min(sides) // part) for part in (2, 3, 4, 7, 8, 9)}):
        assert is_read(data, min_size) or max(sides) < 8
        assert ours(data, min_size) == by_pillow(data, min_size), min_size
    assert np.array_equal(image.values(image.decode(data)), np.asarray(ImageOps.exif_transpose(_opened(data))))


def _opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


@pytest.mark.parametrize("width", range(1, 10))
def test_tiny_ones_are_shrunk_alike(width: int) -> None:
    """Other eighths than 1, 2 and 4 give some of these the same size, and other values."""
    for height in range(1, 10):
        for min_size in range(1, 5):
            data = made(width, height, seed=width * height)
            assert ours(data, min_size) == by_pillow(data, min_size)


def test_every_scale_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    opened, decode = image.decode(made(96, 64)), Mock(wraps=simplejpeg.decode_jpeg)
    monkeypatch.setattr(simplejpeg, "decode_jpeg", decode)
    sizes = [image.pixels(opened, min_size=least).size for least in (16, 17, 32, 8, 16, None, 33, 16)]
    assert sizes == [(24, 16), (48, 32), (48, 32), (24, 16), (24, 16), (96, 64), (96, 64), (24, 16)]
    assert [call.kwargs["min_height"] for call in decode.call_args_list] == [16, 32, 64]


def test_a_plain_one_can_be_used_as_any_image(tmp_path: Path) -> None:
    data = made(40, 30)
    expected = np.asarray(_opened(data))
    opened = image.decode(data)
    assert isinstance(opened, jpeg.Plain) and (opened.format, opened.mode, opened.size) == ("JPEG", "RGB", (40, 30))
    for each in (opened.copy(), pickle.loads(pickle.dumps(image.decode(data))), image.decode(data)):
        assert np.array_equal(np.asarray(each), expected)
    image.pixels(opened, min_size=8)
    opened.putpixel((3, 2), (1, 2, 3))
    assert image.pixels(opened).getpixel((3, 2)) == (1, 2, 3), "what was changed is seen, not what was decoded before"
    (tmp_path / "a.jpg").write_bytes(data)
    with Image.open(tmp_path / "a.jpg") as file:
        assert image.pixels(file, min_size=10).tobytes() == by_pillow(data, 10)


def test_what_is_left_to_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, progressive = made(), made(progressive=True)
    warned = made(restart_marker_rows=1).replace(b"\xff\xd0", b"\xff\xd3")  # libjpeg goes on after the wrong marker
    for data in (made(mode="CMYK"), warned):
        assert not is_read(data) and ours(data) == by_pillow(data) is not None
    for name, value, data in (("PIXELS", 32 * 32 - 1, plain), ("SCANS", 9, progressive)):
        assert is_read(data) and progressive.count(b"\xff\xda") == 10
        with monkeypatch.context() as patch:
            patch.setattr(jpeg, name, value)
            assert not is_read(data) and ours(data) == by_pillow(data)
    other = _opened(plain)
    other._size = (32, 31)  # as where Pillow takes the size from another place than libjpeg
    assert jpeg.read(other) is None


def test_pillow_reads_at_every_scale_what_libjpeg_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    data = made(64, 48)
    opened = image.decode(data)
    monkeypatch.setattr(simplejpeg, "decode_jpeg", Mock(side_effect=ValueError("Corrupt JPEG data")))
    for min_size in (24, 12, None):
        assert image.pixels(opened, min_size=min_size).tobytes() == by_pillow(data, min_size)


@pytest.mark.parametrize(
    "data",
    [
        made(progressive=True),
        made(mode="CMYK"),
        made(exif=EXIF.tobytes()),
        made(comment=b"a comment, which is written again"),
        made(restart_marker_rows=1),
        made(icc_profile=b"profile"),
        b"",
    ],
)
def test_only_files_without_notes_are_plain(data: bytes) -> None:
    assert jpeg.plain(data) is None
    assert ours(data) == by_pillow(data)


def test_exif_turns_the_image() -> None:
    assert image.pixels(image.decode(made(32, 20, exif=EXIF.tobytes()))).size == (20, 32)


def test_limits_hold_before_anything_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    decode = Mock(wraps=simplejpeg.decode_jpeg)
    monkeypatch.setattr(simplejpeg, "decode_jpeg", decode)
    for limits in ("picture_pixels=1023", "picture_side=31"):
        monkeypatch.setenv("MMSSL_LIMITS", limits)
        for data in (made(), made(progressive=True)):
            with pytest.raises(DamagedError, match=r"too large.*32 x 32"):
                image.pixels(image.decode(data))
    assert not decode.called
    monkeypatch.setenv("MMSSL_LIMITS", "picture_pixels=1024,picture_side=32")
    image.pixels(image.decode(made()))
    assert decode.called


def changed_headers() -> list[bytes]:
    """Returns files whose header another reader could take for one of another size, or for none."""
    data = made()
    at = data.index(FRAME)
    frame, scan = data[at : at + 19], data.index(b"\xff\xda")
    wide = frame[:7] + b"\x00\x60" + frame[9:]
    inserted = [wide + frame, frame + wide, b"\xff" + frame, b"\x00" + frame, b"\xff\x00" + frame, b"\xff\xd8" + frame]
    return [
        *(data[:2] + piece + data[20:] for piece in (b"\xff\xe0\x00\x03J", b"\xff\xe0\x00\x10JFXX".ljust(18, b"\x00"))),
        data[:2] + data[20:].replace(b"\xff\xdb\x00\x43", b"\xff\xdb\x00\x44", 1),
        *(data[:at] + piece + data[at + 19 :] for piece in inserted),
        *(data[:scan] + piece + data[scan:] for piece in (wide, b"\xff\xd9", b"\xff\xc4\x00\x01", b"\xff\xdb\x00\x02")),
        *(data[: at + 3] + bytes([length]) + data[at + 4 :] for length in (0, 2, 11, 16, 18, 20)),
        *(data[: at + 4] + body + data[at + 4 + len(body) :] for body in (b"\x0c", b"\x08\x00\x00", bytes(5))),
        data[:at] + data[at + 19 :],
        data[: scan + 4] + b"\x01" + data[scan + 5 :],
        data[: scan + 3] + b"\x08\x01" + data[scan + 5 :],
    ]


@pytest.mark.parametrize("data", changed_headers())
def test_a_file_whose_header_is_not_plain_is_opened_by_pillow(data: bytes) -> None:
    assert jpeg.plain(data) is None
    assert jpeg.plain(made()) is not None


def test_every_truncation_is_refused_alike() -> None:
    data = made(9, 5)
    assert ours(data) is not None
    for end in range(len(data)):
        assert ours(data[:end]) == by_pillow(data[:end]), end


def test_changed_files_are_read_or_refused_as_by_pillow() -> None:
    rng, plain, read, refused = random.Random(0), 0, 0, 0
    for number in range(400):
        data = bytearray(made(rng.randint(1, 40), rng.randint(1, 40), seed=number, quality=rng.randint(5, 95)))
        end = len(data) if number % 2 else data.index(b"\xff\xda") + 14
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(end)] = rng.choice([rng.randrange(256), 0, 255, 0xC0, 0xD8, 0xD9, 0xDA])
        found = ours(bytes(data), 8)
        assert found == by_pillow(bytes(data), 8), number
        plain += jpeg.plain(bytes(data)) is not None
        refused += found is None
        read += found is not None and is_read(bytes(data), 8)
    assert plain > 50 and refused > 50 and read > 50 and 400 - refused - read > 20
