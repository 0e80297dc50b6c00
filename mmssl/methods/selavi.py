"""SeLaVi: label videos by sight and sound together, and learn to tell the labels from either, in turn."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from math import log
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl import dist
from mmssl.errors import UserError
from mmssl.nn.head import Projection
from mmssl.numerics.constants import counts
from mmssl.numerics.monitors import assignment_entropy
from mmssl.numerics.sinkhorn import sinkhorn
from mmssl.objectives.clustering import Labels, by_number, survey
from mmssl.transforms.audio import Gain
from mmssl.transforms.image import Crop, Flip
from mmssl.types import Batch, Encoder, Epoch, Loss, Method, Objective, Spaces, evaluating
from mmssl.views.template import Views


class SeLaVi(Objective):
    """Classifies what is seen, and what is heard, by labels that both predictions together give each video.

    A label's probability is the product of both modalities'; Sinkhorn-Knopp gives each cluster its share of the videos.
    Before the first labels, the sound's clusters are put in the order in which they agree best with those of sight.
    Asano et al., NeurIPS 2020; labels and loss are checked against the functions of the authors' code. Other than
    there, that order is the best (the Hungarian method) and not found by trial swaps, a cluster of more probability
    gets a larger share, as the paper says, and all heads label the same, unaugmented windows.

    visual: the encoder that sees.
    clusters: labels of each head.
    heads: classifiers of each modality with labels of their own.
    hidden: widths of the classifiers' hidden layers.
    dropout: in front of every linear layer of the classifiers.
    labelings: how often all videos are labelled anew, mostly early: the i-th when (i / (labelings - 1))^1.5 of training
        is over, at the next epoch's begin.
    sharpness: how closely labels keep to the predictions, the paper's lambda.
    spread: deviation of the clusters' shares, drawn from a Gaussian for each head, over the mean share; 0 for equal
        ones.
    iterations: of Sinkhorn-Knopp.
    align: whether the sound's clusters are put in order before the first labels.
    warm: batches that BatchNorm sees before the first labels.
    """

    shares: Tensor
    done: Tensor
    labelled: Tensor

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        visual: Literal["image", "video"] = "video",
        clusters: int = 400,
        heads: int = 10,
        hidden: tuple[int, ...] = (512,),
        dropout: float = 0.3,
        labelings: int = 100,
        sharpness: float = 20.0,
        spread: float = 0.1,
        iterations: int = 100,
        align: bool = True,
        warm: int = 20,
    ) -> None:
        super().__init__(encoders)
        self.visual, self.uses = visual, (visual, "audio")
        for key in self.uses:
            if key not in encoders:
                raise UserError(f"selavi labels {visual} and audio, and has no encoder {key!r}; set visual, or add one")
        if heads < 1 or labelings < 1:
            raise UserError(f"heads is {heads} and labelings is {labelings}; expected at least one of each")
        options: dict[str, Any] = {"out": clusters, "hidden": hidden, "bias": True, "dropout": dropout}
        self.classifiers = nn.ModuleDict(
            {key: nn.ModuleList(Projection(encoders[key].dim, **options) for _ in range(heads)) for key in self.uses}
        )
        self.labels = Labels([clusters] * heads)
        self.register_buffer("shares", (1 + spread * torch.randn(heads, clusters)).clamp(min=0.01))
        self.register_buffer("done", torch.zeros(()))
        self.register_buffer("labelled", torch.zeros((), dtype=torch.long))
        self.clusters, self.labelings, self.sharpness, self.iterations = clusters, labelings, sharpness, iterations
        self.align, self.warm = align, warm

    @torch.no_grad()
    def before_epoch(self, encoders: Mapping[str, Encoder], epoch: Epoch) -> None:
        due = 1 + int((self.labelings - 1) * float(self.done) ** (2 / 3))
        if self.labelled >= due:
            return
        if self.warm and not self.labelled:
            for batch in islice(epoch.batches(), self.warm):
                self._scores(encoders, batch)
        with evaluating(self, *(encoders[key] for key in self.uses)):
            numbers, features = survey(
                lambda *x: torch.cat([encoders[k](view).pooled for k, view in zip(self.uses, x, strict=True)], dim=1),
                self.visual,
                epoch.sweep,
                "audio",
            )
            features = features.split([encoders[key].dim for key in self.uses], dim=1)
            found = [self._label(number, features) for number in range(len(self.shares))]
        self.labels.write(*by_number(numbers, torch.stack(found, dim=1)))
        self.labelled.fill_(due)

    def _label(self, number: int, features: tuple[Tensor, ...]) -> Tensor:
        """Returns a head's labels (n,) of this process's videos by features (n, D) of sight and of sound."""
        heads = self._heads(number)
        seen, heard = (head.project(x).log_softmax(dim=1) for head, x in zip(heads, features, strict=True))
        if self.align and not self.labelled:
            order = matched(seen.exp(), heard.exp())
            last = cast("nn.Linear", heads[1].layers[-1])
            last.weight.copy_(last.weight[order])
            last.bias.copy_(last.bias[order])
            heard = heard[:, order]
        both = seen + heard
        rank = dist.total(both.exp().sum(dim=0)).argsort().argsort()  # of a cluster by its probability
        shares = self.shares[number].sort().values[rank]
        found = sinkhorn(both, epsilon=2 / self.sharpness, iterations=self.iterations, shares=shares)
        return found.argmax(dim=1)

    def _heads(self, number: int) -> list[Projection]:
        """Returns a head of both modalities."""
        return [cast("Projection", cast("nn.ModuleList", self.classifiers[key])[number]) for key in self.uses]

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        labels = self.labels.of(batch)  # (B, heads)
        known = batch.present(self.visual) & batch.present("audio") & (labels[:, 0] >= 0)
        sought, scores = labels.clamp(min=0), self._scores(encoders, batch)
        losses = [F.cross_entropy(each.mT, sought, reduction="none").mean(dim=1) for each in scores]
        said = [each.argmax(dim=2) for each in scores]
        right = {f"accuracy_{key}": each == sought for key, each in zip(self.uses, said, strict=True)}
        right["agreement"] = said[0] == said[1]
        logs = {key: x.float().mean(dim=1).masked_fill(~known, torch.nan).nanmean() for key, x in right.items()}
        logs |= {"labelings": self.labelled, "chance_loss": torch.tensor(log(self.clusters))}
        logs["assignment_entropy"] = assignment_entropy(counts(sought[:, 0], self.clusters, known))
        embeddings = {key: each[:, 0].detach() for key, each in zip(self.uses, scores, strict=True)}
        return Loss(dist.mean((losses[0] + losses[1]) / 2, known), logs, embeddings)

    def _scores(self, encoders: Mapping[str, Encoder], batch: Batch) -> list[Tensor]:
        """Returns what all heads say of sight and of sound, (B, heads, K) each, float32."""
        pooled = [encoders[key](batch.views[key][0]).pooled for key in self.uses]
        every = (self._heads(number) for number in range(len(self.shares)))
        said = [[head.project(x) for head, x in zip(heads, pooled, strict=True)] for heads in every]
        return [torch.stack(each, dim=1) for each in zip(*said, strict=True)]

    def after_step(self, encoders: Mapping[str, Encoder], progress: float) -> None:
        self.done.fill_(progress)

    def spaces(self) -> Spaces:
        return dict(zip(self.uses, self._heads(0), strict=True))


def matched(seen: Tensor, heard: Tensor) -> Tensor:
    """Returns the order (K,) of heard's columns in which both (n, K), of all processes, are closest in L1."""
    from scipy.optimize import linear_sum_assignment

    far = dist.total(torch.cdist(seen.T.contiguous(), heard.T.contiguous(), p=1))  # (K, K)
    return torch.from_numpy(linear_sum_assignment(far.cpu().numpy())[1]).to(seen.device)


# Short sides of 128 to 160 pixels, of which 112 are shown: of frames of 4:3 these are 0.37 to 0.57.
SIGHT = [Crop(scale=(0.37, 0.57), ratio=(1.0, 1.0)), Flip()]

method = Method(Views(1, fixed=True, image=SIGHT, audio=[Gain(decibels=1.0)]), SeLaVi)
