"""Low-shot SVMs: what do linear classifiers learn from 1, 2, 4, ... examples of each class?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.evals.few_shot import drawn
from mmssl.evals.linear import held_out
from mmssl.evals.parts.classes import chance
from mmssl.evals.parts.labelled import Probe
from mmssl.evals.parts.score import bootstrap
from mmssl.evals.parts.solvers import squared_hinge, with_bias
from mmssl.types import Encoder, Score


@dataclass(kw_only=True, eq=False)
class LowShotSVM(Probe):
    """Top-1 accuracy of SVMs, one class against the rest, on features of unit length, averaged over several draws.

    The interval is over the draws and the test samples. The other options are those of every Probe.
    Goyal et al., ICCV 2019, whose protocol for VOC07 is this with several labels per image, mean average precision,
    and the best cost on the test set.

    shots: examples of each class, one number or several; those of which a class has too few are left out.
    draws: of the examples.
    costs: of which the best on a tenth of the training set, of which no example is drawn, is used for each of `shots`.
    seed: of the draws.
    """

    shots: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 96)
    draws: int = 5
    costs: tuple[float, ...] = (0.01, 0.1, 1.0, 10.0, 100.0)
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.shots or not self.costs or min(*self.shots, self.draws) < 1 or min(self.costs) <= 0:
            raise UserError(
                f"low_shot_svm has shots {self.shots}, draws {self.draws}, costs {self.costs}; expected numbers above 0"
            )
        super().__post_init__()

    def judge(self, encoder: Encoder, places: tuple[str, ...]) -> Iterator[tuple[str, Score]]:
        """Yields <shots>-shot."""
        train, test = (replace(r, x=F.normalize(r.x, dim=1)) for r in self.sets.read(encoder, places)[places[0]])
        held, classes = held_out(len(train.y)), int(train.y.max()) + 1
        of_class = [((train.y == number) & ~held).nonzero()[:, 0] for number in range(classes)]
        table = torch.nn.utils.rnn.pad_sequence(of_class, batch_first=True, padding_value=-1)  # (C, M)
        smallest = min(map(len, of_class))
        if smallest < min(self.shots):
            raise UserError(f"low_shot_svm takes {min(self.shots)} examples of each class; one class has {smallest}")
        device = encoder.device
        tried, x = (with_bias(part).to(device) for part in (train.x[held], test.x))
        truth, y = train.y[held].to(device), test.y.to(device)
        for k in self.shots:
            if k > smallest:
                break
            generator = torch.Generator().manual_seed(self.seed)
            rows = torch.stack([drawn(table, k, generator).flatten() for _ in range(self.draws)])  # (draws, C k)
            fitted = [
                squared_hinge(train.x[rows].to(device), train.y[rows].to(device), classes, cost=cost)
                for cost in self.costs
            ]
            quality = [float(((tried @ weight).argmax(dim=2) == truth).float().mean()) for weight in fitted]
            right = (x @ fitted[quality.index(max(quality))]).argmax(dim=2) == y  # (draws, N)
            parts = test.per_class(right.float().mean(dim=0).cpu())
            yield f"{k}-shot", bootstrap(right.cpu(), chance=chance(test.y, classes), parts=parts)


evaluation = LowShotSVM
