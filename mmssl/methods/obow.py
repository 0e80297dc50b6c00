"""OBoW: predict from parts of an image which words the whole has, as a slow copy of the network, a teacher, sees it."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from math import log
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl import dist
from mmssl.errors import UserError
from mmssl.nn.blocks import stop_drop_path
from mmssl.nn.ema import ema_update
from mmssl.nn.inside import TOKENS, map_sizes, maps
from mmssl.nn.mlp import mlp
from mmssl.numerics.monitors import assignment_entropy
from mmssl.numerics.seeded_random import draws
from mmssl.objectives.multi_view import MultiView, pooled_views
from mmssl.objectives.words import Vocabulary, bag_loss
from mmssl.optim.schedule import cosine
from mmssl.transforms.color import Blur, ColorJitter, Grayscale
from mmssl.transforms.image import Crop, Flip
from mmssl.types import Batch, Encoder, Loss, Method
from mmssl.views.mae import Seed
from mmssl.views.template import Views


class OBoW(MultiView):
    """Cross-entropy of each part's predicted words with the teacher's bag of words of the first view, the whole image.

    Words are cells of the teacher's own maps, the latest ones, so a network makes the classifier's weights of them. The
    loss is averaged over views of one size, and summed over sizes. Gidaris et al., CVPR 2021; bags, words and
    predictions are checked against the authors' code.

    levels: maps whose words are predicted: "tokens", the encoder's last, or the names of submodules, such as
        model.layer3 and model.layer4 of timm's ResNet.
    words: how many there are at each level.
    sharpness: of the words' shares of a cell, the paper's inverse delta (10 for a ResNet-18).
    border: cells left out at each side of a map.
    average: side of the squares of cells that are averaged to become a word.
    scale: of the predictions, the paper's kappa (5 for a ResNet-18).
    momentum: of the teacher's moving average at the start; it rises to 1 by a cosine.
    """

    compares = 2

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        levels: Sequence[str] = (TOKENS,),
        words: int = 8192,
        sharpness: float = 15.0,
        border: int = 1,
        average: int = 3,
        scale: float = 8.0,
        momentum: float = 0.99,
        encoder: str | None = None,
    ) -> None:
        super().__init__(encoders, encoder=encoder)
        sizes = map_sizes(encoders[self.key], levels)
        for name, (_, height, width) in zip(levels, sizes, strict=True):
            if min(height, width) - 2 * border < average or average < 1 or border < 0:
                raise UserError(
                    f"the map of {name} has {height} x {width} cells, border is {border} and average {average}; "
                    "expected room for a square of cells inside the border"
                )
        options: dict[str, Any] = {"sharpness": sharpness, "border": border, "average": average}
        self.vocabularies = nn.ModuleList(Vocabulary(words, dim, **options) for dim, _, _ in sizes)
        self.generators = nn.ModuleList(mlp((dim, 2 * self.dim, self.dim), bias=True) for dim, _, _ in sizes)
        self.teacher = copy.deepcopy(encoders[self.key]).requires_grad_(False)
        stop_drop_path(self.teacher)
        self.levels, self.scale, self.momentum = tuple(levels), scale, momentum

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        (whole, *parts), present = self.views(batch), self.present(batch)
        bags = self._bags(whole, present, batch.extra["seed"])
        weights = [self._weights(number) for number in range(len(bags))]
        pooled = pooled_views(encoders[self.key], parts, len(present))
        with torch.autocast(present.device.type, enabled=False):
            scores = [[self.scale * x.float() @ weight.T for weight in weights] for x in pooled]
        losses = [torch.stack([bag_loss(*pair) for pair in zip(s, bags, strict=True)]).mean(dim=0) for s in scores]
        alike = Counter(part.shape for part in parts)
        total = torch.stack([loss / alike[part.shape] for loss, part in zip(losses, parts, strict=True)]).sum(dim=0)
        logs = {
            "assignment_entropy": assignment_entropy(bags[-1].where(present[:, None], 0.0)),
            "chance_loss": torch.tensor(len(alike) * log(bags[-1].shape[1])),
        }
        return Loss(dist.mean(total, present), logs, {self.key: pooled[0].detach()})

    @torch.no_grad()
    def _bags(self, whole: Tensor, present: Tensor, seeds: Tensor) -> list[Tensor]:
        """Returns the teacher's bag of words (B, K) of each level."""
        seen = zip(self.words, maps(self.teacher, whole, self.levels), strict=True)
        drawn = draws(seeds, len(self.levels))
        return [words.bag(x, present, drawn[:, level]) for level, (words, x) in enumerate(seen)]

    def _weights(self, level: int) -> Tensor:
        """Returns the classifier's weights (K, D) of a level's words, of unit length."""
        made: Tensor = self.generators[level](F.normalize(self.words[level].rows, dim=1))
        return F.normalize(made.float(), dim=1)

    @property
    def words(self) -> list[Vocabulary]:
        """The vocabulary of each level."""
        return [cast("Vocabulary", each) for each in self.vocabularies]

    def after_step(self, encoders: Mapping[str, Encoder], progress: float) -> None:
        ema_update(self.teacher, encoders[self.key], decay=cosine(progress, start=self.momentum, end=1.0))
        for words in self.words:
            words.write()


COLORS = (Flip(), ColorJitter(p=0.8, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1), Grayscale())

method = Method(
    Views(  # the authors cut small parts from a grid of places in one changed image, which covers it more evenly
        1,
        image=[Flip()],
        crops=Views(2, image=[Crop(scale=(0.08, 0.6), size=5 / 7), *COLORS, Blur(p=0.5)]),
        small=Views(5, image=[Crop(scale=(0.084, 0.14), size=3 / 7), *COLORS]),
        after=[Seed()],
    ),
    OBoW,
)
