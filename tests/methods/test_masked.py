"""Masked methods: what they hide, what they predict, and that they run on whatever has tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.methods.mae import MAE
from mmssl.methods.simmim import SimMIM
from mmssl.objectives.masking import block_mask, random_mask
from mmssl.types import Batch, Encoder
from mmssl.views.mae import view as mae_view

SMALL = {"width": 32, "depth": 2, "heads": 2}
PICTURES = {"image_size": 16, "patch_size": 4, **SMALL}


def pictures(rows: int = 4) -> Tensor:
    return torch.rand(rows, 3, 16, 16, generator=torch.Generator().manual_seed(3))


def seeds(rows: int = 4) -> dict[str, Tensor]:
    return {"seed": torch.arange(rows) + 11}


def renamed(weights: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    """Names our blocks as timm names its own."""
    names = {
        "blocks.layers.": "blocks.",
        ".attention.": ".attn.",
        ".mlp.0.": ".mlp.fc1.",
        ".mlp.2.": ".mlp.fc2.",
        **names,
    }
    for ours, theirs in names.items():
        weights = {key.replace(ours, theirs): value for key, value in weights.items()}
    return weights


def lightlys(encoder: Encoder, objective: MAE) -> tuple[Any, Any]:
    """Returns lightly's encoder and decoder with the weights of ours."""
    modules = pytest.importorskip("lightly.models.modules")
    from timm.models.vision_transformer import VisionTransformer

    vit = VisionTransformer(
        img_size=16, patch_size=4, embed_dim=32, depth=2, num_heads=2, num_classes=0, norm_layer=nn.LayerNorm
    )
    theirs = modules.MaskedVisionTransformerTIMM(vit)
    names = {"class_token": "cls_token", "patch.": "patch_embed.proj."}
    missing = vit.load_state_dict(renamed(encoder.state_dict(), names), strict=False)
    assert missing.missing_keys == ["pos_embed"] and not missing.unexpected_keys
    with pytest.warns(Warning, match="deprecated"):
        decoder = modules.MAEDecoderTIMM(
            num_patches=16,
            patch_size=4,
            embed_dim=32,
            decoder_embed_dim=16,
            decoder_depth=1,
            decoder_num_heads=2,
            norm_layer=nn.LayerNorm,
        )
    own = objective.decoder.state_dict()
    own["mask_token"] = own["mask_token"][None, None]
    own = renamed(own, {})
    own = {(f"decoder_{key}" if key.startswith(("norm.", "embed.", "blocks.")) else key): v for key, v in own.items()}
    own = {key.replace("predict.", "decoder_pred."): value for key, value in own.items()}
    missing = decoder.load_state_dict(own, strict=False)
    assert missing.missing_keys == ["decoder_pos_embed"] and not missing.unexpected_keys
    return theirs, decoder


def test_mae_is_lightlys_in_value_and_gradient() -> None:
    encoder = create_encoder("vit", **PICTURES)
    objective = MAE({"image": encoder}, width=16, depth=1, heads=2)
    theirs, decoder = lightlys(encoder, objective)
    utils = pytest.importorskip("lightly.models.utils")
    x = pictures()
    total = objective({"image": encoder}, Batch({"image": [x]}, extra=seeds())).total
    total.backward()

    mask, seen = random_mask(seeds()["seed"], (4, 4), ratio=0.75)
    assert seen.shape == (4, 4)
    with_class = torch.cat([torch.zeros(4, 1, dtype=torch.long), seen + 1], dim=1)  # lightly counts the class token
    hidden = mask.nonzero()[:, 1].view(4, 12) + 1
    normal = encoder.normalize(x)
    encoded = decoder.embed(theirs.encode(normal, idx_keep=with_class))
    whole = utils.set_at_index(utils.repeat_token(decoder.mask_token, (4, 17)), with_class, encoded)
    predicted = decoder.predict(utils.get_at_index(decoder.decode(whole), hidden))
    target = utils.normalize_mean_var(utils.get_at_index(utils.patchify(normal, 4), hidden - 1))
    order = torch.arange(48).view(3, 4, 4).permute(1, 2, 0).flatten()  # theirs lays a patch out pixel by pixel
    loss = nn.functional.mse_loss(predicted[..., order], target)
    loss.backward()
    torch.testing.assert_close(total, loss)
    for mine, other in (
        (encoder.class_token, theirs.vit.cls_token),
        (encoder.patch.weight, theirs.vit.patch_embed.proj.weight),
        (encoder.blocks.layers[0].attention.qkv.weight, theirs.vit.blocks[0].attn.qkv.weight),
        (objective.decoder.predict.weight, decoder.decoder_pred.weight),
        (objective.decoder.mask_token, decoder.mask_token),
    ):
        torch.testing.assert_close(mine.grad.flatten(), other.grad.flatten())


def test_what_mae_does_not_see_changes_nothing_but_the_target() -> None:
    encoder = create_encoder("vit", **PICTURES)
    objective = MAE({"image": encoder}, width=16, depth=1, heads=2, whiten=False)
    caught: list[Tensor] = []
    objective.decoder.register_forward_hook(lambda _, inputs, out: caught.append(out))
    x = pictures(1)
    mask, seen = random_mask(seeds(1)["seed"], (4, 4), ratio=0.75)
    changed = x.clone().view(1, 3, 4, 4, 4, 4).transpose(3, 4)  # (B, C, H, W, h, w)
    changed = torch.where(mask.view(1, 1, 4, 4, 1, 1), 0.5, changed).transpose(3, 4).reshape(x.shape)
    losses = [objective({"image": encoder}, Batch({"image": [v]}, extra=seeds(1))).total for v in (x, changed)]
    torch.testing.assert_close(caught[0], caught[1])
    assert losses[0] != losses[1]
    patches = encoder.patches(x).values
    rows = [(caught[0][0, i] - patches[0, i]).square().mean() for i in range(16) if i not in seen[0].tolist()]
    torch.testing.assert_close(losses[0], torch.stack(rows).mean())


FILM = {"image_size": 16, "frames": 4, "patch_size": 8, **SMALL}
SOUND = {"backbone": {"name": "vit", "image_size": 16, "patch_size": 4, "in_channels": 1, **SMALL}, "mels": 16,
         "seconds": 0.16}  # fmt: skip


@pytest.mark.parametrize(
    "key, name, options, x, objective, parameters",
    [
        ("video", "video_vit", FILM, torch.rand(2, 3, 4, 16, 16), {"mask": "tube", "ratio": 0.5}, 2 * 8 * 8 * 3),
        ("audio", "spectrogram", SOUND, torch.randn(2, 2560), {"ratio": 0.8}, 16),
    ],
)
def test_mae_runs_on_other_modalities(
    key: str, name: str, options: dict[str, Any], x: Tensor, objective: dict[str, Any], parameters: int
) -> None:
    encoder = create_encoder(name, **options)
    made = MAE({key: encoder}, width=16, depth=1, heads=2, **objective)
    assert made.decoder.predict.out_features == parameters
    first = made({key: encoder}, Batch({key: [x]}, extra=seeds(2)))
    assert first.embeddings[key].shape == (2, 32)
    first.total.backward()
    assert all(p.grad is not None for p in (*encoder.parameters(), *made.parameters()))


GRIDS = {
    "vit": {"image_size": 32, "patch_size": 4, **SMALL},
    "convnet": {"image_size": 32, "widths": [8, 32], "depths": [1, 1], "stem_stride": 2},
}


@pytest.mark.parametrize("name", GRIDS)
def test_simmim_is_the_error_of_hidden_pixels_alone(name: str) -> None:
    encoder = create_encoder(name, **GRIDS[name]).eval()
    objective = SimMIM({"image": encoder}, mask_size=8)
    caught: list[Tensor] = []
    objective.head.register_forward_hook(lambda _, inputs, out: caught.append(out))
    x = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    total = objective({"image": encoder}, Batch({"image": [x]}, extra=seeds(3))).total
    coarse = block_mask(seeds(3)["seed"], (4, 4), ratio=0.6, block=(1, 1)).view(3, 1, 4, 4)
    mask = coarse.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3).expand_as(x)  # (B, C, H, W)
    assert coarse.sum() == 3 * 10
    drawn = nn.functional.pixel_shuffle(caught[0].mT.unflatten(2, (8, 8)), 4)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    torch.testing.assert_close(total, ((x - mean) / std - drawn)[mask].abs().mean())

    changed = torch.where(mask, torch.rand_like(x), x)
    objective({"image": encoder}, Batch({"image": [changed]}, extra=seeds(3)))
    torch.testing.assert_close(caught[0], caught[1])
    objective({"image": encoder}, Batch({"image": [torch.where(mask, x, torch.rand_like(x))]}, extra=seeds(3)))
    assert not torch.allclose(caught[0], caught[2])


def test_simmim_hides_squares_of_films_and_sounds() -> None:
    film, sound = create_encoder("video_vit", **FILM | {"patch_size": 4}), create_encoder("spectrogram", **SOUND)
    for key, encoder, x in (("video", film, torch.rand(2, 3, 4, 16, 16)), ("audio", sound, torch.randn(2, 2560))):
        objective = SimMIM({key: encoder}, mask_size=8)
        objective({key: encoder}, Batch({key: [x]}, extra=seeds(2))).total.backward()
        assert objective.mask_token.grad is not None and objective.mask_token.grad.any()
    assert SimMIM({"video": film}, mask_size=8).block == (1, 2, 2)


def test_simmim_says_what_it_cannot_mask() -> None:
    with pytest.raises(UserError, match=r"mask_size is 6; expected a multiple of the encoder's patches of \(4, 4\)"):
        SimMIM({"image": create_encoder("vit", **PICTURES)}, mask_size=6)
    with pytest.raises(UserError, match="the tokens of 'raw:image' lie on no grid"):
        SimMIM({"image": create_encoder("raw:image")})
    with pytest.raises(UserError, match="'frames' gives none to hide"):
        SimMIM({"video": create_encoder("frames", image={"name": "convnet"})})


def test_encoders_without_tokens_are_refused_when_the_task_is_built() -> None:
    for key, name in (("image", "convnet"), ("points", "pointnet"), ("audio", "spectrogram")):
        with pytest.raises(UserError, match="choose"):
            MAE({key: create_encoder(name)})
    with pytest.raises(UserError, match="width 10 must be a multiple of its heads 4"):
        MAE({"image": create_encoder("vit", **PICTURES)}, width=10, heads=4)
    film = create_encoder("vit", **PICTURES)
    with pytest.raises(UserError, match="tubes run through frames"):
        MAE({"image": film}, mask="tube")({"image": film}, Batch({"image": [pictures()]}, extra=seeds()))


def test_each_sample_gets_a_seed_of_its_own() -> None:
    view = mae_view({"image": create_encoder("vit", **PICTURES).preprocess})
    shown = view.on_device(Batch({"image": [pictures(50)]}, extra={"image_present": torch.ones(50, dtype=torch.bool)}))
    assert shown.extra["seed"].shape == (50,) and shown.extra["seed"].unique().numel() == 50
