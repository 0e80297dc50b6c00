"""Encoding raw inputs: what cannot be read is named, in every modality."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models

from mmssl.encoders.raw import Raw
from mmssl.errors import DamagedError, UserError
from mmssl.modalities import audio, image, points, video
from mmssl.transforms.text import TextPreprocess
from mmssl.types import Batch, Encoder, Features, Preprocess, Pretext, Ragged, Trained, View, window_spans


class Words(Encoder):
    """Embeds a text as its first token."""

    modality, dim = "text", 1

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.preprocess = TextPreprocess(Tokenizer(models.WordLevel({"?": 0}, unk_token="?")))

    def forward(self, x: Ragged) -> Features:
        return Features(x.values[:, :1] * self.weight)


def test_features_of_views_that_passed_together_are_split() -> None:
    """Packed tokens by how many each view's samples have; two views of two samples."""
    pooled, lengths = torch.arange(8.0).view(4, 2), torch.tensor([3, 1, 0, 2])
    packed = Features(pooled, torch.arange(6.0)[:, None], lengths=lengths).split(2)
    assert [features.tokens.flatten().tolist() for features in packed] == [[0, 1, 2, 3], [4, 5]]
    assert [features.lengths.tolist() for features in packed] == [[3, 1], [0, 2]]
    padded = Features(pooled, torch.arange(12.0).view(4, 3, 1), grid=(1, 3), lengths=lengths).split(2)
    assert [features.tokens[:, 0, 0].tolist() for features in padded] == [[0, 3], [6, 9]]
    assert [features.grid for features in padded] == [(1, 3)] * 2 and padded[1].lengths.tolist() == [0, 2]
    alone = Features(pooled).split(4)
    assert len(alone) == 1 and alone[0].pooled.equal(pooled) and alone[0].tokens is None


GREY = np.full((8, 8, 3), 128, np.uint8)
FILES: dict[str, tuple[str, Any]] = {
    "image": ("png", lambda: image.encode(GREY, format="png")),
    "video": ("mp4", lambda: video.encode(np.stack([GREY] * 4), fps=4)),
    "audio": ("wav", lambda: audio.encode(np.full(16_000, 0.25), sample_rate=16_000)),
    "points": ("ply", lambda: points.encode(np.zeros((4, 3)))),
    "text": ("txt", lambda: b"a cat"),
}


def encoder(modality: str) -> Encoder:
    return Words() if modality == "text" else Raw(modality)  # type: ignore[arg-type]


@pytest.mark.parametrize("modality", FILES)
def test_encode_names_what_it_cannot_read(modality: str, tmp_path: Path) -> None:
    extension, made = FILES[modality]
    good, bad, missing = (tmp_path / f"{name}.{extension}" for name in ("good", "bad", "missing"))
    good.write_bytes(made())
    bad.write_bytes(b"\xff\xfe rubbish")
    network = encoder(modality)
    assert network.encode([good, good]).shape == (2, network.dim)
    with pytest.raises(DamagedError) as caught:
        network.encode([good, good, bad], batch_size=2)
    assert str(caught.value).startswith(f"{str(bad)!r}: ")
    assert caught.value.reason
    assert "bad" not in caught.value.reason
    with pytest.raises(UserError) as unread:
        network.encode([good, missing])
    assert str(unread.value).count(str(missing)) == 1
    with pytest.raises(UserError, match=r"^inputs\[2\]: "):
        network.encode([good, good, 3.5], batch_size=2)


def test_encode_tells_the_place_of_what_has_no_path() -> None:
    data = bytearray(image.encode(np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8), format="png"))
    data[len(data) // 2] ^= 1
    with pytest.raises(DamagedError, match=r"^inputs\[1\]: damaged image: "):
        encoder("image").encode([GREY, bytes(data)])
    with pytest.raises(DamagedError, match=r"^inputs\[1\]: empty text"):
        encoder("text").encode(["a cat", " "])


class Steps(Preprocess):
    """Takes numbers."""

    modality = "steps"

    def blank(self) -> torch.Tensor:
        return torch.zeros(2)


def test_a_view_reads_what_it_prepares_and_has_blanks_of_each() -> None:
    prepare = {"steps": Steps(), "other": Steps()}
    view = View(prepare)
    assert view.preprocess == prepare
    assert view.preprocess is not prepare
    assert view.reads == ("steps", "other")
    assert (view.shows, view.progress) == ({}, 0.0)
    assert [blank.tolist() for blank in view.blanks("steps")] == [[0.0, 0.0]]
    view.shows = {"other": 3}
    assert [len(view.blanks(key)) for key in ("steps", "other")] == [1, 3]
    batch = Batch({"steps": [torch.ones(2)]})
    assert view.on_device(batch) is batch
    view.check()
    assert View.guards == {}
    with pytest.raises(NotImplementedError):
        view({})


def test_a_batch_is_changed_whole() -> None:
    batch = Batch({"a": [torch.ones(2), torch.zeros(2)]}, torch.full((2,), 3.0), {"a_present": torch.ones(2)})
    changed = batch.map(lambda x: x + 1)
    assert [x.tolist() for x in changed.views["a"]] == [[2, 2], [1, 1]]
    assert changed.target is not None
    assert changed.target.tolist() == [4, 4]
    assert changed.extra["a_present"].tolist() == [2, 2]
    assert batch.views["a"][0].tolist() == [1, 1]
    assert Batch({"a": [torch.ones(2)]}).map(lambda x: x + 1).target is None
    there = batch.to("meta")
    assert {x.device.type for x in (*there.views["a"], there.target, *there.extra.values()) if x is not None} == {
        "meta"
    }


def test_who_is_present() -> None:
    known = torch.tensor([True, False, True])
    batch = Batch({"a": [torch.zeros(3, 2)], "b": [torch.zeros(3)]}, extra={"a_present": known})
    assert batch.present("a") is known
    assert batch.present("b").tolist() == [True] * 3
    assert batch.present("b").dtype == torch.bool


def test_one_or_several_inputs() -> None:
    prepare = Steps()
    for several in ([1, 2], (1, 2), iter([1, 2])):
        assert prepare.items(several) == [1, 2]
    for one in ("ab", 3, {1, 2}, torch.ones(2)):
        assert len(prepare.items(one)) == 1
    assert prepare.collate([torch.ones(2), torch.zeros(2)]).tolist() == [[1, 1], [0, 0]]
    assert not prepare.take_notes()


def test_a_pretext_shows_again_with_options_changed() -> None:
    class Shown(View):
        def __init__(self, preprocess: Any, *, a: int = 0, b: int = 0) -> None:
            super().__init__(preprocess)
            self.a, self.b = a, b

    asked: list[View] = []
    objective = types.SimpleNamespace(uses=("steps",), view_options=dict, check_view=asked.append)
    pretext = Pretext(objective, Shown, {"a": 1, "b": 2})  # type: ignore[arg-type]
    encoders: Any = {key: types.SimpleNamespace(preprocess=Steps()) for key in ("steps", "other")}
    view: Any = pretext.show(encoders, b=5)
    assert (view.a, view.b) == (1, 5) and asked == [view]
    assert list(view.preprocess) == ["steps"]
    assert pretext.options == {"a": 1, "b": 2}
    trained = Trained(encoders, {"avc": pretext})
    assert trained.task("avc") is pretext
    with pytest.raises(UserError, match="there is no task 'avx' to judge; did you mean 'avc'"):
        trained.task("avx")


def test_windows_cover_a_duration() -> None:
    assert window_spans(5.0, 2.0) == [(0.0, 2.0), (2.0, 4.0)]  # the second left is no more than half a stride
    assert window_spans(5.2, 2.0) == [(0.0, 2.0), (2.0, 4.0), (pytest.approx(3.2), 5.2)]
    assert window_spans(4.0, 2.0, 1.0) == [(0.0, 2.0), (1.0, 3.0), (2.0, 4.0)]
    assert window_spans(0.3, 0.1) == [(0.0, 0.1), (0.1, 0.2), (pytest.approx(0.2), pytest.approx(0.3))]
    assert window_spans(1.5, 2.0, 1.0) == [(0.0, 1.5)]
    assert window_spans(11.0, 1.0, 4.0) == [(0.0, 1.0), (4.0, 5.0), (8.0, 9.0)]  # gaps that were asked for
    for window, stride in ((0.0, 1.0), (1.0, -1.0), (float("nan"), 1.0), (1.0, float("inf"))):
        with pytest.raises(UserError, match="expected seconds above 0"):
            window_spans(5.0, window, stride)


def test_encode_skips_and_names_what_cannot_be_read(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    good.write_bytes(image.encode(GREY, format="png"))
    bad.write_bytes(b"x")
    network = encoder("image")
    found = network.encode([bad, good, GREY, 3.5, good], errors="skip", batch_size=2)
    assert found.names == [str(good), "inputs[2]", str(good)] and found.inputs.tolist() == [1, 2, 4]
    assert found.spans is None and list(found.skipped) == [str(bad), "inputs[3]"]
    assert "cannot read" in found.skipped[str(bad)] or "image" in found.skipped[str(bad)]
    assert torch.equal(found.features, network.encode([good, GREY, good]))
    with pytest.raises(UserError, match=r"none of the 1 inputs can be read; .*bad\.png: "):
        network.encode(bad, errors="skip")
    with pytest.raises(DamagedError, match=r"bad\.png"):
        network.encode([good, bad], errors="raise")


def test_encode_cuts_sounds_and_films_into_windows(tmp_path: Path) -> None:
    from mmssl.modalities.audio import Waveform

    rate = 16_000
    ramp = torch.arange(3 * rate) / rate / 4  # its value tells the time
    (tmp_path / "bad.wav").write_bytes(b"x")
    network = encoder("audio")
    found = network.encode([tmp_path / "bad.wav", Waveform(ramp, rate)], errors="skip", window=1.0, stride=0.5)
    assert found.spans is not None and found.spans[:, 0].tolist() == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert found.inputs.tolist() == [1] * 5 and list(found.skipped) == [str(tmp_path / "bad.wav")]
    parts = [ramp[int(start * rate) :][:rate] for start in found.spans[:, 0].tolist()]
    torch.testing.assert_close(found.features, network.encode(parts))
    heard = network.preprocess.windows(Waveform(ramp, rate), [(0.0, 2.0), (1.0, 3.0)])  # a second about the middle
    torch.testing.assert_close(
        torch.stack(heard), torch.stack([ramp[rate // 2 :][:rate], ramp[3 * rate // 2 :][:rate]])
    )
    clip = np.stack([np.full((8, 8, 3), t, np.uint8) for t in range(100)])
    shown = encoder("video").preprocess.windows(clip, [(0.0, 1.6), (1.6, 3.2)])  # 25 images/s; 16 of each window
    assert [part[0, :, 0, 0].tolist() for part in shown] == [
        [int(25 * (first + (i + 0.5) / 10)) for i in range(16)] for first in (0, 1.6)
    ]
    with pytest.raises(UserError, match="expected a clip"):
        encoder("image").encode(GREY, window=1.0)
    with pytest.raises(UserError, match="has no time to cut windows from"):
        encoder("text").encode("a cat", window=1.0)
    with pytest.raises(UserError, match="give window as well"):
        network.encode(ramp, stride=1.0, errors="skip")
