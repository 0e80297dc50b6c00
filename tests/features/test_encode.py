"""Encoding people's folders, tables and shards: every sample once, by name, however the work was interrupted."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mmssl import cli
from mmssl.checkpoint import load_encoder, save_encoder
from mmssl.errors import UserError
from mmssl.features import unfinished
from mmssl.features.encode import encode_data
from mmssl.features.files import beside, read_features
from mmssl.loading import open_encoders
from mmssl.modalities import video
from mmssl.types import Encoder

NAMES = ["a/0.png", "a/2.png", "a/4.png", "a/6.png", "b/1.png", "b/3.png", "b/5.png"]


def run(model: Path | str, data: Path | str, out: Path, **options: Any) -> Any:
    return encode_data(str(model), str(data), out, **{"progress": False, "workers": 0, "batch_size": 2, **options})


@pytest.mark.parametrize("kind", ["npy", "csv", "parquet", "safetensors"])
def test_a_folder_in_every_format(kind: str, model: Path, photos: Path, tmp_path: Path) -> None:
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    found = run(model, photos, tmp_path / f"f.{kind}", space="clip", workers=2 if kind == "npy" else 0)
    assert (found.rows, found.dim, found.skipped) == (7, 4, {"damaged image": 1})
    assert found.notes == ["passed over, as no data: .heic: 1, .txt: 1"]
    table = read_features(found.path)
    alone = [load_encoder(model).encode(photos / name, space="clip")[0] for name in NAMES]
    assert table.names == NAMES and table.spans is None and table.about["space"] == "clip"
    torch.testing.assert_close(torch.tensor(table.features), torch.stack(alone), atol=1e-6, rtol=1e-5)
    skipped = list(csv.reader(beside(found.path, "skipped.csv").read_text().splitlines()))
    assert skipped[0] == ["name", "reason", "detail"] and skipped[1][:2] == ["a/cut.png", "damaged image"]
    assert not beside(found.path, "part").exists()


def test_formats_are_read_by_other_libraries(model: Path, photos: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    ours = read_features(run(model, photos, tmp_path / "f.npy").path).features
    theirs = load_file(run(model, photos, tmp_path / "f.safetensors").path)["features"]
    assert (theirs.numpy() == ours).all() and theirs.dtype == torch.float32
    lines = list(csv.reader(run(model, photos, tmp_path / "f.csv").path.read_text().splitlines()))
    assert lines[0][:2] == ["name", "f0"]
    assert (np.array([line[1:] for line in lines[1:]], np.float32) == ours).all()
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(run(model, photos, tmp_path / "f.parquet").path)
    assert table["name"].to_pylist() == NAMES
    assert (np.array(table["features"].to_pylist(), np.float32) == ours).all()


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many rows each pass through an encoder had; a negative number in front lets that many pass, then fails."""
    sizes: list[int] = []
    embed = Encoder.embed

    def counted(self: Encoder, x: Any, *, space: str | None = None) -> torch.Tensor:
        if sizes and sizes[0] == 0:
            raise KeyboardInterrupt
        if sizes and sizes[0] < 0:
            sizes[0] += 1
        sizes.append(len(x))
        return embed(self, x, space=space)

    monkeypatch.setattr(Encoder, "embed", counted)
    yield sizes


@pytest.mark.parametrize("lost", [0, 5])
def test_an_interrupted_encode_goes_on_where_it_stopped(
    lost: int, model: Path, photos: Path, tmp_path: Path, encoded: list[int]
) -> None:
    """Also where the process died in the middle of writing the last features and the line that tells of them."""
    whole = read_features(run(model, photos, tmp_path / "whole.npy").path).features
    encoded[:] = [-2]
    with pytest.raises(KeyboardInterrupt):
        run(model, photos, tmp_path / "f.npy")
    part = tmp_path / "f.npy.part"
    assert not (tmp_path / "f.npy").exists() and part.is_dir()
    if lost:
        with (part / "features.f32").open("ab") as file:
            file.write(b"12345")
        with (part / "journal.jsonl").open("ab") as file:
            file.write(b'{"done": 6, "di')
    encoded.clear()
    found = run(model, photos, tmp_path / "f.npy", batch_size=3)
    assert sum(encoded) == 3  # of 7, four were done, and the damaged one among them
    table = read_features(found.path)
    assert table.names == NAMES and found.skipped == {"damaged image": 1}
    np.testing.assert_allclose(table.features, whole, rtol=1e-5, atol=1e-6)
    encoded.clear()
    assert "was there already" in run(model, photos, tmp_path / "f.npy").notes[0] and not encoded


def test_features_that_the_disk_lost_are_made_again(
    model: Path, photos: Path, tmp_path: Path, encoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unfinished, "COMMIT", 0.0)
    encoded[:] = [-2]
    with pytest.raises(KeyboardInterrupt):
        run(model, photos, tmp_path / "f.npy")
    features = tmp_path / "f.npy.part" / "features.f32"
    features.write_bytes(features.read_bytes()[:-1])
    encoded.clear()
    run(model, photos, tmp_path / "f.npy")
    assert sum(encoded) == 5


def test_another_model_or_other_data_is_refused(model: Path, photos: Path, tmp_path: Path, encoded: list[int]) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for number in range(4):
        Image.new("RGB", (16, 16), (number, 0, 0)).save(data / f"{number}.png")
    other = load_encoder(model)
    with torch.no_grad():
        next(other.parameters()).mul_(1.001)
    save_encoder(other, tmp_path / "other")
    encoded[:] = [-1]
    with pytest.raises(KeyboardInterrupt):
        run(model, data, tmp_path / "f.npy")
    encoded.clear()
    for changed in ({"model": tmp_path / "other"}, {"space": "clip"}):
        with pytest.raises(UserError, match="an interrupted encode by another model, or of other data"):
            run(**{"model": model, "data": data, "out": tmp_path / "f.npy", **changed})  # type: ignore[arg-type]
    assert run(model, data, tmp_path / "f.npy").rows == 4
    Image.new("RGB", (16, 16)).save(data / "9.png")
    with pytest.raises(UserError, match=r"f\.npy is there, by another model, or of other data"):
        run(model, data, tmp_path / "f.npy")


def test_shards_and_tables(model: Path, color_shards: Path, photos: Path, tmp_path: Path) -> None:
    found = run(model, color_shards, tmp_path / "s.npy", batch_size=16)
    table = read_features(found.path)
    assert found.rows == 64 and table.names[0] == "part-0000.tar/0000" and table.names[-1] == "part-0003.tar/3015"
    lines = ["picture,caption", "a/0.png,x", "b/1.png,y", "gone.png,z"]
    (photos / "table.csv").write_text("\n".join(lines))
    found = run(model, photos / "table.csv", tmp_path / "t.npy", columns={"image": "picture"})
    (photos / "table.csv").unlink()
    assert read_features(found.path).names == ["a/0.png", "b/1.png"]
    assert found.skipped == {"a file that cannot be read": 1}
    assert run(model, photos / "a" / "0.png", tmp_path / "one.npy").rows == 1


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film of 10.5 s at 4 images/s, image t all of grey 6 t, with sound; one of 1 s; and one that is damaged."""
    folder = tmp_path_factory.mktemp("films")
    for name, count in (("long", 42), ("short", 4)):
        frames = np.stack([np.full((32, 32, 3), 6 * t, np.uint8) for t in range(count)])
        times = np.arange(count * 2000) / 8000
        sound = (0.02 * np.floor(times) * np.sin(2 * np.pi * 440 * times)).astype(np.float32)
        data = video.encode(frames, fps=4, audio=sound, sample_rate=8000)
        (folder / f"{name}.mp4").write_bytes(data)
    (folder / "bad.mp4").write_bytes(b"no film at all")
    return folder


def test_films_by_windows(films: Path, tmp_path: Path) -> None:
    found = run("raw:video", films, tmp_path / "f.npy", window=2, stride=1, workers=2)
    table = read_features(found.path)
    assert found.skipped == {"not a media file that FFmpeg reads": 1} and table.spans is not None
    expected = [("long.mp4", float(s), s + 2.0) for s in range(9)] + [("short.mp4", 0.0, 1.0)]
    assert [(n, *s) for n, s in zip(table.names, table.spans.tolist(), strict=True)] == expected
    grey = [6 * (4 * s + 3.5) for s in range(9)] + [6 * 1.5]  # the mean of the images of each window
    np.testing.assert_allclose(255 * table.features[:, :768].mean(axis=1), grey, atol=2)


def test_an_image_encoder_sees_the_middle_of_each_window(films: Path, tmp_path: Path) -> None:
    found = run("raw:image", films, tmp_path / "f.csv", window=3)
    table = read_features(found.path)
    assert table.spans is not None
    expected = [[0, 3], [3, 6], [6, 9], [0, 1]]  # 1.5 s are left, no more than half a stride
    np.testing.assert_allclose(table.spans, expected, atol=1e-9)
    grey = [6 * int(4 * (start + end) / 2) for start, end in expected]
    np.testing.assert_allclose(255 * table.features.mean(axis=1), grey, atol=2)
    whole = read_features(run("raw:image", films, tmp_path / "whole.csv").path)
    assert whole.names == ["long.mp4", "short.mp4"]
    np.testing.assert_allclose(255 * whole.features.mean(axis=1), [6 * 21, 6 * 2], atol=2)


def test_sounds_by_windows_go_on_where_they_stopped(films: Path, tmp_path: Path, encoded: list[int]) -> None:
    whole = run("raw:audio", films, tmp_path / "whole.npy", window=2, stride=0.5)
    assert whole.notes == ["the encoder reads 1 s about the middle of each window of 2 s"]
    encoded[:] = [-1]
    with pytest.raises(KeyboardInterrupt):
        run("raw:audio", films, tmp_path / "f.npy", window=2, stride=0.5, batch_size=8)
    encoded.clear()
    found = run("raw:audio", films, tmp_path / "f.npy", window=2, stride=0.5, batch_size=8)
    assert encoded == [8, 2, 1] and found.rows == 19  # of the 18 windows of the long one 8 were done
    ours, theirs = read_features(found.path), read_features(whole.path)
    assert ours.names == theirs.names and (ours.spans == theirs.spans).all()
    assert (ours.features == theirs.features).all()
    louder = ours.features[:18, :64].mean(axis=1)  # each second of the film is louder than the one before
    assert (np.diff(louder) > -1e-3).all() and louder[-1] > louder[4] + 0.5


def test_which_encoder_of_a_run(both: Path, photos: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.jsonl"
    rows = [{"image": str(photos / name), "caption": f"photo {name}"} for name in NAMES[:2]]
    table.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"caption": "no file"}]))
    with pytest.raises(UserError, match=r"several encoders can read it \(image, text\); say which by --encoder"):
        run(both, table, tmp_path / "f.npy")
    found = run(both, table, tmp_path / "f.npy", encoder="text", space="clip")
    read = read_features(found.path)
    assert read.about["encoder"] == "text" and read.names[2] == "line 3" and found.rows == 3
    alone = open_encoders(str(both), {})["text"].encode(["no file"], space="clip")
    torch.testing.assert_close(torch.tensor(read.features[2:]), alone, atol=1e-6, rtol=1e-5)
    with pytest.raises(UserError, match="no encoder 'txt'; did you mean 'text'"):
        run(both, table, tmp_path / "g.npy", encoder="txt")
    with pytest.raises(UserError, match="has no space 'clap'"):
        run(both, table, tmp_path / "g.npy", encoder="text", space="clap")
    with pytest.raises(UserError, match="text has no time to cut windows from"):
        run(both, table, tmp_path / "g.npy", encoder="text", window=1)


def test_nothing_that_can_be_encoded(model: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_bytes(b"x")
    with pytest.raises(UserError, match=r"none of the samples can be encoded: .* \(such as x\.png"):
        run(model, tmp_path / "bad", tmp_path / "f.npy")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["bad"]
    with pytest.raises(UserError, match="has nothing for 'image'; it holds meta, text"):
        (tmp_path / "words").mkdir()
        (tmp_path / "words" / "a.txt").write_text("a")
        run(model, tmp_path / "words", tmp_path / "f.npy")
    with pytest.raises(UserError, match=r"end it in \.npy, \.csv"):
        run(model, photos, tmp_path / "f.pkl")


def test_the_command(both: Path, photos: Path, films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "f.npy")
    arguments = ["encode", str(both), str(photos), "--out", out, "--space", "clip", "--workers", "0", "--quiet"]
    assert cli.main([*arguments, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"path": out, "rows": 7, "dim": 4, "skipped": {"damaged image": 1}}
    assert cli.main(arguments) == 0
    said = capsys.readouterr()
    assert "7 rows of 4 numbers; skipped 1, damaged image: 1" in said.out and "was there already" in said.err
    assert cli.main([*arguments, "modle.x=1"]) == 2 and "did you mean 'model'" in capsys.readouterr().err
    named = ["encode", "raw:video", str(films), "--out", str(tmp_path / "t.npy"), "--workers", "0", "--quiet"]
    assert cli.main([*named, "--window", "2", "--stride", "4", "model.size=8"]) == 0
    assert read_features(tmp_path / "t.npy").features.shape == (4, 1536)


def test_a_stranger_s_model_needs_trust(model: Path, photos: Path, tmp_path: Path) -> None:
    save_encoder(load_encoder(model), tmp_path / "evil")
    config = json.loads((tmp_path / "evil" / "config.json").read_text())
    config["encoder"]["name"] = "some.code:encoder"
    (tmp_path / "evil" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="code outside mmssl"):
        run(tmp_path / "evil", photos, tmp_path / "f.npy")
