"""Label propagation, exactly: masks, key points, cells, and every figure of the evaluation by plain loops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from given import defaults, give, written
from test_propagate import Colors, plain_f, plain_propagate
from torch import Tensor
from torch.nn import functional as F

from mmssl import dist
from mmssl.errors import UserError
from mmssl.evals.parts import propagation
from mmssl.evals.parts.propagation import carried, ceiling, cells_of, moved, propagate
from mmssl.evals.propagate import PCK, Propagate, agreement, side
from mmssl.modalities.video import Frames
from mmssl.types import Features, Head, Score, Trained

WAY: dict[str, Any] = {"context": 2, "radius": 2.3, "topk": 3, "temperature": 0.2}


def test_defaults_are_the_protocols() -> None:
    # DINO's eval_video_segmentation.py: n_last_frames 7, size_mask_neighborhood 12, topk 5, temperature 0.1.
    protocol = {"context": 7, "radius": 12, "topk": 5, "temperature": 0.1}
    assert defaults(propagate) == protocol
    assert defaults(cells_of) == {"space": None, "window": 1, "grayscale": False}
    assert defaults(Propagate) == {
        "encoder": "video",
        "space": None,
        "size": None,
        "square": False,
        "window": 1,
        "grayscale": False,
        **protocol,
        "baselines": False,
        "limit": None,
        "seed": 0,
    }
    assert PCK == (0.1, 0.2, 0.3, 0.4, 0.5)  # Jabri et al., NeurIPS 2020, table of JHMDB
    assert (propagation.HELD, propagation.AT_ONCE) == (2**24, 64)


def plain_carried(cells: Tensor, mask: Tensor) -> Tensor:
    """Of a mask twice as large as the cells."""
    names = sorted({0, *mask.flatten().tolist()})
    soft = torch.stack([F.avg_pool2d((mask == name).float()[None], 2)[0] for name in names])
    found = [mask]
    for maps in plain_propagate(cells, soft, *WAY.values())[1:]:
        fine = F.interpolate(maps[None], size=mask.shape, mode="bilinear")[0]
        fine = torch.stack([label / max(float(label.max()), 1e-6) for label in fine])
        found.append(torch.tensor(names)[fine.argmax(dim=0)])
    return torch.stack(found)


def plain_ceiling(mask: Tensor, first: Tensor) -> Tensor:
    """The true mask of a frame through cells of two by two pixels, of the labels that the first frame has."""
    names = sorted({0, *first.flatten().tolist()})
    soft = torch.stack([F.avg_pool2d((mask == name).float()[None], 2)[0] for name in names])
    fine = F.interpolate(soft[None], size=mask.shape, mode="bilinear")[0]
    fine = torch.stack([label / max(float(label.max()), 1e-6) for label in fine])
    return torch.tensor(names)[fine.argmax(dim=0)]


def test_the_ceiling_is_what_the_grid_leaves_of_true_masks() -> None:
    """Squares that fill cells come back whole, but for what is between the centres of two cells; a line does not."""
    masks = torch.zeros(3, 8, 12, dtype=torch.long)
    masks[0, 2:6, 2:8], masks[1, 2:6, 4:10], masks[2, 3, 1:11], masks[2, 7, 0] = 5, 5, 5, 9
    found = ceiling(masks, (4, 6))
    assert torch.equal(found, torch.stack([plain_ceiling(mask, masks[0]) for mask in masks]))
    assert torch.equal(found[0], masks[0]) and torch.equal(found[1], masks[1]) and not torch.equal(found[2], masks[2])
    assert set(found.unique().tolist()) == {0, 5}, "what the first frame lacks cannot be carried"
    assert torch.equal(ceiling(masks[:2], (8, 12)), masks[:2]), "cells of a pixel lose nothing"


def plain_moved(cells: Tensor, points: Tensor) -> Tensor:
    height, width = cells.shape[1:3]
    labels = torch.zeros(len(points), height, width)
    for k, (x, y) in enumerate(points.tolist()):
        labels[k, min(max(int(y * height), 0), height - 1), min(max(int(x * width), 0), width - 1)] = 1
    found = [points]
    for maps in plain_propagate(cells, labels, *WAY.values())[1:]:
        places = []
        for label in maps:
            flat = label.flatten().tolist()
            best = sorted(range(len(flat)), key=lambda place: -flat[place])[:5]
            total = max(sum(flat[place] for place in best), 1e-12)
            x = sum(flat[place] * (place % width + 0.5) for place in best) / total / width
            y = sum(flat[place] * (place // width + 0.5) for place in best) / total / height
            places.append([x, y])
        found.append(torch.tensor(places))
    return torch.stack(found)


def some_cells(frames: int = 5, height: int = 4, width: int = 6) -> Tensor:
    return F.normalize(torch.randn(frames, height, width, 3), dim=3)


def test_masks_are_carried_as_plain_loops_carry_them() -> None:
    cells, mask = some_cells(), torch.zeros(8, 12, dtype=torch.long)
    mask[:4, :6], mask[5:, 4:], mask[7, 0] = 4, 9, 2
    found = carried(cells, mask, **WAY)
    assert torch.equal(found, plain_carried(cells, mask))
    assert torch.equal(found[0], mask) and set(found.unique().tolist()) <= {0, 2, 4, 9}
    whole = torch.full((8, 12), 3)  # without a background there is one label more, of which nothing is carried
    assert (carried(cells, whole, **WAY) == 3).all()


def test_a_label_is_measured_by_its_own_largest_value() -> None:
    """An object of a quarter of a cell is not outvoted (Caron et al., ICCV 2021)."""
    mask = torch.zeros(4, 4, dtype=torch.long)
    mask[0, 0] = 1
    cells = torch.eye(4).view(1, 2, 2, 4).repeat(2, 1, 1, 1)
    assert carried(cells, mask, topk=1)[1].nonzero().tolist() == [[0, 0]], "0.25 of 0.25 against 0.75 of 1"


def test_points_move_as_plain_loops_move_them() -> None:
    cells, points = some_cells(3), torch.tensor([[0.1, 0.9], [0.5, 0.3], [-0.2, 1.4], [1.0, 0.0]])
    torch.testing.assert_close(moved(cells, points, **WAY), plain_moved(cells, points), atol=1e-5, rtol=0)
    few = some_cells(3, 2, 2)  # fewer than five cells
    torch.testing.assert_close(moved(few, points, **WAY), plain_moved(few, points), atol=1e-5, rtol=0)


def test_a_point_with_nothing_carried_has_no_place_and_no_nan() -> None:
    cells = torch.zeros(2, 1, 9, 2)
    cells[0, 0, :, 0] = 1
    cells[0, 0, 8] = torch.tensor([0.0, 1.0])
    cells[1, 0, :, 0] = 1
    assert moved(cells, torch.tensor([[0.95, 0.5]]), topk=1, radius=2)[1].tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("side", [1, 2, 3])
def test_frames_are_labelled_in_squares_that_fit(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three frames that are seen, within two cells: 3 x (side + 4) x 5 keys at most where the frame is 7 x 5."""
    cells, labels = some_cells(4, 7, 5), torch.rand(2, 7, 5)
    seen: list[tuple[slice, slice]] = []
    real = propagation._copied
    monkeypatch.setattr(propagation, "HELD", side**2 * 3 * min(7, side + 4) * 5)
    monkeypatch.setattr(propagation, "_copied", lambda *a: (seen.append(a[3]), real(*a))[1])
    found = propagate(cells[None], labels[None], **WAY)[0]
    torch.testing.assert_close(found, plain_propagate(cells, labels, *WAY.values()))
    last = seen[-math.ceil(7 / side) * math.ceil(5 / side) :]
    assert {(part.start, part.stop) for part, _ in last} == {(top, top + side) for top in range(0, 7, side)}
    assert {(part.start, part.stop) for _, part in last} == {(left, left + side) for left in range(0, 5, side)}


@pytest.mark.parametrize("radius", [1.0, 2.0])
def test_cells_at_just_the_radius_count_in_every_clip_of_a_batch(
    radius: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells, labels = torch.stack([some_cells(3, 3, 4) for _ in range(2)]), torch.rand(2, 2, 3, 4)
    way = {**WAY, "radius": radius}
    seen: list[Any] = []
    real = propagation._copied
    monkeypatch.setattr(propagation, "_copied", lambda *a: (seen.append(a[3]), real(*a))[1])
    monkeypatch.setattr(propagation, "HELD", 2 * 4 * 12)  # of two clips, four cells against one frame before
    found = propagate(cells, labels, **way)
    for clip in range(2):
        torch.testing.assert_close(found[clip], plain_propagate(cells[clip], labels[clip], *way.values()))
    corners = [(rows.start, columns.start) for rows, columns in seen]
    assert corners == [(y, x) for y in (0, 2) for x in (0, 2)] + [(y, x) for y in range(3) for x in range(4)]


class Doubled(Head):
    def forward(self, features: Features) -> Tensor:
        assert features.tokens is not None
        return features.tokens * torch.tensor([1.0, 2.0, -1.0])


class Watched(Colors):
    """Remembers what it was shown."""

    def __init__(self, modality: str) -> None:
        super().__init__(modality)
        self.shown: list[Tensor] = []

    def forward(self, x: Tensor) -> Features:
        self.shown.append(x)
        return super().forward(x)


def plain_cells(frames: Tensor) -> Tensor:
    return F.normalize(frames.float()[..., ::2, ::2].sub(128).movedim(1, -1), dim=-1)


@pytest.mark.parametrize(("modality", "window"), [("video", 2), ("video", 1), ("image", 3)])
def test_cells_are_of_unit_length_and_of_every_frame(
    modality: str, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(propagation, "AT_ONCE", 4)
    frames, encoder = torch.randint(256, (5, 3, 8, 12), dtype=torch.uint8), Watched(modality)
    torch.testing.assert_close(cells_of(encoder, frames, window=window), plain_cells(frames))
    if modality == "image":
        assert [tuple(x.shape) for x in encoder.shown] == [(4, 3, 8, 12), (1, 3, 8, 12)]
    elif window == 1:
        assert [tuple(x.shape) for x in encoder.shown] == [(4, 3, 1, 8, 12), (1, 3, 1, 8, 12)]
    else:
        assert [tuple(x.shape) for x in encoder.shown] == [(2, 3, 2, 8, 12), (1, 3, 2, 8, 12)]
        last = encoder.shown[-1][0].transpose(0, 1)
        assert torch.equal(last, frames[-1:].repeat(2, 1, 1, 1)), "the last frame stands still"


def test_cells_go_through_the_spaces_head_and_colour_can_be_hidden() -> None:
    frames, encoder = torch.randint(256, (3, 3, 8, 12), dtype=torch.uint8), Colors("video")
    encoder.spaces["walk"] = Doubled()
    expected = F.normalize((frames.float()[..., ::2, ::2] - 128).movedim(1, -1) * torch.tensor([1.0, 2, -1]), dim=-1)
    torch.testing.assert_close(cells_of(encoder, frames, space="walk"), expected)
    luma = (frames.float() * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True).round()
    torch.testing.assert_close(cells_of(encoder, frames, grayscale=True), plain_cells(luma.expand(-1, 3, -1, -1)))
    assert not cells_of(encoder, frames).requires_grad


@pytest.mark.parametrize("change", ["no tokens", "no grid", "flat", "other length"])
def test_cells_must_lie_on_a_grid_of_every_frame(change: str) -> None:
    class Odd(Colors):
        def forward(self, x: Tensor) -> Features:
            found = super().forward(x)
            assert found.grid is not None
            if change == "no tokens":
                return Features(found.pooled, None, found.grid)
            grid = {"no grid": None, "flat": found.grid[1:], "other length": (2, *found.grid[1:])}[change]
            return Features(found.pooled, found.tokens, grid)

    with pytest.raises(UserError, match="of 1 frames this encoder makes"):
        cells_of(Odd("video"), torch.zeros(2, 3, 8, 8, dtype=torch.uint8))


def test_the_size_of_frames_is_said_or_the_encoders_own() -> None:
    assert (side(Colors("video"), None), side(Colors("video"), 48)) == (32, 48)
    nameless = Colors("video")
    nameless.preprocess = Nameless()  # type: ignore[assignment]
    assert side(nameless, 16) == 16
    with pytest.raises(UserError, match="names no size of its images; say size"):
        side(nameless, None)


def test_it_needs_a_size_and_something_to_carry(monkeypatch: pytest.MonkeyPatch) -> None:
    nameless = Small("video")
    nameless.preprocess = Nameless()  # type: ignore[assignment]
    for samples, encoder, size, told in (
        ([masked(0)], nameless, None, "say size"),
        ([{"video": 0}], Small("video"), None, "given.tar has neither masks nor tracks"),
        ([masked(0)], Small("audio"), None, "reads audio; expected video or image"),
        ([masked(0)], nameless, 16, None),
        ([{"video": 0, "tracks": 0}], Small("image"), None, None),
    ):
        give(monkeypatch, "mmssl.evals.propagate", samples)
        made = Propagate(data={}, size=size)
        if told is None:
            made.check(Trained({"video": encoder}))
        else:
            with pytest.raises(UserError, match=told):
                made.check(Trained({"video": encoder}))


class Nameless:
    def config(self) -> dict[str, Any]:
        return {}


def test_the_figures_of_an_object_are_means_over_its_frames() -> None:
    truth = torch.zeros(2, 10, 10, dtype=torch.bool)
    truth[:, 2:6, 2:6] = True
    mine = truth.clone()
    mine[1, :, 4:] = False
    f = [plain_f(m.numpy(), t.numpy()) for m, t in zip(mine, truth, strict=True)]
    found = agreement(mine, truth)
    assert found["J"] == pytest.approx((1 + 0.5) / 2) and found["F"] == pytest.approx(sum(f) / 2)
    assert found["J&F"] == pytest.approx((found["J"] + found["F"]) / 2)


def masked(number: int, frames: int = 5) -> dict[str, Any]:
    """A video of noise with masks of three labels and void, and tracks of four points, some unseen."""
    draw = np.random.default_rng(number)
    masks = np.zeros((frames, 8, 12), np.uint8)
    for t in range(frames):
        masks[t, 1:5, t : t + 5], masks[t, 4:, 6:11], masks[t, 0, 0] = 3, 7, 255
    tracks = draw.uniform(1, 7, (frames, 4, 2)).astype(np.float32) * (1.5, 1)
    visible = np.ones((frames, 4), bool)
    visible[0, 1] = visible[1:, 2] = visible[2, 0] = False
    return {
        "video": Frames(draw.integers(0, 256, (frames, 8, 12, 3), dtype=np.uint8), 5.0),
        "masks": {"masks": masks},
        "tracks": {"tracks": tracks.astype(np.float32), "visible": visible},
        "meta": {"fps": 5.0},
    }


class Small(Colors):
    def __init__(self, modality: str) -> None:
        super().__init__(modality)
        from mmssl.transforms.image import ImagePreprocess

        self.preprocess = ImagePreprocess(size=8)


def objects(sample: dict[str, Any]) -> list[dict[str, float]]:
    """Figures of every object, by loops: of the carried masks, and of copies of the first."""
    frames = torch.from_numpy(sample["video"].pictures).movedim(-1, 1)
    masks = torch.from_numpy(sample["masks"]["masks"].astype(np.int64))
    masks[masks == 255] = 0
    rows = []
    answer = plain_carried(plain_cells(frames), masks[0])
    for name in (3, 7):
        row: dict[str, float] = {}
        best = torch.stack([plain_ceiling(mask, masks[0]) for mask in masks])
        ways = {"": answer, "trivial/": masks[:1].expand_as(masks), "ceiling/": best}
        for way, mine in ways.items():
            j, f = [], []
            for t in range(1, len(masks) - 1):  # neither the first nor the last frame counts
                a, b = mine[t] == name, masks[t] == name
                j.append(float((a & b).sum() / (a | b).sum()))
                f.append(plain_f(a.numpy(), b.numpy()))
            row |= {f"{way}J": float(np.mean(j)), f"{way}F": float(np.mean(f))}
            row[f"{way}J&F"] = (row[f"{way}J"] + row[f"{way}F"]) / 2
        rows.append(row)
    return rows


def points(sample: dict[str, Any]) -> list[dict[str, float]]:
    """Figures of every point that is seen in the first frame and in a later one."""
    frames = torch.from_numpy(sample["video"].pictures).movedim(-1, 1)
    tracks, visible = sample["tracks"]["tracks"], sample["tracks"]["visible"]
    answer = plain_moved(plain_cells(frames), torch.from_numpy(tracks[0]) / torch.tensor([12, 8])).numpy() * (12, 8)
    rows = []
    for k in (0, 3):  # the second is not seen at first, the third never again
        row: dict[str, float] = {}
        for a in PCK:
            hits: dict[str, list[float]] = {"": [], "trivial/": [], "chance/": []}
            for t in range(1, len(tracks)):
                if not visible[t, k]:
                    continue
                shown = tracks[t][visible[t]]
                extent = max(float(np.ptp(shown, axis=0).max()), 1.0)
                hits[""].append(np.linalg.norm(answer[t, k] - tracks[t, k]) / extent <= a)
                hits["trivial/"].append(np.linalg.norm(tracks[0, k] - tracks[t, k]) / extent <= a)
                hits["chance/"].append(min(1.0, math.pi * (a * extent) ** 2 / 96))
            row |= {f"{way}PCK@{a}": float(np.mean(values)) for way, values in hits.items()}
        rows.append(row)
    return rows


def judged(trained: Trained, **options: Any) -> dict[str, Score]:
    return written(dict(Propagate(data={"shards": "x"}, **{**WAY, **options}).run(trained)))


def test_every_figure_is_that_of_plain_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    films = [masked(n, frames) for n, frames in ((0, 5), (1, 4))]
    give(monkeypatch, "mmssl.evals.propagate", films)
    found = judged(Trained({"video": Small("video")}))
    assert list(found) == ["J&F", "J", "F", *(f"PCK@{a}" for a in PCK), "ceiling/J&F", "ceiling/J", "ceiling/F"]
    for figure in ("J&F", "J", "F"):
        rows = [row for film in films for row in objects(film)]
        best = found[f"ceiling/{figure}"]
        assert best.value == pytest.approx(np.mean([row[f"ceiling/{figure}"] for row in rows]), abs=1e-5)
        assert best.parts is not None and list(best.parts.values()) == pytest.approx(
            [r[f"ceiling/{figure}"] for r in rows]
        )
        assert best.trivial == found[figure].trivial
    for figure, rows in (
        *((name, [row for film in films for row in objects(film)]) for name in ("J&F", "J", "F")),
        *((f"PCK@{a}", [row for film in films for row in points(film)]) for a in PCK),
    ):
        score = found[figure]
        assert score.n == 4
        assert score.value == pytest.approx(np.mean([row[figure] for row in rows]), abs=1e-5), figure
        assert score.trivial == pytest.approx(np.mean([row[f"trivial/{figure}"] for row in rows]), abs=1e-5), figure
        if "PCK" in figure:
            assert score.chance == pytest.approx(np.mean([row[f"chance/{figure}"] for row in rows]), abs=1e-5)


def test_chance_draws_labels_with_the_frequencies_of_the_first_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    film = masked(0, frames=42)
    masks = np.zeros((42, 8, 12), np.uint8)
    masks[:, :4, :8] = 1  # a third
    masks[1:, :, :] = 0
    masks[1:, :4, :6] = 1  # later a quarter
    film |= {"masks": {"masks": masks}, "video": Frames(np.zeros((42, 8, 12, 3), np.uint8), 5.0)}
    del film["tracks"]
    give(monkeypatch, "mmssl.evals.propagate", [film])
    drawn = [judged(Trained({"video": Small("video")}), seed=seed)["J"].chance for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0] == pytest.approx(1 / 12 / (1 / 3 + 1 / 4 - 1 / 12), abs=0.03)


def test_masks_alone_and_tracks_alone_are_judged_and_meta_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = {f"{way}{figure}" for way in ("", "ceiling/") for figure in ("J&F", "J", "F")}
    for key, figures in (("masks", masks), ("tracks", {f"PCK@{a}" for a in PCK})):
        source = give(monkeypatch, "mmssl.evals.propagate", [{k: masked(1)[k] for k in ("video", key)}])
        assert judged(Trained({"video": Small("video")})).keys() == figures
        assert source.asked == [{"video", key}]
    source = give(monkeypatch, "mmssl.evals.propagate", [masked(1)])
    judged(Trained({"video": Small("video")}))
    assert source.asked == [{"video", "masks", "tracks", "meta"}]


def test_points_that_are_never_seen_again_are_nothing_to_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    film = masked(1)
    film["tracks"]["visible"][1:] = False
    give(monkeypatch, "mmssl.evals.propagate", [{k: film[k] for k in ("video", "tracks")}])
    with pytest.raises(UserError, match="no clip of the evaluation data has masks or tracks that fit it"):
        judged(Trained({"video": Small("video")}))


@pytest.mark.parametrize(("limit", "shares"), [(None, (2, 1)), (1, (1, 0)), (2, (1, 1)), (3, (2, 1)), (9, (2, 1))])
def test_so_many_clips_are_judged_on_all_processes_together(
    limit: int | None, shares: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    give(monkeypatch, "mmssl.evals.propagate", [masked(n, frames=3) for n in range(3)])
    monkeypatch.setattr(dist, "world", lambda: 2)
    monkeypatch.setattr(dist, "gather_objects", lambda rows: [rows])
    for rank, share in enumerate(shares):
        monkeypatch.setattr(dist, "rank", lambda rank=rank: rank)
        rows = Propagate(data={}, limit=limit)._rows({"": Small("video")})
        assert sum("J" in row for _, row in rows) == 2 * share
        names = {name for name, _ in rows}
        assert len(names) == len(rows) and all("/object " in name or "/point " in name for name in names)


def test_options_reach_what_they_are_for(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    give(monkeypatch, "mmssl.evals.propagate", [masked(0, frames=3)])
    encoder = Small("video")
    encoder.spaces["walk"] = Doubled()

    def cells(rival: Any, frames: Tensor, **looks: Any) -> Tensor:
        told.append((rival is encoder, rival.training, tuple(frames.shape[2:]), looks))
        return some_cells(3)

    monkeypatch.setattr("mmssl.evals.propagate.cells_of", cells)
    other = Small("video")
    monkeypatch.setattr("mmssl.evals.propagate.untrained", lambda rival, seed: told.append(seed) or other)
    looks = {"window": 3, "grayscale": True}
    encoder.train()
    found = judged(Trained({"video": encoder}), space="walk", size=16, square=True, baselines=True, seed=5, **looks)
    assert told == [
        5,
        (True, False, (16, 16), {"space": "walk", **looks}),
        (False, False, (16, 16), {"space": None, **looks}),
    ]
    assert encoder.training
    assert {f"random_init/{name}" for name in ("J", "J&F", "F", "PCK@0.1")} <= found.keys()
    assert found["random_init/J"].trivial == found["J"].trivial and found["random_init/J"].chance == found["J"].chance
