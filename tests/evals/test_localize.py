"""Localisation: a map of the truth scores 1, figures are the textbook's, truths are read and cut as images are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from given import Given
from PIL import Image
from torch import Tensor, nn

from mmssl.errors import DamagedError, UserError
from mmssl.evals.localize import Localize, area_under, centre, fits, iou, next_clip
from mmssl.evals.parts.compare import Comparer, similarity_map
from mmssl.evals.parts.sounding import Sounding, boxed
from mmssl.modalities.audio import Waveform
from mmssl.modalities.video import Frames
from mmssl.nn.head import Cells, Projection
from mmssl.transforms.audio import AudioPreprocess
from mmssl.transforms.image import ImagePreprocess
from mmssl.transforms.video import VideoPreprocess
from mmssl.types import Features, Head, Pretext, Trained, View

FPS, RATE, SIZE = 10, 100, 32


def clip(number: int) -> dict[str, Any]:
    """Two squares in 20 frames, red (object 0) moving down and blue (object 1); the louder of them hits at 1 s."""
    draw = np.random.default_rng(number)
    pictures, masks = np.zeros((20, SIZE, SIZE, 3), np.uint8), np.zeros((20, SIZE, SIZE), np.uint8)
    left, top = draw.integers(0, 6, 2) * 2
    for t in range(20):
        red = slice(top + t // 2, top + t // 2 + 10), slice(left, left + 10)
        blue = slice(0, 10), slice(22, 32)
        pictures[(t, *red)], masks[(t, *red)] = (255, 0, 0), 1
        pictures[(t, *blue)], masks[(t, *blue)] = (0, 0, 255), 2
    louder = number % 2
    sound = torch.zeros(2 * RATE)
    sound[RATE] = louder + 1.0
    impacts = [
        {"time": 0.4, "object": 1 - louder, "speed": 1.0},
        {"time": 1.0, "object": louder, "speed": 2.0},
    ]
    return {
        "video": Frames(pictures, FPS),
        "image": Frames(pictures, FPS),
        "audio": Waveform(sound, RATE),
        "masks": {"masks": masks},
        "meta": {"impacts": impacts, "fps": FPS},
    }


class Pixels(nn.Module):
    """Cells are 2 x 2 pixels' red and blue; a sound is which of the two hit."""

    dim, device = 2, torch.device("cpu")

    def __init__(self, preprocess: Any) -> None:
        super().__init__()
        self.preprocess, self.modality, self.spaces = preprocess, preprocess.modality, dict[str, Head]()

    def forward(self, x: Tensor) -> Features:
        if self.modality == "audio":
            return Features(torch.nn.functional.one_hot(x.amax(1).long() - 1, 2).float())
        cells = x.unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2)).float().mean((-3, -1))[:, [0, 2]] / 255
        return Features(cells.flatten(2).mean(2), cells.flatten(2).transpose(1, 2), grid=tuple(cells.shape[2:]))


class Knows(nn.Module):
    def similarity_map(self, visual: Features, audio: Features) -> Tensor:
        return similarity_map(visual, audio.pooled, Same())

    def __init__(self, visual: str) -> None:
        super().__init__()
        self.visual = visual


class Blind(Knows):
    def similarity_map(self, visual: Features, audio: Features) -> Tensor:
        assert visual.grid is not None
        return torch.rand(len(audio.pooled), *visual.grid)


class Same(Head):
    """Cells as they are."""

    def forward(self, features: Features) -> Tensor:
        return features.pooled if features.tokens is None else features.tokens


def trained(visual: str, objective: nn.Module | None = None) -> Trained:
    seen = ImagePreprocess(size=SIZE) if visual == "image" else VideoPreprocess(size=SIZE, frames=5, fps=FPS)
    encoders: Any = {visual: Pixels(seen), "audio": Pixels(AudioPreprocess(sample_rate=RATE, seconds=0.5))}
    if objective is None:
        for encoder in encoders.values():
            encoder.spaces["clip"] = Same()
        return Trained(encoders)
    return Trained(encoders, {"avol": Pretext(objective, View, {})})  # type: ignore[arg-type]


def judged(monkeypatch: pytest.MonkeyPatch, subject: Trained, count: int = 8, **options: Any) -> Any:
    monkeypatch.setattr("mmssl.evals.localize.open_source", lambda data: Given([clip(n) for n in range(count)]))
    return dict(Localize(data={"shards": "x"}, **options).run(subject))


@pytest.mark.parametrize("visual", ["image", "video"])
def test_who_knows_the_place_covers_it_and_who_is_blind_does_not(monkeypatch: pytest.MonkeyPatch, visual: str) -> None:
    found = judged(monkeypatch, trained(visual, Knows(visual)))
    assert found["same_area/cIoU@0.5"].value == 1.0
    assert found["same_area/AUC"].value > 0.8
    assert found["pointing"].value == 1.0
    assert found["pointing"].n == 8
    assert found["other_sound/pointing"].value == 0.0  # the other clip's sound is the other object's
    assert found["pointing"].chance == pytest.approx(0.1, abs=0.08)
    assert found["pointing"].trivial is not None
    blind = judged(monkeypatch, trained(visual, Blind(visual)))
    assert blind["pointing"].low <= blind["pointing"].chance + 0.1
    assert blind["same_area/cIoU@0.5"].value == 0.0


def test_a_space_gives_a_map_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    assert judged(monkeypatch, trained("video"), task="clip")["pointing"].value == 1.0
    with pytest.raises(UserError, match="neither a similarity_map nor a joint space"):
        lacking: Any = nn.Module()
        lacking.visual = "image"
        judged(monkeypatch, trained("image", lacking))


@pytest.mark.parametrize("shape", [(4, 4), (3, 4, 4)])
def test_a_head_for_pictures_takes_cells_one_by_one(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    number = int(np.prod(shape))
    seen, told = Features(torch.randn(2, 6), torch.randn(2, number, 6), shape), torch.randn(2, 5)
    whole, dense = Projection(6, out=5).eval(), Cells(6, out=5).eval()
    dense.load_state_dict(whole.state_dict())
    assert seen.tokens is not None
    by_hand = torch.stack([whole(Features(seen.tokens[:, n])) for n in range(number)], dim=1)
    expected = (by_hand * told[:, None]).sum(2).view(2, *shape)
    torch.testing.assert_close(similarity_map(seen, told, whole), expected)
    torch.testing.assert_close(similarity_map(seen, told, dense), expected)
    with pytest.raises(UserError, match="no map without cells"):
        similarity_map(Features(torch.randn(2, 6)), told, whole)


def test_fits_are_the_textbooks() -> None:
    truth = torch.zeros(1, 224, 224, dtype=torch.bool)
    truth[:, :112, :56] = True  # an eighth
    maps = torch.zeros(1, 224, 224)
    maps[:, :112] = 1.0 + torch.rand(112, 224)  # the upper half is above the median
    maps[:, :56, :112] += 2.0  # an eighth is highest, half of it true
    found = fits(maps, truth)
    assert found["iou"].item() == pytest.approx(1 / 4, abs=1e-3)
    assert found["same_area/iou"].item() == pytest.approx(1 / 3, abs=1e-3)
    assert found["pointing"].item() in (0.0, 1.0)
    maps[:, 3, 3] = 9.0
    assert fits(maps, truth)["pointing"].item() == 1.0
    maps[:, 200, 200] = 10.0
    assert fits(maps, truth)["pointing"].item() == 0.0
    assert fits(torch.zeros(1, 4, 4), truth)["iou"].item() == 0.0  # nothing lies above the median of a flat map
    assert iou(torch.tensor([[True, True, False]]), torch.tensor([[True, False, True]])).item() == pytest.approx(1 / 3)


def test_the_area_under_the_curve_is_that_of_the_curve() -> None:
    values = torch.rand(50)
    curve = [(values >= threshold).float().mean() for threshold in torch.linspace(0, 1, 21)]
    assert area_under(values).mean().item() == pytest.approx(np.trapezoid(curve, dx=0.05), abs=1e-6)


def test_another_sound_is_another_clips() -> None:
    other, there = next_clip(torch.tensor([4, 4, 7, 9, 9]))
    assert other.tolist() == [2, 2, 3, 0, 0]
    assert there.all()
    assert not next_clip(torch.tensor([3, 3]))[1].any()


def test_the_trivial_map_is_highest_in_the_middle() -> None:
    found = centre(torch.zeros(2, 5, 7))[0]
    assert divmod(int(found.argmax()), 7) == (2, 3)
    torch.testing.assert_close(found, found.flip(0, 1))


def test_the_loudest_impacts_come_first_with_the_object_that_hit() -> None:
    subject = trained("video")
    sounding = Sounding({key: e.preprocess for key, e in subject.encoders.items()}, "video", count=5)
    first, second = sounding(clip(0))
    red, blue = (m.picture[0] > 128 for m in (first, second)), (m.picture[2] > 128 for m in (first, second))
    assert torch.equal(first.truth, next(red))  # clip 0: the red one is louder
    assert torch.equal(second.truth, list(blue)[1])
    assert first.heard.amax() == 1.0  # the window lies about the impact
    assert first.frame == 2
    assert [len(Sounding(sounding.preprocess, "video", count=1)(clip(n))) for n in range(3)] == [1, 1, 1]
    for key, rest in (("masks", {}), ("meta", {"masks": clip(0)["masks"], "meta": {"fps": FPS}})):
        lacking = {name: value for name, value in clip(0).items() if name not in ("masks", "meta")} | rest
        with pytest.raises(DamagedError, match=f"without {key}" if key == "masks" else "meta without fps and impacts"):
            sounding(lacking)


def test_truth_is_cut_as_the_picture_is() -> None:
    wide = np.zeros((40, 80, 3), np.uint8)
    wide[10:20, 30:50] = 255
    prepare = {"image": ImagePreprocess(size=20), "audio": AudioPreprocess(sample_rate=RATE, seconds=0.5)}
    sample = {"image": Image.fromarray(wide), "audio": Waveform(torch.ones(50), RATE)}
    by_box = Sounding(prepare, "image", truth="boxes")({**sample, "boxes": [[30 / 80, 0.25, 50 / 80, 0.5]]})[0]
    by_mask = Sounding(prepare, "image", truth="masks")({**sample, "masks": Image.fromarray(wide)})[0]
    assert torch.equal(by_box.truth, by_mask.truth)
    assert torch.equal(by_box.truth, by_box.picture[0] > 127)
    assert by_box.truth.nonzero().aminmax(dim=0).min.tolist() == [5, 5]
    with pytest.raises(DamagedError, match="masks of another size than the images"):
        Sounding(prepare, "image", truth="masks")({**sample, "masks": wide[::2, :, 0]})


@pytest.mark.parametrize("boxes", [[[0.5, 0, 0.2, 1]], [[0, 0, 30, 40]], [0.1, 0.2], "x", [[0, 0, float("nan"), 1]]])
def test_boxes_that_are_none_are_damaged(boxes: Any) -> None:
    with pytest.raises(DamagedError, match="boxes that are not"):
        boxed(boxes, (10, 10))


def test_a_frame_finds_its_moment_in_a_coarser_map() -> None:
    class Coarse(Knows):
        def similarity_map(self, visual: Features, audio: Features) -> Tensor:
            return torch.arange(3.0)[None, :, None, None].expand(2, 3, 4, 4)

    judge = Comparer(trained("video", Coarse("video")), "avol")
    maps = judge.maps(torch.zeros(2, 3, 6, SIZE, SIZE), torch.ones(2, 50), [0, 5])
    assert maps[:, 0, 0].tolist() == [0.0, 2.0]
