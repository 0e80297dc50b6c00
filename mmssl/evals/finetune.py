"""Fine-tuning: the whole encoder learns the classes, on a copy of it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl import dist
from mmssl.data.loader import Loader
from mmssl.data.shards import Source
from mmssl.data.subset import Subset
from mmssl.errors import UserError
from mmssl.evals.linear import ranked, tops
from mmssl.evals.parts.labelled import Classification, Embedded
from mmssl.evals.parts.layers import POOLED
from mmssl.evals.parts.needs import EncoderNeed, Needs
from mmssl.evals.parts.training import descend
from mmssl.optim.groups import layer_groups
from mmssl.transforms.image import Crop, Flip
from mmssl.types import Batch, Encoder, Features, Head, Score, Trained
from mmssl.views.template import Views


@dataclass(kw_only=True, eq=False)
class FineTuning(Classification):
    """A Classification that fine-tunes copies of the encoder by AdamW, the rate falling along a cosine after a tenth.

    batch: samples of a training step, over all processes.
    lr: the highest learning rate, of the last layer.
    weight_decay: of AdamW.
    layer_decay: factor on the rate from each layer to the one before.
    crop_scale: share of the area that crops of images and videos keep.
    flip: probability that images and videos are mirrored; sounds are heard from a random moment.
    workers: data processes.
    seed: of what is random.
    space: the task on whose head the classifier stands, which learns too; without it on pooled features. SimCLR v2
        fine-tunes from the middle of its projection, simclr_middle (Chen et al., NeurIPS 2020).
    """

    batch: int = 128
    lr: float = 1e-3
    weight_decay: float = 0.05
    layer_decay: float = 0.75
    crop_scale: tuple[float, float] = (0.2, 1.0)
    flip: float = 0.5
    workers: int = 1
    seed: int = 0
    space: str | None = None

    def __post_init__(self) -> None:
        if self.batch < 1 or self.lr <= 0 or not 0 < self.layer_decay <= 1:
            raise UserError(
                f"fine-tuning has batch {self.batch}, lr {self.lr}, layer_decay {self.layer_decay}; expected numbers "
                "above 0, and a decay of at most 1"
            )
        super().__post_init__()
        self.places = (self.space or POOLED,)
        self.view = Views(1, image=[Crop(scale=self.crop_scale), Flip(p=self.flip)])

    def needs(self, trained: Trained) -> Needs:
        return replace(
            super().needs(trained), encoders={self.encoder: EncoderNeed(space=self.space)}, counted=("train",)
        )


@dataclass(kw_only=True, eq=False)
class Finetune(FineTuning):
    """Top-1 and top-5 accuracy after fine-tuning from the encoder; beside it, from random weights.

    Of the raw input only the linear classifier learns. The encoder that is judged stays as it is. The other options are
    those of every Classification and FineTuning. Layer decay as in Clark et al., ICLR 2020; defaults near those of
    He et al., CVPR 2022.

    epochs: passes over the training set.
    """

    epochs: int = 5

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise UserError(f"finetune has epochs {self.epochs}; expected at least 1")
        super().__post_init__()

    def judge(self, encoder: Encoder, places: tuple[str, ...]) -> Iterator[tuple[str, Score]]:
        """Yields top1, and top5 where there are more classes than five."""
        labels = self.sets.labels()
        tuned = finetuned(encoder, self.sets.train, labels, self, epochs=self.epochs, place=places[0])
        classes = max(labels.values()) + 1
        test = self.sets.test_rows(tuned.encoder)
        yield from tops(tuned.ranks(test), classes, test)


class Classifier(nn.Module):
    """An encoder, perhaps a head, and a linear layer on what they give, normalised, which starts from zero."""

    def __init__(self, encoder: Encoder, classes: int, head: Head | None = None) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head
        with torch.no_grad():
            size = self._seen(torch.zeros(1, encoder.dim, device=encoder.device)).shape[1]
        self.norm = nn.LayerNorm(size, elementwise_affine=False)
        self.linear = nn.Linear(size, classes)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.linear.to(encoder.device)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.encoder(x).pooled)

    def classify(self, pooled: Tensor) -> Tensor:
        """Returns the scores (B, classes) of pooled features (B, D)."""
        scores: Tensor = self.linear(self.norm(self._seen(pooled)))
        return scores

    def _seen(self, pooled: Tensor) -> Tensor:
        return pooled if self.head is None else self.head(Features(pooled))

    @torch.inference_mode()
    def ranks(self, test: Embedded) -> Tensor:
        """Returns the place of each embedded row's class among all (N,)."""
        return ranked(self.classify(test.x.to(self.encoder.device)).cpu(), test.y)


@torch.enable_grad()
def finetuned(
    encoder: Encoder,
    source: Source,
    labels: Mapping[int, int],
    tuning: FineTuning,
    *,
    epochs: int,
    place: str = POOLED,
) -> Classifier:
    """Returns a copy of an encoder that was fine-tuned, with its classifier, in evaluation mode.

    labels: classes by samples' numbers; the others are not learnt from. Every process works on its share. place:
    "pooled", or the space on whose head the classifier stands.
    """
    source = Subset(source, labels)
    numbers = torch.full((max(labels) + 1,), -1)
    numbers[list(labels)] = torch.tensor(list(labels.values()))
    mine = copy.deepcopy(encoder).requires_grad_(True)
    mine.spaces.clear()
    head = None if place == POOLED else copy.deepcopy(encoder.spaces[place]).requires_grad_(True).eval()
    device = encoder.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(tuning.seed + dist.rank())
        model = Classifier(mine, max(labels.values()) + 1, head).train()
        groups = layer_groups(mine, lr=tuning.lr, decay=tuning.layer_decay)
        behind = [weight for part in (model.linear, head) if part is not None for weight in part.parameters()]
        groups.append({"params": behind, "lr": tuning.lr})
        optimizer = torch.optim.AdamW(groups, lr=tuning.lr, weight_decay=tuning.weight_decay)
        loader = Loader(
            source,
            tuning.view({encoder.modality: encoder.preprocess}),
            batch=max(1, min(tuning.batch, len(labels)) // dist.world()),
            seed=tuning.seed,
            workers=tuning.workers,
            max_damaged=1.0,
            rank=dist.rank(),
            world=dist.world(),
        )

        def loss(batch: Batch) -> Tensor:
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                scores = model(batch.views[encoder.modality][0])
            return F.cross_entropy(scores.float(), numbers[batch.extra["index"]])

        numbers = numbers.to(device)
        descend(model, loader, optimizer, loss, epochs=epochs, what="fine-tuning")
    return model.eval()


evaluation = Finetune
