"""The zero-shot command on people's folders and class files: nothing leaves the accuracy in silence."""

from __future__ import annotations

import csv
import inspect
import io
import json
import os
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image
from torch import nn

from mmssl import classify, cli, modalities
from mmssl.errors import UserError
from mmssl.evals.parts.classifier import read_classes, read_templates
from mmssl.evals.parts.report import warn

COLORS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 220)}


class Oracle(nn.Module):
    """Knows the colour of a square, and its name in a prompt."""

    device = torch.device("cpu")

    def __init__(self, modality: str) -> None:
        super().__init__()
        self.modality, self.preprocess, self.spaces = modality, self, {"clip": None}

    def __call__(self, raw: Any) -> torch.Tensor:
        from mmssl.modalities import image

        return torch.tensor(np.asarray(image.pixels(image.load(raw)), dtype=np.float32)).mean((0, 1))

    def collate(self, items: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack(items)

    def embed(self, x: torch.Tensor, space: str | None = None) -> torch.Tensor:
        table = torch.tensor(list(COLORS.values())).float()
        return nn.functional.one_hot(torch.cdist(x, table).argmin(1), 3).float()

    def encode(self, texts: list[str], space: str | None = None) -> torch.Tensor:
        return torch.tensor([[float(name in text) for name in COLORS] for text in texts])


@pytest.fixture(autouse=True)
def oracles(monkeypatch: pytest.MonkeyPatch) -> None:
    encoders = {"image": Oracle("image"), "text": Oracle("text")}
    monkeypatch.setattr(classify, "load_encoders", lambda run, **_: encoders)


def square(color: str, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), COLORS[color]).save(stream, kind)
    return stream.getvalue()


def pictures(root: Path, **colors: str) -> Path:
    """Writes two images into each folder, in a colour."""
    for name, color in colors.items():
        (root / name).mkdir(parents=True)
        for number in range(2):
            (root / name / f"{number}.png").write_bytes(square(color))
    return root


def run(images: Path | str, classes: list[str]) -> classify.Predictions:
    return classify.zero_shot("run", str(images), classes, ["{}"], progress=False)


def test_folders_that_are_no_class_count_as_wrong_and_are_named(tmp_path: Path) -> None:
    found = run(pictures(tmp_path, red="red", blue="blue", misc="green", more="red"), ["blue", "green", "red"])
    top1 = found.scores["top1"]
    assert (top1.value, top1.n, top1.chance) == (0.5, 8, pytest.approx(4 / 8 / 3))
    (note,) = found.notes
    assert "4 of 8 samples" in note and "the list of classes lacks their classes (misc: 2, more: 2)" in note
    assert len(found.rows) == 8


def test_where_no_folder_is_a_class_there_is_no_accuracy_and_a_note(tmp_path: Path) -> None:
    found = run(pictures(tmp_path, y2021="red", y2022="blue"), ["red", "blue"])
    assert not found.scores and len(found.rows) == 4
    assert found.notes[0].startswith("accuracy is not scored: ") and "y2021, y2022 against blue, red" in found.notes[0]
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "a.png").write_bytes(square("red"))
    flat = run(tmp_path / "flat", ["red", "blue"])
    assert not flat.scores and not flat.notes


def test_the_folder_that_a_picture_lies_in_is_its_class(tmp_path: Path) -> None:
    pictures(tmp_path / "blue" / "2021", red="red", green="green")
    found = run(tmp_path, ["red", "green", "blue"])
    assert found.scores["top1"].value == 1.0 and found.rows[0][0] == "blue/2021/green/0.png"


def test_names_of_a_mac_are_the_same_text(tmp_path: Path) -> None:
    apart = pictures(tmp_path, blue="blue", other="red")
    (apart / "other").rename(apart / "cafe\u0301")
    found = run(apart, ["blue", "caf\u00e9"])
    assert found.scores["top1"].n == 4 and not found.notes


def test_what_is_passed_over_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures(tmp_path / "in", red="red", blue="blue", __MACOSX="green")
    pictures(tmp_path / "in" / ".ipynb_checkpoints", red="green")
    (tmp_path / "in" / "red" / "._0.png").write_bytes(b"a Mac's")
    (tmp_path / "in" / "red" / "notes.txt").write_text("x")
    (tmp_path / "in" / "red" / "raw.heic").write_bytes(b"x")
    (tmp_path / "in" / "blue" / "raw.HEIC").write_bytes(b"x")
    (tmp_path / "in" / "blue" / "cut.png").write_bytes(square("blue")[:40])
    (tmp_path / "in" / "blue" / "gone.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "classes.txt").write_text("red\nblue\n")
    out = tmp_path / "out.csv"
    command = ["zero-shot", "run", "--images", str(tmp_path / "in"), "--classes", str(tmp_path / "classes.txt")]
    assert cli.main([*command, "--out", str(out)]) == 0
    said = capsys.readouterr().err
    assert "passed over, as no images: hidden: 3, .heic: 2, .txt: 1" in said
    assert "skipped blue/cut.png: " in said and "skipped blue/gone.png: a file that cannot be read" in said
    rows = list(csv.reader(io.StringIO(out.read_text(encoding="utf-8"))))
    assert [row[0] for row in rows[1:]] == ["blue/0.png", "blue/1.png", "red/0.png", "red/1.png"]


def test_what_is_a_picture_is_said_in_one_place(tmp_path: Path) -> None:
    assert set(classify.IMAGES) == {f".{name}" for name, kind in modalities.EXTENSIONS.items() if kind == "image"}
    for kind in ("jpeg", "webp"):
        (tmp_path / f"a.{kind.upper()}").write_bytes(square("red", kind))
    assert len(run(tmp_path, ["red", "blue"]).rows) == 2


def shards(root: Path, names: list[str], *, classes: list[str] | None, numbers: list[int] | None = None) -> str:
    """Writes images whose cls are the places of their colours in a list."""
    root.mkdir()
    with webdataset.TarWriter(str(root / "0.tar")) as tar:
        for number, name in enumerate(names):
            place = (numbers or [(classes or list(COLORS)).index(name) for name in names])[number]
            label = {} if place < 0 else {"cls": place}
            tar.write({"__key__": str(number), "png": square(name), **label})
    if classes:
        entry = {"name": "0.tar", "samples": len(names), "fields": {}}
        (root / "index.json").write_text(
            json.dumps({"format": "mmssl-shards-1", "shards": [entry], "classes": classes})
        )
    return str(root / "0.tar")


def test_labels_of_shards_meet_the_list_by_name(tmp_path: Path) -> None:
    names = ["red", "green", "blue", "blue"]
    named = shards(tmp_path / "a", names, classes=["blue", "green", "red"])
    for order in (["red", "green", "blue"], ["green", "pink", "blue", "red"]):
        assert run(named, order).scores["top1"].value == 1.0
    bare = shards(tmp_path / "b", names, classes=None)
    assert run(bare, list(COLORS)).scores["top1"].value == 1.0, "bare numbers are places in the list"
    strange = run(shards(tmp_path / "c", names, classes=["x1", "x2"], numbers=[0, 1, 0, 1]), list(COLORS))
    assert not strange.scores and "accuracy is not scored" in strange.notes[0] and len(strange.rows) == 4
    some = run(shards(tmp_path / "d", names, classes=None, numbers=[0, 1, 2, -1]), list(COLORS))
    assert some.scores["top1"].n == 3 and len(some.rows) == 4
    without = run(shards(tmp_path / "e", names, classes=None, numbers=[-1] * 4), list(COLORS))
    assert not without.scores and len(without.rows) == 4


def test_a_missing_space_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.txt").write_text("red\nblue\n")
    command = ["zero-shot", "run", "--images", str(pictures(tmp_path / "in", red="red")), "--space", "clop"]
    assert cli.main([*command, "--classes", str(tmp_path / "c.txt")]) == 2
    assert "encoder 'image' has no space 'clop'; did you mean 'clip'?" in capsys.readouterr().err


class Odd(Oracle):
    """Knows squares in one space only, by vectors of any length; the prompts of red are far apart."""

    sizes: ClassVar[list[int]] = []

    def embed(self, x: torch.Tensor, *, space: str | None = None) -> torch.Tensor:
        assert space == "clop" and torch.is_inference_mode_enabled()
        self.sizes.append(len(x))
        return 3 * super().embed(x) + torch.tensor([0.0, 0.1, 0.2])

    def encode(self, texts: list[str], *, space: str | None = None) -> torch.Tensor:
        assert space == "clop"
        far = {"a red": [1.0, 3.0, 0.0], "the red": [0.5, -1.5, 0.0]}
        return torch.tensor([far.get(t) or [2.0 * float(name in t) for name in COLORS] for t in texts])


@pytest.fixture
def odd(monkeypatch: pytest.MonkeyPatch) -> None:
    Odd.sizes = []
    encoders = {name: Odd(name) for name in ("image", "text")}
    for encoder in encoders.values():
        encoder.spaces = {"clop": None}
    monkeypatch.setattr(classify, "load_encoders", lambda run, **_: encoders)


SEVEN = ["red", "green", "blue", "pink", "grey", "cyan", "teal"]


@pytest.mark.usefixtures("odd")
def test_rows_and_accuracy_are_those_of_weights_by_hand(tmp_path: Path) -> None:
    folder = pictures(tmp_path, red="red", green="green", blue="red")
    found = classify.zero_shot(
        "run", str(folder), SEVEN[:3], ["a {}", "the {}"], space="clop", batch_size=4, progress=False
    )
    assert Odd.sizes == [4, 2]
    one, other = torch.tensor([1.0, 3, 0]), torch.tensor([0.5, -1.5, 0])
    red = (one / one.norm() + other / other.norm()) / 2
    weights = {"red": red / red.norm(), "green": torch.tensor([0.0, 1, 0]), "blue": torch.tensor([0.0, 0, 1])}
    seen = {"red": torch.tensor([3.0, 0.1, 0.2]), "green": torch.tensor([0.0, 3.1, 0.2])}
    rows = []
    for name, color in (("blue", "red"), ("green", "green"), ("red", "red")):
        scores = {label: float(weight @ seen[color]) for label, weight in weights.items()}
        best = max(scores, key=lambda label: scores[label])
        rows += [(f"{name}/{n}.png", best, round(scores[best], 4)) for n in range(2)]
    assert found.rows == rows and found.rows[0][1] == "red"
    assert (found.scores["top1"].value, found.scores["top1"].n) == (pytest.approx(4 / 6), 6)
    assert found.scores["top1"].chance == pytest.approx(1 / 3) and list(found.scores) == ["top1"]


@pytest.mark.usefixtures("odd")
@pytest.mark.parametrize("count", [5, 6, 7])
def test_six_classes_have_a_top5(count: int, tmp_path: Path) -> None:
    folder = pictures(tmp_path, red="red", green="blue", other="red")
    found = classify.zero_shot("run", str(folder), SEVEN[:count], ["my {}"], space="clop", progress=False).scores
    assert list(found) == (["top1", "top5"] if count > 5 else ["top1"])
    assert found["top1"].value == pytest.approx(2 / 6) and found["top1"].chance == pytest.approx(4 / 6 / count)
    if count > 5:
        # green scores 0.1 of a blue square, more than the classes that it has nothing of
        assert found["top5"].value == pytest.approx(4 / 6) and found["top5"].chance == pytest.approx(5 * 4 / 6 / count)


def test_defaults_and_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = inspect.signature(classify.zero_shot).parameters
    expected = {"templates": None, "space": "clip", "batch_size": 64, "progress": True}
    assert {name: options[name].default for name in expected} == expected
    shown: list[Any] = []
    bar = classify.tqdm(disable=True)
    monkeypatch.setattr(classify, "tqdm", lambda **o: shown.append(o) or bar)
    pictures(tmp_path, red="red")
    found = classify.zero_shot("run", str(tmp_path), ["red", "blue"], ["{}"])
    assert shown == [{"desc": "zero-shot", "unit": "image", "disable": False}]
    run(tmp_path, ["red", "blue"])
    assert shown[1]["disable"] is True
    found.rows[0] = ("caf\u00e9, 1.png", "red", 0.25)
    found.write(tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_bytes().decode() == (
        'image,class,similarity\r\n"caf\u00e9, 1.png",red,0.25\r\nred/1.png,red,1.0\r\n'
    )


def test_a_folder_without_pictures_is_refused_and_with_damaged_ones_is_not(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("x")
    (tmp_path / "README").write_text("x")
    with pytest.raises(UserError, match=r"holds no images; expected \.\w+, .* or shards"):
        run(tmp_path, ["red", "blue"])
    (tmp_path / "cut.png").write_bytes(square("red")[:40])
    found = run(tmp_path, ["red", "blue"])
    assert not found.rows and [key for key, _ in found.skipped] == ["cut.png"]
    assert found.notes == ["passed over, as no images: no extension: 1, .txt: 1"]


def test_what_has_no_end_is_left_out_at_once(tmp_path: Path) -> None:
    pictures(tmp_path, red="red")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zeros.png").symlink_to("/dev/zero")
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(2**40)  # holes, which take nothing of the disk
    found = run(tmp_path, list(COLORS))
    device = "a device or a pipe in place of a file"
    assert dict(found.skipped) == {
        "large.png": "a file larger than the limit member_bytes",
        "pipe.png": device,
        "zeros.png": device,
    }


def test_a_folder_of_shards_is_read_as_shards(tmp_path: Path) -> None:
    shards(tmp_path / "a", ["red", "blue"], classes=None, numbers=[0, 2])
    found = run(tmp_path / "a", list(COLORS))
    assert [row[:2] for row in found.rows] == [("0", "red"), ("1", "blue")] and found.scores["top1"].value == 1.0
    assert classify._has_shards(tmp_path / "a") and not classify._has_shards(tmp_path)
    (tmp_path / "index.json").write_text("{}")
    assert classify._has_shards(tmp_path)


def test_what_is_skipped_in_shards_has_its_key_or_its_shard(tmp_path: Path) -> None:
    path = Path(shards(tmp_path / "a", ["red"] * 8, classes=None))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 + 700])  # within a sample
    found = run(path, list(COLORS))
    assert found.rows and {key for key, _ in found.skipped} == {str(path)}


@pytest.mark.usefixtures("odd")
def test_a_single_template_that_is_better_is_told(tmp_path: Path) -> None:
    folder = pictures(tmp_path, red="red", green="green")
    found = classify.zero_shot("run", str(folder), ["red", "green"], ["the {}", "a {}"], space="clop", progress=False)
    assert found.scores["top1"].value == 1.0 and not found.notes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            classify, "warn_of_templates", lambda x, labels, prompts, top1, plain: warn(f"{len(x)} {[*prompts]}")
        )
        options: dict[str, Any] = {"space": "clop", "progress": False}
        told = classify.zero_shot("run", str(folder), ["red", "green"], ["the {}", "a {}"], **options)
    assert told.notes == ["4 ['the {}', 'a {}']"]


TEXT = "caf\u00e9\nice cream\n"


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_class_and_template_files_of_any_editor(tmp_path: Path, encoding: str, ends: str) -> None:
    file = tmp_path / "c.txt"
    file.write_bytes(ends.join(["caf\u00e9", "", "  ", " ice cream "]).encode(encoding))
    assert read_classes(str(file)) == ["caf\u00e9", "ice cream"]
    file.write_bytes(ends.join(["{}", "", "a {}"]).encode(encoding))
    assert read_templates(str(file)) == ["{}", "a {}"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1"])
def test_other_encodings_are_refused(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "c.txt"
    file.write_bytes(TEXT.encode(encoding))
    with pytest.raises(UserError, match=r"c\.txt is not UTF-8 text .*save it as UTF-8"):
        read_classes(str(file))


def test_accuracy_is_that_of_the_mean_of_prompts_at_unit_length() -> None:
    """The first class's prompts differ, so that their mean is short, but it points the right way."""
    prompts = {
        "{}": torch.tensor([[1.0, 0.0], [1.0, 0.0]]),
        "a {}": torch.tensor([[-0.6, 0.8], [1.0, 0.0]]),
    }
    found = classify.Predictions()
    classify._score(found, [torch.tensor([0.6, 0.8])], ["cat"], prompts, torch.eye(2), ["cat", "dog"], where="here")
    assert found.scores["top1"].value == 1.0


def test_rows_of_shards_are_called_as_the_files_were(tmp_path: Path) -> None:
    told = [b'{"file": "red/one.png"}', b"{", b'{"file": ""}', b"[1]"]
    with webdataset.TarWriter(str(tmp_path / "0.tar")) as tar:
        for number, text in enumerate(told):
            tar.write({"__key__": f"k{number}", "png": square("red"), "json": text})
    found = run(str(tmp_path), list(COLORS))
    assert [row[:2] for row in found.rows] == [(name, "red") for name in ("red/one.png", "k1", "k2", "k3")]
