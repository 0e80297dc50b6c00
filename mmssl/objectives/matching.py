"""The correspondence core for pairs judged one by one: does this sound belong to this image or video?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from mmssl import dist
from mmssl.errors import UserError
from mmssl.types import Batch, Encoder, Features, Loss, Objective


class Matching(Objective):
    """Asks of each sample whether its own sound matches, and whether a wrong one does, each half of the loss.

    The wrong sound is that of the next sample which has both, over all processes, or, where `extra["kind"]` is above 0,
    the sample's own second sound, which is out of sync. A second sound of any kind but 0 is also what the sample before
    it is asked about. A subclass gives `log_odds`, and what they cost. The loss answers `correct`, and `kind` of the
    wrong sound.

    visual: the encoder that sees.
    """

    def __init__(self, encoders: Mapping[str, Encoder], *, visual: Literal["image", "video"]) -> None:
        super().__init__(encoders)
        self.visual, self.uses = visual, (visual, "audio")
        for key in self.uses:
            if key not in encoders:
                raise UserError(f"matching {visual} and audio needs an encoder for {key!r}; set visual, or add one")

    def log_odds(self, visual: Features, audio: Features) -> Tensor:
        """Returns how much each row's pair belongs together, (B,), above 0 is yes; of sound it reads `pooled`."""
        raise NotImplementedError

    def cost(self, odds: Tensor, matches: Tensor) -> Tensor:
        """Returns what each pair's log-odds (B,) cost, given which ones match (B,) bool."""
        raise NotImplementedError

    def correct(self, own: Tensor, wrong: Tensor) -> Tensor:
        """Returns how right the log-odds of each row's own and wrong sound are, (B,) from 0 to 1."""
        return ((own > 0).float() + (wrong <= 0).float()) / 2

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        present = batch.present(self.visual) & batch.present("audio")
        kind = batch.extra.get("kind", torch.zeros_like(present, dtype=torch.long))
        seen = encoders[self.visual](batch.views[self.visual][0])
        if "kind" in batch.extra:
            own, offered = _hear(encoders["audio"], batch.views["audio"], kind)
        else:
            own = offered = encoders["audio"](batch.views["audio"][0]).pooled.float()
        following, others = next_present(present)
        wrong = torch.where((kind > 0)[:, None], offered, dist.gather_with_grad(offered)[following])
        asked = present & (others | (kind > 0))
        yes, no = self.log_odds(seen, Features(own)), self.log_odds(seen, Features(wrong))
        right = self.cost(yes, torch.ones_like(present)), self.cost(no, torch.zeros_like(present))
        total = (dist.mean(right[0], present) + dist.mean(right[1], asked)) / 2
        correct = self.correct(yes.detach(), no.detach())
        answers = {"correct": correct.where(asked, torch.nan), "kind": kind.float().where(asked, torch.nan)}
        with torch.no_grad():
            heads = {self.visual: seen, "audio": Features(own)}
            embeddings = {key: head(heads[key]) for key, head in self.spaces().items()}
        accuracy = (correct * asked).sum() / asked.sum().clamp(min=1)
        return Loss(total, {"accuracy": accuracy}, embeddings, answers)


def _hear(encoder: Encoder, sounds: list[Tensor], kind: Tensor) -> tuple[Tensor, Tensor]:
    """Encodes the first sounds, and of the second ones those that differ: (B, D) each."""
    rows = kind.nonzero()[:, 0]
    heard = encoder(torch.cat([sounds[0], sounds[-1][rows]])).pooled.float()
    own, second = heard.split([len(kind), len(rows)])
    return own, own.index_copy(0, rows, second)


def next_present(present: Tensor) -> tuple[Tensor, Tensor]:
    """Finds for each sample (B,) the next that is present among all processes' samples, around the end.

    Returns its place in the gathered batch (B,), and whether it is another sample (B,); absent ones have no meaning.
    """
    everywhere = dist.gather(present)
    rows, places = len(everywhere), torch.arange(2 * len(everywhere), device=present.device)
    there = torch.where(everywhere.repeat(2), places, 2 * rows)
    following = there.flip(0).cummin(dim=0).values.flip(0)[1 : rows + 1] % rows
    mine = torch.arange(len(present), device=present.device) + dist.rank() * len(present)
    return following[mine], following[mine] != mine
