"""ICMLM: hide one telling word of a caption, and predict it from the others and the cells of the image."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl import dist
from mmssl.errors import UserError
from mmssl.nn.word_in_image import AttFC, Tfm
from mmssl.numerics.constants import counts
from mmssl.numerics.seeded_random import draws
from mmssl.objectives.captioning import Wording, cells_of, word_encoder
from mmssl.transforms.image import Crop, Flip
from mmssl.transforms.text import is_telling
from mmssl.types import Batch, Encoder, Epoch, Loss, Method, Ragged
from mmssl.views.captioned import COLORS, Captioned
from mmssl.views.mae import Seed
from mmssl.views.template import Views

NONE = -1  # of a token that is no tag
LEARN_BATCHES = 10_000


class ICMLM(Wording):
    """The cross-entropy of a hidden word, and that of tags: which words the caption has. Sariyildiz et al., ECCV 2020.

    The word is one of the tags, the most frequent telling tokens of the training captions: all but English function
    words, numbers and punctuation, where the paper takes nouns, adjectives and verbs that a tagger finds. It is scored
    by the text encoder's own embeddings; the paper's encoder is a pretrained BERT, which does not learn. Written from
    the paper's account alone, not compared with its authors' code; width, depth, heads and tags are not theirs.

    head: att_fc pools the cells by attention from the hidden word, tfm joins cells and words in a transformer.
    width: of the head.
    depth: blocks of tfm.
    heads: of the attention of tfm.
    tags: how many words may be hidden, and are predicted of the whole image.
    tag_weight: of the tags' binary cross-entropy, from the image's pooled features; 0 leaves them out.
    learn_from: training captions from which tags are chosen.
    """

    tag_of: Tensor

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        head: Literal["att_fc", "tfm"] = "tfm",
        width: int = 512,
        depth: int = 1,
        heads: int = 8,
        tags: int = 1000,
        tag_weight: float = 1.0,
        learn_from: int = 100_000,
    ) -> None:
        super().__init__(encoders)
        if width % heads or min(tags, learn_from) < 1:
            raise UserError(
                f"width {width} must be a multiple of heads {heads}; tags {tags}, learn_from {learn_from} > 0"
            )
        seen = encoders["image"].dim
        fuse = AttFC(seen, self.dim, width=width) if head == "att_fc" else None
        self.head = fuse or Tfm(seen, self.dim, width=width, depth=depth, heads=heads)
        self.bias = nn.Parameter(torch.zeros(len(word_encoder(encoders["text"]).table)))
        self.tagger = nn.Linear(seen, tags) if tag_weight else None
        self.tags, self.tag_weight, self.learn_from = tags, tag_weight, learn_from
        self.register_buffer("tag_of", torch.full((len(self.bias),), NONE))  # each token's tag, the most frequent first

    def before_epoch(self, encoders: Mapping[str, Encoder], epoch: Epoch) -> None:
        """Chooses the tags, before the first."""
        if epoch.number:
            return
        found, left = torch.zeros(len(self.bias)), -(-self.learn_from // dist.world())
        for batch in islice(epoch.batches(), LEARN_BATCHES):
            words, present = batch.views["text"][0], batch.present("text")
            taken = present & (present.cumsum(0) <= left)
            found += counts(words.values.flatten(), len(found), (words.mask & taken[:, None]).flatten()).cpu()
            left -= int(taken.sum())
            if not left:
                break
        found = dist.total(found.to(self.tag_of.device)).cpu()
        tokenizer = encoders["text"].preprocess.tokenizer  # type: ignore[attr-defined]
        order = found.argsort(descending=True, stable=True).tolist()
        telling = (number for number in order if found[number] and is_telling(tokenizer.decode([number])))
        chosen = [*islice(telling, self.tags)]
        if not chosen:
            raise UserError("none of the captions has a word to hide; expected more than function words and numbers")
        self.tag_of.fill_(NONE)[chosen] = torch.arange(len(chosen), device=self.tag_of.device)

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        words: Ragged = batch.views["text"][0]
        text = word_encoder(encoders["text"])
        seen = encoders["image"](batch.views["image"][0])
        present = batch.present("image") & batch.present("text")
        place, hidden = self._hide(words, batch.extra["seed"])
        right = words.values.gather(1, place[:, None]).squeeze(1)
        mask = text.preprocess.mask_id  # type: ignore[attr-defined]
        shown = Ragged(words.values.scatter(1, place[:, None], mask), words.lengths, padded=True)
        predicted = self.head(cells_of(seen), text(shown).tokens, words.mask, place)
        logits = F.linear(predicted, text.table, self.bias).float()
        asked = hidden & present
        total = dist.mean(F.cross_entropy(logits, right, reduction="none"), asked)
        logs = {"loss_word": total.detach()}
        if self.tagger is not None:
            tags = dist.mean(self._tag_loss(self.tagger(seen.pooled).float(), words), present)
            total, logs["loss_tags"] = total + self.tag_weight * tags, tags.detach()
        correct = (logits.argmax(dim=1) == right).float().masked_fill(~asked, torch.nan)
        commonest = counts(right, logits.shape[1], asked).max() / asked.sum().clamp(min=1)
        logs |= {
            "correct": correct.nanmean(),
            "commonest": commonest,
        }  # how often naming always that one would be right
        return Loss(total, logs, {"image": seen.pooled.detach()}, {"correct": correct})

    def _hide(self, words: Ragged, seeds: Tensor) -> tuple[Tensor, Tensor]:
        """Draws one of each text's tags: its place (B,), and whether there is one (B,) bool."""
        able = words.mask & (self.tag_of[words.values] != NONE)
        drawn = draws(seeds, words.values.shape[1]).masked_fill(~able, -1.0)
        return drawn.argmax(dim=1), able.any(dim=1)

    def _tag_loss(self, logits: Tensor, words: Ragged) -> Tensor:
        """Returns the mean over tags (B,) of the binary cross-entropy of whether the text has it."""
        tag = self.tag_of[words.values].masked_fill(~words.mask, NONE)
        others = logits.new_zeros(len(logits), self.tags + 1)  # the last is of all that are no tags
        has = others.scatter(1, torch.where(tag == NONE, self.tags, tag), 1.0)[:, : self.tags]
        used = torch.arange(self.tags, device=logits.device) < (self.tag_of != NONE).sum()
        each = F.binary_cross_entropy_with_logits(logits, has, reduction="none")
        return (each * used).sum(dim=1) / used.sum().clamp(min=1)


method = Method(
    Views(1, fixed=True, kind=Captioned, image=[Crop(scale=(0.2, 1.0)), Flip(), COLORS], after=[Seed()]), ICMLM
)
