"""Hostile files, made here byte by byte, are left out within stated memory, and the option raises each limit."""

from __future__ import annotations

import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from mmssl import limits, modalities
from mmssl.errors import DamagedError
from mmssl.modalities import audio, image, video


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, *, bits=8, color=2, extra=b"", whole=False):
    """A PNG of zeros; its pixels are only there if it is to be whole."""
    values = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color] * bits // 8
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0))
    palette = chunk(b"PLTE", bytes(6)) if color == 3 else b""
    pixels = zlib.compress(bytes(height * (1 + width * values)) if whole else bytes(10**6))
    return b"\x89PNG\r\n\x1a\n" + head + extra + palette + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def tiff(width, height, tags=()):
    entries = sorted([(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)])
    entries = sorted([*entries, (273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, 10), *tags])
    return (
        b"II*\0"
        + struct.pack("<IH", 8, len(entries))
        + b"".join(struct.pack("<HHII", *e) for e in entries)
        + b"\0" * 64
    )


def gif(width, height, left=0, method=0):
    screen = struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    control = bytes([0x21, 0xF9, 4, method << 2, 0, 0, 0, 0])
    return b"GIF89a" + screen + control + b"," + struct.pack("<HHHHB", left, 0, width, height, 0) + b"\2\1\x44\0;"


def vp8x(width, height):
    body = (
        b"VP8X"
        + struct.pack("<I", 10)
        + bytes(4)
        + struct.pack("<I", width - 1)[:3]
        + struct.pack("<I", height - 1)[:3]
    )
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def bmp(width, height):
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + head


def wav(*, channels=1, rate=16000, bits=16, data=bytes(3200), claimed=None):
    align = channels * bits // 8 & 0xFFFF
    head = struct.pack("<HHIIHH", 1, channels, rate, rate * align & 0xFFFFFFFF, align, bits)
    body = b"fmt " + struct.pack("<I", 16) + head + b"data" + struct.pack("<I", claimed or len(data)) + data
    return b"RIFF" + struct.pack("<I", claimed or 4 + len(body)) + b"WAVE" + body


def gap(seconds):
    """Two packets of sound, so far apart."""
    stream = io.BytesIO()
    with av.open(stream, "w", format="matroska") as container:
        track = container.add_stream("pcm_s16le", rate=16000, layout="mono")
        for place in (0, seconds):
            frame = av.AudioFrame.from_ndarray(np.ones((1, 160), np.int16), format="s16", layout="mono")
            frame.sample_rate = 16000
            for packet in track.encode(frame):
                packet.pts = packet.dts = int(place / float(packet.time_base))
                container.mux(packet)
    return stream.getvalue()


def box(kind: bytes, *parts: bytes) -> bytes:
    data = b"".join(parts)
    return struct.pack(">I4s", 8 + len(data), kind) + data


def full(kind: bytes, *numbers: int, flags: int = 0) -> bytes:
    return box(kind, struct.pack(f">{1 + len(numbers)}I", flags, *numbers))


def mp4(samples, *, runs=()):
    """A video of one track that claims so many images of one byte, in its header or in runs of a fragment."""
    entry = box(b"mp4v", struct.pack(">6xH16xHHII4xH32xHh", 1, 64, 64, 0x480000, 0x480000, 1, 24, -1))
    table = [box(b"stsd", struct.pack(">II", 0, 1), entry), full(b"stts", 1, samples, 1)]
    table += [full(b"stsc", 1, 1, samples, 1), full(b"stsz", 1, samples), full(b"stco", 1, 100)]
    matrix = (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    tkhd = full(b"tkhd", 0, 0, 1, 0, 1000, 0, 0, 0, 0, *matrix, 64 << 16, 64 << 16, flags=3)
    hdlr = box(b"hdlr", struct.pack(">II4s13x", 0, 0, b"vide"))
    dinf = box(b"dinf", box(b"dref", struct.pack(">II", 0, 1), full(b"url ", flags=1)))
    minf = box(b"minf", full(b"vmhd", 0, 0), dinf, box(b"stbl", *table))
    trak = box(b"trak", tkhd, box(b"mdia", full(b"mdhd", 0, 0, 1000, 1000, 0), hdlr, minf))
    mvhd = box(b"mvhd", struct.pack(">5I80x", 0, 0, 0, 1000, 1000))
    mvex = [box(b"mvex", full(b"trex", 1, 1, 1, 1, 0))] if runs else []
    traf = box(b"traf", full(b"tfhd", 1, flags=0x20000), *(full(b"trun", run) for run in runs))
    moof = [box(b"moof", full(b"mfhd", 1), traf)] if runs else []
    moov = box(b"moov", mvhd, trak, *mvex)
    return b"".join([box(b"ftyp", b"isom\0\0\0\0isom"), moov, *moof, box(b"mdat", bytes(100))])


def ply(count, properties="property float x\nproperty float y\nproperty float z\n", *, way="ascii", body=b"1 2 3\n"):
    return f"ply\nformat {way} 1.0\nelement vertex {count}\n{properties}end_header\n".encode() + body


def pcd(count, *, way="binary", fields="x y z", size="4 4 4", kind="F F F", repeats="1 1 1", body=b""):
    head = f"FIELDS {fields}\nSIZE {size}\nTYPE {kind}\nCOUNT {repeats}\nPOINTS {count}\nDATA {way}\n"
    return head.encode() + body


def npy(shape, kind="<f8", body=b""):
    head = repr({"descr": kind, "fortran_order": False, "shape": shape}).encode()
    head += b" " * (-(11 + len(head)) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + body


def npz(members, method=zipfile.ZIP_DEFLATED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return stream.getvalue()


def bomb(claimed=2 * 10**9):
    """An npz whose one array of 300 bytes claims to unpack to more; what is not there cannot be unpacked."""
    lies = npz({"xyz.npy": bytes(300), "other.npy": bytes(1000)})
    return lies.replace(struct.pack("<I", 1000), struct.pack("<I", claimed))


JPEG = b"\xff\xd8\xff\xc2\0\x0b\x08\xff\xff\xff\xff\1\1\x11\0\xff\xda\0\x08\1\1\0\0\0\0\x0f"
MANY = "f " * 30000
BOMB = struct.pack("<II", 900_002, 48 * 10**6) + b"\0a" + b"\xe0\xff\0" * 300_000  # LZF, unpacks to more than it says
HOSTILE = {
    "png": ("png", png(20000, 20000), "picture_pixels=4"),
    **{
        f"png {color} {bits}": ("png", png(20000, 20000, bits=bits, color=color), "picture_pixels")
        for color, bits in [(6, 16), (4, 8), (0, 16), (3, 1)]
    },
    "png long": ("png", png(1, 70000, whole=True), "picture_side=70000"),
    "png 2**31": ("png", png(2**31 - 1, 2**31 - 1), "picture_pixels"),
    "jpeg": ("jpg", JPEG, "picture_pixels"),
    "webp": ("webp", vp8x(16383, 16383), "picture_pixels"),
    "bmp": ("bmp", bmp(2**30, 2**30), "picture_pixels"),
    "gif": ("gif", gif(60000, 60000, method=2), "picture_pixels"),
    "gif frame": ("gif", gif(30000, 30000, left=30000), "picture_pixels"),
    "tiff": ("tif", tiff(60000, 60000), "picture_pixels"),
    "tiff tags": ("tif", tiff(60, 60, [(40000 + i, 1, 200_000, 8) for i in range(20000)]), "damaged|read"),
    "text": ("png", png(9, 9, extra=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**25)))), "damaged image"),
    "many texts": ("png", png(9, 9, extra=900 * chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**6)))), "damaged"),
    "wav channels": ("wav", wav(channels=65535, data=bytes(200_000)), "damaged|read"),
    "wav size": ("wav", wav(claimed=2**32 - 1), "damaged|read"),
    "wav rate": ("wav", wav(rate=2**32 - 1), "damaged"),
    "wav slow": ("wav", wav(rate=1000, bits=8, data=bytes(8 * 10**6)), "sound_seconds=8000"),
    "sound far apart": ("ogg", gap(10**5), "sound_seconds=100000"),
    "mp4": ("mp4", mp4(80_000_000), "claims more than there is"),
    "mp4 runs": ("mp4", mp4(0, runs=[80_000_000] * 3), "claims more than there is"),
    "ply": ("ply", ply(10**12), "cloud_values=3"),
    "ply binary": ("ply", ply(10**12, way="binary_little_endian"), "cloud_values=3"),
    "ply of nothing": ("ply", ply(10**12, ""), "no columns"),
    "ply below 0": ("ply", ply(-1), "damaged point cloud"),
    "ply digits": ("ply", ply("9" * 10**5), "damaged point cloud"),
    "ply long number": ("ply", ply(1, body=b"9" * 10**6 + b" 2 3\n"), "more than 1000 digits"),
    "ply wide": ("ply", ply(1, "".join(f"property float a{i}\n" for i in range(20000))), "cloud_columns=20000"),
    "ply lines": ("ply", ply(10**6, body=b"\n" * 6 * 10**6), "truncated"),
    "ply before": ("ply", ply(1).replace(b"element", b"element junk 1000000000000\nelement", 1), "truncated"),
    "ply twice": ("ply", ply(1, "property float x\n" * 2, way="binary_little_endian", body=bytes(99)), "damaged"),
    "pcd": ("pcd", pcd(10**12, way="binary_compressed"), "cloud_values=3"),
    "pcd repeats": ("pcd", pcd(1, repeats="1 1 1000000000"), "cloud_columns=1000000002"),
    "pcd many": ("pcd", pcd(0, fields=MANY, size=MANY, kind=MANY, repeats="4096 " * 30000), "cloud_columns"),
    "pcd no repeats": ("pcd", pcd(10**12, repeats="0 0 0"), "damaged point cloud"),
    "pcd fields": ("pcd", pcd(10**12, fields="", size="", kind="", repeats=""), "damaged point cloud"),
    "pcd size": ("pcd", pcd(1, size="4,(10000000,)f4 4 4"), "damaged point cloud"),
    "pcd bomb": ("pcd", pcd(4 * 10**6, way="binary_compressed", body=BOMB), "damaged|truncated"),
    "npy": ("npy", npy((10**9, 3)), "array_bytes=2.4e+10"),
    "npy of nothing": ("pose.npy", npy((10**12,), "<U0"), "of nothing"),
    "npy below 0": ("pose.npy", npy((-1, 3)), "damaged"),
    "npy objects": ("pose.npy", npy((1,), "|O", b"cos\nsystem\n(S'touch marker'\ntR."), "damaged"),
    "npy pickle": ("pose.npy", b"cos\nsystem\n(S'touch marker'\ntR.", "damaged"),
    "npz": ("npz", bomb(), "array_bytes=20000003"),
    "npz lies": ("npz", bomb(2 * 10**7), "damaged array file"),
    "npz claims": ("pose.npz", npz({"a.npy": npy((10**9, 3))}), "array_bytes=2.4e+10"),
    "npz many": ("pose.npz", npz({f"{i}": b"" for i in range(20000)}), "too many arrays"),
    "npz nested": ("pose.npz", npz({"a.npy": npz({"a": b""})}), "damaged array file"),
    "npz lzma": ("pose.npz", npz({"a.npy": npy((0,))}, zipfile.ZIP_LZMA), "compression"),
    "json": ("json", b"[" + b"[]," * 12_000_000 + b"1]", "sample_json_bytes=36"),
    "json deep": ("json", b"[" * 100 + b"]" * 100, "document_depth=99"),
    "json deeper": ("json", b"[" * 10**6, "damaged json"),
    "label": ("cls", b"9" * 10**6, "label"),
}  # fmt: skip
EXTREME = {
    f"{width} x {height}": ("png", png(width, height, whole=True), "read")
    for width, height in [(1, 60000), (60000, 1), (2, 50000), (50000, 2)]
}


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """What became of each, in one process."""
    home = tmp_path_factory.mktemp("bounded")
    jobs = {name: case[:2] for name, case in {**HOSTILE, **EXTREME}.items()}
    command = [sys.executable, Path(__file__).with_name("bounded.py")]
    paths = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths, limits.VARIABLE: ""}
    done = subprocess.run(
        command, input=pickle.dumps(jobs), capture_output=True, cwd=home, env=environment, timeout=600
    )
    assert done.returncode == 0, done.stderr.decode()
    assert not list(home.iterdir()), "a marker was planted"
    return pickle.loads(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="bounds memory as Linux does")
@pytest.mark.parametrize("name", [*HOSTILE, *EXTREME])
def test_hostile_files_end_in_one_clear_line(ends, name):
    expected = {**HOSTILE, **EXTREME}[name][2]
    assert any(part in ends[name] for part in expected.split("|")), ends[name]
    assert not ends[name].startswith("foreign") and "\n" not in ends[name]
    assert ("--limits" in ends[name]) == ("_" in expected)


def test_extreme_shapes_show_what_is_in_them(ends):
    assert all(ends[name] == "read, [0.0, 0.0, 0.0]" for name in EXTREME)


def saved(picture, format, **options):
    stream = io.BytesIO()
    picture.save(stream, format, **options)
    return stream.getvalue()


PICTURES = {
    **{f"png {mode}": ("PNG", mode) for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "I;16")},
    **{f"tiff {mode}": ("TIFF", mode) for mode in ("RGBA", "CMYK", "F", "I")},
    **{format: (format, "RGB") for format in ("JPEG", "WEBP", "BMP", "GIF")},
}


@pytest.mark.parametrize("kind", PICTURES)
@pytest.mark.parametrize(("limit", "found"), [("picture_pixels", 110), ("picture_side", 11)])
def test_the_option_says_how_large_a_picture_may_be(monkeypatch, kind, limit, found):
    format, mode = PICTURES[kind]
    data = saved(Image.new(mode, (11, 10)), format)
    before = Image.MAX_IMAGE_PIXELS
    for read in (image.pixels, image.values, image.encode):
        monkeypatch.setenv(limits.VARIABLE, f"{limit}={found - 1}")
        with pytest.raises(DamagedError, match=f"limit is {limit}={found - 1}.*{limit}={found}$") as caught:
            read(image.decode(data))
        assert caught.value.reason == "an image too large to decode"
        monkeypatch.setenv(limits.VARIABLE, f"{limit}={found}")
        read(image.decode(data))
    assert before == Image.MAX_IMAGE_PIXELS, "Pillow's own limit stays the user's"


def test_the_option_raises_what_pillow_refuses(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    for format in ("PNG", "WEBP", "GIF", "JPEG"):
        assert image.pixels(image.decode(saved(Image.new("L", (11, 10)), format))).size == (11, 10)


def test_a_jpeg_counts_as_it_is_decoded(monkeypatch):
    plain, several = (saved(Image.new("RGB", (1600, 1200)), "JPEG", progressive=p) for p in (False, True))
    monkeypatch.setenv(limits.VARIABLE, f"picture_pixels={800 * 600}")
    assert image.size(image.decode(plain)) == (1600, 1200)
    assert image.pixels(image.decode(plain), min_size=600).size == (800, 600)
    for data, least in ((plain, 601), (plain, None), (several, 600)):
        with pytest.raises(DamagedError, match="picture_pixels=1920000"):
            image.pixels(image.decode(data), min_size=least)
    monkeypatch.setenv(limits.VARIABLE, "")
    assert image.pixels(image.decode(several), min_size=600).size == (800, 600)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "La", "P", "L", "1", "CMYK", "I;16", "I", "F", "YCbCr", "LAB", "HSV"])
def test_pictures_are_converted_alike_in_strips(monkeypatch, mode):
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 4), dtype=np.uint8)
    grey = noise[..., 0]
    made = {"F": grey / np.float32(255), "I": grey.astype(np.int32), "I;16": grey.astype(np.uint16) << 8}
    by = {"La": "LA", "YCbCr": "RGB", "LAB": "RGB", "HSV": "RGB"}  # what Pillow converts them from
    colors = Image.fromarray(noise).convert(by.get(mode, "RGBA"))
    picture = Image.fromarray(made[mode]) if mode in made else colors.convert(mode)
    assert picture.mode == mode
    whole = np.asarray(image.to_rgb(picture))
    monkeypatch.setattr(image, "STRIP", 130)  # three rows
    assert np.array_equal(np.asarray(image.to_rgb(picture)), whole)
    assert len(np.unique(whole)) > 1


FILM = video.encode(np.random.default_rng(0).integers(0, 256, (10, 32, 48, 3), dtype=np.uint8), fps=10)


@pytest.mark.parametrize("raw", [FILM, np.zeros((10, 32, 48, 3), np.uint8)], ids=["film", "array"])
def test_the_option_says_how_much_of_a_clip_may_be_held(monkeypatch, raw):
    monkeypatch.setenv(limits.VARIABLE, f"clip_pixels={4 * 32 * 48}")
    clip, times = video.load(raw, fps=10.0), [0.05, 0.15, 0.25, 0.35]
    assert len(clip.frames(times)) == 4
    for more in ([*times, 0.45], [*times, 0.05]):
        with pytest.raises(DamagedError, match="clip_pixels=7680"):
            clip.frames(more)
    assert len(clip.frames([*times, 0.45], min_size=16)) == 5, "they count as they are scaled"


@pytest.mark.parametrize(("limit", "found"), [("picture_pixels", 32 * 48), ("picture_side", 48)])
def test_the_option_says_how_large_a_film_may_be(monkeypatch, limit, found):
    monkeypatch.setenv(limits.VARIABLE, f"{limit}={found - 1}")
    with pytest.raises(DamagedError, match=f"{limit}={found}$"):
        video.Video(FILM).frames([0.0])
    monkeypatch.setenv(limits.VARIABLE, f"{limit}={found}")
    assert video.Video(FILM).frames([0.0]).shape == (1, 32, 48, 3)


def test_pictures_that_grow_within_a_film_are_not_allocated(monkeypatch):
    """The large ones behind the small ones are passed over, as damage is."""
    parts = io.BytesIO()
    for side, shade in ((32, 50), (2304, 200)):
        with av.open(part := io.BytesIO(), "w", format="m4v") as container:
            track = container.add_stream("mpeg4", rate=10)
            track.width = track.height = side
            for _ in range(3):
                frame = av.VideoFrame.from_ndarray(np.full((side, side, 3), shade, np.uint8), format="rgb24")
                container.mux(track.encode(frame))
            container.mux(track.encode(None))
        parts.write(part.getvalue())
    for most, expected in ((2304**2, 200), (32**2, 50)):
        monkeypatch.setenv(limits.VARIABLE, f"picture_pixels={most}")
        assert video.Video(parts.getvalue()).frames([100.0]).mean() == pytest.approx(expected, abs=5)


@pytest.mark.parametrize("way", ["bytes", "path"])
def test_the_option_says_how_long_a_sound_may_be(monkeypatch, tmp_path, way):
    for name, data in {"far.mkv": gap(100), "plain.wav": wav(data=bytes(32 * 1601))}.items():
        (tmp_path / name).write_bytes(data)
        raw = data if way == "bytes" else tmp_path / name
        seconds = 100 if name == "far.mkv" else 1
        monkeypatch.setenv(limits.VARIABLE, f"sound_seconds={seconds}")
        with pytest.raises(DamagedError, match=f"limit is sound_seconds={seconds};"):
            audio.Audio(raw).read(sample_rate=16000)
        assert len(audio.Audio(raw).read(sample_rate=16000, seconds=200.0)) == 200 * 16000, "what a caller asks for"
        monkeypatch.setenv(limits.VARIABLE, f"sound_seconds={seconds + 1}")
        assert len(audio.Audio(raw).read(sample_rate=16000)) > seconds * 16000
        monkeypatch.setenv(limits.VARIABLE, f"track_seconds={seconds}")
        with pytest.raises(DamagedError, match=f"limit is track_seconds={seconds};"):
            _ = audio.Audio(raw).duration


def test_a_window_of_a_long_sound_is_held_alone():
    """ADPCM is played from its start; two minutes of it would be 8 MB."""
    import tracemalloc

    with av.open(stream := io.BytesIO(), "w", format="wav") as container:
        write = audio.add_track(container, np.full(8000 * 120, 0.25), 8000, "adpcm_ima_wav")
        write()
    sound = audio.Audio(stream.getvalue())
    sound.read(sample_rate=16000, start=1.0, seconds=1.0)  # what the first reading imports and keeps
    tracemalloc.start()
    heard = sound.read(sample_rate=16000, start=110.0, seconds=1.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert heard.mean() == pytest.approx(0.25, abs=0.02)
    assert peak < 3 * 2**20


@pytest.mark.parametrize(
    "limit", ["cloud_values", "cloud_columns", "array_bytes", "sample_json_bytes", "document_depth"]
)
def test_the_option_says_how_much_the_others_may_hold(monkeypatch, limit):
    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    clouds = {"ply": ply(4, body=b"1 2 3\n" * 4), "pcd": pcd(4, body=values.tobytes())}
    arrays = {
        "pose.npy": npy((4, 3), "<f4", values.tobytes()),
        "pose.npz": npz({"a.npy": npy((4, 3), "<f4", values.tobytes())}),
    }
    cases, least = {
        "cloud_values": (clouds, 12),
        "cloud_columns": (clouds, 3),
        "array_bytes": (arrays, 48),
        "sample_json_bytes": ({"json": b"[[1, 2]]"}, 8),
        "document_depth": ({"json": b"[[1, 2]]"}, 2),
    }[limit]
    for field, data in cases.items():
        enough = least + (128 if field == "pose.npz" else 0)  # the header is unpacked too
        monkeypatch.setenv(limits.VARIABLE, f"{limit}={enough - 1}")
        with pytest.raises(DamagedError, match=f"limit is {limit}={enough - 1};"):
            modalities.decode(field, data)
        monkeypatch.setenv(limits.VARIABLE, f"{limit}={enough}")
        assert modalities.decode(field, data) is not None
