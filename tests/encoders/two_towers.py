"""Tiny two-tower models with random weights, in folders as transformers and open_clip save them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
TEXTS = ["a red ball", "one old blue cube rolls", "ball"]
RATE = 8000
LOUD = {"sampling_rate": RATE, "feature_size": 32, "fft_window_size": 256, "hop_length": 80, "max_length_s": 1}


def tokenizer() -> Any:
    """Returns a fast tokenizer of words, <s> ... </s>, padded with 1; </s> has the highest number."""
    from transformers import PreTrainedTokenizerFast

    known = {word for text in (*TEXTS, "something green white square") for word in text.split()}
    words = ["<unk>", "<pad>", *sorted(known), "<s>", "</s>"]
    vocab = {word: i for i, word in enumerate(words)}
    fast = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    fast.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(word, vocab[word]) for word in ("<s>", "</s>")]
    fast.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=fast, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def pictures(number: int = 3) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)) for _ in range(number)]


def sounds() -> list[torch.Tensor]:
    """One of a whole second, one of three tenths, which CLAP repeats three times."""
    return [torch.randn(RATE), torch.randn(3 * RATE // 10)]


def clip(folder: Path) -> Any:
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    words = tokenizer()
    text = {**TINY, "max_position_embeddings": 12, "vocab_size": len(words), "eos_token_id": words.eos_token_id}
    config = CLIPConfig(text_config=text, vision_config={**TINY, "image_size": 32, "patch_size": 8}, projection_dim=16)
    looks = CLIPImageProcessor(
        size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}, image_mean=[0.4, 0.5, 0.6], resample=2
    )
    return _saved(CLIPModel(config), folder, looks, words, logit_scale=4.0)


def siglip(folder: Path) -> Any:
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel

    words = tokenizer()
    text = {**TINY, "max_position_embeddings": 12, "vocab_size": len(words), "projection_size": 32}
    config = SiglipConfig(text_config=text, vision_config={**TINY, "image_size": 32, "patch_size": 8})
    looks = SiglipImageProcessor(size={"height": 32, "width": 32})
    return _saved(SiglipModel(config), folder, looks, words, logit_scale=4.8, logit_bias=-12.5)  # exp(4.8) = 121.5


def clap(folder: Path, *, fused: bool = False) -> Any:
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

    words = tokenizer()
    text = {**TINY, "max_position_embeddings": 16, "vocab_size": len(words), "pad_token_id": 1}
    audio: dict[str, Any] = {"spec_size": 64, "num_mel_bins": 32, "patch_embeds_hidden_size": 8, "depths": [1, 1]}
    audio |= {"num_attention_heads": [1, 2], "hidden_size": 16, "num_hidden_layers": 2, "window_size": 4}
    if fused:
        audio |= {"enable_fusion": True, "fusion_type": "aff_2d", "aff_block_r": 2}
    truncation = "fusion" if fused else "rand_trunc"
    config = ClapConfig(text_config=text, audio_config=audio, projection_dim=24)
    hears = ClapFeatureExtractor(**LOUD, frequency_min=40, frequency_max=3500, truncation=truncation)
    return _saved(ClapModel(config), folder, hears, words, logit_scale_a=2.9, logit_scale_t=2.9)


def _saved(model: Any, folder: Path, *others: Any, **numbers: float) -> Any:
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:  # larger than they begin, so that outputs tell samples apart
            torch.nn.init.normal_(parameter, std=0.2)
        if name in numbers:
            parameter.data.fill_(numbers[name])
    for part in (model.eval(), *others):
        part.save_pretrained(folder)
    return model


OPEN_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 24, "heads": 2, "layers": 2},
}


def open_clip_of_words(folder: Path) -> Any:
    """One that reads few words: CLIP's own 49,408 tokens take their time."""
    words = tokenizer()
    words.save_pretrained(folder)
    text = {**OPEN_CLIP["text_cfg"], "vocab_size": len(words), "hf_tokenizer_name": "some/where"}
    return open_clip(folder, {**OPEN_CLIP, "text_cfg": text})


def open_clip(folder: Path, config: dict[str, Any] = OPEN_CLIP, **preprocess: Any) -> Any:
    """Saves a model as open_clip lays them out for the hub; returns it as open_clip opens it."""
    import open_clip
    from safetensors.torch import save_file

    values = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25], "interpolation": "bicubic", "resize_mode": "shortest"}
    folder.mkdir(exist_ok=True)
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": {**values, **preprocess}})
    )
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    model.logit_scale.data.fill_(3.5)
    if model.logit_bias is not None:
        model.logit_bias.data.fill_(-7.5)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return open_clip.create_model(f"local-dir:{folder}").eval()
