"""What is particular to each family of encoders."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from mmssl import load_encoder, train
from mmssl.encoders import create_encoder
from mmssl.encoders.mel import LogMel
from mmssl.encoders.timm import Timm
from mmssl.encoders.transformer import TextTransformer
from mmssl.errors import UserError
from mmssl.types import Ragged

SMALL = {"width": 32, "depth": 2, "heads": 2}
TEXTS = ["a red ball bounces", "a blue ball bounces high", ["the red cube", "a ball"]] * 5


def pixels(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("stride, side", [(1, 4), (2, 2), (4, 1)])
def test_convnet_grid_follows_the_stem(stride: int, side: int) -> None:
    encoder = create_encoder("convnet", widths=[8, 8, 8], depths=[1, 1, 1], stem_stride=stride).eval()
    features = encoder(pixels(2, 3, 16, 16))
    assert features.grid == (side, side)
    torch.testing.assert_close(features.tokens.mean(1), features.pooled)


@pytest.mark.parametrize("positions", ["sincos", "learned"])
def test_vit_takes_other_sizes(positions: str) -> None:
    encoder = create_encoder("vit", image_size=32, patch_size=8, positions=positions, **SMALL).eval()
    assert encoder(pixels(1, 3, 48, 64)).grid == (6, 8)
    with pytest.raises(UserError, match="do not divide into patches of 8"):
        encoder(pixels(1, 3, 33, 32))


def test_sincos_positions_tell_every_cell_apart() -> None:
    codes = create_encoder("vit", image_size=64, patch_size=8, **SMALL).positions.flatten(2)[0].T
    assert torch.cdist(codes, codes).add(torch.eye(64) * 9).min() > 0.1


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "convnext_atto", "mobilenetv3_small_050",
                                  "efficientnet_lite0", "swin_tiny_patch4_window7_224"])  # fmt: skip
@torch.inference_mode()
def test_timm_pools_as_timm_does(name: str) -> None:
    encoder = create_encoder(f"timm:{name}", image_size=64 if "swin" not in name else None).eval()
    assert isinstance(encoder, Timm)
    x = pixels(1, 3, encoder.preprocess.size, encoder.preprocess.size)
    features = encoder(x)
    assert features.pooled.shape == (1, encoder.dim)
    torch.testing.assert_close(features.pooled, encoder.model(encoder.normalize(x)))
    assert (features.tokens is None) == (name == "mobilenetv3_small_050")
    if name in ("resnet18", "swin_tiny_patch4_window7_224", "convnext_atto"):
        assert features.grid is not None and features.tokens.shape[1] == features.grid[0] * features.grid[1]
    if name in ("resnet18", "swin_tiny_patch4_window7_224"):
        torch.testing.assert_close(features.tokens.mean(1), features.pooled)


def test_timm_brings_its_own_preprocessing() -> None:
    import timm

    encoder = create_encoder("timm:vit_tiny_patch16_224")
    data = timm.data.resolve_data_config(model=timm.create_model("vit_tiny_patch16_224"))
    preprocess = encoder.preprocess
    assert (preprocess.size, preprocess.interpolation, preprocess.crop_ratio) == (224, "bicubic", data["crop_pct"])
    assert tuple(encoder.normalize.mean.tolist()) == pytest.approx(data["mean"])
    assert create_encoder("timm:resnet18", in_channels=1)(torch.rand(2, 1, 40, 60)).grid == (2, 2)


def test_timm_names_and_weights_that_are_not_there() -> None:
    with pytest.raises(UserError, match="no model 'resnet81'; did you mean 'resnet"):
        create_encoder("timm:resnet81")
    with pytest.raises(UserError, match="no pretrained weights"):
        create_encoder("timm:resnet18", pretrained=True)


@torch.inference_mode()
def test_torchvision_pools_what_its_classifier_sees() -> None:
    from torchvision.models.video import r3d_18

    ours, theirs = create_encoder("torchvision:r3d_18").eval(), r3d_18().eval()
    theirs.load_state_dict(_by_name(ours.model), strict=False)
    theirs.fc = torch.nn.Identity()
    x = pixels(1, 3, 4, 32, 32)
    torch.testing.assert_close(ours(x).pooled, theirs(ours.normalize(x)))


def _by_name(stages: torch.nn.Module) -> dict[str, Tensor]:
    names = dict(zip("01234", ("stem", "layer1", "layer2", "layer3", "layer4"), strict=True))
    return {f"{names[key[0]]}{key[1:]}": value for key, value in stages.state_dict().items()}


def test_torchvision_mistakes() -> None:
    with pytest.raises(UserError, match="did you mean 'r3d_18'"):
        create_encoder("torchvision:r3d_19")
    with pytest.raises(UserError, match="takes 16 frames of 224 pixels only"):
        create_encoder("torchvision:mvit_v2_s", image_size=112)


def test_frames_averages_the_image_encoder() -> None:
    encoder = create_encoder("frames", image={"name": "vit", "image_size": 32, **SMALL}, frames=3).eval()
    x = pixels(2, 3, 3, 32, 32)
    features = encoder(x)
    each = [encoder.image(x[:, :, t]) for t in range(3)]
    assert features.grid == (3, 2, 2)
    torch.testing.assert_close(features.pooled, sum(f.pooled for f in each) / 3)
    torch.testing.assert_close(features.tokens, torch.cat([f.tokens for f in each], dim=1))


def test_inner_encoders_are_checked() -> None:
    with pytest.raises(UserError, match="reads text, but an encoder of image is needed"):
        create_encoder("frames", image={"name": "transformer"})
    with pytest.raises(UserError, match="has no option 'depht'; did you mean 'depth'"):
        create_encoder("frames", image={"name": "vit", "depht": 3})
    with pytest.raises(UserError, match="needs the name of an encoder"):
        create_encoder("frames", image={"depth": 3})
    with pytest.raises(UserError, match="is none of the encoders"):
        create_encoder("frames", image={"name": "os.path:join"})
    with pytest.raises(UserError, match="outside mmssl"):
        create_encoder("frames", image={"name": "os.path:join"}, trust_code=False)
    with pytest.raises(UserError, match="add in_channels: 1"):
        create_encoder("spectrogram", backbone={"name": "convnet"})


def test_a_tone_lights_its_own_mel_filter() -> None:
    log_mel = LogMel(16_000, 40, window=0.025, hop=0.01, low=0.0, high=8000.0)
    time = torch.arange(16_000) / 16_000
    tones = torch.sin(2 * torch.pi * torch.tensor([[300.0], [1000.0], [4000.0]]) * time)
    with torch.autocast("cpu", torch.bfloat16):
        rows = log_mel(tones)
    assert rows.shape == (3, 40, 100) and rows.dtype == torch.float32
    mel = [2595 * torch.log10(1 + torch.tensor(f) / 700) for f in (300.0, 1000.0, 4000.0, 8000.0)]
    expected = [float(m / mel[3] * 41 - 1) for m in mel[:3]]
    assert rows.mean(2).argmax(1).tolist() == pytest.approx(expected, abs=1)


def test_spectrogram_of_each_example_does_not_depend_on_loudness() -> None:
    encoder = create_encoder("spectrogram", seconds=0.5).eval()
    x = torch.randn(2, 8000)
    torch.testing.assert_close(encoder(x * 3).pooled, encoder(x).pooled, rtol=1e-3, atol=1e-3)
    assert encoder(torch.zeros(1, 8000)).pooled.isfinite().all()


@pytest.mark.parametrize("align", [False, True])
def test_pointnet_knows_no_order_and_no_neighbours(align: bool) -> None:
    torch.manual_seed(0)
    encoder = create_encoder("pointnet", widths=[16, 24], align=align, features=["color"]).eval()
    clouds = [torch.randn(n, 6) for n in (5, 1, 40)]
    features = encoder(encoder.preprocess.collate(clouds))
    assert features.lengths.tolist() == [5, 1, 40]
    shuffled = encoder(encoder.preprocess.collate([cloud.flip(0) for cloud in clouds]))
    torch.testing.assert_close(shuffled.pooled, features.pooled)
    alone = torch.cat([encoder(encoder.preprocess.collate([cloud])).pooled for cloud in clouds])
    torch.testing.assert_close(alone, features.pooled)
    parts = features.tokens.split(features.lengths.tolist())
    torch.testing.assert_close(torch.stack([part.amax(0) for part in parts]), features.pooled)


@pytest.mark.parametrize("options", [{}, {"pool": "last", "causal": True}])
def test_text_does_not_depend_on_its_padding(options: dict) -> None:
    encoder = create_encoder("transformer", **SMALL, **options).eval()
    torch.testing.assert_close(encoder.encode(["ab", "abcdefgh", "c"])[[0, 2]], encoder.encode(["ab", "c"]))
    assert encoder(torch.zeros(1, 5, dtype=torch.int64)).pooled.isfinite().all()


@pytest.mark.parametrize("options", [{}, {"pool": "last", "causal": True}], ids=["mean", "last"])
def test_lengths_tell_which_tokens_are_real(options: dict[str, object]) -> None:
    """Neither what stands in the padding nor a token 0 inside a text matters."""
    encoder = create_encoder("transformer", **SMALL, **options).eval()
    ids, lengths = torch.tensor([[5, 0, 7, 0, 0], [8, 9, 9, 9, 4]]), torch.tensor([4, 2])
    found = encoder(Ragged(ids, lengths, padded=True))
    alone = torch.cat(
        [encoder(Ragged(ids[i : i + 1, :n], lengths[i : i + 1], True)).pooled for i, n in enumerate((4, 2))]
    )
    torch.testing.assert_close(found.pooled, alone)
    torch.testing.assert_close(found.lengths, lengths)
    by_hand = encoder(torch.tensor([[5, 0, 7, 3], [8, 9, 0, 0]]))
    torch.testing.assert_close(by_hand.pooled[1], found.pooled[1])
    assert by_hand.lengths.tolist() == [4, 2]


def test_causal_text_does_not_see_what_follows() -> None:
    encoder = create_encoder("transformer", causal=True, **SMALL).eval()
    a, b = torch.tensor([[5, 6, 7, 8]]), torch.tensor([[5, 6, 9, 1]])
    torch.testing.assert_close(encoder(a).tokens[:, :2], encoder(b).tokens[:, :2])
    assert not torch.allclose(encoder(a).tokens[:, 2:], encoder(b).tokens[:, 2:])


def test_text_works_untrained_then_learns_the_same_merges_again(tmp_path: Path) -> None:
    encoder, twin = (create_encoder("transformer", vocab_size=290, lowercase=True, **SMALL) for _ in range(2))
    assert isinstance(encoder, TextTransformer) and encoder.learns_preprocess
    assert encoder.encode(["Wörks on 日本語 🙂"]).isfinite().all()
    before = encoder.preprocess.collate(["a ball bounces"]).values.shape[1]
    held = encoder.preprocess  # as views hold it
    encoder.learn_preprocess(iter(TEXTS))
    twin.learn_preprocess(iter(TEXTS))
    assert encoder.preprocess is held
    tokenizer = held.tokenizer
    assert tokenizer.to_str() == twin.preprocess.tokenizer.to_str()
    assert not encoder.learns_preprocess
    assert 258 < tokenizer.get_vocab_size() <= 290
    assert encoder.preprocess.collate(["A BALL bounces"]).values.shape[1] < before
    assert tokenizer.decode(tokenizer.encode("A red 日本語").ids) == "a red 日本語"
    encoder.save_files(tmp_path)
    fresh = create_encoder("transformer", vocab_size=290, context_length=8, **SMALL)
    fresh.load_files(tmp_path)
    assert fresh.preprocess.tokenizer.encode("a red ball").ids == held.tokenizer.encode("a red ball").ids
    assert fresh.preprocess.collate(["x" * 50]).values.shape == (1, 8)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="its tokenizer does not work"):
        fresh.load_files(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="has no tokenizer"):
        fresh.load_files(tmp_path)


@pytest.mark.parametrize("nfc", [False, True])
@pytest.mark.parametrize("lowercase", [False, True])
def test_text_is_lowered_and_composed_only_as_asked(lowercase: bool, nfc: bool) -> None:
    tokenizer = create_encoder("transformer", lowercase=lowercase, nfc=nfc, **SMALL).preprocess.tokenizer
    found = tokenizer.decode(tokenizer.encode("Cafe\u0301").ids)
    assert found == ("c" if lowercase else "C") + ("af\u00e9" if nfc else "afe\u0301")


def test_sizes_that_do_not_fit_are_told() -> None:
    for name, options, expected in [
        ("convnet", {"widths": [8], "depths": [1, 1]}, "1 widths, 2 depths and 1 strides"),
        ("vit", {"image_size": 30}, "30 x 30 do not divide into patches of 16 x 16"),
        ("vit:huge", {}, "no variant 'huge'"),
        ("vit", {"width": 30}, "a width that 4 divides; found 30"),
        ("video_vit", {"width": 32, "heads": 3}, "must be a multiple of heads 3"),
        ("video_vit", {"frames": 15}, "15 x 224 x 224 do not divide into patches of 2 x 16 x 16"),
        ("transformer", {"vocab_size": 100}, "bytes alone are 258"),
        ("transformer", {"width": 30}, "no multiple of heads"),
    ]:
        with pytest.raises(UserError, match=expected):
            create_encoder(name, **options)


@pytest.mark.parametrize("options", [{"depth": 0, "groups": 2**20}, {"groups": 0}])
def test_codes_have_a_block_in_each_group(options: dict[str, int]) -> None:
    with pytest.raises(UserError, match="expected at least one of each"):
        create_encoder("codes", image_size=16, codes=10, width=8, **options)


@pytest.mark.parametrize(
    "options", [{"mean": (0.5,)}, {"std": (1.0, 1.0, 0.0)}, {"mean": (0.1, float("nan"), 0.2)}, {"std": (1.0,) * 4}]
)
def test_statistics_are_finite_and_one_for_each_channel(options: dict[str, tuple[float, ...]]) -> None:
    with pytest.raises(UserError, match="expected (one for each of 3 channels|as many finite numbers, std above 0)"):
        create_encoder("vit", image_size=16, patch_size=8, width=16, depth=1, heads=2, **options)


@pytest.mark.parametrize("pool", ["mean", "last"])
def test_causal_text_needs_no_mask_so_that_flash_attention_takes_it(pool: str) -> None:
    """Padding stands on the right, where no real token looks: features and gradients are those with a mask."""
    encoder = create_encoder("transformer", causal=True, pool=pool, **SMALL)
    assert isinstance(encoder, TextTransformer)
    words = Ragged(torch.tensor([[5, 4, 7, 3], [8, 9, 2, 2]]), torch.tensor([4, 2]), padded=True)
    attend, asked = torch.nn.functional.scaled_dot_product_attention, []

    def watched(*args: Any, is_causal: bool = False, masked: bool = False) -> torch.Tensor:
        asked.append((args[3], is_causal))
        if not masked:
            return attend(*args, is_causal=is_causal)
        allowed = words.mask[:, None, None] & torch.ones(4, 4, dtype=torch.bool).tril()
        return attend(*args[:3], allowed)

    found = []
    for masked in (False, True):
        with mock.patch.object(torch.nn.functional, "scaled_dot_product_attention", partial(watched, masked=masked)):
            pooled = encoder(words).pooled
        found.append([pooled, *torch.autograd.grad(pooled.square().sum(), list(encoder.parameters()))])
    torch.testing.assert_close(found[0], found[1])
    assert set(asked) == {(None, True)}


def test_timm_convolves_with_channels_last() -> None:
    """The layout that convolutions compute in, so that none has to turn its input."""
    encoder, seen = create_encoder("timm:resnet18", image_size=32), []
    assert isinstance(encoder, Timm)
    encoder.model.conv1.register_forward_pre_hook(lambda module, given: seen.extend([given[0], module.weight]))
    found = encoder(torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8))
    assert found.grid == (1, 1) and all(x.is_contiguous(memory_format=torch.channels_last) for x in seen)


@torch.inference_mode()
def test_timms_own_options_reach_the_model() -> None:
    encoder = create_encoder("timm:test_vit", img_size=96, drop_rate=0.25, drop_path_rate=0.5, init_values=0.125)
    assert isinstance(encoder, Timm)
    assert encoder.preprocess.size == 96 and encoder.model.patch_embed.img_size == (96, 96)
    assert (encoder.model.head_drop.p, encoder.model.blocks[-1].drop_path1.drop_prob) == (0.25, 0.5)
    assert encoder.model.blocks[0].ls1.gamma.unique().item() == 0.125
    assert encoder.config()["options"]["init_values"] == 0.125
    averaged = create_encoder("timm:test_vit", global_pool="avg", mean=(0.1,) * 3, std=(0.5,) * 3).eval()
    x = torch.rand(1, 3, 160, 160)
    patches = averaged.model.forward_features((x - 0.1) / 0.5)[:, 1:]
    torch.testing.assert_close(averaged(x).pooled, averaged.model.fc_norm(patches.mean(1)))


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("timm:test_vit", {"dynamic_img_siz": True}, "is not built with dynamic_img_siz: .*; did you mean 'dynamic_im"),
        ("timm:resnet18", {"dynamic_img_size": True}, "timm:resnet18 is not built with dynamic_img_size: ResNet"),
        ("timm:resnet18", {"in_chans": 1}, "timm:resnet18 is not given 'in_chans' here; use in_channels"),
        ("timm:resnet18", {"checkpoint_path": "x"}, "is not given 'checkpoint_path' here; use train.start"),
    ],
)
def test_options_that_timm_does_not_know(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        create_encoder(name, **options)


@torch.inference_mode()
def test_a_vit_of_one_size_says_how_it_takes_others() -> None:
    small = pixels(2, 3, 96, 64)
    name, less = "timm:vit_tiny_patch16_224", {"depth": 1, "img_size": 64}
    with pytest.raises(UserError, match=f"{name} takes images of 64 x 64 .* shown 96 x 64, .* say dynamic_img_size: t"):
        create_encoder(name, **less)(small)
    free = create_encoder(name, dynamic_img_size=True, **less).eval()
    assert free(small).grid == (6, 4) and free(pixels(1, 3, 64, 64)).grid == (4, 4)
    swin = {"embed_dim": 24, "depths": [1, 1, 1, 1], "dynamic_img_size": True}
    assert create_encoder("timm:swin_tiny_patch4_window7_224", **swin)(small).grid == (3, 2)


def test_multi_crop_of_a_vit_of_one_size_is_refused_as_a_run_is_built(
    color_recipe: dict[str, Any], tmp_path: Path
) -> None:
    tree = copy.deepcopy(color_recipe)
    options = {"depth": 1, "embed_dim": 32, "num_heads": 2, "img_size": 32}
    tree["encoders"] = {"image": {"name": "timm:vit_tiny_patch16_224", **options}}
    view = {"small": {"views": 2, "image": {"crop": {"size": 16}}}}
    method = {"name": "dino", "view": view, "objective": {"prototypes": 8, "hidden": [16], "bottleneck": 8}}
    tree["tasks"] = {"dino": {"data": tree["tasks"]["clip"]["data"], "batch": 4, "method": method}}
    tree["train"], tree["evals"] = {"samples": 4}, {}
    with pytest.raises(UserError, match="takes images of 32 x 32 pixels only and is shown 16 x 16, as by multi-crop"):
        train(tree, out=tmp_path / "run", progress=False)
    tree["encoders"]["image"]["dynamic_img_size"] = True
    train(tree, out=tmp_path / "other", progress=False)
    assert load_encoder(tmp_path / "other/encoders/image").encode(torch.zeros(2, 3, 20, 20)).shape == (2, 32)
