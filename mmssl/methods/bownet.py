"""BoWNet: predict from a changed image which visual words, of a network trained before, the unchanged one has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from mmssl import dist
from mmssl.errors import UserError
from mmssl.nn.inside import TOKENS, map_sizes, maps
from mmssl.nn.prototypes import Prototypes
from mmssl.numerics.kmeans import kmeans
from mmssl.numerics.monitors import assignment_entropy
from mmssl.objectives.clustering import agreed, sampled_cells
from mmssl.objectives.words import bag_loss, hard_bag
from mmssl.schema import at_least, at_most
from mmssl.transforms.base import OnBatch
from mmssl.transforms.color import ColorJitter, Grayscale
from mmssl.transforms.image import Crop, Flip
from mmssl.types import Batch, Encoder, Epoch, Loss, Method, Objective, Preprocess
from mmssl.views.template import Views

WORDS = "image_words"


@dataclass(kw_only=True)
class CutMix(OnBatch):
    """Pastes a box of another sample's changed image, and shows that one's unchanged image as a third view.

    extra["own"] (B,) says how much of each changed image is its own. The box has a random share of the area and lies
    anywhere, cut off at the sides. Yun et al., ICCV 2019.

    p: the probability.
    """

    p: Annotated[float, at_least(0), at_most(1)] = 1.0

    def check(self, preprocess: Mapping[str, Preprocess]) -> None:
        if WORDS not in preprocess:
            raise UserError(f"cut_mix shows unchanged images to {WORDS}, which is not among {', '.join(preprocess)}")

    def on_batch(self, batch: Batch) -> Batch:
        whole, x = batch.views["image"]
        present = batch.present("image")
        mixed = (torch.rand(len(x), device=x.device) < self.p) & present & present.flip(0)
        area, across, down = torch.rand(3, len(x), 1, device=x.device)
        half = area.sqrt() / 2
        columns, rows = (
            ((torch.arange(side, device=x.device) + 0.5) / side - middle).abs() <= half
            for side, middle in ((x.shape[3], across), (x.shape[2], down))
        )
        box = (rows[:, :, None] & columns[:, None]) & mixed[:, None, None]  # (B, H, W)
        batch.views["image"] = [whole, torch.where(box[:, None], x.flip(0), x)]
        batch.views[WORDS] = [batch.views[WORDS][0], batch.views[WORDS][0].flip(0)]
        batch.extra["own"] = 1 - box.float().mean(dim=(1, 2))
        return batch


class BoWNet(Objective):
    """Cross-entropy of the words predicted from a changed image with the bag of words of the unchanged one.

    Where the view mixes two images, both bags count by their areas. The words are clusters of a second encoder's cells,
    listed as image_words, which does not learn; train.start.image_words says from which folder its weights are taken,
    such as one that `rotation`, or `bownet` itself, trained. Gidaris et al., CVPR 2020, checked against the paper's
    formulas; its authors published no code.

    words: how many; the paper has 2048 on CIFAR-100.
    level: the map whose cells are words: "tokens", the encoder's last, or the name of a submodule.
    pool: whether a word that occurs counts once, as the paper has it for ImageNet, or as often as it occurs.
    scale: of the predictions, where the learnt one starts.
    learn_from: cells of the training set that k-means takes, at most; which ones, their samples' numbers say.
    iterations: of k-means.
    """

    modalities = ("image",)
    vocabulary: Tensor

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        words: int = 2048,
        level: str = TOKENS,
        pool: Literal["binary", "histogram"] = "binary",
        scale: float = 8.0,
        learn_from: int = 500_000,
        iterations: int = 50,
    ) -> None:
        super().__init__(encoders)
        if WORDS not in encoders:
            raise UserError(
                f"bownet predicts the words of an encoder trained before, and the run has only {', '.join(encoders)}; "
                f"list {WORDS} among its encoders, and in train.start the folder of one that rotation trained"
            )
        self.uses = ("image", WORDS)
        teacher = encoders[WORDS].requires_grad_(False).eval()
        ((dim, _, _),) = map_sizes(teacher, [level])
        self.register_buffer("vocabulary", torch.zeros(words, dim))
        self.prototypes = Prototypes(encoders["image"].dim, words)
        self.scale = nn.Parameter(torch.tensor(scale))
        self.level, self.pool, self.learn_from, self.iterations = level, pool, learn_from, iterations

    @torch.no_grad()
    def before_epoch(self, encoders: Mapping[str, Encoder], epoch: Epoch) -> None:
        """Finds the words, before the first pass, on a bounded sample of cells."""
        if epoch.number:
            return
        sample = sampled_cells(lambda x: self._cells(encoders, x), WORDS, epoch.sweep, self.learn_from)
        if len(sample) < len(self.vocabulary):
            raise UserError(
                f"{len(sample)} cells do not make {len(self.vocabulary)} words; ask for fewer, or learn from more cells"
            )
        self.vocabulary.copy_(agreed(kmeans(sample, len(self.vocabulary), iterations=self.iterations)))

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        present = batch.present("image") & batch.present(WORDS)
        bag = self._bag(encoders, batch, 0)
        if "own" in batch.extra:
            bag = torch.lerp(self._bag(encoders, batch, 1), bag, batch.extra["own"][:, None])
        pooled = encoders["image"](batch.views["image"][1]).pooled
        scores = self.scale * self.prototypes(pooled)
        sizes = bag.where(present[:, None], 0.0).sum(dim=0)
        logs = {
            "assignment_entropy": assignment_entropy(sizes),
            "scale": self.scale.detach(),
            "chance_loss": torch.special.entr(sizes / sizes.sum().clamp(min=1e-12)).sum(),  # of saying the mean bag
        }
        return Loss(dist.mean(bag_loss(scores, bag), present), logs, {"image": pooled.detach()})

    @torch.no_grad()
    def _bag(self, encoders: Mapping[str, Encoder], batch: Batch, view: int) -> Tensor:
        """Returns the bag of words (B, K) of a view."""
        return hard_bag(self._cells(encoders, batch.views[WORDS][view]), self.vocabulary, self.pool)

    def _cells(self, encoders: Mapping[str, Encoder], x: Tensor) -> Tensor:
        """Returns the cells (B, N, C) of images."""
        (found,) = maps(encoders[WORDS], x, [self.level])
        return found.flatten(2).mT


COLORS = ColorJitter(p=0.8, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)

method = Method(
    Views(
        1,
        fixed=True,
        image=[Flip()],
        changed=Views(1, fixed=True, image=[Crop(), Flip(), COLORS, Grayscale()]),
        after=[CutMix()],
    ),
    BoWNet,
)
