"""A folder at an address reads its index.json: its shards, how many samples they hold, and their classes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest
from own_files import png
from webdataset.gopen import gopen_schemes

from mmssl.data.remote import remote_index
from mmssl.data.shards import Source
from mmssl.data.writer import build
from mmssl.errors import UserError
from mmssl.evals.parts.source import Examples, peek_classes

HOST = "http://host/some/"


def listing(*names: str) -> str:
    return json.dumps({"format": "mmssl-shards-1", "shards": [{"name": name, "samples": 1} for name in names]})


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Serves a set of nine images in two classes at HOST; returns which addresses were opened."""
    for number in range(9):
        file = tmp_path / "in" / ("cat" if number % 3 else "dog") / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(number))
    build(tmp_path / "in", tmp_path / "set", shard_samples=4, workers=1)
    opened: list[str] = []

    def fetch(url: str, mode: str = "rb", bufsize: int = 0, **rest: object) -> IO[bytes]:
        opened.append(url)
        path = tmp_path / "set" / url.removeprefix(HOST)
        if not path.is_file():
            raise OSError("curl: exit 22")
        return io.BytesIO(path.read_bytes())

    monkeypatch.setitem(gopen_schemes, "http", fetch)
    remote_index.cache_clear()
    return lambda: opened


def test_the_shards_and_counts_of_a_folder_are_those_of_its_index(served: Callable[[], list[str]]) -> None:
    source = Source(shards=HOST)
    assert source.shards == [f"{HOST}{n:05d}.tar" for n in range(3)]
    assert (source.counts, source.count, source.broken) == ([4, 4, 1], 9, {})
    assert served() == [f"{HOST}index.json"], "fetched once, and no shard for it"
    found = list(source.samples({"image", "meta"}))
    assert [s["__number__"] for s in found] == list(range(9))
    assert sorted(s["meta"]["file"] for s in found)[0] == "cat/1.png"


def test_its_classes_are_known_by_name(served: Callable[[], list[str]]) -> None:
    source = Examples(shards=[HOST])
    assert peek_classes(source, "label") == (["cat", "dog"], True)
    assert sorted(s["label"] for s in source.samples({"label"})) == ["cat"] * 6 + ["dog"] * 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "index.json cannot be fetched; a folder needs it"),
        ("<html>", "index.json is no index as"),
        ('{"format": "other"}', "index.json is no index as"),
        (
            '{"format": "mmssl-shards-1", "shards": [{"name": "../x.tar", "samples": 1}]}',
            r"shards.0.name is '../x.tar'",
        ),
        ('{"format": "mmssl-shards-1", "shards": [{"name": "a\'; rm b", "samples": 1}]}', "shards.0.name is"),
    ],
)
def test_what_is_no_index_is_refused(
    served: Callable[[], list[str]], tmp_path: Path, text: str | None, message: str
) -> None:
    index = tmp_path / "set/index.json"
    index.unlink() if text is None else index.write_text(text)
    with pytest.raises(UserError) as caught:
        Source(shards=HOST)
    assert message in str(caught.value)


def test_names_are_quoted_in_addresses(served: Callable[[], list[str]], tmp_path: Path) -> None:
    index = json.loads((tmp_path / "set/index.json").read_text())
    index["shards"] = [{**index["shards"][0], "name": "my set@1.tar"}]
    (tmp_path / "set/index.json").write_text(json.dumps(index))
    assert Source(shards=HOST).shards == [f"{HOST}my%20set%401.tar"]
