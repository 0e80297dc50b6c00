"""A user's files as samples where they lie."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from own_files import png, write_table

from mmssl.data.shards import Source
from mmssl.data.user_source import UserFiles, open_data
from mmssl.errors import DamagedError, UserError
from mmssl.modalities.audio import Audio
from mmssl.modalities.video import Video


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in" / "red").mkdir(parents=True)
    (tmp_path / "in" / "red" / "a.png").write_bytes(png(9))
    (tmp_path / "in" / "red" / "a.txt").write_text("a red thing")
    (tmp_path / "in" / "film.mp4").write_bytes(b"opened only inside calls")
    (tmp_path / "in" / "x.heic").write_bytes(b"x")
    return tmp_path / "in"


def test_a_folder(folder: Path) -> None:
    source = open_data(folder)
    assert isinstance(source, UserFiles) and source.count == 2 and source.passed_over == {".heic": 1}
    entries = list(source.share(0, 1))
    assert [entry.key for entry in entries] == ["film.mp4", "red/a.png"]
    assert [entry.key for entry in source.share(1, 2)] == ["red/a.png"]
    sample = source.open(entries[1], {"image", "text"})
    assert sample["image"].getpixel((0, 0)) == (9, 9, 9) and sample["text"] == "a red thing"
    assert sample["__number__"] == 1 and sample["__key__"] == "red/a.png"
    with pytest.raises(DamagedError, match="a sample without image"):
        source.open(entries[0], {"image"})
    with pytest.raises(UserError, match="has nothing for 'points'; it holds image, label, meta, text, video"):
        source.check({"image", "points"})
    assert (source.filled("image"), source.filled("label"), source.filled("audio")) == (1, 1, 1)
    source.pass_over_others("image")
    assert source.count == 1 and source.passed_over == {".heic": 1, ".mp4": 1}


def test_films_are_opened_where_they_lie(folder: Path) -> None:
    source = open_data(folder)
    film = next(source.share(0, 1))
    sample = source.open(film, {"video"})
    assert isinstance(sample["video"], Video) and sample["video"].data == (folder / "film.mp4").resolve()
    (folder / "film.mp4").rename(folder / "sound.wav")
    sound = open_data(folder / "sound.wav")
    assert isinstance(sound.open(next(sound.share(0, 1)), {"audio"})["audio"], Audio)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are Unix's")
def test_a_pipe_in_place_of_a_film_is_not_waited_for(folder: Path) -> None:
    source = open_data(folder)
    (folder / "film.mp4").unlink()
    os.mkfifo(folder / "film.mp4")
    with pytest.raises(DamagedError, match="a file that cannot be read"):
        source.open(next(source.share(0, 1)), {"video"})


def test_tables_and_shards(folder: Path, tmp_path: Path, color_shards: Path) -> None:
    rows = [{"pic": "in/red/a.png", "caption": "one"}, {"pic": "", "caption": "two"}, {"pic": "", "caption": ""}]
    table = open_data(write_table(tmp_path / "t.csv", rows), columns={"image": "pic"})
    entries = list(table.share(0, 1))
    assert [entry.key for entry in entries] == ["in/red/a.png", "line 3", "line 4"]
    assert table.open(entries[1], {"text"})["text"] == "two"
    with pytest.raises(DamagedError, match="neither a file nor a caption"):
        table.open(entries[2], {"text"})
    assert type(open_data(str(color_shards))) is Source
    with pytest.raises(UserError, match="columns are those of a table"):
        open_data(folder, columns={"image": "pic"})
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.heic").write_bytes(b"")
    with pytest.raises(UserError, match=r"holds no files that can be read; passed over \.heic: 1"):
        open_data(tmp_path / "empty")
