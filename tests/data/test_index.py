"""index.json is read in one place, and names nothing but files beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from numbered import number_set, write_tar

from mmssl.data.index import FORMAT, read_index
from mmssl.data.rows_of_shards import rows_of_shards
from mmssl.data.shards import Source
from mmssl.data.verify import show, verify
from mmssl.errors import UserError
from mmssl.evals.parts.source import Examples

SHARD = {"name": "00000.tar", "samples": 2, "bytes": 10_240, "fields": {"txt": 2}, "sha256": "0" * 64}


def written(folder: Path, **changed: Any) -> Path:
    whole = {"format": FORMAT, "samples": 2, "description": "two", "classes": ["a", "b"], "shards": [SHARD], **changed}
    (folder / "index.json").write_text(json.dumps(whole))
    return folder


def test_what_ours_holds_is_read(tmp_path: Path) -> None:
    assert read_index(tmp_path) is None
    assert read_index(written(tmp_path))["shards"] == [SHARD]  # type: ignore[index]
    short = {"name": "part.tar", "samples": 0}  # as others may write it
    assert read_index(written(tmp_path, shards=[short], more=[1]))["shards"] == [short]  # type: ignore[index]
    for other in ([], {}, {"format": "other", "shards": 3}, {"format": ["x"]}, "text", None):
        (tmp_path / "index.json").write_text(json.dumps(other))
        assert read_index(tmp_path) is None, "another tool's is none of ours"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"shards": None}, "shards is None; expected list"),
        ({"shards": {"00000.tar": SHARD}}, "shards is {'00000.tar'"),
        ({"shards": [3]}, "shards.0 is 3; expected a mapping with "),
        ({"shards": [SHARD, {"name": "x.tar"}]}, "shards.1.samples is missing; expected int of at least 0"),
        ({"shards": [{**SHARD, "samples": -1}]}, "shards.0.samples is -1; expected int of at least 0"),
        ({"shards": [{**SHARD, "samples": "2"}]}, "shards.0.samples is '2'; expected int of at least 0"),
        ({"shards": [{**SHARD, "bytes": 1.5}]}, "shards.0.bytes is 1.5; expected int of at least 0"),
        ({"shards": [{**SHARD, "fields": ["txt"]}]}, "shards.0.fields is ['txt']; expected dict"),
        ({"shards": [{**SHARD, "name": 3}]}, "shards.0.name is 3; expected str that names a file"),
        ({"shards": [SHARD, SHARD]}, "lists '00000.tar' 2 times"),
        ({"classes": "ab"}, "classes is 'ab'; expected list[str]"),
        ({"classes": ["a", 3]}, "classes is ['a', 3]; expected list[str]"),
        ({"description": ["x"]}, "description is ['x']; expected str"),
        ({"damaged": {"cut": "x"}}, "damaged is {'cut': 'x'}; expected dict"),
        ({"examples": {"cut": 3}}, "examples is {'cut': 3}; expected dict"),
        ({"passed_over": []}, "passed_over is []; expected dict"),
    ],
)
def test_what_is_no_index_is_one_line(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        read_index(written(tmp_path, **changed))
    said = str(caught.value)
    assert message in said and str(tmp_path / "index.json") in said and said.endswith("or build the set again")


def test_promises_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = [{**SHARD, "samples": 10**9}]
    with pytest.raises(
        UserError, match=r"promises 1,000,000,000 samples of one shard; .* --limits shard_samples=1000000"
    ):
        read_index(written(tmp_path, shards=many))
    monkeypatch.setenv("MMSSL_LIMITS", "shard_samples=1e9")
    assert read_index(tmp_path)["shards"] == many  # type: ignore[index]


READERS: dict[str, Callable[[], Any]] = {
    "source": lambda: Source(shards="."),
    "counts": lambda: Source(shards="*.tar").counts,
    "classes": lambda: Examples(shards="*.tar").classes,
    "verify": lambda: verify("."),
    "show": lambda: show("*.tar"),
    "rows": lambda: rows_of_shards("*.tar"),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    "name", ["../outside.tar", "/etc/hosts", "sub/x.tar", "*.tar", "{0..9}.tar", "~/x.tar", "pipe:touch marker", "-"]
)
def test_a_set_names_nothing_but_files_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: str, name: str
) -> None:
    monkeypatch.chdir(number_set(tmp_path / "set", [3]))
    write_tar(tmp_path / "outside.tar", [{"__key__": "0", "txt": b"secret"}])
    written(Path(), shards=[{**SHARD, "name": name}])
    with pytest.raises(UserError, match=r"shards\.0\.name is .*; expected str that names a file"):
        READERS[reader]()
    assert not Path("marker").exists()


def test_an_index_without_checksums_is_verified_as_far_as_it_goes(tmp_path: Path) -> None:
    folder = Path(number_set(tmp_path / "set", [3]))
    written(folder, shards=[{"name": "000.tar", "samples": 3}])
    assert verify(folder) == [] and "3 samples in 1 shards" in show(folder)
    written(folder, shards=[{"name": "000.tar", "samples": 4}])
    assert len(verify(folder)) == 1 and "the index says 4" in verify(folder)[0]


def test_what_shards_lack_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each missing sample is counted, so a small file that promises millions would take for ever."""
    folder = Path(number_set(tmp_path / "set", [3]))
    size = (folder / "000.tar").stat().st_size
    for promise in ({"samples": 2_000_000, "bytes": size}, {"samples": 2_000_000}, {"samples": 2_000_000, "bytes": 5}):
        written(folder, shards=[{"name": "000.tar", **promise}])
        with pytest.raises(UserError, match="1,999,997 samples of .* are not there; the limit is lost_samples=1"):
            list(Source(shards=str(folder)).samples({"text"}))
    most = size // 512
    written(folder, shards=[{"name": "000.tar", "samples": most + 1, "bytes": size}])
    assert Source(shards=str(folder)).broken == {str(folder / "000.tar"): most + 1 - 3}
    written(folder, shards=[{"name": "000.tar", "samples": most, "bytes": size}])
    assert Source(shards=str(folder)).broken == {}, "so many may be there"
