"""Small JPEGs that are decoded in one call have the values that Pillow's own opening gives, or are refused alike."""

from __future__ import annotations

import io
import random
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image, ImageOps

from mmssl.errors import DamagedError
from mmssl.modalities import image, small_jpeg

EXIF = Image.Exif()
EXIF[0x0112] = 6  # turned by a quarter
FRAME = b"\xff\xc0\x00\x11\x08"  # what a frame of three colours begins with


def jpeg(width: int = 32, height: int = 32, *, mode: str = "RGB", seed: int = 0, **options: Any) -> bytes:
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


@pytest.mark.parametrize("options", [{}, {"quality": 30, "subsampling": 0}, {"optimize": True}, {"mode": "L"}])
@pytest.mark.parametrize("sides", [(32, 32), (31, 47), (1, 1), (128, 128)])
def test_plain_files_are_taken_and_have_pillows_values(sides: tuple[int, int], options: dict[str, Any]) -> None:
    data = jpeg(*sides, **options)
    taken = small_jpeg.read(data)
    assert taken is not None and taken.size == sides and taken.mode == options.get("mode", "RGB")
    assert ours(data) == by_pillow(data)
    opened = image.decode(data)
    assert image.size(opened) == sides and np.array_equal(image.values(opened), np.asarray(taken))


def test_a_smaller_size_is_decoded_as_from_an_unread_file() -> None:
    data = jpeg(96, 64)
    assert small_jpeg.read(data) is not None
    opened = image.decode(data)
    small = image.pixels(opened, min_size=16)
    assert small.size == (24, 16) and small.tobytes() == by_pillow(data, 16)
    assert image.pixels(opened).tobytes() == by_pillow(data)  # and all of it afterwards
    assert image.pixels(opened, min_size=33).size == (96, 64)


@pytest.mark.parametrize(
    "data",
    [
        jpeg(progressive=True),
        jpeg(mode="CMYK"),
        jpeg(exif=EXIF.tobytes()),
        jpeg(comment=b"a comment, which is written again"),
        jpeg(restart_marker_rows=1),
        jpeg(icc_profile=b"profile"),
        jpeg(129, 128),
        jpeg() + bytes(small_jpeg.BYTES),
        b"",
    ],
)
def test_other_files_go_the_long_way(data: bytes) -> None:
    assert small_jpeg.read(data) is None
    assert ours(data) == by_pillow(data)


def test_exif_turns_the_image() -> None:
    assert image.pixels(image.decode(jpeg(32, 20, exif=EXIF.tobytes()))).size == (20, 32)


def test_limits_hold_before_anything_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    for limits in ("picture_pixels=1023", "picture_side=31"):
        monkeypatch.setenv("MMSSL_LIMITS", limits)
        assert small_jpeg.read(jpeg()) is None
        with pytest.raises(DamagedError, match=r"too large.*32 x 32"):
            image.pixels(image.decode(jpeg()))
    monkeypatch.setenv("MMSSL_LIMITS", "picture_pixels=1024,picture_side=32")
    assert small_jpeg.read(jpeg()) is not None


def changed_headers() -> list[bytes]:
    """Returns files whose header another reader could take for one of another size, or for none."""
    data = jpeg()
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
def test_nothing_is_decoded_whose_header_is_not_plain(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, decode = jpeg(), Mock()
    monkeypatch.setattr(Image, "frombytes", decode)
    assert small_jpeg.read(data) is None and not decode.called
    small_jpeg.read(plain)
    assert decode.called


def test_every_truncation_is_refused_alike() -> None:
    data = jpeg(9, 5)
    assert ours(data) is not None
    for end in range(len(data)):
        assert ours(data[:end]) == by_pillow(data[:end]), end


def test_changed_files_are_read_or_refused_as_by_pillow() -> None:
    rng, taken, read = random.Random(0), 0, 0
    for number in range(400):
        data = bytearray(jpeg(rng.randint(1, 40), rng.randint(1, 40), seed=number, quality=rng.randint(5, 95)))
        end = len(data) if number % 2 else data.index(b"\xff\xda") + 14
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(end)] = rng.choice([rng.randrange(256), 0, 255, 0xC0, 0xD8, 0xD9, 0xDA])
        found = ours(bytes(data), 8)
        assert found == by_pillow(bytes(data), 8), number
        taken += small_jpeg.read(bytes(data)) is not None
        read += found is not None
    assert taken > 50 and 400 - read > 50 and read >= taken
