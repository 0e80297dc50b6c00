"""DepthContrast: its four losses by a loop, what the queues and the averages keep, and its views."""

from __future__ import annotations

import math
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.methods.depthcontrast import DepthContrast, method
from mmssl.modalities.points import Cloud
from mmssl.transforms import point_steps, points
from mmssl.transforms.points import PointsPreprocess
from mmssl.types import Batch, View

sys.path.insert(0, str(Path(__file__).parent))
from tables import Table, defaults, numbers, present, same


def test_one_format_alone_and_none() -> None:
    encoders = {"points": create_encoder("pointnet", widths=[8, 16]), "image": create_encoder("convnet", image_size=16)}
    assert DepthContrast(encoders, queue=4).uses == ("points",)
    with pytest.raises(UserError, match=r"needs an encoder of points; the run has image \(of image\)"):
        DepthContrast({"image": encoders["image"]})


def test_two_views_in_both_formats() -> None:
    cloud = Cloud(np.random.default_rng(0).uniform(1, 3, (1000, 3)))
    preprocess = {"points": PointsPreprocess(points=200), "points_voxels": PointsPreprocess(points=None)}
    view = method.view(preprocess, points={"crop": {"share": (0.5, 0.8)}, "hole": {"share": 0.25}})
    assert view.reads == ("points",)
    shown = view({"points": cloud})
    assert [len(part) for part in shown["points"]] == [200, 200]
    for thin, full in zip(shown["points"], shown["points_voxels"], strict=True):
        assert 370 < len(full) < 605, "cropped to 50-80%, then a quarter dropped"
        assert torch.cdist(thin, full).amin(1).max() < 1e-2, "both formats see the same view"
    assert not torch.allclose(shown["points"][0], shown["points"][1])
    assert view({}) == {}


KEYS = ("cloud", "voxels")


@pytest.mark.parametrize("norm", [False, True])
def test_every_option_an_absent_sample_and_the_state_after_a_step(norm: bool) -> None:
    encoders: dict[str, Any] = {key: Table("points", 3 + n) for n, key in enumerate(KEYS)}
    made = DepthContrast(
        {**encoders, "image": Table("image")}, embed_dim=4, hidden=(6,), temperature=0.3, queue=5, momentum=0.8,
        within=0.7, across=0.2, norm=norm,
    )  # fmt: skip
    assert made.uses == KEYS
    kinds = ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d"] if norm else ["Linear", "ReLU", "Linear"]
    for key in KEYS:
        assert [type(layer).__name__ for layer in made.heads[key].layers] == kinds
        with torch.no_grad():  # the averages lag behind
            for part in (made.teachers[key], made.teacher_heads[key]):
                for p in part.parameters():
                    p += 0.3 * torch.randn_like(p)
    have = {"cloud": present(1, 1, 0, 1), "voxels": present(1, 1, 1, 0)}
    shown = Batch(
        {key: [numbers(0, 1, 2, 3), numbers(4, 5, 6, 7)] for key in KEYS},
        extra={f"{key}_present": value for key, value in have.items()},
    )
    q = {key: made.heads[key](encoders[key](shown.views[key][0])) for key in KEYS}
    k = {key: made.teacher_heads[key](made.teachers[key](shown.views[key][1])).detach() for key in KEYS}
    queues = {key: made.queue(key).rows.clone() for key in KEYS}
    terms, right = {}, []
    for a in KEYS:
        for b in KEYS:
            values = []
            for i in (0, 1):  # both formats have these
                logits = torch.stack([q[a][i] @ other for other in (k[b][i], *queues[b])])
                values.append(-(logits / 0.3).log_softmax(0)[0])
                right.append(float(logits.argmax() == 0))
            terms[f"{a}-{b}"] = torch.stack(values).mean()
    expected = sum((0.7 if a == b else 0.2) * terms[f"{a}-{b}"] for a in KEYS for b in KEYS)
    found = made(encoders, shown)
    same(found.total, expected, [*encoders.values(), made.heads])  # type: ignore[arg-type]
    assert list(found.logs) == [f"loss_{name}" for name in terms]
    for name, value in terms.items():
        torch.testing.assert_close(found.logs[f"loss_{name}"], value.detach())
    correct = torch.tensor(right).view(4, 2).mean(0)
    assert found.answers["correct"][:2].tolist() == correct.tolist() and found.answers["correct"][2:].isnan().all()
    assert not any(x.requires_grad for x in (*found.logs.values(), *found.embeddings.values()))
    for key in KEYS:
        torch.testing.assert_close(found.embeddings[key], q[key].detach())
    found.total.backward()
    assert all(
        p.grad is None and not p.requires_grad for p in (*made.teachers.parameters(), *made.teacher_heads.parameters())
    )
    averages = [(made.teachers[key], encoders[key]) for key in KEYS]
    averages += [(made.teacher_heads[key], made.heads[key]) for key in KEYS]
    with torch.no_grad():
        for _, model in averages:
            for p in model.parameters():
                p += 0.1
    pairs = [pair for mine, model in averages for pair in zip(mine.parameters(), model.parameters(), strict=True)]
    wanted = [(0.8 * average + 0.2 * now).detach() for average, now in pairs]
    made.after_step(encoders, 0.5)
    for (average, _), value in zip(pairs, wanted, strict=True):
        torch.testing.assert_close(average, value)
    for key in KEYS:
        torch.testing.assert_close(made.queue(key).rows, torch.cat([k[key][:2], queues[key][2:]]))
        assert made.queue(key).place == 2
    assert made.spaces() == dict(made.heads.items())
    if norm:
        for key in KEYS:
            torch.testing.assert_close(
                made.teacher_heads[key].layers[1].running_mean, made.heads[key].layers[1].running_mean
            )


def test_averages_start_as_the_networks_are_and_what_is_judged_is_not_remembered() -> None:
    encoders: dict[str, Any] = {key: Table("points") for key in KEYS}
    made = DepthContrast(encoders, embed_dim=4, queue=5)
    for key in KEYS:
        assert torch.equal(made.teachers[key].pooled, encoders[key].pooled)
        assert made.teachers[key].pooled is not encoders[key].pooled
        assert torch.equal(made.teacher_heads[key].layers[0].weight, made.heads[key].layers[0].weight)
        assert made.teacher_heads[key].layers[0].weight is not made.heads[key].layers[0].weight
        assert made.queue(key).rows.shape == (5, 4)
    shown = Batch({key: [numbers(0, 1), numbers(2, 3)] for key in KEYS})
    made.eval()(encoders, shown)
    assert not any(made.queue(key).noted.take() for key in KEYS)
    made.train()(encoders, shown)
    assert {key: len(made.queue(key).noted.take()[0]) for key in KEYS} == dict.fromkeys(KEYS, 2)


def test_defaults_are_the_papers() -> None:
    """Zhang et al., ICCV 2021, section 3 and its code: 128 numbers, temperature 0.1, a queue of 131072, momentum
    0.999, all losses alike; views keep half of a scan at least. The head without BatchNorm is this project's own.
    """
    assert method.objective is DepthContrast
    assert defaults(DepthContrast) == {
        "embed_dim": 128, "hidden": (512,), "temperature": 0.1, "queue": 131072, "momentum": 0.999, "within": 0.5,
        "across": 0.5, "norm": False,
    }  # fmt: skip
    steps = [
        point_steps.Crop(share=(0.5, 1.0)), point_steps.Hole(share=0.2), point_steps.Centre(),
        point_steps.Rotate(axis="vertical"), point_steps.Mirror(p=0.5), point_steps.Scale(factor=(0.8, 1.2)),
        point_steps.Jitter(sigma=0.0),
    ]  # fmt: skip
    assert method.view({"points": PointsPreprocess()}).steps["points"] == [steps] * 2


def view(**options: Any) -> View:
    """The method's view that only turns clouds, but for steps with options."""
    left_out = dict.fromkeys(("crop", "hole", "mirror", "scale", "jitter"))
    return method.view({"points": PointsPreprocess(points=None)}, points={**left_out, **options})


def seen_of(cloud: Cloud, **options: Any) -> Cloud:
    """What one view shows of a cloud."""
    shown = point_steps.Placed.whole(cloud)
    for step in view(**options).steps["points"][0]:
        shown = step(shown)
    return shown.cloud


def ramp(points: int = 200) -> Cloud:
    """Points that differ in colour, so that each is told by its red."""
    xyz = np.random.default_rng(0).uniform(0, 4, (points, 3)).astype(np.float32)
    return Cloud(xyz, color=np.linspace(0, 1, points, dtype=np.float32)[:, None].repeat(3, 1))


def turns(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The linear map that takes points a to points b."""
    return np.linalg.lstsq(a, b, rcond=None)[0].T


@pytest.mark.parametrize(("crop", "hole", "kept"), [(1.0, 0.0, 200), (0.5, 0.0, 100), (0.5, 0.3, 70), (1.0, 0.25, 150)])
def test_a_share_is_cropped_and_a_share_of_that_dropped(crop: float, hole: float, kept: int) -> None:
    cloud = ramp()
    options = {"crop": {"share": (crop, crop)}, "hole": {"share": hole}}
    assert len(seen_of(cloud, **options)) == kept
    made = view(**options)({"points": cloud})["points"]
    assert [len(part) for part in made] == [kept, kept]


def test_the_crop_is_round_a_point_and_the_hole_round_another() -> None:
    line = Cloud(np.stack([np.arange(100.0), np.zeros(100), np.zeros(100)], axis=1), color=ramp(100).color)
    lengths, gaps = set(), 0
    for _ in range(40):
        seen = np.sort(np.round(seen_of(line, crop={"share": (0.2, 0.9)}).color[:, 0] * 99).astype(int))
        assert np.array_equal(seen, np.arange(seen[0], seen[0] + len(seen))), "neighbours"
        lengths.add(len(seen))
        seen = np.sort(np.round(seen_of(line, hole={"share": 0.2}).color[:, 0] * 99).astype(int))
        assert len(seen) == 80 and len(set(range(100)) - set(seen)) == 20
        gone = sorted(set(range(100)) - set(seen.tolist()))
        assert gone == list(range(gone[0], gone[0] + 20))
        gaps += 0 < gone[0] < 80
    assert len(lengths) > 15 and min(lengths) >= 20 and max(lengths) <= 90 and gaps > 10


def test_a_cloud_of_one_point_has_no_hole() -> None:
    one = Cloud(np.ones((1, 3), dtype=np.float32))
    assert len(seen_of(one, hole={"share": 0.9})) == 1
    assert len(seen_of(Cloud(np.eye(3, dtype=np.float32)[:2]), hole={"share": 0.4})) == 1


def test_a_view_is_turned_about_the_vertical_through_its_mean() -> None:
    cloud, angles = ramp(), []
    for _ in range(40):
        seen = seen_of(cloud)
        np.testing.assert_allclose(seen.xyz.mean(0), 0, atol=1e-5)
        turn = turns(cloud.xyz - cloud.xyz.mean(0), seen.xyz)
        np.testing.assert_allclose(turn[2], [0, 0, 1], atol=1e-5)
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-4)
        assert np.linalg.det(turn) > 0
        angles.append(math.atan2(turn[1, 0], turn[0, 0]))
    assert min(angles) < -2 and max(angles) > 2


def test_either_axis_is_mirrored_as_often_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(points, "random_rotation", lambda axis: np.eye(3, dtype=np.float32))
    cloud, seen = ramp(), Counter[Any]()
    for _ in range(120):
        turn = turns(cloud.xyz - cloud.xyz.mean(0), seen_of(cloud, mirror={"p": 0.3}).xyz)
        np.testing.assert_allclose(np.abs(turn), np.eye(3), atol=1e-4)
        seen[tuple(np.sign(np.diag(turn)).astype(int).tolist())] += 1
    shares = {signs: 120 * (0.3 if signs[0] < 0 else 0.7) * (0.3 if signs[1] < 0 else 0.7) for signs in seen}
    assert set(seen) == {(1, 1, 1), (1, -1, 1), (-1, 1, 1), (-1, -1, 1)}
    assert all(abs(seen[signs] - share) < 18 for signs, share in shares.items())


def test_scale_and_jitter() -> None:
    cloud, sizes = ramp(), []
    for _ in range(40):
        turn = turns(cloud.xyz - cloud.xyz.mean(0), seen_of(cloud, scale={"factor": (0.5, 2.0)}).xyz)
        sizes.append(abs(np.linalg.det(turn)) ** (1 / 3))
    assert 0.5 <= min(sizes) < 0.75 and 1.7 < max(sizes) <= 2.0
    moved, still = ramp(2000), seen_of(ramp(2000)).xyz
    shaken = seen_of(moved, jitter={"sigma": 0.05}).xyz
    off = np.linalg.norm(shaken, axis=1) - np.linalg.norm(still, axis=1)  # whichever way each is turned
    assert off.std() == pytest.approx(0.05, rel=0.1)


def test_every_format_sees_both_views_laid_out_as_it_wants() -> None:
    kinds = {"points": PointsPreprocess(points=50, features=("color",)), "points_voxels": PointsPreprocess(points=None)}
    shown = method.view(kinds, points={"crop": {"share": (0.5, 0.5)}, "hole": None})
    assert shown.reads == ("points",) and shown.shows == {"points": 2, "points_voxels": 2}
    cloud = ramp()
    made = shown({"points": cloud})
    assert [tuple(part.shape) for part in made["points"]] == [(50, 6)] * 2
    assert [tuple(part.shape) for part in made["points_voxels"]] == [(100, 3)] * 2
    assert shown({"points": None}) == {}


@pytest.mark.parametrize("name, option, low, high", [("crop", "share", 0.01, 1.0), ("scale", "factor", 0.01, 100.0)])
def test_ranges_have_bounds(name: str, option: str, low: float, high: float) -> None:
    view(**{name: {option: (low, high)}})
    for wrong in ((low / 2, high), (low, high * 1.01), (high, low)):
        with pytest.raises(UserError, match=f"{name}.{option} is"):
            view(**{name: {option: wrong}})
