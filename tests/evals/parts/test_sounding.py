"""Moments at which something sounds: when, where, of which object, and all of it on one clock."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from given import defaults
from PIL import Image

from mmssl import limits
from mmssl.errors import DamagedError
from mmssl.evals.parts.sounding import Moment, Sounding, _masks, boxed, shown
from mmssl.modalities import image
from mmssl.modalities.audio import Waveform
from mmssl.modalities.video import Frames
from mmssl.transforms.audio import AudioPreprocess
from mmssl.transforms.image import ImagePreprocess
from mmssl.transforms.video import VideoPreprocess

RATE, FPS = 1000, 10


def film(impacts: list[dict[str, Any]], *, frames: int = 30) -> dict[str, Any]:
    """Images that tell their number, a sound that tells the time, and an object 0 whose place is its frame's row."""
    pictures = np.broadcast_to(np.arange(frames, dtype=np.uint8)[:, None, None, None], (frames, 8, 8, 3)).copy()
    masks = np.zeros((frames, 8, 8), np.uint8)
    for t in range(frames):
        masks[t, t % 8, :4] = 1
    masks[:10, 7, 7] = 2  # object 1 is seen in the first second only
    return {
        "video": Frames(pictures, FPS),
        "image": Frames(pictures, FPS),
        "audio": Waveform(torch.arange(frames * RATE // FPS) / RATE, RATE),
        "masks": {"masks": masks},
        "meta": {"fps": FPS, "impacts": impacts},
    }


def hit(time: float, number: int = 0, speed: float = 1.0) -> dict[str, Any]:
    return {"time": time, "object": number, "speed": speed}


def sounding(visual: str = "video", *, span: float | None = 0.5, seconds: float = 0.2, **options: Any) -> Sounding:
    fps = None if span is None else 5 / span
    seen: Any = {"video": VideoPreprocess(size=8, frames=5, fps=fps), "image": ImagePreprocess(size=8)}[visual]
    return Sounding({visual: seen, "audio": AudioPreprocess(RATE, seconds)}, visual, **options)


def test_what_each_truth_needs() -> None:
    assert defaults(Sounding) == {"truth": "impacts", "count": 1}
    for truth, needed in (("impacts", ("masks", "meta")), ("boxes", ("boxes",)), ("masks", ("masks",))):
        assert sounding(truth=truth).reads == ("video", "audio", *needed)
    for key in ("audio", "meta", "masks"):
        lacking = film([hit(1.0)])
        del lacking[key]
        with pytest.raises(DamagedError, match=f"a sample without {key}"):
            sounding()(lacking)


def middle(sound: torch.Tensor) -> float:
    return float(sound.mean()) + 0.5 / RATE


@pytest.mark.parametrize("visual", ["video", "image"])
@pytest.mark.parametrize("time", [0.95, 1.55, 2.05])
def test_picture_sound_and_truth_are_of_the_impact(visual: str, time: float) -> None:
    (moment,) = sounding(visual)(film([hit(time)]))
    number = int(moment.picture[0, 0, 0])
    assert middle(moment.heard) == pytest.approx(time, abs=1e-3)
    assert abs(number / FPS - time) <= 0.1 and number == int(time * FPS)
    assert moment.truth.nonzero().tolist() == [[number % 8, x] for x in range(4)]
    assert moment.seen.shape == ((3, 5, 8, 8) if visual == "video" else (3, 8, 8))
    if visual == "video":
        assert moment.frame == 2 and moment.seen[0, :, 0, 0].tolist() == [number - 2 + n for n in range(5)]
        assert torch.equal(moment.picture, moment.seen[:, 2])
    else:
        assert moment.frame == 0


@pytest.mark.parametrize(("time", "frame", "first"), [(0.0, 0, 0), (0.12, 1, 0), (2.99, 4, 25)])
def test_at_its_ends_a_film_is_shown_from_within(time: float, frame: int, first: int) -> None:
    (moment,) = sounding()(film([hit(time)]))
    assert moment.frame == frame
    assert moment.seen[0, :, 0, 0].tolist() == list(range(first, first + 5))
    assert len(moment.heard) == 200
    expected = {0.0: 0.1, 0.12: 0.12, 2.99: 2.9}[time]
    assert middle(moment.heard) == pytest.approx(expected, abs=1e-3), "so is its sound"


def test_without_a_span_the_whole_film_is_shown() -> None:
    (moment,) = sounding(span=None)(film([hit(2.2)]))
    assert moment.seen[0, :, 0, 0].tolist() == [3, 9, 15, 21, 27] and moment.frame == 3


def test_the_loudest_come_first_and_at_most_so_many() -> None:
    impacts = [hit(0.5, speed=1.0), hit(1.5, speed=3.0), hit(2.5, speed=2.0)]
    found = [middle(m.heard) for m in sounding(count=2)(film(impacts))]
    assert found == pytest.approx([1.5, 2.5], abs=1e-3)
    assert len(sounding(count=9)(film(impacts))) == 3 and len(sounding()(film(impacts))) == 1


def test_impacts_of_what_is_not_seen_do_not_count() -> None:
    impacts = [hit(1.5, 1, speed=9.0), hit(0.75, 1), hit(9.0, 0, speed=0.5)]
    found = sounding(count=9)(film(impacts))
    assert len(found) == 2
    assert found[0].truth.nonzero().tolist() == [[7, 7]], "object 1, in the first second"
    assert found[1].truth[29 % 8, 0], "after the end the last mask holds"
    with pytest.raises(DamagedError, match="no moment at which something sounds and is seen"):
        sounding()(film([hit(1.5, 1)]))


@pytest.mark.parametrize("meta", [[], "x", {"fps": 5}, {"impacts": []}])
def test_meta_must_tell_fps_and_impacts(meta: Any) -> None:
    with pytest.raises(DamagedError, match="meta without fps and impacts"):
        sounding()({**film([]), "meta": meta})


def test_boxes_and_masks_are_of_the_middle_of_a_film() -> None:
    made = film([])
    (boxes,) = sounding(truth="boxes")({**made, "boxes": [[0.25, 0.5, 0.5, 1.0]]})
    assert boxes.truth.nonzero().tolist() == [[y, x] for y in range(4, 8) for x in (2, 3)]
    assert middle(boxes.heard) == pytest.approx(1.5, abs=1e-3)
    (masks,) = sounding(truth="masks")(made)
    assert int(masks.picture[0, 0, 0]) in (14, 15)
    row = int(masks.picture[0, 0, 0]) % 8
    assert masks.truth.nonzero().tolist() == [[row, x] for x in range(4)]
    every = made["masks"]["masks"].copy()
    every[15] = 0
    every[15, 0, 0], every[15, 3, 3] = 1, 9
    both = sounding("image", truth="masks")({**made, "masks": every})
    assert both[0].truth.nonzero().tolist() == [[0, 0], [3, 3]], "every object, where no impact names one"


def test_a_still_picture_is_heard_in_its_middle() -> None:
    picture = Image.fromarray(np.full((8, 8, 3), 9, np.uint8))
    sample = {"image": picture, "audio": film([])["audio"], "boxes": [[0.0, 0.0, 1.0, 0.5]]}
    (found,) = sounding("image", truth="boxes")(sample)
    assert middle(found.heard) == pytest.approx(1.5, abs=1e-3)
    assert (found.picture == 9).all() and found.frame == 0
    assert found.truth[:4].all() and not found.truth[4:].any()


def test_one_mask_holds_for_all_of_a_film() -> None:
    mask = np.zeros((8, 8), np.uint8)
    mask[3, 2] = 1
    for several in (mask, mask[None], np.stack([0 * mask, mask])):
        (found,) = sounding(truth="masks")({**film([]), "masks": several})
        assert found.truth.nonzero().tolist() == [[3, 2]], "the last one, after the end"


@pytest.mark.parametrize(("told", "row"), [({"fps": 20}, 30), ({}, 15), (None, 15)])
def test_masks_have_the_rate_that_meta_tells_or_the_films(told: dict[str, Any] | None, row: int) -> None:
    made = film([])
    masks = np.zeros((60, 8, 8), np.uint8)
    masks[:, 0, 0] = 1
    masks[row, 0, 5] = 1
    made |= {"masks": masks}
    if told is None:
        del made["meta"]
    elif told:
        made["meta"] = told
    (found,) = sounding("image", truth="masks")(made)
    assert found.truth.nonzero().tolist() == [[0, 0], [0, 5]]


def test_what_is_shown_is_what_the_encoder_would_see() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (3, 12, 16, 3), dtype=np.uint8)
    still: Any = ImagePreprocess(size=8)
    assert torch.equal(shown({"image": still}, "image", pictures), still(Image.fromarray(pictures[0])))
    moving: Any = VideoPreprocess(size=8, frames=3)
    by_hand = [Image.fromarray(p[:, 2:14]).resize((8, 8), Image.Resampling.BILINEAR) for p in pictures]
    assert torch.equal(shown({"video": moving}, "video", pictures), torch.from_numpy(np.stack(by_hand)).movedim(-1, 0))


def test_boxes_are_filled_to_the_nearest_pixel() -> None:
    found = boxed([[0.12, 0.26, 0.88, 0.74], [0, 0, 0.2, 0.1]], (10, 20))
    expected = np.zeros((10, 20), bool)
    expected[3:7, 2:18], expected[0:1, 0:4] = True, True
    assert (found == expected).all()
    assert boxed([0.0, 0.0, 1.0, 1.0], (3, 5)).all(), "one box need not be in a list, and may be the whole image"


@pytest.mark.parametrize(
    "boxes",
    [
        [0.1, 0.2, 0.3],
        [[-0.1, 0, 1, 1]],
        [[0, 0, 1.1, 1]],
        [[0.5, 0, 0.5, 1]],
        [[0, 0.6, 1, 0.5]],
        [[0, 0, 1, 1], [0, 0, 1, 2]],
    ],
)
def test_boxes_out_of_bounds_or_empty_are_damaged(boxes: Any) -> None:
    with pytest.raises(DamagedError, match="boxes that are not"):
        boxed(boxes, (10, 10))


def test_masks_come_in_several_ways() -> None:
    one = np.arange(6, dtype=np.uint8).reshape(2, 3)
    for raw in (Image.fromarray(one), one, one[None], {"masks": one}, {"masks": one[None]}):
        assert (_masks(raw) == one[None]).all() and _masks(raw).shape == (1, 2, 3)
    for bad in ({}, {"mask": one}, one[0], one[None, None]):
        with pytest.raises(DamagedError, match="masks that are not"):
            _masks(bad)


def test_a_moment_has_one_picture() -> None:
    still, moving = torch.rand(3, 4, 4), torch.rand(3, 5, 4, 4)
    empty = torch.zeros(4, 4, dtype=torch.bool)
    assert torch.equal(Moment(still, still[0, 0], empty).picture, still)
    assert torch.equal(Moment(moving, still[0, 0], empty, 3).picture, moving[:, 3])


def test_pictures_and_masks_are_read_within_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is damaged in them is left out."""
    stream = io.BytesIO()
    Image.fromarray(np.full((8, 8), 9, np.uint8)).save(stream, "PNG")
    for data, reason in ((stream.getvalue(), "too large"), (stream.getvalue()[:45], "damaged image")):
        monkeypatch.setenv(limits.VARIABLE, "picture_pixels=63" if reason == "too large" else "")
        for key in ("image", "masks"):
            sample = {"image": Image.new("RGB", (4, 4)), "masks": np.ones((4, 4)), "audio": film([])["audio"]}
            with pytest.raises(DamagedError, match=reason):
                sounding("image", truth="masks")(sample | {key: image.decode(data)})
