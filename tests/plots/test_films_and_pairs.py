"""Propagated masks, similarity matrices and heat maps, put together from their parts by hand."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch
from given import Given, defaults, give
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from mmssl.errors import DamagedError, UserError
from mmssl.evals.parts.sounding import Moment
from mmssl.modalities.audio import Waveform
from mmssl.modalities.video import Frames
from mmssl.plots import items, localize, propagate, retrieval
from mmssl.plots.canvas import PALETTE, heat, scaled, tiles
from mmssl.plots.items import drawn_item
from mmssl.plots.samples import films_as_images
from mmssl.transforms.audio import AudioPreprocess
from mmssl.transforms.image import ImagePreprocess
from mmssl.transforms.video import VideoPreprocess
from mmssl.types import Encoder, Trained


class Films(Encoder):
    modality = "video"

    def __init__(self) -> None:
        super().__init__()
        self.dim, self.options, self.preprocess = 3, {}, ImagePreprocess(size=8)
        self.weight = nn.Parameter(torch.ones(()))


def film(frames: int, labels: list[int]) -> dict[str, Any]:
    masks = np.zeros((frames, 16, 24), np.uint8)
    for n, label in enumerate(labels):
        masks[:, 2:12, 8 * n : 8 * n + 5] = label
    pictures = np.random.randint(0, 256, (frames, 8, 12, 3), dtype=np.uint8)
    return {"video": Frames(pictures, 5.0), "masks": {"masks": masks}, "meta": {"fps": 5.0}}


def painted(frame: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A frame of 160 pixels under a mask of labels, each 60% of its colour."""
    large = np.asarray(Image.fromarray(frame).resize((160, 107), Image.Resampling.BICUBIC)).astype(float)
    labels = np.asarray(Image.fromarray(mask).resize((160, 107), Image.Resampling.NEAREST))
    mixed = np.round(large * (1 - 0.6) + PALETTE[labels].astype(float) * 0.6)
    return np.where(labels[..., None] > 0, mixed, large).astype(np.uint8)


def test_a_clip_is_a_sheet_and_a_film_carried_above_and_true_below(monkeypatch: pytest.MonkeyPatch) -> None:
    assert propagate.SIDE == 160
    assert defaults(propagate.plot) == {
        "count": 6,
        "encoder": "video",
        "space": None,
        "size": None,
        "window": 1,
        "grayscale": False,
        "columns": 6,
    }
    told: list[Any] = []
    clips = [film(4, []), film(4, [255]), film(5, [2, 1]), {"video": None}, film(3, [3]), film(3, [3])]
    source = give(monkeypatch, "mmssl.plots.propagate", clips)

    def cells(network: Any, frames: Tensor, **looks: Any) -> Tensor:
        told.append((network.training, tuple(frames.shape), looks))
        return torch.zeros(len(frames), 2, 3, 1)

    def carry(cells: Tensor, mask: Tensor) -> Tensor:
        assert not (mask == 255).any()
        return torch.stack([mask * (n % 2 == 0) for n in range(len(cells))])

    monkeypatch.setattr(propagate, "cells_of", cells)
    monkeypatch.setattr(propagate, "carried", carry)
    clips[2]["masks"]["masks"][:, 0, 0] = 255
    encoder = Films()
    encoder.spaces["walk"] = nn.Identity()  # type: ignore[assignment]
    looks = {"space": "walk", "window": 2, "grayscale": True}
    found = list(propagate.plot(Trained({"video": encoder}), data={}, count=2, columns=4, size=8, **looks))  # type: ignore[arg-type]
    assert [name for name, _ in found] == [f"propagate-{n}" for n in ("00", "00-film", "01", "01-film")]
    assert source.asked == [{"video", "masks", "meta"}]
    assert told == [(False, (5, 3, 8, 12), looks), (False, (3, 3, 8, 12), looks)] and encoder.training
    for (_, sheet), (_, moving), clip, shown in zip(
        found[::2], found[1::2], (clips[2], clips[4]), ([0, 1, 3, 4], [0, 1, 2]), strict=True
    ):
        masks = np.where(clip["masks"]["masks"] == 255, 0, clip["masks"]["masks"])
        above = [painted(f, masks[0] * (n % 2 == 0)) for n, f in enumerate(clip["video"].pictures)]
        below = [painted(f, m) for f, m in zip(clip["video"].pictures, masks, strict=True)]
        titles = [[f"{name} {n}" for n in shown] for name in ("carried", "true")]
        expected = tiles([[row[n] for n in shown] for row in (above, below)], titles=titles)
        assert np.abs(np.asarray(sheet).astype(int) - np.asarray(expected)).max() <= 1
        assert isinstance(moving, list) and len(moving) == len(masks)
        for picture, pair in zip(moving, zip(above, below, strict=True), strict=True):
            assert np.abs(np.asarray(picture).astype(int) - np.asarray(tiles([pair]))).max() <= 1


def test_one_clip_more_than_was_asked_for_is_not_drawn_and_none_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, "mmssl.plots.propagate", [film(3, [1])] * 3)
    monkeypatch.setattr(propagate, "cells_of", lambda network, frames, **looks: torch.zeros(len(frames), 2, 3, 1))
    trained = Trained({"video": Films()})
    assert len(list(propagate.plot(trained, data={}, count=1))) == 2
    sheet: Any = next(propagate.plot(trained, data={}, columns=9))[1]
    assert sheet.width == 3 * 160 + 4 * 4, "no more columns than frames"
    give(monkeypatch, "mmssl.plots.propagate", [film(3, [])])
    with pytest.raises(UserError, match="the data has no video with masks"):
        list(propagate.plot(trained, data={}))


class Words(nn.Module):
    device = torch.device("cpu")

    def __init__(self, modality: str) -> None:
        super().__init__()
        self.modality, self.preprocess, self.spaces = modality, self, {"clip": None, "other": None}

    def __call__(self, raw: Any) -> Tensor:
        if raw == "damaged":
            raise DamagedError("damaged")
        return torch.tensor([float(len(raw)) if isinstance(raw, str) else float(np.asarray(raw).mean()) / 100, 1.0])

    def collate(self, items: list[Tensor]) -> Tensor:
        return torch.stack(items)

    def embed(self, x: Tensor, *, space: str | None = None) -> Tensor:
        assert space == "other" and torch.is_inference_mode_enabled() is False
        return x


def test_a_matrix_has_a_cell_for_each_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    assert defaults(retrieval.plot) == {"modalities": ("image", "text"), "space": "clip", "count": 12}
    assert (retrieval.CELL, retrieval.GAP, retrieval.LINE, items.INK) == (48, 4, 260, (70, 110, 190))
    samples = [{"image": Image.new("RGB", (4, 4), (40 * n, 0, 0)), "text": "x" * (n + 1)} for n in range(5)]
    samples[1]["text"] = "damaged"
    del samples[2]["image"]
    give(monkeypatch, "mmssl.plots.retrieval", samples)
    monkeypatch.setattr(Given, "count", 5)
    trained = Trained({"image": Words("image"), "text": Words("text")})  # type: ignore[dict-item]
    for modalities in (("image", "text"), ("text", "image")):
        [(name, found)] = retrieval.plot(trained, data={}, modalities=modalities, space="other", count=3)
        assert name == "text-image"
        x = [np.array([40 * n / 300, 1.0]) for n in (0, 3, 4)]
        values = np.array([[(n + 1) * a[0] + 1 for a in x] for n in (0, 3, 4)])
        colors, step, margin = heat(values), 52, 264
        pixels = np.asarray(found)
        assert pixels.shape == (step * 4, margin + step * 3, 3)
        for r in range(3):
            top = step * (r + 1)
            for c in range(3):
                left = margin + step * c
                box = pixels[top : top + 48, left : left + 48].astype(int)
                assert np.abs(box - colors[r, c]).max() <= 1
                assert (pixels[top + 48 : top + 52, left : left + 48] == 255).all(), "a gap"
                assert (pixels[top : top + 48, left + 48 : left + 52] == 255).all()
            assert (pixels[:48, margin + step * r : margin + step * r + 48] == (40 * (0, 3, 4)[r], 0, 0)).all()
            caption = Image.new("RGB", (260, 48), "white")
            ImageDraw.Draw(caption).text((2, 17), "x" * (1, 4, 5)[r], fill="black", font=ImageFont.load_default(11))
            assert (pixels[top : top + 48, :260] == np.asarray(caption)).all()
        assert (pixels[:48, :260] == 255).all()


def tile(modality: str, raw: Any) -> np.ndarray:
    return drawn_item(modality, raw, side=48, line=260)


def test_items_are_drawn_by_kind() -> None:
    wide = Image.fromarray(np.random.randint(0, 256, (12, 24, 3), dtype=np.uint8))
    cell = tile("image", wide)
    assert (cell[12:36] == np.asarray(wide.resize((48, 24), Image.Resampling.BICUBIC))).all()
    assert (cell[:12] == 255).all() and (cell[36:] == 255).all()
    tall = tile("image", wide.rotate(90, expand=True))
    assert (tall[:, :12] == 255).all() and (tall[:, 36:] == 255).all() and tall.shape == (48, 48, 3)
    middle = np.stack([np.full((8, 8, 3), 10 * n, np.uint8) for n in range(5)])
    assert (tile("video", Frames(middle, 5.0)) == 20).all()
    assert (tile("text", ["one", "two"]) == tile("text", "one")).all()
    assert tile("text", "one").shape == (48, 260, 3)


def test_a_sound_is_drawn_as_peaks_about_the_middle() -> None:
    levels = torch.zeros(48)
    levels[10], levels[20] = -0.5, 0.25
    cell = tile("audio", Waveform(levels.repeat_interleave(100), 8000))
    expected = Image.new("RGB", (48, 48), "white")
    for x, height in enumerate((levels.abs() * 2).tolist()):
        ImageDraw.Draw(expected).line((x, 24 - 24 * height, x, 24 + 24 * height), fill=(70, 110, 190))
    assert (cell == np.asarray(expected)).all()
    quiet = tile("audio", Waveform(torch.zeros(800), 8000))
    assert ((quiet != 255).any(2).sum(0) == 1).all(), "silence is a line"


def test_a_matrix_of_nothing_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, "mmssl.plots.retrieval", [{"text": "x", "image": None}])
    monkeypatch.setattr(Given, "count", None)
    trained = Trained({"image": Words("image"), "text": Words("text")})  # type: ignore[dict-item]
    with pytest.raises(UserError, match="no sample with a whole text and image; left out 1|no sample with a whole"):
        list(retrieval.plot(trained, data={}, space="other"))
    for modalities in (("depth", "text"), ("image", "depth")):
        with pytest.raises(UserError, match="no encoder 'depth'"):
            list(retrieval.plot(trained, data={}, modalities=modalities))


class Hears:
    """Stands in for a Comparer: maps are made of what is heard and of the frame asked for."""

    visual, preprocess = "video", {"video": None}
    done: list[Any]

    def __init__(self, trained: Any, task: str) -> None:
        Hears.done = [task]

    def require_maps(self) -> None:
        Hears.done.append("maps")

    def maps(self, seen: Tensor, heard: Tensor, frames: list[int]) -> Tensor:
        Hears.done.append(frames)
        return torch.stack(
            [torch.arange(4.0).view(2, 2).roll(int(h), 1) + f for h, f in zip(heard, frames, strict=True)]
        )


def moment(number: int) -> Moment:
    seen = torch.from_numpy(np.random.randint(0, 256, (3, 4, 8, 8), dtype=np.uint8))
    truth = torch.zeros(8, 8, dtype=torch.bool)
    truth[number:4, 2:6] = True
    return Moment(seen, torch.tensor(float(number)), truth, frame=number % 4, time=2.5 if number == 1 else None)


class SideBySide:
    """Stands in for a Sounding."""

    reads = ("image",)

    def __init__(self, find: Any) -> None:
        self.find = find

    def __call__(self, sample: Any) -> list[Moment]:
        found: list[Moment] = self.find(sample)
        return found


def test_own_films_need_no_truth_and_several_moments_of_one_hear_the_next_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(localize, "Comparer", Hears)
    films = [
        {
            "__key__": f"a/{n}.mp4",
            "video": Frames(np.full((8, 8, 8, 3), n, np.uint8), 2.0),
            "audio": Waveform(torch.full((800,), float(n)), 200),
        }
        for n in range(2)
    ]
    monkeypatch.setattr(
        Hears, "preprocess", {"video": VideoPreprocess(size=8, frames=4), "audio": AudioPreprocess(200, 0.5)}
    )
    heard: list[Any] = []
    monkeypatch.setattr(Hears, "maps", lambda self, s, h, f: heard.append(h) or torch.zeros(len(s), 2, 2))
    drawn: list[Any] = []
    monkeypatch.setattr(localize, "tiles", lambda rows, titles: drawn.append((rows, titles)))
    source = give(monkeypatch, "mmssl.plots.localize", films)
    [(name, _)] = localize.plot(Trained({}), data={}, task="mine", moments=2, count=2)
    assert name == "maps-0" and source.asked == [{"video", "audio"}]
    [(rows, titles)] = drawn
    assert [title[0] for title in titles] == [f"a/{n}.mp4, {at} s" for n in range(2) for at in ("1.0", "3.0")]
    assert [len(row) for row in rows] == [3] * 4 and [row[0][0, 0, 0] for row in rows] == [0, 0, 1, 1]
    own, other = (sounds.mean(1).tolist() for sounds in heard)
    assert (own, other) == ([0, 0, 1, 1], [1, 1, 0, 0])
    with pytest.raises(UserError, match="no sample of given.tar has '(masks|meta)'; truth=null draws the maps without"):
        list(localize.plot(Trained({}), data={}, task="mine", truth="impacts"))


def test_an_encoder_of_images_sees_films(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Given([{"video": 1, "audio": 1}])
    films_as_images(source, "video")
    assert source.fields == {}
    films_as_images(source, "image")
    assert "mp4" in source.fields["image"] and "jpg" not in source.fields["image"]
    both = Given([{"image": 1, "video": 1}])
    films_as_images(both, "image")
    assert both.fields == {}


def test_rows_are_the_frame_its_map_that_of_another_clip_and_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (localize.SIDE, localize.GREEN) == (160, (60, 230, 90))
    expected = {"task": "avol", "truth": None, "moments": 1, "count": 6, "per_picture": 4}
    assert defaults(localize.plot) == expected and "truth" in inspect.signature(localize.plot).parameters
    moments, told = [moment(n) for n in range(4)], list[Any]()
    monkeypatch.setattr(localize, "Comparer", Hears)
    clips = iter([moments[:1], moments[1:2], moments[2:3], moments[3:]])
    monkeypatch.setattr(
        localize,
        "Sounding",
        lambda preprocess, visual, truth, count: (
            told.append((preprocess, visual, truth, count)) or SideBySide(lambda sample: next(clips))
        ),
    )
    source = give(monkeypatch, "mmssl.plots.localize", [{"image": n} for n in range(4)])
    found = list(localize.plot(Trained({}), data={}, task="mine", truth="boxes", count=3, per_picture=2))
    assert told == [({"video": None}, "video", "boxes", 1)] and source.asked == [{"image"}]
    assert Hears.done == ["mine", "maps", [0, 1, 2], [0, 1, 2]]
    assert [name for name, _ in found] == ["maps-0", "maps-1"]
    rows = []
    for n in range(3):
        frame = scaled(moments[n].seen[:, n].movedim(0, -1).numpy(), 160)
        maps = [np.roll(np.arange(4.0).reshape(2, 2), shift, 1) for shift in (n, (n + 1) % 3)]
        over = [np.round(frame * 0.5 + heat(m, shape=(160, 160)) * 0.5).astype(np.uint8) for m in maps]
        where = np.kron(moments[n].truth.numpy(), np.ones((20, 20), bool))
        green = np.round(frame * 0.5 + np.array([60, 230, 90]) * 0.5).astype(np.uint8)
        rows.append([frame, *over, np.where(where[..., None], green, frame)])
    titles = [[name, "what sounds", "if another clip sounds", "truth"] for name in ("0", "1, 2.5 s", "2")]
    for (_, picture), part in zip(found, (slice(2), slice(2, 3)), strict=True):
        expected_picture = np.asarray(tiles(rows[part], titles=titles[part])).astype(int)
        assert picture.size == expected_picture.shape[1::-1]
        assert np.abs(np.asarray(picture) - expected_picture).max() <= 1
