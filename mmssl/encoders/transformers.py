"""Any model in the format of transformers, from a folder or the hub: CLIP, CLAP, BERT, ViT, VideoMAE, AST, ..."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from mmssl.encoders import bpe
from mmssl.encoders.mel import KaldiMel
from mmssl.encoders.pretrained import (
    HEARD,
    Processor,
    architecture_of,
    fetched_by,
    load_model,
    make_model,
    read_processor,
    read_tokenizer,
)
from mmssl.encoders.remembered import Remembered
from mmssl.encoders.transformer import pool_words
from mmssl.encoders.two_tower import TOWERS, hearing_of_clap, joint_of, tower_of
from mmssl.errors import UserError, as_user_error
from mmssl.nn.bounded import bounded
from mmssl.nn.normalize import Normalize
from mmssl.schema import Count, shortened
from mmssl.transforms.audio import AudioPreprocess
from mmssl.transforms.image import ImagePreprocess, Interpolation
from mmssl.transforms.text import TextPreprocess
from mmssl.transforms.video import VideoPreprocess
from mmssl.types import Features, Ragged, WordEncoder

AST, VIDEO = "audio-spectrogram-transformer", "videomae"
READS = {"pixel_values": "image", "input_ids": "text"}
RESAMPLING: dict[int | None, Interpolation] = {
    0: "nearest",
    1: "lanczos",
    2: "bilinear",
    3: "bicubic",
}  # Pillow's numbers


class Transformers(WordEncoder):
    """A transformers model as its authors read it: their sizes, statistics, tokenizer, and pooling where they have one.

    variant: a local folder or a hub id.
    modality: which tower of CLIP (Radford et al., ICML 2021), SigLIP (Zhai et al., ICCV 2023) or CLAP (Wu et al.,
        ICASSP 2023); their own projection becomes the space of that name, and what is trained in a joint space begins
        with it.
    pool: mean over the real tokens or patches, or the first (cls); by default cls for images and mean for the rest.
    architecture: a config as a mapping, for fresh weights in place of a variant.
    mean, std: per channel, in place of what the folder says.
    context_length: tokens of a text at most, in place of what the folder says.
    seconds: length of a sound, in place of what the folder says.
    extractor: values of the feature extractor of sounds, in place of what the folder says.
    remember: while a text tower is frozen (`train.freeze: [text]`), keep the pooled features of this many texts in
        place of encoding them again each epoch; tokens are then left out.
    """

    preprocess: Any  # of the modality that the model reads

    def __init__(
        self,
        variant: str = "",
        *,
        modality: Literal["image", "text", "audio"] | None = None,
        pool: Literal["mean", "cls"] | None = None,
        architecture: dict[str, Any] | None = None,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        context_length: int | None = None,
        seconds: float | None = None,
        extractor: Processor | None = None,
        remember: Count = 0,
    ) -> None:
        super().__init__()
        if bool(variant) == bool(architecture):
            raise UserError("transformers takes a folder or hub id, as in 'transformers:PATH', or an architecture")
        whole = make_model(architecture) if architecture else load_model(variant)
        with as_user_error(f"transformers:{variant} describes no encoder" if variant else "transformers: architecture"):
            self._read(variant, whole, modality, pool, mean, std, context_length, seconds, extractor or {})
        if remember and self.modality != "text":
            raise UserError(f"transformers: remember keeps features of texts, and this reads {self.modality}")
        self.remembered = Remembered(remember)

    def _read(
        self,
        variant: str,
        whole: Any,
        modality: str | None,
        pool: str | None,
        mean: tuple[float, ...] | None,
        std: tuple[float, ...] | None,
        context_length: int | None,
        seconds: float | None,
        extractor: Processor,
    ) -> None:
        """Finds in a model and its folder what they read, and how."""
        self.architecture, self.family, self.pool = architecture_of(whole.config), whole.config.model_type, pool
        if pool and self.family in (*TOWERS, AST):
            raise UserError(f"transformers: {self.family} pools in its own way; leave `pool` out")
        if (mean or std) and self.family == "clap":
            raise UserError("transformers: clap normalises what it hears within; leave `mean` and `std` out")
        self.modality, self.model = _tower(whole, modality)
        if self.family != "clap":  # whose texts are what the pooler makes of them
            _drop_unused(self.model)
        settings = self.model.config
        self.dim = getattr(settings, "hidden_size", None) or settings.hidden_sizes[-1]
        if self.family == "siglip" and self.modality == "text":
            self.dim = settings.projection_size
        self.grid = _grid(settings, self.modality)
        values: Processor = read_processor(variant) if variant and self.modality != "text" else {}
        values = {**values, **extractor}
        self.mean, self.std = _statistics(self.family, values, mean, std)
        self.front: nn.Module = Normalize(self.mean, self.std)
        if self.modality == "text":
            self.preprocess = _text_preprocess(variant, self.model, context_length)
        elif self.modality == "audio":
            self.extractor = {key: value for key, value in values.items() if key in HEARD}
            if self.family == AST:
                rate, longest = values.get("sampling_rate", 16_000), settings.max_length
                self.preprocess = AudioPreprocess(sample_rate=rate, seconds=seconds or longest / 100)
                self.front = KaldiMel(rate, settings.num_mel_bins, longest, mean=self.mean[0], std=self.std[0])
            else:
                self.preprocess, self.front = hearing_of_clap(values, seconds)
        else:
            self.preprocess = _picture_preprocess(settings, self.modality, values)
        with bounded(f"transformers:{variant}"):
            self.preprocess.blank()  # takes as much as what an input becomes
        if variant and self.family in TOWERS:
            self.joint = joint_of(whole, self.modality, self.dim, variant)
            self.spaces[self.family] = self.joint.head

    def forward(self, x: Any) -> Features:
        """Takes what preprocessing collates; of token ids also a plain tensor (B, L), see TextPreprocess.words."""
        if self.modality == "text":
            words = self.preprocess.words(x)
            if self.remembered.serves(self):
                return Features(self.remembered.pooled(words, self, lambda one: self._words(one).pooled))
            return self._words(words)
        x = self.front(x)
        if self.family == "clap":  # a fused one takes the whole, and three parts of what is longer: here nothing is
            parts = 4 if self.model.config.enable_fusion else 1
            output = self.model(x.expand(-1, parts, -1, -1), is_longer=x.new_zeros(len(x), 1).bool())
            return Features(output.pooler_output, output.last_hidden_state.flatten(2).transpose(1, 2))
        x = x.transpose(1, 2) if self.modality == "video" else x  # VideoMAE takes (B, T, 3, H, W)
        return self._cells(self.model(x))

    def _cells(self, output: Any) -> Features:
        """Returns features from patches behind any class and register tokens, or from a map (B, D, H, W)."""
        hidden = output.last_hidden_state
        if hidden.ndim == 4:
            tokens = hidden.flatten(2).transpose(1, 2)
            return Features(output.pooler_output.flatten(1), tokens, grid=tuple(hidden.shape[2:]))
        first = hidden.shape[1] - prod(self.grid) if self.grid else -1
        tokens, grid = (hidden[:, first:], self.grid) if first >= 0 else (hidden, None)
        if self.family in (*TOWERS, AST):
            pooled = output.pooler_output
        else:
            pool = self.pool or ("cls" if first > 0 and self.modality == "image" else "mean")
            pooled = hidden[:, 0] if pool == "cls" else tokens.mean(1)
        return Features(pooled, tokens, grid=grid)

    def _words(self, words: Ragged) -> Features:
        x = words.values  # (B, L)
        if self.family == "siglip":  # trained on texts padded to the full length, and unmasked
            room = self.model.config.max_position_embeddings - x.shape[1]
            x = F.pad(x, (0, room), value=self.preprocess.pad_id)
            output = self.model(input_ids=x)
            return Features(output.pooler_output, output.last_hidden_state)
        if self.family == "clip":  # causal: what comes behind a text's end changes nothing
            output = self.model(input_ids=x)
            return Features(output.pooler_output, output.last_hidden_state, lengths=words.lengths)
        output = self.model(input_ids=x, attention_mask=words.mask.long())
        tokens = output.last_hidden_state
        if self.family == "clap":
            return Features(output.pooler_output, tokens, lengths=words.lengths)
        return Features(pool_words(tokens, words, self.pool or "mean"), tokens, lengths=words.lengths)

    @property
    def table(self) -> Tensor:
        table: Tensor | None = self.model.get_input_embeddings().weight if self.modality == "text" else None
        if table is None or table.shape[1] != self.dim:
            raise UserError(
                f"transformers: {self.family!r} has no embeddings of words as wide as its features to predict"
            )
        return table

    @classmethod
    def fetches(cls, options: Mapping[str, Any]) -> str:
        if options.get("variant"):
            return f"the folder or hub id {shortened(options['variant'])}"
        return fetched_by(options.get("architecture"))

    def config(self) -> dict[str, Any]:
        options: dict[str, Any] = {"architecture": self.architecture, "pool": self.pool}
        if self.modality != "text" and self.family != "clap":
            options |= {"mean": self.mean, "std": self.std}
        if self.family in TOWERS:
            options["modality"] = self.modality
        for name in ("context_length", "seconds"):
            if hasattr(self.preprocess, name):
                options[name] = getattr(self.preprocess, name)
        if self.modality == "audio":
            options["extractor"] = self.extractor
        if self.remembered.most:
            options["remember"] = self.remembered.most
        return {"name": "transformers", "options": options}

    @property
    def learns_preprocess(self) -> bool:
        return type(self.preprocess) is TextPreprocess and bpe.is_untrained(self.preprocess.tokenizer)

    def learn_preprocess(self, raws: Iterable[Any]) -> None:
        bpe.learn_merges(self.preprocess, raws, self.model.config.vocab_size)

    def save_files(self, folder: Path) -> None:
        if type(self.preprocess) is TextPreprocess:
            bpe.save_tokenizer(self.preprocess.tokenizer, folder)

    def load_files(self, folder: Path) -> None:
        if self.modality != "text":
            return
        if (folder / "tokenizer.json").exists():
            bpe.load_tokenizer(self.preprocess, folder, known=self.model.config.vocab_size)
        else:
            self.preprocess = Untokenized(**self.preprocess.config(), tokenizer=self.preprocess.tokenizer)


class Untokenized(TextPreprocess):
    """Stands where a text model came without a tokenizer: batches of its token ids are welcome, texts are refused."""

    def __call__(self, raw: Any) -> str:
        raise UserError("this text model came without a tokenizer; save tokenizer.json in its folder and load it again")


def _tower(whole: Any, modality: str | None) -> tuple[str, Any]:
    """Returns what the model reads, and the part of it that encodes that."""
    family = whole.config.model_type
    if family in TOWERS:
        return tower_of(whole, modality)
    if whole.config.is_encoder_decoder:
        whole = whole.get_encoder()
    reads = {AST: "audio", VIDEO: "video"}.get(family, READS.get(whole.main_input_name))
    if reads is None or (reads == "image" and hasattr(whole.config, "num_frames")):
        known = "text and image models, CLIP, SigLIP, CLAP, VideoMAE, AST"
        raise UserError(f"transformers: {family!r} is not supported; known: {known}")
    if modality not in (None, reads):
        raise UserError(f"transformers: {family!r} reads {reads}, not {modality}; leave `modality` out")
    return reads, whole


def _drop_unused(model: Any) -> None:
    """Removes what pooled features do not depend on: poolers trained for other tasks, and mask tokens."""
    pooler = getattr(model, "pooler", None)
    if pooler is not None and any(True for _ in pooler.parameters()):
        model.pooler = None
    if getattr(getattr(model, "embeddings", None), "mask_token", None) is not None:
        model.embeddings.mask_token = None


def _grid(config: Any, modality: str) -> tuple[int, ...] | None:
    """Returns how the patches lie: (H, W), (T, H, W) for video, (F, T) for sound; None where there are none."""
    patch = getattr(config, "patch_size", None)
    if modality == "text" or not isinstance(patch, int):
        return None
    if modality == "audio" and config.model_type != AST:  # CLAP's cells lie in groups of frequencies
        return None
    if modality == "audio":
        return (
            (config.num_mel_bins - patch) // config.frequency_stride + 1,
            (config.max_length - patch) // config.time_stride + 1,
        )
    side = config.image_size // patch
    return (config.num_frames // config.tubelet_size, side, side) if modality == "video" else (side, side)


def _statistics(
    family: str, values: Processor, mean: tuple[float, ...] | None, std: tuple[float, ...] | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and std of the input: as given, else the folder's, else what the family was trained with."""
    if family == AST:
        return mean or (values.get("mean", -4.2677393),), std or (values.get("std", 4.5689974),)
    from transformers import image_utils

    half = family in ("vit", "siglip", "deit", "beit")
    default = "OPENAI_CLIP" if family == "clip" else "IMAGENET_STANDARD" if half else "IMAGENET_DEFAULT"
    if not values.get("do_normalize", True):
        values = {"image_mean": (0.0,) * 3, "image_std": (1.0,) * 3}
    own_mean = values.get("image_mean") or getattr(image_utils, f"{default}_MEAN")
    own_std = values.get("image_std") or getattr(image_utils, f"{default}_STD")
    return mean or tuple(own_mean), std or tuple(own_std)


def _picture_preprocess(config: Any, modality: str, values: Processor) -> ImagePreprocess | VideoPreprocess:
    """Returns the folder's way to the model's size: which pixels, how interpolated, how cropped."""
    side = config.image_size
    if modality == "video":
        return VideoPreprocess(size=side, frames=config.num_frames)
    size = values.get("size", side)
    edge = size.get("shortest_edge") if isinstance(size, dict) else size
    return ImagePreprocess(
        size=side,
        resize="shorter" if edge else "squash",
        interpolation=RESAMPLING.get(values.get("resample", 3), "bicubic"),  # null leaves it to the class
        crop_ratio=side / edge if edge and values.get("do_center_crop", True) else 1.0,
        corner="before",
    )


def _text_preprocess(path: str, model: Any, context_length: int | None) -> TextPreprocess:
    """Returns the folder's tokenizer, or with fresh weights one of bytes that is yet to learn."""
    known = getattr(model.config, "vocab_size", None)
    found = read_tokenizer(path, known=known) if path else (bpe.byte_tokenizer(), 0, None)
    tokenizer, pad, says = found or (bpe.byte_tokenizer(), getattr(model.config, "pad_token_id", None) or 0, None)
    room = getattr(model.config, "max_position_embeddings", None)
    offset = getattr(getattr(model, "embeddings", None), "padding_idx", None)  # RoBERTa counts positions from here
    if room and isinstance(offset, int):
        room -= offset + 1
    longest = min(length for length in (says, room, 2**16) if length)
    kind = TextPreprocess if found else Untokenized
    return kind(context_length=min(context_length or longest, longest), pad_id=pad, tokenizer=tokenizer)


encoder = Transformers
