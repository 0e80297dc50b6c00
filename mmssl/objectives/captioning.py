"""What methods share that predict the words of an image's text: who sees, who reads, and how captions are written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from mmssl.errors import UserError, did_you_mean
from mmssl.numerics.beam_search import beam_search
from mmssl.types import Encoder, Features, Objective, Ragged, Trained, WordEncoder, evaluating


class Caption(NamedTuple):
    """A caption, and the logarithm of its probability."""

    text: str
    log_prob: float


class Wording(Objective):
    """Predicts words of a text from the cells of its image; the encoders are listed as image and text."""

    modalities = ("image", "text")

    def __init__(self, encoders: Mapping[str, Encoder]) -> None:
        super().__init__(encoders)
        for key in self.modalities:
            if key not in encoders:
                raise UserError(f"words are predicted from an image and a text; list an encoder {key}")
        self.dim = word_encoder(encoders["text"]).dim


class Captioning(Wording):
    """A task that has learnt to write captions, which evaluations and `mmssl caption` ask for."""

    def log_probs(self, encoders: Mapping[str, Encoder], cells: Tensor, written: Tensor, end: Tensor) -> Tensor:
        """Returns log-probabilities of the next token (B, V), given what `see` returned and tokens so far (B, t).

        end: () the token that texts end with.
        """
        raise NotImplementedError

    def see(self, encoders: Mapping[str, Encoder], images: Tensor) -> Tensor:
        """Returns what it writes from (B, N, D)."""
        raise NotImplementedError

    @torch.inference_mode()
    def captions(
        self, encoders: Mapping[str, Encoder], images: Tensor, *, beams: int = 5, length: int | None = None
    ) -> list[Caption]:
        """Writes a caption for each of a batch of prepared images, by beam search, in evaluation mode.

        length: tokens at most, by default what the text encoder takes.
        """
        text = word_encoder(encoders["text"])
        longest = text.preprocess.context_length  # type: ignore[attr-defined]
        end = text.preprocess.collate([""]).values[0, -1].to(images.device)
        with evaluating(self, encoders["image"], text):
            cells = self.see(encoders, images).repeat_interleave(beams, dim=0)
            tokens, scores = beam_search(
                lambda written: self.log_probs(encoders, cells, written, end),
                samples=len(images),
                end=int(end),
                beams=beams,
                length=min(length or longest, longest),
                device=images.device,
            )
        texts = text.preprocess.tokenizer.decode_batch(tokens.tolist())  # type: ignore[attr-defined]
        return [Caption(one.strip(), score) for one, score in zip(texts, scores.tolist(), strict=True)]


def captioning_task(trained: Trained, name: str | None) -> tuple[str, Captioning]:
    """Returns the task that writes captions, and its name; UserError where there is none, or several and no name."""
    able = {key: task.objective for key, task in trained.tasks.items() if isinstance(task.objective, Captioning)}
    if not able:
        raise UserError(
            f"no task of the run writes captions ({', '.join(trained.tasks)}); train one that does, such as virtex"
        )
    if name is None and len(able) > 1:
        raise UserError(f"several tasks of the run write captions: {', '.join(able)}; say which with task")
    if name is not None and name not in able:
        raise UserError(f"there is no task {name!r} that writes captions; {did_you_mean(name, able)}")
    name = name or next(iter(able))
    return name, able[name]


def word_encoder(encoder: Encoder) -> WordEncoder:
    """Returns an encoder of texts whose tokens can be predicted; UserError for another."""
    if not isinstance(encoder, WordEncoder):
        found = encoder.name or type(encoder).__name__
        raise UserError(
            f"the method predicts words, and {found!r} knows none; choose transformer, or one of transformers"
        )
    _ = encoder.table
    return encoder


def cells_of(features: Features) -> Tensor:
    """Returns the tokens of an image (B, N, D); UserError where there are none."""
    if features.tokens is None:
        raise UserError("words are predicted from cells, and this encoder gives none; choose one such as convnet")
    return features.tokens


def check_apart(encoder: WordEncoder) -> None:
    """Raises UserError for an encoder in which a word's token depends on other words, which it would give away."""
    ids = torch.full((1, 3), 2, device=encoder.device)
    other = ids.clone()
    other[0, 1] = 3
    with torch.no_grad(), evaluating(encoder):
        one, two = (encoder(Ragged(x, x.new_tensor([3]), padded=True)).tokens for x in (ids, other))
    if not torch.isclose(one[:, ::2], two[:, ::2], rtol=0, atol=0, equal_nan=True).all():
        raise UserError("the text encoder shows each word, which is to be predicted, to the others; give it depth: 0")
