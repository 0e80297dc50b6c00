"""tools/decode.py reports how every file of tars and folders ends, also those that hang or kill their process."""

from __future__ import annotations

import io
import sys
import tarfile
from pathlib import Path

import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import decode


def png(side: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (side, side)).save(stream, "PNG")
    return stream.getvalue()


def test_every_file_of_tars_and_folders_is_counted(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MMSSL_LIMITS", "picture_side=100")
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "folder" / "inner" / "good.png").write_bytes(png(50))
    (tmp_path / "folder" / "large.png").write_bytes(png(101))
    with tarfile.open(tmp_path / "some.tar", "w") as tar:
        for name, data in {"cut.png": png(50)[:60], "notes.xyz": b"hello"}.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    code = decode.main([str(tmp_path / "folder"), str(tmp_path / "some.tar"), "--workers", "1"])
    said = capsys.readouterr().out
    assert code == 0
    assert said.startswith("4 files, 13 attempts\n2 read, 11 damaged, of these 1 over a limit\n"), said
    assert "1 an image too large to decode\n" in said and "0 foreign\n" in said
    assert "large.png" not in said.partition("most:")[0], "reasons hold no names"


def test_files_that_hang_or_kill_the_process_are_listed():
    worker = decode.Worker.__new__(decode.Worker)
    worker.gigabytes, worker.seconds = 1.0, 0.0
    worker._start()
    assert worker("a", "png", png(8)).foreign == "took more than 0 s"  # it has not even started
    worker.seconds = 300
    worker.process.kill()
    assert worker("a", "png", png(8)).foreign == "the process died (-9)"
    assert worker("a", "png", b"").reason, "and the next one is there"
    worker.close()


def test_foreign_exceptions_are_told_apart(monkeypatch):
    def boom(field, data):
        yield "decoded whole"
        raise MemoryError("no")

    monkeypatch.setattr(decode, "steps", boom)
    end = decode.attempt("a", "png", b"")
    assert (end.step, end.foreign, end.reason) == ("decoded whole", "MemoryError: no", "")
    assert "1 foreign\n  a as png, decoded whole: MemoryError: no" in decode.report([end])


@pytest.mark.parametrize(("name", "expected"), [("a.JPG", ("jpg",)), ("b/c.json", ("json",)), ("d", decode.EVERY)])
def test_files_without_a_reader_go_to_every_one(name, expected):
    assert decode.fields(name) == expected
