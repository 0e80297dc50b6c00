"""RandAugment's operations against PIL's, and that each image has its own."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from scipy import stats

from mmssl.errors import UserError
from mmssl.transforms.geometry import warp
from mmssl.transforms.rand_augment import FILL, OPERATIONS, RandAugment, Warp, rand_augment


def done(name: str, x: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """Does one operation, as rand_augment does it."""
    change = OPERATIONS[name]
    return warp(x, change.matrix(strength), fill=FILL) if isinstance(change, Warp) else change(x, strength)


def smooth_pictures() -> torch.Tensor:
    raw = torch.rand(2, 3, 5, 5) * 0.8 + 0.1
    big = torch.nn.functional.interpolate(raw, size=24, mode="bicubic").clamp(0, 1)
    return (big * 255).round() / 255


def by_pil(x: torch.Tensor, change) -> torch.Tensor:  # type: ignore[no-untyped-def]
    made = []
    for picture in x:
        raw = (picture * 255).round().byte().permute(1, 2, 0).numpy()
        made.append(torch.from_numpy(np.array(change(Image.fromarray(raw)))).permute(2, 0, 1) / 255)
    return torch.stack(made)


def enhanced(kind: Any) -> Callable[[float], Callable[[Image.Image], Image.Image]]:
    return lambda strength: lambda picture: kind(picture).enhance(0.1 + 1.8 * strength)


PIL: dict[str, Callable[[float], Callable[[Image.Image], Image.Image]]] = {
    "auto_contrast": lambda _: ImageOps.autocontrast,
    "equalize": lambda _: ImageOps.equalize,
    "invert": lambda _: ImageOps.invert,
    "posterize": lambda strength: lambda p: ImageOps.posterize(p, int(4 * strength)),
    "solarize": lambda strength: lambda p: ImageOps.solarize(p, math.ceil(255 * strength)),
    "color": enhanced(ImageEnhance.Color),
    "contrast": enhanced(ImageEnhance.Contrast),
    "brightness": enhanced(ImageEnhance.Brightness),
    "sharpness": enhanced(ImageEnhance.Sharpness),
}


@pytest.mark.parametrize("strength", [0.27, 0.3, 0.5, 0.83, 1.0])
@pytest.mark.parametrize("name", PIL)
def test_operations_are_those_of_pil(name: str, strength: float) -> None:
    x = smooth_pictures()
    found = done(name, x, torch.full((2,), strength)).clamp(0, 1)
    away = (found - by_pil(x, PIL[name](strength))).abs() * 255
    assert away.mean() < 1.0, "levels, by rounding"
    assert away.max() < 4


@pytest.mark.parametrize("name", ["auto_contrast", "equalize", "invert"])
def test_levels_are_those_of_pil_exactly(name: str) -> None:
    """Of coarse, dark, even and two-valued images too."""
    x = torch.stack([
        (torch.rand(3, 16, 16) * 255).round(), (torch.rand(3, 16, 16) * 40).round(), torch.full((3, 16, 16), 90.0),
        60 + 100 * (torch.rand(3, 16, 16) < 0.4), (torch.rand(3, 16, 16) * 5).round() * 51,
    ]) / 255  # fmt: skip
    found = done(name, x, torch.zeros(5))
    assert ((found - by_pil(x, PIL[name](0.0))).abs() * 255).max() < 1 + 1e-3
    if name == "equalize":
        assert (found * 255).round().equal((by_pil(x, ImageOps.equalize) * 255).round())
    large = smooth_pictures().repeat(1, 1, 5, 5)  # more than one pixel a level
    assert ((done(name, large, torch.zeros(2)) - by_pil(large, PIL[name](0.0))).abs() * 255).max() < 1 + 1e-3


def test_solarize_add_brightens_the_darker_half() -> None:
    x = torch.tensor([0.0, 0.3, 0.499, 0.5, 0.9]).expand(3, 3, 1, 5)
    found = done("solarize_add", x, torch.tensor([0.0, 0.5, 1.0]))
    for row, added in enumerate((0.0, 55 / 255, 110 / 255)):
        torch.testing.assert_close(found[row, 0, 0], torch.tensor([added, 0.3 + added, 0.499 + added, 0.5, 0.9]))


def test_bounds_of_inverting_and_of_bits() -> None:
    x = torch.tensor([0.0, 0.25, 0.5, 1.0]).expand(1, 3, 1, 4)
    assert done("solarize", x, torch.tensor([0.5]))[0, 0, 0].tolist() == [0, 0.25, 0.5, 0]
    assert done("solarize", x, torch.tensor([0.0]))[0, 0, 0].tolist() == [1, 0.75, 0.5, 0]
    assert done("posterize", x, torch.tensor([0.2])).eq(0).all(), "no bit"
    levels = torch.arange(256) / 255
    for strength, bits in ((0.25, 1), (0.5, 2), (0.75, 3), (1.0, 4)):
        kept = done("posterize", levels.expand(1, 3, 1, 256), torch.tensor([strength]))[0, 0, 0] * 255
        torch.testing.assert_close(kept, (torch.arange(256) >> (8 - bits) << (8 - bits)).float())


RAMP = torch.linspace(-1, 1, 25).expand(8, 3, 25, 25)  # from left to right; 0 in the middle


@pytest.mark.parametrize("strength", [0.3, 1.0])
@pytest.mark.parametrize(("name", "most"), [("shear_x", 0.3), ("shear_y", 0.3)])
def test_shears(name: str, most: float, strength: float) -> None:
    """A pixel is taken as far to the side as it lies from the middle, times the shear."""
    turned = name == "shear_y"
    x = 0.5 + 0.1 * (RAMP.transpose(2, 3) if turned else RAMP)
    found = done(name, x, torch.full((8,), strength))[:, :, 8:17, 8:17]
    down, right = torch.gradient(found, dim=(2, 3))
    along, across = (down, right) if turned else (right, down)
    steps = across / along
    assert (steps.amax((1, 2, 3)) - steps.amin((1, 2, 3))).max() < 1e-2
    assert {round(float(step), 3) for step in steps.mean((1, 2, 3))} == {
        round(most * strength, 3),
        -round(most * strength, 3),
    }


@pytest.mark.parametrize("name", ["translate_x", "translate_y"])
def test_translations(name: str) -> None:
    """Of a side of 20 pixels 9 move in at full strength, 4.5 at half of it."""
    x = torch.rand(8, 3, 20, 20)
    if name == "translate_y":
        x = x.transpose(2, 3)
    found = done(name, x, torch.ones(8))
    x, found = (y.transpose(2, 3) if name == "translate_y" else y for y in (x, found))
    ways = set()
    for before, after in zip(x, found, strict=True):
        ways.add(left := bool((after[..., 0] - FILL).abs().max() > 1e-4))
        torch.testing.assert_close(
            *((after[..., :11], before[..., 9:]) if left else (after[..., 9:], before[..., :11]))
        )
        rest = after[..., 11:] if left else after[..., :9]
        torch.testing.assert_close(rest, torch.full_like(rest, FILL))
    assert ways == {True, False}
    half = done("translate_x", 0.5 + 0.1 * RAMP, torch.full((8,), 0.5))[:, 0, 12, 12]
    away = 0.1 * 0.45 * 25 / 24
    assert {round(float(value) - 0.5, 3) for value in half} == {round(away, 3), round(-away, 3)}
    assert FILL == 0.45


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_rotations(strength: float) -> None:
    found = done("rotate", 0.5 + 0.1 * RAMP, torch.full((8,), strength))[:, 0, 8:17, 8:17]
    down, right = torch.gradient(found, dim=(1, 2))
    angles = torch.rad2deg(torch.atan2(down.mean((1, 2)), right.mean((1, 2))))
    assert {round(float(angle), 1) for angle in angles} == {30 * strength, -30 * strength}


@pytest.mark.parametrize("name", ["rotate", "shear_x", "shear_y", "translate_x", "translate_y"])
def test_moves_keep_an_even_picture_but_for_what_comes_in(name: str) -> None:
    found = done(name, torch.ones(8, 3, 24, 24), torch.ones(8))
    assert (found[:, :, 11:13, 11:13] == 1).all() or name.startswith("translate")
    outside = (found - FILL).abs() < 1e-4
    assert outside.any(dim=(1, 2, 3)).all()
    assert len({tuple(row.flatten().tolist()) for row in outside}) == 2, "either way"
    still = done(name, torch.ones(2, 3, 24, 24), torch.zeros(2))
    torch.testing.assert_close(still, torch.ones(2, 3, 24, 24))


def test_each_picture_has_its_own_and_some_stay() -> None:
    x = smooth_pictures()[:1].expand(64, -1, -1, -1)
    found, _ = rand_augment(x, operations=1)
    same = (found - x).abs().amax((1, 2, 3)) < 1e-3
    assert 16 < same.sum() < 48
    assert len({round(float(one.sum()), 2) for one in found}) > 12
    assert found.min() >= 0 and found.max() <= 1
    torch.manual_seed(5)
    first, _ = rand_augment(x)
    torch.manual_seed(5)
    assert torch.equal(first, rand_augment(x)[0])


def test_the_fifteen_operations() -> None:
    """Those of timm's `rand_augment_transform`, by other names."""
    assert set(OPERATIONS) == {
        *(
            "auto_contrast",
            "equalize",
            "invert",
            "rotate",
            "posterize",
            "solarize",
            "solarize_add",
            "color",
            "contrast",
        ),
        *("brightness", "sharpness", "shear_x", "shear_y", "translate_x", "translate_y"),
    }


def recorded(monkeypatch: pytest.MonkeyPatch) -> tuple[Counter[str], list[float]]:
    """Stands in for the operations by three that multiply, and notes what they are given."""
    seen: Counter[str] = Counter()
    strengths: list[float] = []

    def times(name: str, factor: float) -> Any:
        def change(x: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
            seen[name] += len(x)
            strengths.extend(strength.tolist())
            return x * factor

        return change

    made = {name: times(name, factor) for name, factor in (("a", 0.5), ("b", 0.25), ("c", 8.0))}
    monkeypatch.setattr("mmssl.transforms.rand_augment.OPERATIONS", made)
    return seen, strengths


@pytest.mark.parametrize(("options", "draws", "share"), [({}, 2, 0.5), ({"operations": 3, "share": 0.8}, 3, 0.8)])
def test_so_many_are_drawn_for_each_picture_and_done_by_chance(
    options: Any, draws: int, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, _ = recorded(monkeypatch)
    rand_augment(torch.full((3000, 3, 1, 1), 0.1), **options)
    assert seen.total() / 3000 == pytest.approx(draws * share, rel=0.05)
    for name in "abc":
        assert seen[name] / seen.total() == pytest.approx(1 / 3, abs=0.02)


def test_one_is_done_after_the_other_on_the_pictures_it_was_drawn_for(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded(monkeypatch)
    x = torch.full((400, 3, 1, 1), 0.1)
    once = {round(float(value), 5) for value in rand_augment(x, operations=1, share=1.0)[0][:, 0, 0, 0]}
    assert once == {0.05, 0.025, 0.8}
    twice = {round(float(value), 5) for value in rand_augment(x, operations=2, share=1.0)[0][:, 0, 0, 0]}
    assert twice == {0.00625, 0.0125, 0.025, 0.2, 0.4, 1.0}, "cut to 1 after each"
    assert rand_augment(x, operations=0)[0].equal(x)
    assert rand_augment(x, share=0.0)[0].equal(x)
    assert rand_augment((x * 255).byte(), operations=0)[0].dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "mean", "spread"), [({"magnitude": 5.0}, 0.5, 0.05), ({"magnitude": 4.0, "spread": 1.0}, 0.4, 0.1)]
)
def test_strengths_are_gaussian_about_the_magnitude(
    options: Any, mean: float, spread: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, strengths = recorded(monkeypatch)
    rand_augment(torch.zeros(1000, 3, 1, 1), operations=1, share=1.0, **options)
    assert len(strengths) == 1000
    assert stats.kstest(strengths, stats.norm(mean, spread).cdf).pvalue > 1e-3


def test_strengths_stay_within_bounds_and_are_full_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    _, strengths = recorded(monkeypatch)
    rand_augment(torch.zeros(1000, 3, 1, 1), operations=1, share=1.0)
    assert max(strengths) == 1
    assert sum(strength == 1 for strength in strengths) / 1000 == pytest.approx(0.5, abs=0.06)
    assert min(strengths) > 0.75
    strengths.clear()
    rand_augment(torch.zeros(1000, 3, 1, 1), operations=1, share=1.0, magnitude=0.0)
    assert min(strengths) == 0
    assert 0 < max(strengths) < 0.25


def test_the_step_hands_on_its_options() -> None:
    x = smooth_pictures()[:1].expand(20, -1, -1, -1)
    for options in ({}, {"operations": 3}, {"magnitude": 4.0}):
        torch.manual_seed(3)
        found = RandAugment(**options).on_device(x)  # type: ignore[arg-type]
        torch.manual_seed(3)
        expected = rand_augment(x, **{"operations": 2, "magnitude": 10.0, **options})  # type: ignore[arg-type]
        assert all(a.equal(b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("bad", [{"operations": 0}, {"magnitude": -0.1}, {"magnitude": 10.1}])
def test_bounds(bad: dict[str, Any]) -> None:
    for good in ({"operations": 1}, {"magnitude": 0.0}, {"magnitude": 10.0}):
        RandAugment(**good)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="operations is .* and magnitude .*; expected at least 1, and 0 to 10"):
        RandAugment(**bad)
