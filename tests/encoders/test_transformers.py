"""Folders that transformers saved load as encoders and give transformers' own outputs."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from mmssl.checkpoint import load_encoder, save_encoder
from mmssl.encoders import create_encoder, pretrained
from mmssl.encoders.pretrained import FAMILIES
from mmssl.errors import UserError
from mmssl.trial import apart

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
TEXTS = ["a red ball", "one old blue cube rolls", "ball"]


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def tokenizer() -> Any:
    """Returns a fast tokenizer of words, <s> ... </s>, padded with 1."""
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "<pad>", *sorted({word for text in TEXTS for word in text.split()}), "<s>", "</s>"]
    vocab = {word: i for i, word in enumerate(words)}
    fast = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    fast.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(word, vocab[word]) for word in ("<s>", "</s>")]
    fast.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=fast, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def pictures(side: int = 32) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(2)]


def saved(config: Any, folder: Path, *others: Any) -> Any:
    """Saves a model with random weights, and what goes with it; returns the model."""
    from transformers import AutoModel

    torch.manual_seed(0)
    model = AutoModel.from_config(config).eval()
    for part in (model, *others):
        part.save_pretrained(folder)
    return model


def clip_config(**text: Any) -> Any:
    from transformers import CLIPConfig

    vocab = tokenizer().get_vocab()
    tower = {**TINY, "max_position_embeddings": 12, "vocab_size": len(vocab), "eos_token_id": vocab["</s>"], **text}
    return CLIPConfig(text_config=tower, vision_config={**TINY, "image_size": 32, "patch_size": 8}, projection_dim=16)


@pytest.mark.parametrize("legacy", [False, True])
@torch.inference_mode()
def test_clip_gives_its_own_embeddings(tmp_path: Path, legacy: bool) -> None:
    """legacy: folders from before transformers wrote the right end token."""
    from transformers import CLIPImageProcessor

    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    words = tokenizer()
    config = clip_config(**({"eos_token_id": 2} if legacy else {}))
    model = saved(config, tmp_path, processor, words)
    pixels = processor(pictures(), return_tensors="pt")["pixel_values"]
    inputs = words(TEXTS, padding=True, return_tensors="pt")
    theirs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], pixel_values=pixels)

    image = create_encoder(f"transformers:{tmp_path}", modality="image").eval()
    text = create_encoder(f"transformers:{tmp_path}", modality="text").eval()
    batch = image.preprocess.collate([image.preprocess(picture) for picture in pictures()])
    assert batch.dtype == torch.uint8
    close(image.front(batch), pixels)  # type: ignore[operator]
    close(image.encode(pictures(), space="clip"), theirs.image_embeds)
    close(text.encode(TEXTS, space="clip"), theirs.text_embeds)
    close(image.encode(pictures()), model.vision_model(pixels).pooler_output)
    features = image(batch)
    assert features.grid == (4, 4)
    close(features.tokens, theirs.vision_model_output.last_hidden_state[:, 1:])
    assert text(text.preprocess.collate(TEXTS)).lengths.tolist() == inputs["attention_mask"].sum(1).tolist()


@torch.inference_mode()
def test_siglip_gives_its_own_embeddings(tmp_path: Path) -> None:
    from transformers import SiglipConfig

    words = tokenizer()
    tower = {**TINY, "max_position_embeddings": 12, "vocab_size": len(words), "projection_size": 32}
    config = SiglipConfig(text_config=tower, vision_config={**TINY, "image_size": 32, "patch_size": 8})
    model = saved(config, tmp_path, words)
    ids = words(TEXTS, padding="max_length", max_length=12, return_tensors="pt")["input_ids"]
    pixels = torch.stack([torch.from_numpy(np.array(p)).permute(2, 0, 1) / 127.5 - 1 for p in pictures()])
    theirs = model(input_ids=ids, pixel_values=pixels)
    name = f"transformers:{tmp_path}"
    close(create_encoder(name, modality="text").encode(TEXTS, space="siglip"), theirs.text_embeds)
    close(create_encoder(name, modality="image").encode(pictures(), space="siglip"), theirs.image_embeds)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
@torch.inference_mode()
def test_text_models_pool_their_last_hidden_state(tmp_path: Path, family: str) -> None:
    from transformers import AutoConfig

    sizes = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48} if family == "distilbert" else TINY
    words = tokenizer()
    config = AutoConfig.for_model(family, vocab_size=len(words), max_position_embeddings=20, pad_token_id=1, **sizes)
    model = saved(config, tmp_path, words)
    inputs = words(TEXTS, padding=True, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    hidden = model(**inputs).last_hidden_state
    mask = inputs["attention_mask"][..., None]
    mean = create_encoder(f"transformers:{tmp_path}")
    assert (mean.modality, mean.dim) == ("text", 32)
    close(mean.encode(TEXTS), (hidden * mask).sum(1) / mask.sum(1))
    close(create_encoder(f"transformers:{tmp_path}", pool="cls").encode(TEXTS), hidden[:, 0])
    save_encoder(mean, tmp_path / "ours")
    close(load_encoder(tmp_path / "ours").encode(TEXTS), mean.encode(TEXTS))
    long = " ".join(["ball"] * 100)
    assert mean.encode([long]).isfinite().all()
    assert mean.preprocess.take_notes() == {"text truncated": 1}


@pytest.mark.parametrize("family", ["vit", "dinov2", "dinov2_with_registers", "convnext"])
@torch.inference_mode()
def test_image_models_pool_their_class_token(tmp_path: Path, family: str) -> None:
    from transformers import AutoConfig, ViTImageProcessor

    processor = ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.4] * 3, image_std=[0.3] * 3)
    sizes = {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2} if family == "convnext" else TINY
    config = AutoConfig.for_model(family, image_size=32, patch_size=4 if family == "convnext" else 8, **sizes)
    model = saved(config, tmp_path, processor)
    theirs = model(processor(pictures(), return_tensors="pt")["pixel_values"])
    ours = create_encoder(f"transformers:{tmp_path}")
    hidden = theirs.last_hidden_state
    close(ours.encode(pictures()), theirs.pooler_output if family == "convnext" else hidden[:, 0])
    if family != "convnext":
        patches = create_encoder(f"transformers:{tmp_path}", pool="mean").encode(pictures())
        close(patches, hidden[:, -16:].mean(1))


@torch.inference_mode()
def test_videomae_pools_its_patches(tmp_path: Path) -> None:
    from transformers import VideoMAEConfig, VideoMAEImageProcessor

    processor = VideoMAEImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    config = VideoMAEConfig(image_size=32, patch_size=16, num_frames=4, **TINY)
    model = saved(config, tmp_path, processor)
    clip = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    pixels = processor(list(clip), return_tensors="pt")["pixel_values"]
    ours = create_encoder(f"transformers:{tmp_path}")
    close(ours.encode([clip]), model(pixels).last_hidden_state.mean(1))
    assert ours(torch.zeros(1, 3, 4, 32, 32)).grid == (2, 2, 2)


@pytest.mark.parametrize("samples", [7920, 5000])
@torch.inference_mode()
def test_ast_hears_what_its_feature_extractor_gives(tmp_path: Path, samples: int) -> None:
    from transformers import ASTConfig, ASTFeatureExtractor

    extractor = ASTFeatureExtractor(num_mel_bins=32, max_length=48, mean=-4.0, std=3.0)
    model = saved(ASTConfig(num_mel_bins=32, max_length=48, patch_size=16, **TINY), tmp_path, extractor)
    sound = np.random.default_rng(0).standard_normal(samples).astype(np.float32)
    values = extractor(sound, sampling_rate=16_000, return_tensors="pt")["input_values"]
    ours = create_encoder(f"transformers:{tmp_path}", seconds=samples / 16_000)
    close(ours.front(torch.from_numpy(sound)[None]), values)  # type: ignore[operator]
    close(ours.encode([torch.from_numpy(sound)]), model(values).pooler_output)
    assert ours(torch.from_numpy(sound)[None]).grid == (2, 4)


@torch.inference_mode()
def test_our_folder_needs_no_other(tmp_path: Path) -> None:
    source = tmp_path / "source"
    saved(clip_config(), source, tokenizer())
    encoder = create_encoder(f"transformers:{source}", modality="text")
    save_encoder(encoder, tmp_path / "ours")
    expected = encoder.encode(TEXTS, space="clip")
    source.rename(tmp_path / "gone")
    config = (tmp_path / "ours" / "config.json").read_text()
    assert str(source) not in config
    close(load_encoder(tmp_path / "ours").encode(TEXTS, space="clip"), expected)


@torch.inference_mode()
def test_a_model_without_a_tokenizer_takes_ids_and_refuses_text(tmp_path: Path) -> None:
    from transformers import BertConfig

    model = saved(BertConfig(vocab_size=30, **TINY), tmp_path / "bert")
    encoder = create_encoder(f"transformers:{tmp_path / 'bert'}").eval()
    save_encoder(encoder, tmp_path / "ours")
    ids = torch.tensor([[5, 6, 7], [8, 0, 0]])
    hidden = model(input_ids=ids, attention_mask=(ids != 0).long()).last_hidden_state
    for ours in (encoder, load_encoder(tmp_path / "ours")):
        close(ours(ids).pooled, torch.stack([hidden[0].mean(0), hidden[1, 0]]))
        assert not ours.learns_preprocess
        with pytest.raises(UserError, match="without a tokenizer"):
            ours.encode(["text"])


def test_mistakes_are_told_in_one_line(tmp_path: Path) -> None:
    from transformers import BertConfig

    clip = tmp_path / "clip"
    saved(clip_config(), clip, tokenizer())
    saved(BertConfig(vocab_size=30, **TINY), tmp_path / "cut", tokenizer())
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    for name, options, expected in [
        (f":{tmp_path / 'nowhere'}", {}, "no local folder"),
        (":google/no-such-model", {}, "network"),
        (f":{clip}", {}, "say modality: image or modality: text"),
        (f":{clip}", {"modality": "text", "pool": "cls"}, "leave `pool` out"),
        (f":{tmp_path / 'cut'}", {}, "is damaged"),
        ("", {}, "takes a folder or hub id"),
        ("", {"architecture": {"model_type": "nonsense"}}, "architecture makes no model"),
    ]:
        with pytest.raises(UserError, match=expected) as error:
            create_encoder(f"transformers{name}", **options)
        assert "\n" not in str(error.value)


def test_families_that_a_saved_config_may_name_are_made_of_it_alone() -> None:
    """Their code at least calls nothing of transformers that takes weights, backbones or kernels from elsewhere."""
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES, model_type_to_module_name

    models = Path(transformers.__file__).parent / "models"
    calls = re.compile(r"\b(get_kernel|lazy_load_kernel|create_model|load_backbone|cached_file|torch\.load)\(")
    for family in FAMILIES:
        if family in CONFIG_MAPPING_NAMES:
            files = list((models / model_type_to_module_name(family)).glob("modeling_*.py"))
            assert files and not any(calls.search(file.read_text()) for file in files), family
    for family in ("rwkv", "timm_backbone", "dpt"):
        files = list((models / model_type_to_module_name(family)).glob("modeling_*.py"))
        assert any(calls.search(file.read_text()) for file in files), "this is how they look"


class Marks:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


def changed(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import BertConfig, ViTConfig, ViTImageProcessor

    folder = tmp_path_factory.mktemp("sources")
    saved(BertConfig(vocab_size=30, **TINY), folder / "bert", tokenizer())
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    saved(ViTConfig(image_size=32, patch_size=8, **TINY), folder / "vit", processor)
    return folder


CODE = "open({!r}, 'w').close()\n"
AUTO = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model", "AutoTokenizer": ["evil.Fast", "evil.Fast"]}
NUMBERS: list[tuple[str, str, dict[str, Any], str]] = [
    ("bert", "config.json", {"hidden_size": 10**9}, "hidden_size is 1,000,000,000; the limit is network_option"),
    ("bert", "config.json", {"hidden_size": 2**20}, "bytes; the limit is network_slack"),
    ("bert", "config.json", {"num_hidden_layers": 10**6}, "tensors; the limit is network_parts"),
    ("bert", "config.json", {"model_type": "videomae", "image_size": 2**15}, "the limit is network_codes"),
    ("bert", "config.json", {"model_type": ["bert"]}, "does not load"),
    ("bert", "config.json", {"attn_implementation": "kernels-community/evil"}, "which is code on the hub"),
    ("vit", "config.json", {"image_size": 2**20}, "bytes; the limit is network_slack"),
    ("vit", "config.json", {"image_size": "large"}, "does not load"),
    ("vit", "config.json", {"patch_size": 0}, "does not load"),
    ("vit", "preprocessor_config.json", {"size": 10**9}, "size is 1,000,000,000; the limit is"),
    ("vit", "preprocessor_config.json", {"image_mean": [0.5, 0.5]}, "image_mean is [0.5, 0.5]; expected"),
    ("vit", "preprocessor_config.json", {"image_mean": [float("nan")] * 3}, "finite"),
    ("vit", "preprocessor_config.json", {"image_std": [0, 0, 0]}, "std above 0"),
    ("vit", "preprocessor_config.json", {"resample": 99}, "resample is 99; expected"),
    ("bert", "tokenizer_config.json", {"extra_ids": 10**9}, "extra_ids is 1,000,000,000; the limit is"),
    ("bert", "tokenizer_config.json", {"tokenizer_class": "AutoModel"}, "tokenizer_class is 'AutoModel'; expected"),
    ("bert", "tokenizer_config.json", {"tokenizer_class": "AutoTokenizer"}, "expected a class of tokenizers"),
    ("bert", "tokenizer.json", {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "/////w=="}}, "ends the"),
    ("bert", "tokenizer.json", {"pre_tokenizer": {"type": "FixedLength", "length": 0}}, "its tokenizer does not work"),
]


@pytest.mark.parametrize("source, file, values, message", NUMBERS)
def test_hostile_folders_end_in_one_line(
    source: str, file: str, values: dict[str, Any], message: str, sources: Path, tmp_path: Path
) -> None:
    shutil.copytree(sources / source, tmp_path / "x")
    changed(tmp_path / "x" / file, **values)
    with pytest.raises(UserError) as caught:
        create_encoder(f"transformers:{tmp_path / 'x'}")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def pickled(folder: Path, marker: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"embeddings": Marks(marker)}))


def zipped(folder: Path, marker: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"embeddings": Marks(marker)}, folder / "pytorch_model.bin")


def elsewhere(folder: Path, marker: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"embeddings": Marks(marker)}, folder.parent / "outside.bin")
    (folder / "pytorch_model.bin.index.json").write_text('{"weight_map": {"embeddings": "../outside.bin"}}')


def its_own_model(folder: Path, marker: Path) -> None:
    changed(folder / "config.json", auto_map=AUTO, model_type="evil")


@pytest.mark.parametrize("plant", [pickled, zipped, elsewhere, its_own_model])
def test_nothing_of_a_folder_runs(plant: Any, sources: Path, tmp_path: Path) -> None:
    folder, marker = tmp_path / "x", tmp_path / "marker"
    shutil.copytree(sources / "bert", folder)
    (folder / "evil.py").write_text(CODE.format(str(marker)))
    plant(folder, marker)
    with pytest.raises(UserError) as caught:
        create_encoder(f"transformers:{folder}")
    assert "\n" not in str(caught.value) and not marker.exists()
    pickle.loads(pickle.dumps(Marks(marker)))
    assert marker.exists(), "it would have"


def test_code_beside_a_known_model_and_templates_of_chats_are_left_alone(sources: Path, tmp_path: Path) -> None:
    folder, marker = tmp_path / "x", tmp_path / "marker"
    shutil.copytree(sources / "bert", folder)
    (folder / "evil.py").write_text(CODE.format(str(marker)))
    changed(folder / "config.json", auto_map=AUTO)
    template = "{{ cycler.__init__.__globals__.os.mkdir('" + str(marker) + "') }}"
    changed(folder / "tokenizer_config.json", auto_map=AUTO, chat_template=template)
    (folder / "chat_template.jinja").write_text(template)
    assert create_encoder(f"transformers:{folder}").encode(TEXTS).isfinite().all()
    assert not marker.exists()


def test_a_tokenizer_without_tokenizer_json_is_converted_apart(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, asked = tmp_path / "x", []
    shutil.copytree(sources / "bert", folder)
    for file in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / file).unlink(missing_ok=True)
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "ball"]))
    monkeypatch.setattr(pretrained, "apart", lambda *a: asked.append(a[1]) or apart(*a))
    preprocess = create_encoder(f"transformers:{folder}").preprocess
    assert preprocess.collate(["a red ball", "ball"]).values.tolist() == [[2, 5, 6, 7, 3], [2, 7, 3, 0, 0]]
    assert asked == ["convert_tokenizer"]
