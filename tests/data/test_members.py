"""A tar's headers are believed in nothing: each lie costs its own sample, or ends the shard, and takes no memory."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import tracemalloc
from pathlib import Path

import pytest
from hostile import BLOCK, END, extra, header, member, octal, padded, pax, record
from webdataset.tariterators import base_plus_ext

from mmssl.data.members import LARGE, LONG_NAME, SPARSE, Member, Tar, base_and_field
from mmssl.data.shards import Source
from mmssl.data.tar import ENDS_EARLY, LARGE_SAMPLE, NAMES, read_tar, scan_tar
from mmssl.data.unpack import UNPACKS, unpacked
from mmssl.data.verify import verify
from mmssl.errors import DamagedError

LIMIT = 10_000
LONGNAME = tarfile.GNUTYPE_LONGNAME


@pytest.fixture(autouse=True)
def limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMSSL_LIMITS", f"member_bytes={LIMIT},sample_bytes=40000,shard_bytes=4e6,shard_names=100000")


def members(data: bytes) -> list[Member]:
    return list(Tar(unpacked(io.BytesIO(data))))


FIRST, LAST = member("a.txt", b"first"), member("z.txt", b"last") + END
OLD_HOLES = header("b.txt", 8, tarfile.GNUTYPE_SPARSE, more=(octal(0) + octal(8)) + bytes(72) + b"\0" + octal(2**32))
MAPPED = header("b.txt", 8, tarfile.GNUTYPE_SPARSE, more=bytes(96) + b"\1" + octal(2**32))
LIES: dict[str, tuple[bytes, str]] = {
    "too large": (member("b.txt", bytes(LIMIT + 1)), LARGE),
    "too large by pax": (pax(size=str(LIMIT + 1)) + header("b.txt") + padded(bytes(LIMIT + 1)), LARGE),
    "too large by base 256": (header("b.txt", LIMIT + 1, base256=True) + padded(bytes(LIMIT + 1)), LARGE),
    "holes, old": (OLD_HOLES + padded(bytes(8)), SPARSE),
    "holes, in maps": (MAPPED + bytes(504) + b"\1" + bytes(7) + bytes(BLOCK) + padded(bytes(8)), SPARSE),
    "holes, pax 0.1": (pax(GNU__sparse__map="0,1", GNU__sparse__size=str(2**60)) + member("b.txt", b"x"), SPARSE),
    "holes, pax 1.0": (
        pax(GNU__sparse__major="1", GNU__sparse__minor="0", GNU__sparse__realsize=str(2**60), path="b.txt")
        + member("other", b"1\n0\n1\n"),
        SPARSE,
    ),
    "long name": (extra(b"b" * 5000 + b".txt\0", LONGNAME) + member("b.txt", b"x"), LONG_NAME),
    "longer name": (extra(bytes(2**20 + 1), LONGNAME) + member("b.txt", b"x"), LONG_NAME),
    "long pax name": (pax(path="d/" * 3000 + "b.txt") + member("b.txt", b"x"), LONG_NAME),
    "long pax": (extra(record("comment", "c" * 2**20), tarfile.XHDTYPE) + member("b.txt", b"x"), LONG_NAME),
}


@pytest.mark.parametrize("how", LIES)
@pytest.mark.parametrize("way", ["local", "compressed", "command"])
def test_a_lie_costs_its_own_sample(tmp_path: Path, how: str, way: str) -> None:
    lie, fault = LIES[how]
    path = tmp_path / ("x.tgz" if way == "compressed" else "x.tar")
    path.write_bytes(gzip.compress(FIRST + lie + LAST) if way == "compressed" else FIRST + lie + LAST)
    shard = f"pipe:cat {path}" if way == "command" else str(path)
    entries = list(read_tar(shard))
    assert [(e.key[:1], e.fault, e.fields) for e in entries] == [
        ("a", "", {"txt": b"first"}),
        (entries[1].key[:1], fault, {}),
        ("z", "", {"txt": b"last"}),
    ]
    source = Source(shards=shard)
    assert [s["text"] for s in source.samples({"text"})] == ["first", "last"]
    assert dict(source.damaged) == {(fault, shard): 1}
    assert source.count == (3 if way == "local" else None)
    if way == "local":
        assert [place.fault for place in scan_tar(path)] == ["", fault, ""]


BEYOND = {
    "beyond the end": header("b.txt", 9000),
    "of 8 EB": header("b.txt", 2**63 - 1, base256=True),
    "of more than 8 EB": header("b.txt", 2**80, base256=True),
    "of 8 EB by pax": pax(size=str(2**63)) + header("b.txt"),
    "negative": header("b.txt", -BLOCK, base256=True),
    "negative by pax": pax(size="-1024") + header("b.txt"),
    "no number": pax(size="1e3") + header("b.txt"),
    "a name beyond the end": extra(b"", LONGNAME, claim=2**30),
    "pax beyond the end": extra(b"", tarfile.XHDTYPE, claim=5000),
    "maps without end": MAPPED,
}


@pytest.mark.parametrize("how", BEYOND)
@pytest.mark.parametrize("way", ["local", "compressed"])
def test_a_size_that_leads_nowhere_ends_the_shard(tmp_path: Path, how: str, way: str) -> None:
    path = tmp_path / ("x.tgz" if way == "compressed" else "x.tar")
    data = FIRST + member("aa.txt", b"second") + BEYOND[how]
    path.write_bytes(gzip.compress(data) if way == "compressed" else data)
    entries = list(read_tar(str(path)))
    assert entries[0].fields == {"txt": b"first"}
    assert (entries[-1].key, entries[-1].fault) == ("", ENDS_EARLY)
    assert len(entries) <= 3
    if way == "local":
        with pytest.raises(DamagedError, match=ENDS_EARLY):
            list(scan_tar(path))


def test_chained_headers_take_no_stack() -> None:
    """Each header before a file makes tarfile call itself once more."""
    chain = b"".join(extra(b"n%05d.txt\0" % n, LONGNAME) for n in range(5000))
    assert [m.name for m in members(chain + member("x", b"1") + END)] == ["n04999.txt"]


def test_names_and_sizes_are_those_of_tarfile(tmp_path: Path) -> None:
    names = ["a.txt", "d/b.txt", "ü.txt", "n" * 200 + ".txt", "d/" * 90 + "c.txt", "e" * 90 + "/" + "f" * 90 + ".txt"]
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = tmp_path / f"{form}.tar"
        with tarfile.open(path, "w", format=form) as tar:
            for place, name in enumerate(names[: 3 if form == tarfile.USTAR_FORMAT else None]):
                info = tarfile.TarInfo(name)
                info.size = place
                tar.addfile(info, io.BytesIO(bytes(place)))
                for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
                    odd = tarfile.TarInfo("odd")
                    odd.type, odd.linkname = kind, "/etc/passwd"
                    tar.addfile(odd)
        with tarfile.open(path) as tar:
            theirs = [(m.name, m.offset_data, m.size) for m in tar if m.isreg()]
        assert [(m.name, m.offset, m.size) for m in members(path.read_bytes())] == theirs
        whole = Tar(unpacked(path.open("rb")))
        assert len(list(whole)) == len(theirs)
        assert whole.whole
        whole.file.close()


def test_a_sample_of_many_files_is_bounded(tmp_path: Path) -> None:
    large = b"".join(member(f"b.{n}.txt", bytes(9000)) for n in range(5))  # 45,000 bytes
    many = b"".join(member(f"c.{n}.txt", b"") for n in range(80))  # 40,960 bytes of headers
    few = b"".join(member(f"d.{n}.txt", bytes(9000)) for n in range(4))
    path = tmp_path / "x.tar"
    path.write_bytes(FIRST + large + many + few + LAST)
    assert [(e.key, e.fault, len(e.fields)) for e in read_tar(str(path))] == [
        *[("a", "", 1), ("b", LARGE_SAMPLE, 0), ("c", LARGE_SAMPLE, 0), ("d", "", 4), ("z", "", 1)]
    ]


def test_what_is_too_large_is_not_held(tmp_path: Path) -> None:
    path = tmp_path / "x.tgz"
    path.write_bytes(gzip.compress(FIRST + header("b.txt", 2**25) + bytes(2**25) + LAST))
    os.environ["MMSSL_LIMITS"] += f",shard_bytes={2**26}"  # the fixture's own, put back after the test
    list(read_tar(str(path)))
    tracemalloc.start()
    try:
        assert [e.fault for e in read_tar(str(path))] == ["", LARGE, ""]
        assert tracemalloc.get_traced_memory()[1] < 2**23, "a few blocks of 1 MiB of 32"
    finally:
        tracemalloc.stop()


def test_names_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(b"".join(member(f"{n}.txt", b"") for n in range(1000)) + END)
    entries = list(read_tar(str(path)))
    assert 300 < len(entries) < 600, "a name takes some 200 bytes of 100,000"
    assert entries[-1].fault == NAMES
    with pytest.raises(DamagedError, match=NAMES):
        list(scan_tar(path))


def test_zeros_behind_the_end_are_read_to_a_limit(tmp_path: Path) -> None:
    """A file of one hole: 8 EB of zeros that take no room on a disk."""
    path = tmp_path / "x.tar"
    path.write_bytes(LAST)
    os.truncate(path, 2**22)
    assert [e.fault for e in read_tar(str(path))] == [""]
    os.truncate(path, 2**42)
    assert [e.fault for e in read_tar(str(path))] == ["", ENDS_EARLY]


def test_two_sets_in_one_tar_and_a_fault(tmp_path: Path) -> None:
    """What a fault cost counts as a field that the sample had."""
    one = member("a.txt", b"1") + member("b.txt", bytes(LIMIT + 1)) + member("b.cls", b"0")
    path = tmp_path / "x.tar"
    path.write_bytes(one + one + END)
    assert [(e.key, e.fault) for e in read_tar(str(path))] == [("a", ""), ("b", LARGE)] * 2


def test_a_shard_that_unpacks_without_end(tmp_path: Path) -> None:
    path = tmp_path / "x.tgz"
    many = b"".join(member(f"{n}.txt", bytes(9000)) for n in range(500))
    path.write_bytes(gzip.compress(many + END))
    assert path.stat().st_size < 50_000
    source = Source(shards=str(path))
    found = list(source.samples({"text"}))
    assert not found, "bytes of zero are no text"
    ((reason, _), count), *_ = [item for item in source.damaged.items() if item[0][0] == UNPACKS]
    assert (reason, count) == (UNPACKS, 1)
    assert 300 < source.damaged.total() < 450


def test_first_field_of_a_set_may_be_too_large(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(member("a.txt", bytes(LIMIT + 1)) + LAST)
    assert [s["text"] for s in Source(shards=str(tmp_path)).samples({"text"})] == ["last"]


def test_verify_names_what_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(FIRST + LIES["too large"][0] + LAST)
    assert verify(tmp_path) == [f"x.tar: 1 {LARGE}; such as b"]


NAMES_OF_FILES = [
    *(
        "a.txt",
        "a",
        "a.",
        ".txt",
        "d/a.txt",
        "d.v1/a.txt",
        "d.v1/a",
        "./a.tar.gz",
        "../a.b",
        "/a.b",
        "d//a.b.C",
        "a b.c",
    ),
    *("d/.a", "", "/", "d/", "d/a.", "ü.ñ", "a..b", "d/..b", "pipe:x;.y", "C:\\a.b", "__a__/b.c", "a.b/c.d/e.f.g"),
]


@pytest.mark.parametrize("name", NAMES_OF_FILES)
def test_names_are_parted_as_webdataset_parts_them(name: str) -> None:
    base, extension = base_plus_ext(name)
    hidden_anyway = name.rpartition("/")[2].startswith(".")
    theirs = ("", "") if base is None or hidden_anyway else (base, extension.lower())
    assert base_and_field(name) == theirs


def test_long_names_are_parted_at_once() -> None:
    """webdataset's expression takes 10^12 steps for this."""
    assert base_and_field("a/" * 500_000 + "b") == ("", "")
