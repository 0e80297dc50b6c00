"""What tasks draw: hidden places as the network makes them, the rest as it was, and the truth is the input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from given import give
from PIL import Image
from torch import Tensor

from mmssl import names
from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.losses.patches import unwhitened, whitened
from mmssl.methods.autoencoder import denoising
from mmssl.numerics.color import lab
from mmssl.objectives.masking import block_mask, random_mask
from mmssl.plots import reconstruct
from mmssl.plots.canvas import heat, scaled
from mmssl.types import Batch, Encoder, Pretext, Reconstruction, Trained

VIT: dict[str, Any] = {"width": 16, "depth": 1, "heads": 2, "patch_size": 4, "image_size": 16}
CONVNET: dict[str, Any] = {"image_size": 16, "widths": [4, 8], "depths": [1, 1]}


def method(name: str) -> Any:
    return names.resolve("methods", name)[0]


def asked(name: str, encoder: Encoder, x: Tensor, *, extra: Any = None, views: int = 1, **options: Any) -> Any:
    """Returns an objective in evaluation mode, and what it draws of images or others."""
    key = encoder.modality
    objective = method(name).objective({key: encoder}, **options).eval()
    seed = torch.arange(len(x), dtype=torch.int64) + 5
    batch = Batch({key: [x] * views}, extra={"seed": seed, **(extra or {})})
    with torch.no_grad():
        found = objective.reconstruct({key: encoder.eval()}, batch)
    assert isinstance(found, Reconstruction)
    return objective, batch, found


def pictures(*shape: int) -> Tensor:
    return torch.randint(0, 256, (2, 3, *shape), dtype=torch.uint8)


def spread(mask: Tensor, grid: tuple[int, ...], cell: tuple[int, ...]) -> Tensor:
    """Which pixels a mask (B, N) of cells hides: (B, 1, ...)."""
    found = mask.view(-1, 1, *grid)
    for axis, side in enumerate(cell, 2):
        found = found.repeat_interleave(side, dim=axis)
    return found


ENCODERS: list[tuple[str, dict[str, Any], tuple[int, ...], tuple[int, ...]]] = [
    ("vit", {**VIT, "std": [0.3, 0.2, 0.1]}, (16, 16), (4, 4)),
    ("video_vit", {**VIT, "frames": 4, "tubelet": 2}, (4, 16, 16), (2, 4, 4)),
]


@pytest.mark.parametrize(("name", "options", "sides", "cell"), ENCODERS)
def test_patches_are_joined_as_they_were_cut(name: str, options: Any, sides: Any, cell: Any) -> None:
    encoder: Any = create_encoder(name, **options)
    x = pictures(*sides)
    torch.testing.assert_close(encoder.joined(encoder.patches(x)), x / 255, atol=1e-6, rtol=0)


def test_a_spectrogram_is_joined_as_its_encoder_normalises_it() -> None:
    backbone = {"name": "vit", **VIT, "in_channels": 1}
    encoder: Any = create_encoder("spectrogram", backbone=backbone, seconds=0.165, mels=16)
    x = torch.randn(2, 2640)
    torch.testing.assert_close(encoder.joined(encoder.patches(x)), encoder._picture(x))


def test_whitening_is_undone_by_the_true_patches() -> None:
    patches = torch.randn(2, 5, 12) * 3 + 1
    torch.testing.assert_close(unwhitened(whitened(patches), patches), patches)


@pytest.mark.parametrize("whiten", [True, False])
@pytest.mark.parametrize(("name", "options", "sides", "cell"), ENCODERS)
def test_mae_draws_hidden_patches_alone(name: str, options: Any, sides: Any, cell: Any, whiten: bool) -> None:
    encoder: Any = create_encoder(name, **options)
    x, unit = pictures(*sides), None
    objective, batch, found = asked("mae", encoder, x, width=16, depth=1, heads=2, whiten=whiten, ratio=0.5)
    grid = encoder.patches(x).grid
    mask, seen = random_mask(batch.extra["seed"], grid, ratio=0.5)
    hidden, unit = spread(mask, grid, cell), x / 255
    torch.testing.assert_close(found.truth, unit, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.drawn.where(~hidden, 0), unit.where(~hidden, 0), atol=1e-6, rtol=0)
    mean = encoder.normalize.mean.view(-1, *(1,) * len(sides)).expand_as(unit)
    torch.testing.assert_close(found.shown, torch.where(hidden, mean, unit), atol=1e-6, rtol=0)
    with torch.no_grad():
        values = encoder.patches(x).values
        tokens = encoder.tokenize(encoder.patches(x)).gather(1, seen[:, :, None].expand(-1, -1, 16))
        predicted = objective.decoder(encoder.encode_tokens(tokens), seen, grid)
    if whiten:
        predicted = predicted * (values.var(2, keepdim=True) + 1e-6).sqrt() + values.mean(2, keepdim=True)
    drawn = encoder.patches(found.drawn).values
    torch.testing.assert_close(drawn[mask], predicted[mask], atol=1e-5, rtol=1e-5)


def test_simmim_draws_hidden_tokens_and_hidden_pixels() -> None:
    x = pictures(16, 16)
    for name, options in (("vit", VIT), ("convnet", {**CONVNET, "strides": [1, 2], "stem_stride": 2})):
        encoder = create_encoder(name, **options)
        objective, batch, found = asked("simmim", encoder, x, mask_size=8, ratio=0.5)
        hidden = spread(block_mask(batch.extra["seed"], (4, 4), ratio=0.5, block=(2, 2)), (4, 4), (4, 4)).expand_as(x)
        torch.testing.assert_close(found.truth, x / 255, atol=1e-6, rtol=0)
        torch.testing.assert_close(found.drawn[~hidden], (x / 255)[~hidden], atol=1e-6, rtol=0)
        assert not torch.isclose(found.drawn[hidden], (x / 255)[hidden], atol=1e-3).all()
        with torch.no_grad():
            objective.head.weight.zero_()
            objective.head.bias.fill_(0.5)
            found = objective.reconstruct({"image": encoder.eval()}, batch)
        even = objective.normalize.undo(torch.full_like(found.truth, 0.5))
        torch.testing.assert_close(found.drawn[hidden], even[hidden], atol=1e-6, rtol=0)
        grey = objective.normalize.undo(torch.zeros_like(found.truth))
        torch.testing.assert_close(found.shown[hidden], grey[hidden], atol=1e-6, rtol=0)


def test_inpainting_draws_the_holes() -> None:
    encoder, x = create_encoder("convnet", **CONVNET), pictures(16, 16)
    holes = (torch.rand(2, 1, 16, 16) < 0.5).float()
    objective, _, found = asked("inpainting", encoder, x, extra={"holes": holes}, views=2, widths=[8])
    with torch.no_grad():
        drawn = objective.decoder(encoder(x / 255), (16, 16))
    assert torch.equal(found.truth, x / 255) and torch.equal(found.shown, x / 255)
    assert torch.equal(found.drawn, drawn * holes + (x / 255) * (1 - holes))


def test_the_rest_draw_all_of_an_image() -> None:
    encoder, x = create_encoder("convnet", **CONVNET), pictures(16, 16)
    objective, _, found = asked("autoencoder", encoder, x, code=3, start=2, widths=[8])
    with torch.no_grad():
        code = objective.head.project(encoder(x / 255).pooled)
        assert torch.equal(found.drawn, objective.decoder(code, (16, 16)))
    objective, _, found = asked("super_resolution", encoder, x, views=2, widths=[8])
    with torch.no_grad():
        assert torch.equal(found.drawn, x / 255 + objective.decoder(encoder(x / 255), (16, 16)))
    assert torch.equal(found.shown, x / 255)
    colors = torch.randn(2, 2, 4, 4) * 5
    grey = torch.full((2, 3, 16, 16), 0.5)
    objective, _, found = asked("colorization", encoder, grey, extra={"colors": colors}, widths=[8], target="l2")
    lightness, a_b = lab(found.truth).split([1, 2], dim=1)
    torch.testing.assert_close(lightness, lab(grey)[:, :1], atol=1e-2, rtol=0)
    wide = torch.nn.functional.interpolate(colors, (16, 16), mode="bilinear")
    torch.testing.assert_close(a_b, wide, atol=1e-2, rtol=0)
    with torch.no_grad():
        expected = objective.decode({"image": encoder}, grey, size=(16, 16))
    torch.testing.assert_close(lab(found.drawn)[:, 1:], expected, atol=1e-2, rtol=0)


def test_dvae_draws_from_the_likeliest_code_alone() -> None:
    encoder = create_encoder("codes", image_size=16, codes=6, width=4, groups=2, depth=1)
    x = pictures(16, 16)
    objective, batch, found = asked("dvae", encoder, x, width=4, first=4, depth=1)
    real = encoder.forward

    def sharper(shown: Tensor) -> Any:
        features = real(shown)
        features.tokens = features.tokens * 1000
        return features

    encoder.forward = sharper  # type: ignore[method-assign]
    with torch.no_grad():
        again = objective.reconstruct({"image": encoder}, batch)
    assert torch.equal(again.drawn, found.drawn) and torch.equal(found.truth, x / 255)


def test_a_task_that_draws_nothing_says_so() -> None:
    encoders = {"image": create_encoder("vit", **VIT)}
    assert method("simsiam").objective(encoders).reconstruct(encoders, Batch({})) is None


def tasks(**objectives: str) -> Any:
    encoder = create_encoder("vit", **VIT)
    made = {key: method(name) for key, name in objectives.items()}
    return Trained(
        {"image": encoder},
        {
            key: Pretext(found.objective({"image": encoder}), found.view, {"image": {"flip": None}})
            for key, found in made.items()
        },
    )


def test_which_task_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, "mmssl.plots.reconstruct", [{"image": None}])
    needs = "this needs a task that draws, such as mae, simmim, inpainting or autoencoder; the tasks are "
    for subject, options, message in (
        (Trained({}), {}, f"{needs}none, for this is no run"),
        (tasks(a="simsiam"), {}, f"{needs}a"),
        (tasks(a="simsiam", b="simmim"), {"task": "a"}, f"{needs}a, b"),
        (tasks(a="simmim", b="simmim"), {}, "the tasks a, b draw; say which with task=NAME"),
        (tasks(a="simmim"), {"task": "c"}, "there is no task 'c'"),
        (tasks(a="simmim", b="simsiam"), {}, "the data has no sample that the task 'a' can be shown"),
    ):
        with pytest.raises(UserError, match=message):
            list(reconstruct.plot(subject, data={}, **options))


def test_images_stand_in_threes_and_options_reach_the_view(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.randint(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    give(monkeypatch, "mmssl.plots.reconstruct", [{"image": Image.fromarray(one)} for one in pixels])
    drawn: list[Any] = []
    monkeypatch.setattr(reconstruct, "tiles", lambda rows, titles: drawn.append((rows, titles)))
    monkeypatch.setattr("mmssl.data.in_workers.WORKERS", 0)
    subject = tasks(a="mae")
    whole: Any = {"image": {"crop": {"scale": [1, 1], "ratio": [1, 1]}}}
    [(name, _)] = reconstruct.plot(subject, data={}, view=whole, count=3)
    [(rows, titles)] = drawn
    assert (
        name == "reconstruct" and [len(row) for row in rows] == [6, 3] and titles[0][:3] == ("shown", "drawn", "truth")
    )
    for row, at, one in ((rows[0], 2, pixels[0]), (rows[0], 5, pixels[1]), (rows[1], 2, pixels[2])):
        assert np.abs(row[at].astype(int) - scaled(one, 128)).max() <= 2
        assert (row[at] != row[at - 1]).any() and (row[at - 1] != row[at - 2]).any()


def test_frames_and_spectrograms() -> None:
    film = torch.rand(3, 11, 8, 8)
    found = reconstruct.drawn(film, film)
    expected = [scaled((film[:, t] * 255).round().byte().permute(1, 2, 0).numpy(), 128) for t in (0, 2, 4, 6, 8, 10)]
    assert len(found) == 6 and all((a == b).all() for a, b in zip(found, expected, strict=True))
    truth = torch.rand(1, 6, 9)
    [picture] = reconstruct.drawn(truth * 5 - 2, truth)
    low, high = float(truth.min()), float(truth.max())
    unit = ((truth[0] * 5 - 2).clamp(low, high) - low) / (high - low)
    by_hand = heat(torch.cat([unit, torch.tensor([[0.0, 1.0] + [0.5] * 7])]).flip(0).numpy())[1:]
    assert np.abs(picture.astype(int) - scaled(by_hand, 128)).max() <= 4


def test_denoising_is_shown_damaged() -> None:
    encoder, x = create_encoder("convnet", **CONVNET), pictures(16, 16)
    objective = denoising.objective({"image": encoder}, code=3, start=2, widths=[8]).eval()
    found = objective.reconstruct({"image": encoder.eval()}, Batch({"image": [x // 2, x]}))
    assert found is not None and torch.equal(found.shown, (x // 2) / 255) and torch.equal(found.truth, x / 255)
