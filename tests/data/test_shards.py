"""Sources: any webdataset is found, counted, split and opened; what is wrong is said in one line."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from numbered import number_set, write_tar
from PIL import Image

from mmssl.data.shards import Source
from mmssl.data.tar import Entry
from mmssl.errors import UserError


def jpeg(value: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(stream, "JPEG")
    return stream.getvalue()


def texts(source: Source, **options: int) -> list[str]:
    return [sample["text"] for sample in source.samples({"text"}, **options)]


@pytest.fixture
def laion(tmp_path: Path) -> Path:
    """What img2dataset writes: jpg, txt, json; its own stats beside each shard; no index."""
    for shard in range(2):
        names = [f"{shard:05d}{i:04d}" for i in range(3)]
        samples = [
            {"__key__": n, "jpg": jpeg(40), "txt": f"photo {n}".encode(), "json": json.dumps({"caption": n}).encode()}
            for n in names
        ]
        write_tar(tmp_path / f"{shard:05d}.tar", samples)
        (tmp_path / f"{shard:05d}_stats.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize("pattern", ["", "/*.tar", "/{000..002}.tar", "/00[0-2].tar"])
def test_patterns(tmp_path: Path, pattern: str) -> None:
    source = Source(shards=number_set(tmp_path / "a", [2, 3, 1]) + pattern)
    assert texts(source) == [str(n) for n in range(6)]
    assert source.count == 6
    assert source.counts == [2, 3, 1]


def test_command_and_list(tmp_path: Path) -> None:
    first = number_set(tmp_path / "a", [3]) + "/000.tar"
    source = Source(shards=[f"pipe:cat {first}", first, f"file:{first}"])
    assert texts(source) == ["0", "1", "2"] * 3
    assert source.count is None


def test_laion_as_it_is(laion: Path) -> None:
    source = Source(shards=str(laion))
    samples = list(source.samples({"image", "text", "meta"}))
    assert source.count == len(samples) == 6
    assert samples[4]["text"] == "photo 000010001"
    assert samples[4]["meta"] == {"caption": "000010001"}
    assert samples[4]["image"].size == (8, 8)
    assert samples[4]["__key__"] == "000010001"
    assert Path(samples[4]["__shard__"]).name == "00001.tar"


def test_renamed_fields(laion: Path) -> None:
    source = Source(shards=str(laion), fields={"text": "json.caption"})
    assert next(source.samples({"text"}))["text"] == "000000000"


def test_only_wanted_fields_are_decoded(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "a.tar", [{"__key__": "1", "jpg": b"not an image", "txt": b"hello"}])
    source = Source(shards=str(shard))
    assert texts(source) == ["hello"]
    assert list(source.samples({"image"})) == []
    assert list(source.damaged.values()) == [1]


def test_roles_and_labels(tmp_path: Path) -> None:
    arrays = io.BytesIO()
    np.savez(arrays, masks=np.ones((2, 2)))
    sample = {"__key__": "a/1", "mask.png": jpeg(9), "flow.npz": arrays.getvalue(), "cls": b"7", "b.txt": b"second"}
    source = Source(shards=str(write_tar(tmp_path / "a.tar", [sample])))
    found = next(source.samples({"mask", "flow", "label", "b"}))
    assert found["mask"].size == (8, 8)
    assert found["flow"]["masks"].sum() == 4
    assert (found["label"], found["b"], found["__key__"]) == (7, "second", "a/1")


@pytest.mark.parametrize("world", [1, 2, 5])
def test_ranks_share_every_sample(tmp_path: Path, world: int) -> None:
    shards = number_set(tmp_path / "a", [4, 3, 4])
    parts = [texts(Source(shards=shards), rank=rank, world=world) for rank in range(world)]
    assert parts == [[str(n) for n in range(rank, 11, world)] for rank in range(world)]


def test_counts_come_from_the_index(tmp_path: Path) -> None:
    shards = number_set(tmp_path / "a", [2, 2])
    entries = [{"name": f"{i:03d}.tar", "samples": 10 + i} for i in range(2)]
    (tmp_path / "a/index.json").write_text(json.dumps({"format": "mmssl-shards-1", "shards": entries}))
    assert Source(shards=shards).counts == [10, 11]


@pytest.mark.parametrize("damage", ["cut", "between", "garbled", "nothing", "noise"])
def test_broken_tar_is_counted_and_the_rest_read(tmp_path: Path, damage: str) -> None:
    source = Source(shards=number_set(tmp_path / "a", [40, 40, 40]))
    path = tmp_path / "a/001.tar"
    data = bytearray(path.read_bytes())
    data[20 * 1024 : 20 * 1024 + 200] = b"?" * 200
    kinds = {"cut": data[: 20 * 1024 - 700], "between": data[: 20 * 1024], "garbled": data}
    path.write_bytes({**kinds, "nothing": b"", "noise": b"?" * 9000}[damage])
    found = texts(source)
    assert found[-40:] == [str(n) for n in range(80, 120)]
    assert len(found) == {"cut": 99, "between": 100, "garbled": 100}.get(damage, 80)
    lost = [(Path(shard).name, count) for (_, shard), count in source.damaged.items()]
    assert lost == [("001.tar", 120 - len(found))], "as many as the others hold are missed, each of them"
    assert Source(shards=str(tmp_path / "a")).count == 120


@pytest.mark.parametrize(("damage", "left"), [("cut", 2), ("nothing", 0), ("gone", 0), ("swapped", 3)])
def test_samples_that_an_index_promises_are_missed_each(tmp_path: Path, damage: str, left: int) -> None:
    folder, names = Path(number_set(tmp_path / "a", [40, 40, 20])), ["000.tar", "001.tar", "002.tar"]
    sizes = [(folder / name).stat().st_size for name in names]
    entries = [{"name": n, "samples": c, "bytes": b} for n, c, b in zip(names, [40, 40, 20], sizes, strict=True)]
    (folder / "index.json").write_text(json.dumps({"format": "mmssl-shards-1", "shards": entries}))
    source = Source(shards=str(folder))
    other = Path(number_set(tmp_path / "b", [3])) / "000.tar"
    path = folder / "002.tar"
    path.write_bytes({"cut": path.read_bytes()[:3000], "swapped": other.read_bytes()}.get(damage, b""))
    if damage == "gone":
        path.unlink()
    assert len(texts(source)) == 80 + left
    assert list(source.damaged.values()) == [20 - left]
    assert source.count == 100
    source.check_whole(0.2)
    with pytest.raises(UserError, match=rf"1 of 3 shards .* with them {20 - left} of 100 samples.*002.tar"):
        source.check_whole(0.16)


def test_failing_command_is_counted(tmp_path: Path) -> None:
    good = number_set(tmp_path / "a", [3]) + "/000.tar"
    source = Source(shards=[good, f"pipe:cat {good}; exit 3", "pipe:false"])
    assert texts(source)[:3] == ["0", "1", "2"]
    assert sum(source.damaged.values()) == 2


def test_two_files_of_one_name(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for data in (b"1", b"2"):
            info = tarfile.TarInfo("x.txt")
            info.size = 1
            tar.addfile(info, io.BytesIO(data))
    source = Source(shards=str(tmp_path / "a.tar"))
    assert texts(source) == ["1"]
    assert [reason for reason, _ in source.damaged] == ["two files of a sample bear one name"]


def tar_of(path: Path, files: list[tuple[str, bytes]]) -> str:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return str(path)


PAIRS = [(f"{n}.jpg", jpeg(n)) for n in range(6)], [(f"{n}.txt", str(n).encode()) for n in range(6)]


@pytest.mark.parametrize("order", ["kinds apart", "one apart", "mixed"])
@pytest.mark.parametrize("way", ["local", "compressed", "command", "index"])
def test_samples_whose_files_stand_apart_are_named(tmp_path: Path, order: str, way: str) -> None:
    pictures, words = PAIRS
    together = [file for pair in zip(pictures, words, strict=True) for file in pair]
    orders = {
        "kinds apart": pictures + words,
        "one apart": [*together[1:], together[0]],
        "mixed": pictures + words[::-1],
    }
    path = tar_of(tmp_path / ("a.tar.gz" if way == "compressed" else "a.tar"), orders[order])
    if way == "index":
        index = {
            "format": "mmssl-shards-1",
            "shards": [{"name": "a.tar", "samples": {"one apart": 7, "mixed": 11}.get(order, 12)}],
        }
        (tmp_path / "index.json").write_text(json.dumps(index))
    source = Source(shards=f"pipe:cat {path}" if way == "command" else path)
    apart = "holds files of one sample that do not stand together in the tar; `mmssl shards build TAR OUT` joins them; "
    if way == "local":
        with pytest.raises(UserError, match=apart + r"such as [0-5], whose (jpg|txt) comes later$"):
            source.count  # noqa: B018
    elif order == "kinds apart":
        with pytest.raises(UserError, match=apart + "such as 0$"):
            source.samples({"image", "text"})
    else:
        found = [(s["__key__"], "image" in s, "text" in s) for s in source.samples({"image", "text"})]
        whole = {"one apart": ["1", "2", "3", "4", "5"], "mixed": ["5"]}[order]
        assert [key for key, *both in found if all(both)] == whole
        ((reason, _), count), *others = source.damaged.items()
        assert (count, others) == (6 - len(whole), [])
        assert apart.startswith(f"holds {reason}")


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_two_sets_in_one_tar_keep_their_samples(tmp_path: Path, name: str) -> None:
    together = [file for pair in zip(*PAIRS, strict=True) for file in pair]
    path = tar_of(tmp_path / name, together + together)
    found = list(Source(shards=path).samples({"image", "text"}))
    assert [(s["__key__"], s["text"]) for s in found] == [(str(n), str(n)) for n in range(6)] * 2
    assert Source(shards=path).count == (12 if name == "a.tar" else None)


HIDDEN = (
    *("./._0.jpg", "d/._0.jpg", ".DS_Store", "d/.DS_Store", "__MACOSX/d/0.jpg"),
    *("__MACOSX/._d", ".x/0.txt", "Thumbs.db", "d/desktop.ini"),
)


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_hidden_members_are_passed_over(tmp_path: Path, name: str) -> None:
    seen = ["./0.jpg", "./0.txt", "d/1.jpg", "d/1.txt", "v1.0/2.jpg", "v1.0/2.txt", "../3.jpg", "../3.txt"]
    files = [(n, jpeg(1) if n.endswith("jpg") else b"text") for n in seen]
    for place, odd in enumerate(HIDDEN):
        files.insert(2 * place + 1, (odd, b"hidden"))  # within samples
    source = Source(shards=tar_of(tmp_path / name, files))
    assert [s["__key__"] for s in source.samples({"image", "text"})] == ["./0", "d/1", "v1.0/2", "../3"]
    assert not source.damaged
    assert source.count == (4 if name == "a.tar" else None)


def test_errors_name_what_is_there(tmp_path: Path, laion: Path) -> None:
    with pytest.raises(UserError, match=r"no shard .*00007.tar; the nearest is .*0000[01].tar"):
        Source(shards=f"{laion}/{{00000..00007}}.tar".replace("00000..", "00007.."))
    with pytest.raises(UserError, match=r"no shard .*missing/x.tar; the nearest is|no shard .*missing/x.tar; .* has"):
        Source(shards=f"{laion}/missing/x.tar")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty holds no \*\.tar"):
        Source(shards=str(tmp_path / "empty"))
    with pytest.raises(UserError, match="there are no shards"):
        Source(shards=[])
    with pytest.raises(UserError, match="'azure'"):
        Source(shards="azure://a/b.tar")
    with pytest.raises(UserError, match=r"has 'audio'; its fields are jpg, json, txt \(keys: image, meta, text\)"):
        Source(shards=str(laion)).samples({"audio"})
    with pytest.raises(UserError, match=r"'json.title'|'jsn'"):
        Source(shards=str(laion), fields={"text": "jsn"}).samples({"text"})
    write_tar(tmp_path / "none.tar", [])
    with pytest.raises(UserError, match="holds no samples"):
        Source(shards=str(tmp_path / "none.tar")).samples({"text"})


def test_field_may_come_in_a_later_shard(tmp_path: Path) -> None:
    first = write_tar(tmp_path / "a.tar", [{"__key__": "1", "txt": b"hello"}])
    second = write_tar(tmp_path / "b.tar", [{"__key__": "2", "jpg": jpeg(1)}])
    found = list(Source(shards=[str(first), str(second)]).samples({"text", "image"}))
    assert [sorted(key for key in sample if not key.startswith("_")) for sample in found] == [["text"], ["image"]]


@pytest.mark.parametrize("number", [2**63 - 1, -(2**63), 2**63, -(2**63) - 1, 10**30, 10**4000])
def test_a_label_fits_int64(tmp_path: Path, number: int) -> None:
    fits = -(2**63) <= number < 2**63
    both = [{"__key__": "0", "cls": b" 7\n", "json": b'{"label": 7}'}]
    text = str(number).encode()
    both.append({"__key__": "1", "cls": text, "json": b'{"label": ' + text + b"}"})
    write_tar(tmp_path / "a.tar", both)
    for fields in ({}, {"label": "json.label"}):
        source = Source(shards=str(tmp_path), fields=fields)
        assert [sample["label"] for sample in source.samples({"label"})] == [7, *([number] if fits else [])]
        assert source.damaged.total() == (not fits)


def test_an_entry_keeps_what_is_wanted_of_it() -> None:
    source = Source(shards=["pipe:true"], fields={"label": "json.kind"})
    fields = {"jpg": b"a", "png": b"b", "txt": b"c", "json": b"{}", "wav": b"d"}
    entry = Entry("k", "s.tar", fields, number=7)
    assert source.keep(entry, {"text", "image"}) == Entry("k", "s.tar", {"jpg": b"a", "txt": b"c"}, number=7)
    assert source.keep(entry, {"label", "points"}).fields == {"json": b"{}"}
    assert entry.fields == fields


def test_an_empty_set_tells_the_first_fault(tmp_path: Path) -> None:
    for name, data in {"a.tar": b"?" * 900, "b.tar": b"", "c.tar": b"?" * 900}.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=r"a.tar holds no samples: the tar ends in the middle"):
        Source(shards=[f"pipe:cat {tmp_path}/{name}.tar" for name in "abc"]).samples({"text"})
    (tmp_path / "a.tar").write_bytes(b"")
    write_tar(tmp_path / "a.tar", [])
    with pytest.raises(UserError, match=r"a.tar holds no samples: the "):
        Source(shards=[f"pipe:cat {tmp_path}/{name}.tar" for name in "abc"]).samples({"text"})


@pytest.mark.parametrize("broken", [5, 6])
def test_the_first_five_broken_shards_are_named(tmp_path: Path, broken: int) -> None:
    source = Source(shards=number_set(tmp_path / "a", [2] * 9))
    for i in range(broken):
        (tmp_path / f"a/{i:03d}.tar").write_bytes(b"")
    names = ", ".join(f"{tmp_path}/a/{i:03d}.tar" for i in range(5)) + (", ..." if broken > 5 else "")
    with pytest.raises(UserError, match=f"{broken} of 9 shards .*: {names}$"):
        source.check_whole(0.1)
