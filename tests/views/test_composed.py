"""What each step does in a view, measured on samples that say what became of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from mmssl.data.collate import collate
from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.methods import cpc, exemplar, jigsaw
from mmssl.modalities.audio import Audio, Waveform
from mmssl.modalities.points import Cloud
from mmssl.modalities.video import Frames
from mmssl.transforms import audio, color, image, point_steps
from mmssl.transforms.audio import AudioPreprocess
from mmssl.transforms.base import Geometric, chances
from mmssl.transforms.color import ColorJitter, Grayscale
from mmssl.transforms.image import ImagePreprocess
from mmssl.transforms.points import PointsPreprocess
from mmssl.transforms.video import VideoPreprocess, resized
from mmssl.types import Batch
from mmssl.views.single import view as single
from mmssl.views.template import Views

RATE, FPS = 1000, 20
AUDIO = {"audio": AudioPreprocess(RATE, 0.5)}


def film(seconds: float) -> Frames:
    """Images whose brightness is 10 times the second that they are shown in the middle of."""
    shades = (np.arange(round(seconds * FPS)) + 0.5) / FPS * 10
    return Frames(
        np.broadcast_to(shades.round().astype(np.uint8)[:, None, None, None], (len(shades), 4, 4, 3)).copy(), FPS
    )


def track(seconds: float) -> Waveform:
    """Sound whose level is the time."""
    return Waveform((torch.arange(round(seconds * RATE)) + 0.5) / RATE, RATE)


def uniform(values: Any, low: float, high: float) -> bool:
    return float(stats.kstest(values, "uniform", (low, high - low)).pvalue) > 1e-3


MOMENTS = [  # seconds of video and of sound, of their windows, and between which moments the middle lies
    (4.0, 20.0, 0.5, 0.5, (0.25, 3.75)),
    (20.0, 4.0, 0.5, 0.5, (0.25, 3.75)),
    (20.0, 20.0, 4.0, 0.5, (2.0, 18.0)),
    (20.0, 18.0, 0.5, 4.0, (2.0, 16.0)),
    (8.0, 6.0, 4.0, 1.0, (2.0, 4.0)),
    (20.0, 2.0, 4.0, 1.0, (1.0, 1.0)),
    (2.0, 20.0, 1.0, 4.0, (1.0, 1.0)),
    (20.0, 4.0, 4.0, 1.0, (2.0, 2.0)),
    (20.0, 20.0, None, 2.0, (1.0, 19.0)),
]


@pytest.mark.parametrize(("seen", "heard", "video_span", "audio_span", "between"), MOMENTS)
def test_the_moment_that_is_shown_where_durations_differ(
    seen: float, heard: float, video_span: float | None, audio_span: float, between: tuple[float, float]
) -> None:
    """Any at which the longer window lies within the shorter of video and sound, or else the middle of that."""
    preprocess = {
        "image": ImagePreprocess(4),
        "video": VideoPreprocess(4, frames=8, seconds=video_span),
        "audio": AudioPreprocess(RATE, audio_span),
    }
    made, clip, sound, found = single(preprocess), film(seen), track(heard), []
    for _ in range(60):
        shown = made({"image": clip, "video": clip, "audio": sound})
        samples = shown["audio"][0]
        first = float(samples[0]) - 0.5 / RATE
        moment = between[0] if between[0] == between[1] else first + audio_span / 2
        found.append(first + audio_span / 2)
        last = int(clip.pictures[-1, 0, 0, 0])
        at = min(last, round(moment * 10))
        assert abs(int(shown["image"][0][0, 0, 0]) - at) <= 1
        span = seen if video_span is None else video_span
        start = 0.0 if video_span is None else max(0.0, moment - span / 2)
        times = [start + (i + 0.5) * span / 8 for i in range(8)]
        assert shown["video"][0][0, :, 0, 0].tolist() == pytest.approx([min(last, 10 * t) for t in times], abs=1.01)
    if between[0] == between[1]:
        starts = [max(0.0, between[0] - audio_span / 2) + audio_span / 2] * 60
        assert found == pytest.approx(starts, abs=1e-3)
    else:
        assert uniform(found, *between)


def test_each_view_has_a_moment_of_its_own() -> None:
    sounds = single(AUDIO, views=3)({"audio": track(10.0)})["audio"]
    assert len({float(x[0]) for x in sounds}) == 3


def heard(**steps: Any) -> torch.Tensor:
    """Returns windows (400, 500) of an even sound of level 1, as they are shown."""
    made, sound = single(AUDIO, audio=steps), Waveform(torch.ones(RATE), RATE)
    return torch.stack([made({"audio": sound})["audio"][0] for _ in range(400)])


def test_sound_is_left_alone_by_default() -> None:
    assert heard().eq(1).all()


def test_gain_is_up_to_so_many_decibels_either_way() -> None:
    decibels = 20 * heard(gain={"decibels": 4.0}).abs().mean(1).log10()
    assert uniform(decibels.numpy(), -4, 4)


def test_noise_is_up_to_its_share_of_the_power() -> None:
    power = (heard(noise={"power": 0.8}) - 1).square().mean(1)
    assert power.min() < 0.02
    assert 0.72 < power.max() < 0.95
    assert power.mean() == pytest.approx(0.4, abs=0.04)


def test_up_to_a_share_of_the_window_is_silenced() -> None:
    silent = (heard(time_mask={"share": 0.4}) == 0).float().mean(1)
    assert uniform(silent.numpy(), 0, 0.4)


def test_speed_is_between_its_bounds() -> None:
    fast = (heard(speed={"factor": (1.25, 2.5)}) != 0).float().mean(1)  # what is played in so much less time
    assert uniform(1 / fast.numpy(), 1.25, 2.5)
    assert single(AUDIO, audio={"speed": {"factor": (0.5, 0.5)}})({"audio": track(0.5)})["audio"][
        0
    ].tolist() == pytest.approx((0.125 + (np.arange(500) + 0.5) / 2000).tolist(), abs=1e-3)


def test_steps_are_taken_in_their_order() -> None:
    slow, loud, mask = {"factor": (2.0, 2.0)}, {"power": 0.5}, {"share": 0.5}
    assert (heard(speed=slow, noise=loud)[:, :100] != 0).float().mean() > 0.99, "noise on what speed leaves silent"
    assert (heard(noise=loud, speed=slow)[:, :100] == 0).all()
    assert (heard(noise=loud, time_mask=mask) == 0).any(1).float().mean() > 0.9
    assert not (heard(time_mask=mask, noise=loud) == 0).any(1).float().mean() > 0.1


@pytest.mark.parametrize(
    ("views", "seconds", "whole"), [(1, 0.5, False), (2, 2.0, True), (2, 2.1, False), (3, 3.0, True)]
)
def test_a_sound_is_read_at_once_where_that_costs_no_more(
    views: int, seconds: float, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MultiView views of a sound no longer than twice their windows together are cut from one reading."""
    reads: list[Any] = []
    monkeypatch.setattr(Audio, "duration", seconds)
    monkeypatch.setattr(
        Audio, "read", lambda self, **how: reads.append(how) or torch.arange(round(seconds * RATE)) * 1.0
    )
    single(AUDIO, views=views)({"audio": Audio(b"")})
    assert len(reads) == (1 if whole else views)
    assert (reads[0] == {"sample_rate": RATE}) == whole


def floor(count: int = 200) -> Cloud:
    """Points of a disc, whose normals point up and whose colours tell them apart."""
    rng = np.random.default_rng(0)
    xyz = rng.normal(size=(count, 3)) * (1, 1, 0)
    color_ = np.stack([np.arange(count) % 256, np.arange(count) // 256, np.zeros(count)], axis=1).astype(np.uint8)
    return Cloud(xyz, color_, np.tile([0.0, 0, 1], (count, 1)))


def clouds(times: int = 200, most: int | None = None, **steps: Any) -> list[torch.Tensor]:
    made = single({"points": PointsPreprocess(most, ("color", "normal"))}, points=steps)
    return [made({"points": floor()})["points"][0] for _ in range(times)]


def number(shown: torch.Tensor) -> torch.Tensor:
    """Reads off which points are shown."""
    return (shown[:, 3] * 255).round().long()


def test_clouds_are_left_alone_by_default_but_thinned_at_random() -> None:
    (shown,) = clouds(1)
    assert shown.equal(PointsPreprocess(None, ("color", "normal"))(floor()))
    thin = clouds(100, 20)
    assert {len(x) for x in thin} == {20}
    seen = torch.bincount(torch.cat([number(x) for x in thin]), minlength=200)
    assert seen.min() > 0
    assert seen.max() < 30


def test_point_crops_are_so_large_and_thinned_after_that() -> None:
    sizes = [len(x) / 200 for x in clouds(crop={"share": (0.3, 0.7)})]
    assert uniform(sizes, 0.3, 0.7)
    small = clouds(20, 30, crop={"share": (0.2, 0.2)})
    assert {len(x) for x in small} == {30}
    assert max(float(torch.cdist(x[:, :3], x[:, :3]).max()) for x in small) < 4.5
    xyz = torch.from_numpy(floor().xyz)
    spread = torch.stack([xyz[number(x)].std(0)[:2].mean() for x in small])
    assert spread.median() < 0.6 < xyz.std(0)[:2].mean(), "of one place"


def test_rotations_turn_points_and_normals() -> None:
    xyz = torch.from_numpy(floor().xyz)
    for axis, level in (("vertical", True), ("any", False)):
        angles = []
        for shown in clouds(100, rotate={"axis": axis}):
            torch.testing.assert_close(shown[:, :3].norm(dim=1), xyz.norm(dim=1), atol=1e-4, rtol=1e-4)
            torch.testing.assert_close((shown[:, :3] * shown[:, 6:]).sum(1), torch.zeros(200), atol=1e-4, rtol=0)
            assert torch.allclose(shown[:, 8], torch.ones(200), atol=1e-5) == level
            before, after = (torch.complex(y[:, 0], y[:, 1]) for y in (xyz, shown))
            angles.append(float((after * before.conj()).sum().angle()))
        assert uniform(angles, -math.pi, math.pi) or not level


def test_scale_and_jitter_of_points() -> None:
    xyz = torch.from_numpy(floor().xyz)
    factors = [float((x[:, :3] * xyz).sum() / xyz.square().sum()) for x in clouds(scale={"factor": (0.5, 3.0)})]
    assert uniform(factors, 0.5, 3.0)
    moved = torch.stack([x[:, :3] - xyz for x in clouds(20, jitter={"sigma": 0.3})])
    assert moved.std() == pytest.approx(0.3, rel=0.03)
    both = torch.stack([x[:, :3] - 2 * xyz for x in clouds(20, scale={"factor": (2.0, 2.0)}, jitter={"sigma": 0.3})])
    assert both.std() == pytest.approx(0.3, rel=0.03), "metres of what is shown"


def test_boxes_are_drawn_with_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def whole(width: int, height: int, **how: Any) -> tuple[int, int, int, int]:
        asked.append(how)
        return 0, 0, width, height

    monkeypatch.setattr("mmssl.transforms.image.random_box", whole)
    preprocess = {"image": ImagePreprocess(8), "video": VideoPreprocess(8, frames=2)}
    sample = {"image": Image.new("RGB", (20, 30)), "video": film(1.0)}
    single(preprocess)(sample)
    crop = {"scale": (0.2, 0.3), "ratio": (0.5, 0.7)}
    single(preprocess, image={"crop": crop})(sample)
    single(preprocess, video={"crop": crop})(sample)
    default = {"scale": (0.9, 1.0), "ratio": (1.0, 1.0)}
    assert asked == [default, default, crop, crop, default, crop], "videos as images, where nothing else is said"


@pytest.mark.parametrize("way", ["nearest", "bilinear", "lanczos"])
def test_crops_are_scaled_as_the_encoder_scales(way: Any) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 30, 3), dtype=np.uint8))
    shown = single({"image": ImagePreprocess(8, interpolation=way)}, image={"crop": {"scale": (1.0, 1.0)}})(
        {"image": picture}
    )
    expected = np.asarray(picture.resize((8, 8), Image.Resampling[way.upper()]))
    assert np.array_equal(shown["image"][0].permute(1, 2, 0).numpy(), expected)


def test_pictures_and_films_are_flipped_by_chance() -> None:
    halves = np.zeros((8, 8, 3), np.uint8)
    halves[:, 4:] = 255
    preprocess = {"image": ImagePreprocess(8), "video": VideoPreprocess(8, frames=2)}
    made = single(preprocess, image={"flip": {"p": 0.3}, "crop": {"scale": (1.0, 1.0)}})
    shown = [made({"image": Image.fromarray(halves), "video": Frames(np.stack([halves] * 4), 4.0)}) for _ in range(500)]
    for name in preprocess:
        left = torch.stack([each[name][0][..., 0].float().mean() / 255 for each in shown])
        assert left.mean() == pytest.approx(0.3, abs=0.07)
        assert set(left.tolist()) == {0.0, 1.0}, "all frames alike"


def test_colours_are_changed_in_order_and_each_view_by_its_own_chances(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def brighter(step: color.Linear, mean: torch.Tensor) -> color.Affine:
        calls.append(step)
        return torch.eye(3).expand(len(mean), 3, 3), torch.full_like(mean, 0.1)

    for kind in (ColorJitter, Grayscale):
        monkeypatch.setattr(kind, "affine", brighter)
    for name in ("blur", "solarize"):
        monkeypatch.setattr(color, name, lambda x, name=name, **how: calls.append((name, how)) or x + 0.1)
    jitter = {"brightness": 0.7, "contrast": 0.8, "saturation": 0.9, "hue": 0.25}
    steps = {
        "color_jitter": {"p": (0.1, 0.0, 0.0), **jitter},
        "grayscale": {"p": (0.2, 0.3, 0.0)},
        "blur": {"p": (0.4, 0.0, 0.0), "sigma": (0.5, 1.5)},
        "solarize": {"p": (0.5, 0.6, 0.0), "threshold": 0.4},
    }
    made = single({"image": ImagePreprocess(4)}, views=3, image=steps)
    x = torch.full((2, 3, 4, 4), 51, dtype=torch.uint8)
    batch = made.on_device(Batch({"image": [x, x, x]}))
    assert calls == [
        ColorJitter(p=0.1, **jitter),
        Grayscale(p=0.2),
        ("blur", {"share": 0.4, "sigma": (0.5, 1.5)}),
        ("solarize", {"share": 0.5, "threshold": 0.4}),
        Grayscale(p=0.3),
        ("solarize", {"share": 0.6, "threshold": 0.4}),
    ]
    for shown, changes in zip(batch.views["image"], (4, 2, 0), strict=True):
        torch.testing.assert_close(shown, torch.full((2, 3, 4, 4), 0.2 + 0.1 * changes))


def test_films_are_changed_too_and_nothing_else() -> None:
    preprocess: dict[str, Any] = {"video": VideoPreprocess(4), "image": ImagePreprocess(4), **AUDIO}
    made = single(preprocess, image={"solarize": {"p": 1.0}})
    white = torch.full((2, 3, 4, 4), 255, dtype=torch.uint8)
    batch = made.on_device(Batch({"image": [white], "video": [white[:, :, None]], "audio": [torch.ones(2, 5)]}))
    assert batch.views["image"][0].eq(0).all()
    assert batch.views["video"][0].eq(0).all()
    assert batch.views["audio"][0].eq(1).all()
    last = Views(1, after=[color.Solarize(p=1.0)])(preprocess)
    batch = last.on_device(Batch({"image": [white], "audio": [torch.ones(2, 5)]}))
    assert batch.views["image"][0].eq(0).all() and batch.views["audio"][0].eq(1).all()
    still = single(preprocess).on_device(Batch({"image": [white]})).views["image"][0]
    assert still is white


def test_views_of_a_batch() -> None:
    made = single({"image": ImagePreprocess(4), **AUDIO}, views=3)
    assert made.shows == {"image": 3, "audio": 3}
    assert made.reads == ("image", "audio")
    shown = made({"image": Image.new("RGB", (9, 9))})
    assert len(shown["image"]) == 3
    assert list(shown["places"]) == ["image"]
    assert set(shown) - {"places", "fields"} == {"image"}


@pytest.mark.parametrize(
    ("given", "views", "expected"),
    [(0.5, 2, [0.5, 0.5]), (0.0, 1, [0.0]), (1.0, 1, [1.0]), ((0.1, 0.9), 2, [0.1, 0.9]), ((0.3,), 1, [0.3])],
)
def test_chances_of_each_view(given: Any, views: int, expected: list[float]) -> None:
    assert chances("name", given, views) == expected


@pytest.mark.parametrize(
    ("given", "views"), [(-0.01, 1), (1.01, 2), ((0.5,), 2), ((0.5, 0.5), 1), ((0.5, 1.5), 2), ((-0.5, 0.5), 2)]
)
def test_chances_that_cannot_be(given: Any, views: int) -> None:
    with pytest.raises(UserError, match=f"name is .* from 0 to 1, or {views}, one for each view"):
        chances("name", given, views)


BOUNDS: list[tuple[Any, str, str, float, float]] = [  # step, option, how errors call it, the outermost values
    (image.Crop, "scale", "crop.scale", 0.01, 1.0),
    (image.Crop, "ratio", "crop.ratio", 0.1, 10.0),
    (audio.Speed, "factor", "speed.factor", 0.1, 10.0),
    (point_steps.Scale, "factor", "scale.factor", 0.01, 100.0),
    (point_steps.Crop, "share", "crop.share", 0.01, 1.0),
    (color.Blur, "sigma", "blur.sigma", 0.01, 100.0),
]


@pytest.mark.parametrize(("kind", "name", "title", "low", "high"), BOUNDS)
def test_bounds_of_ranges(kind: Any, name: str, title: str, low: float, high: float) -> None:
    assert getattr(kind(**{name: (low, high)}), name) == (low, high)
    for bad in ((low * 0.99, high), (low, high * 1.01), (high, low)):
        with pytest.raises(UserError, match=rf"{title} is .* from {low} to {high}"):
            kind(**{name: bad})


AMOUNTS = [
    ("audio", "gain", "decibels", -0.1, "at least 0"),
    ("audio", "noise", "power", -0.1, "at least 0"),
    ("audio", "time_mask", "share", -0.1, "at least 0 and of at most 1"),
    ("audio", "time_mask", "share", 1.1, "at most 1"),
    ("points", "jitter", "sigma", -0.1, "at least 0"),
    ("image", "rotate", "degrees", -1.0, "at least 0"),
    ("image", "solarize", "threshold", 1.1, "at most 1"),
]


@pytest.mark.parametrize(("modality", "step", "option", "value", "message"), AMOUNTS)
def test_bounds_of_amounts(modality: str, step: str, option: str, value: float, message: str) -> None:
    with pytest.raises(UserError, match=f"{modality}.{step}: {option} is {value}; expected float .*{message}"):
        single.changed({modality: {step: {option: value}}})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"views": 0}, "views is 0; expected int of at least 1"),
        ({"image": {"flip": {"p": 1.1}}}, "flip.p is 1.1"),
        ({"image": {"flip": {"p": -0.1}}}, "flip.p is -0.1"),
        ({"image": {"blur": {"p": (0.5, 0.5)}}}, "blur.p is"),
        ({"image": {"solarize": {"p": 2.0}}}, "solarize.p is 2.0"),
        ({"points": {"hole": {"share": 1.0}}}, "hole.share is 1.0; expected a share from 0 to below 1"),
    ],
)
def test_what_cannot_be(options: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        single({"image": ImagePreprocess(4), "points": PointsPreprocess(None)}, **options)


class Corner(Geometric):
    """Shows a quarter of what there is, at its upper left."""

    def draw(self, frame: Any) -> None:
        frame.cut(0, 0, frame.box[2] / 2, frame.box[3] / 2)


def test_a_geometric_step_of_ones_own_is_applied_with_and_without_a_crop() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(pixels).resize((8, 8), Image.Resampling.BICUBIC, box=(0, 0, 8, 8)))
    film = Frames(np.stack([pixels] * 4), 4.0)
    small = np.asarray(Image.fromarray(pixels).resize((8, 8), Image.Resampling.BOX))[:4, :4]  # as videos are decoded
    whole = image.Crop(scale=(1.0, 1.0), ratio=(0.25, 4.0))  # which needs more pixels
    for steps, seen in (([Corner()], small), ([whole, Corner()], pixels[:8, :8])):
        shown = Views(1, image=steps)({"image": ImagePreprocess(8), "video": VideoPreprocess(8, frames=2)})(
            {"image": Image.fromarray(pixels), "video": film}
        )
        assert np.array_equal(shown["image"][0].permute(1, 2, 0).numpy(), expected)
        assert shown["places"]["image"][0].tolist() == [[8, 0, 0], [0, 8, 0]]
        assert np.array_equal(shown["video"][0][:, 0].permute(1, 2, 0).numpy(), resized(seen[None], 8)[0])
    plain = Views(1, image=[image.Flip(p=1.0)])({"image": ImagePreprocess(8)})({"image": Image.fromarray(pixels)})
    assert plain["image"][0].flip(2).equal(ImagePreprocess(8)(Image.fromarray(pixels))), "as it is judged, mirrored"


STRANGE: list[tuple[str, Any, str]] = [
    ("image", audio.Gain(), "gain is no step for image; it works on audio"),
    ("video", point_steps.Jitter(), "jitter is no step for video; it works on points"),
    ("audio", image.Flip(), "flip is no step for audio; it works on image and video"),
    ("points", image.Crop(), "crop is no step for points; .* by view.points.crop=null"),
    ("text", image.Crop(), "crop is no step for text"),
]


@pytest.mark.parametrize(("modality", "step", "message"), STRANGE)
def test_a_step_that_its_modality_would_pass_over_is_refused(modality: str, step: Any, message: str) -> None:
    class Text(ImagePreprocess):
        modality = "text"

    prepare: dict[str, Any] = {"image": ImagePreprocess(4), "video": VideoPreprocess(4), "text": Text(4)}
    prepare |= {"points": PointsPreprocess(4), **AUDIO}
    Views(1, **{modality: []})({modality: prepare[modality]})
    with pytest.raises(UserError, match=message):
        Views(1, **{modality: [step]})({modality: prepare[modality]})


def test_places_are_of_the_views_that_are_shown_or_of_none() -> None:
    """Where a step makes other views of them, and does not say where these lie."""
    prepare = {"image": ImagePreprocess(24)}
    small = {"cell": 12, "grid": 2, "stride": 12, "patch": 12}
    patches = cpc.method.view(prepare, image={"patches": small, "rotate": {"degrees": 9.0}})
    for view, count in (
        (jigsaw.method.view(prepare, puzzle={"permutations": 5, "patch": 4, "gap": 3, "shift": 1}), 9),
        (patches, 4),
    ):
        sample = view({"image": Image.new("RGB", (30, 40))})
        assert len(sample["places"]["image"]) == 1
        batch = view.on_device(collate([sample] * 3, view))
        assert len(batch.views["image"]) == count
        assert "image" not in batch.places
    turned = exemplar.method.view(prepare, image={"crop": None})
    batch = collate([turned({"image": Image.new("RGB", (24, 24))})] * 3, turned)
    (before,) = batch.places["image"]
    (after,) = turned.on_device(batch).places["image"]
    assert len({round(float(x), 4) for x in (after - before).abs().sum((1, 2))}) == 3, "each image's own turn"


def test_texts_of_any_key_differ_by_caption() -> None:
    text = create_encoder("transformer", width=8, depth=1, heads=2, vocab_size=270)
    text.learn_preprocess(["one", "two"])
    single({"text_b": text.preprocess}, views=2).check()


def test_excerpts_are_shorter_also_where_a_sound_is_lacking() -> None:
    made = single(AUDIO, views=2, audio={"excerpt": {"share": 0.25}, "gain": {"decibels": 0.0}})
    length = round(0.5 * RATE * 0.25)
    shown = [made({"audio": track(2.0)}), {}]
    batch = collate(shown, made)
    assert [tuple(view.shape) for view in batch.views["audio"]] == [(2, length)] * 2
    assert batch.extra["audio_present"].tolist() == [True, False]


def test_sounds_are_mixed_on_the_device() -> None:
    made = single(AUDIO, audio={"mix": {"p": 1.0, "most": 1.0}, "gain": {"decibels": 0.0}})
    plain = torch.eye(3, round(0.5 * RATE))
    batch = collate([{"audio": [row]} for row in plain], made)
    assert batch.views["audio"][0].equal(plain), "not yet in the data worker"
    mixed = made.on_device(batch).views["audio"][0]
    assert ((mixed > 0).sum(dim=1) == 2).all(), "each has its own click and another's"
    torch.testing.assert_close(mixed.square().sum(dim=1), torch.ones(3))
