"""The correspondence core between whole samples: one embedding for several modalities, and the pairs that match."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import cast

import torch
from torch import Tensor, nn
from tqdm import tqdm

from mmssl import dist
from mmssl.errors import UserError, did_you_mean
from mmssl.losses.contrast import Contrast, gathered
from mmssl.nn.head import Projection
from mmssl.nn.temperature import LogitScale
from mmssl.types import Batch, Encoder, Head, Joint, Loss, Objective, Spaces, View

AGAIN = "_again"  # marks a modality's second view
EMBED_DIM, MAX_SCALE = 512, 100.0  # where neither options nor a pretrained model say so


@dataclass(slots=True)
class Pair:
    """One modality of the local samples against another, or another view of itself, of every process's.

    names: of the pair, and of the pair the other way.
    valid: (B,) bool, samples that have both modalities.
    """

    names: tuple[str, str]
    contrast: Contrast
    valid: Tensor


class JointSpace(Objective):
    """Asks that the modalities of a sample match in one space; a method says what each query's match costs.

    A sample that lacks one side of a pair does not count in it. Encoders of one trained two-tower model bring its
    projections, which are trained on; a method begins with its scale and bias (`self.brought`) as well.

    embed_dim: size of the joint embedding; by default that of the encoders' own two-tower model or of `headless`, else
        512.
    hidden: widths of the heads' hidden layers, none for linear heads.
    headless: modalities whose pooled features are compared as they are, so that the joint space is theirs, such as a
        locked text tower's (Zhai et al., CVPR 2022: LiT).
    pairs: which modalities to match, by default every two of the run's encoders.
    intra_modal: weight of matching each modality's first view with its second as well, which the View must then show
        (Morgado et al., CVPR 2021: AVID's joint form); 0 matches across modalities only.
    bf16: whether embeddings are rounded to bfloat16 to be compared, for speed on a GPU; sums stay float32.
    """

    scale: LogitScale  # a method sets it: see `begin_scale`

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        embed_dim: int | None,
        hidden: Sequence[int],
        pairs: Sequence[tuple[str, str]] | None,
        headless: Sequence[str] = (),
        intra_modal: float = 0.0,
        bf16: bool = False,
    ) -> None:
        super().__init__(encoders)
        self.pairs = [(a, b) for a, b in pairs or combinations(encoders, 2)]
        if not self.pairs:
            raise UserError(f"a joint space needs two modalities, but the only encoder is {', '.join(encoders)}")
        self.uses = tuple(dict.fromkeys(name for pair in self.pairs for name in pair))
        for name in self.uses:
            if name not in encoders:
                raise UserError(f"pairs names {name!r}, but there is no such encoder; {did_you_mean(name, encoders)}")
        for name in headless:
            if name not in self.uses:
                raise UserError(f"headless names {name!r}, which is not matched; {did_you_mean(name, self.uses)}")
        joints = _brought({name: encoders[name].joint for name in self.uses}, embed_dim, hidden)
        self.brought = next(iter(joints.values()), None)
        sizes = [embed_dim, self.brought and self.brought.dim, *(encoders[name].dim for name in headless), EMBED_DIM]
        size = next(size for size in sizes if size)
        for name in headless:
            if encoders[name].dim != size:
                raise UserError(
                    f"headless: features of {name} have {encoders[name].dim} numbers, the joint space has {size}; "
                    f"leave {name} out of headless, or embed_dim out"
                )
        heads: dict[str, Head] = {}
        for name in self.uses:
            if name in headless:
                heads[name] = Projection(encoders[name].dim, out=None)
            elif name in joints:
                heads[name] = joints[name].head
            else:
                heads[name] = Projection(encoders[name].dim, out=size, hidden=hidden)
        self.heads = nn.ModuleDict(heads)
        self.intra_modal, self.bf16 = intra_modal, bf16

    def begin_scale(
        self, given: float | None, *, default: float, ceiling: float | None, learn: bool = True
    ) -> LogitScale:
        """Returns the scale of the similarities, which begins as given, else as the two-tower model's, else by default.

        ceiling: its highest value; by default 100, or the two-tower model's scale where that is above it.
        """
        model = self.brought.scale if self.brought else None
        start = next(scale for scale in (given, model, default) if scale is not None)
        return LogitScale(start=start, ceiling=ceiling or max(MAX_SCALE, model or 0.0), learn=learn)

    def costs(self, contrast: Contrast) -> tuple[Tensor, ...]:
        """Returns one loss per sample (B,), asked from the queries' side, and from the keys' where the method does."""
        raise NotImplementedError

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        embeddings = {name: self._embed(name, encoders, batch.views[name][0]) for name in self.uses}
        total, logs = self._losses(self._match(self.pairs, embeddings, batch))
        if self.intra_modal:
            both = embeddings | {name + AGAIN: self._embed(name, encoders, _second(batch, name)) for name in self.uses}
            inside, more = self._losses(self._match([(name, name + AGAIN) for name in self.uses], both, batch))
            total, logs = total + self.intra_modal * inside, logs | more
        logs = {"temperature": 1 / self.scale().detach(), **logs}
        return Loss(total, logs, {k: x.detach() for k, x in embeddings.items()})

    def _embed(self, name: str, encoders: Mapping[str, Encoder], view: Tensor) -> Tensor:
        embedded: Tensor = self.heads[name](encoders[name](view))
        return embedded

    def _losses(self, pairs: Iterator[Pair]) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the mean over the pairs that any sample has, and each one's loss, NaN where no sample has it."""
        losses, logs, there = [], {}, []
        for pair in pairs:
            assert pair.contrast.keep is not None
            for name, cost in zip(pair.names, self.costs(pair.contrast), strict=False):
                losses.append(dist.mean(cost, pair.valid))
                there.append(pair.contrast.keep.any())
                logs[f"loss_{name}"] = losses[-1].detach().where(there[-1], torch.nan)
        return torch.stack(losses).sum() / torch.stack(there).sum().clamp(min=1), logs

    def _match(
        self, pairs: Sequence[tuple[str, str]], embeddings: Mapping[str, Tensor], batch: Batch
    ) -> Iterator[Pair]:
        """Yields every pair of embeddings, in the direction that it is written in."""
        keys = {b for _, b in pairs}
        scale, everywhere = self.scale(), {name: gathered(x) for name, x in embeddings.items() if name in keys}
        for a, b in pairs:
            valid = batch.present(a) & batch.present(b.removesuffix(AGAIN))
            rows, own, _ = everywhere[b]
            contrast = Contrast(embeddings[a], rows, scale, own, keep=dist.gather(valid), bf16=self.bf16)
            yield Pair((f"{a}-{b}", f"{b}-{a}"), contrast, valid)

    def check_view(self, view: View) -> None:
        for name in self.uses if self.intra_modal else ():
            check_two(name, view.shows.get(name, 1))

    def after_step(self, encoders: Mapping[str, Encoder], progress: float) -> None:
        self.scale.clamp()

    def spaces(self) -> Spaces:
        return cast("Spaces", dict(self.heads.items()))


def _brought(joints: Mapping[str, Joint | None], embed_dim: int | None, hidden: Sequence[int]) -> dict[str, Joint]:
    """Returns what encoders bring from the one two-tower model that they share; says so where that is dropped."""
    found = {name: joint for name, joint in joints.items() if joint is not None}
    models = {joint.model for joint in found.values()}
    sizes = sorted({joint.dim for joint in found.values()})
    layers = [joint.head.config().get("hidden") for joint in found.values()]
    why = ""
    if len(models) > 1:
        why = f"they are of several models ({', '.join(sorted(models))})"
    elif embed_dim is not None and found and [embed_dim] != sizes:
        why = f"embed_dim is {embed_dim}, theirs is {sizes[0]}"
    elif hidden and any(own != list(hidden) for own in layers):
        why = f"hidden is {list(hidden)}"
    if why and dist.rank() == 0:
        tqdm.write(f"the projections of {', '.join(found)} are dropped, and new ones begin at random: {why}")
    return {} if why else found


def inverse_of(temperature: float | None) -> float | None:
    """Returns 1 / temperature, None for none; UserError for one that is not above 0."""
    if temperature is not None and temperature <= 0:
        raise UserError(f"temperature is {temperature}; expected a number above 0, such as 0.07")
    return None if temperature is None else 1 / temperature


def check_two(name: str, views: int) -> None:
    """Raises UserError for a modality of which one view is shown."""
    if views < 2:
        raise UserError(f"intra_modal matches two views of {name}, but one is shown; give the task's view views: 2")


def _second(batch: Batch, name: str) -> Tensor:
    check_two(name, len(batch.views[name]))
    second: Tensor = batch.views[name][1]
    return second
