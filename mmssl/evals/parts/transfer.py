"""Transfer: an encoder and a new network on it learn another task from labels, and are judged beside random weights."""

from __future__ import annotations

import copy
import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mmssl import dist
from mmssl.data.collate import collate
from mmssl.data.in_workers import batches_in_workers
from mmssl.data.loader import Loader
from mmssl.data.shards import Source
from mmssl.data.subset import counted, limited
from mmssl.errors import UserError
from mmssl.evals.parts.needs import Declared, EncoderNeed, Needs, require_encoder
from mmssl.evals.parts.report import no_samples_error, require, usable
from mmssl.evals.parts.source import open_source, warn_of_overlap
from mmssl.evals.parts.training import descend
from mmssl.evals.parts.untrained import WARM, untrained, warming
from mmssl.nn.fcn import FCN
from mmssl.nn.stages import Stages
from mmssl.optim.groups import param_groups
from mmssl.transforms.fields import Kind
from mmssl.transforms.image import Crop, Flip
from mmssl.types import Batch, Encoder, Sample, Score, Trained, View
from mmssl.views.template import Views


class Network(nn.Module):
    """An encoder with what is new on it."""

    encoder: Encoder

    def loss(self, batch: Batch) -> Tensor:
        """Returns what is to be small; samples count alike."""
        raise NotImplementedError

    def answers(self, batch: Batch) -> list[Any]:
        """Returns what is judged of each sample, which can be pickled."""
        raise NotImplementedError


@dataclass(kw_only=True, eq=False)
class Transfer(Declared):
    """An evaluation by transfer to another task, on a copy of an encoder of images, by AdamW.

    train: shards to learn from.
    data: shards to judge on.
    encoder: its key, of images.
    frozen: only what is new learns.
    epochs: passes over the training set.
    batch: samples of a step, over all processes.
    lr: the highest learning rate.
    weight_decay: of AdamW.
    flip: probability that training images are mirrored.
    baselines: also judge, before it, the same encoder with random weights, trained in the same way.
    limit: samples of each set at most, drawn from a fixed seed.
    workers: data processes.
    seed: of what is random.
    """

    train: dict[str, Any]
    data: dict[str, Any]
    encoder: str | None = None
    frozen: bool = False
    epochs: int = 20
    batch: int = 16
    lr: float = 1e-3
    weight_decay: float = 0.01
    flip: float = 0.5
    baselines: bool = True
    limit: int | None = None
    workers: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch) < 1 or not self.lr > 0:
            raise UserError(
                f"{self.name} has epochs {self.epochs}, batch {self.batch}, lr {self.lr}; expected numbers above 0"
            )
        self.learnt, self.judged = (limited(open_source(node), self.limit) for node in (self.train, self.data))

    @property
    def name(self) -> str:
        """What the evaluation is called."""
        return type(self).__module__.rpartition(".")[2]

    @property
    def fields(self) -> tuple[str, ...]:
        """What samples must have beside their image."""
        raise NotImplementedError

    def view(self, encoder: Encoder, *, training: bool) -> View:
        """Returns how samples are shown, in training or to be judged."""
        raise NotImplementedError

    def network(self, encoder: Encoder) -> Network:
        """Builds what learns around an encoder."""
        raise NotImplementedError

    def scores(self, answers: list[Any]) -> Iterator[tuple[str, Score]]:
        """Yields the figures of all samples' answers."""
        raise NotImplementedError

    def needs(self, trained: Trained) -> Needs:
        fields = (require_encoder(trained, self.encoder, modalities=("image",)).preprocess.field, *self.fields)
        return Needs(
            encoders={self.encoder: EncoderNeed(modalities=("image",))},
            data={"train": (self.learnt, fields), "data": (self.judged, fields)},
            counted=("train",),
        )

    def run(self, trained: Trained) -> Iterator[tuple[str, Score]]:
        """Yields the figures, and with baselines before them random_init/."""
        encoder = require_encoder(trained, self.encoder, modalities=("image",))
        warn_of_overlap(self.learnt, self.judged)
        if self.baselines:
            yield from ((f"random_init/{name}", score) for name, score in self.judge(self._fresh(encoder)))
        yield from self.judge(encoder)

    def judge(self, encoder: Encoder) -> Iterator[tuple[str, Score]]:
        """Yields the figures of an encoder, which stays as it is."""
        network = self.fitted(encoder)
        view = self.view(encoder, training=False)
        answers = []
        for batch in batches(self.judged, view, size=self.batch):
            with torch.inference_mode():
                answers += network.answers(batch.to(encoder.device))
        every = [answer for part in dist.gather_objects(answers) for answer in part]
        if not every:
            raise no_samples_error(f"no sample of {self.judged.shards[0]} has a whole {' and '.join(view.reads)}")
        yield from self.scores(every)

    @torch.enable_grad()
    def fitted(self, encoder: Encoder) -> Network:
        """Returns the network around a copy of an encoder as it has learnt, in evaluation mode."""
        mine, device = copy.deepcopy(encoder).requires_grad_(not self.frozen), encoder.device
        mine.spaces.clear()
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(self.seed)
            network = self.network(mine).to(device).train()
            torch.manual_seed(self.seed + dist.rank())
            if self.frozen:
                mine.eval()
            loader = Loader(
                self.learnt,
                self.view(encoder, training=True),
                batch=max(1, min(self.batch, sum(counted(self.learnt))) // dist.world()),
                seed=self.seed,
                workers=self.workers,
                max_damaged=1.0,
                rank=dist.rank(),
                world=dist.world(),
            )
            optimizer = torch.optim.AdamW(param_groups(network), lr=self.lr, weight_decay=self.weight_decay)
            descend(network, loader, optimizer, network.loss, epochs=self.epochs, what=self.name)
        return network.eval()

    def _fresh(self, encoder: Encoder) -> Encoder:
        """Returns the encoder with random weights; frozen, their BatchNorm has statistics of the training set."""
        fresh = untrained(encoder)
        if self.frozen:
            with warming(fresh), torch.no_grad():
                shown = batches(self.learnt, self.view(encoder, training=False), size=self.batch)
                for batch in itertools.islice(shown, WARM):
                    fresh(batch.views["image"][0].to(fresh.device))
        return fresh


@dataclass(kw_only=True, eq=False)
class DenseTransfer(Transfer):
    """A Transfer to a value of each pixel, by the head of a fully convolutional network (nn/fcn.py).

    crop_scale: share of the area that crops of training images keep.
    width: channels of the head.
    skips: how many maps before the last the head scores as well.
    """

    crop_scale: tuple[float, float] = (0.2, 1.0)
    width: int = 256
    skips: int = 2

    def aligned(self) -> dict[str, Kind]:
        """Returns what of a sample moves with its image, and its kind."""
        raise NotImplementedError

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(self.aligned())

    def view(self, encoder: Encoder, *, training: bool) -> View:
        steps = [Crop(scale=self.crop_scale), Flip(p=self.flip)] if training else []
        return Views(1, image=steps, fields=self.aligned())({"image": encoder.preprocess})


class Dense(Network):
    """Values of each pixel (B, out, H, W) by an encoder and a head."""

    def __init__(self, encoder: Encoder, out: int, options: DenseTransfer) -> None:
        super().__init__()
        self.encoder, self.stages = encoder, Stages(encoder)
        self.head = FCN(self.stages.channels, out, width=options.width, skips=options.skips)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=x.device.type == "cuda"):
            found: Tensor = self.head(self.stages(self.encoder, x)[1], x.shape[2:])
        return found.float()


def batches(source: Source, view: View, *, size: int) -> Iterator[Batch]:
    """Yields this process's share of a set in order, as a view shows it; samples that cannot be shown are left out."""
    parts = batches_in_workers(
        source,
        view.reads,
        partial(_shown, view=view),
        partial(collate, view=view),
        size=size,
        rank=dist.rank(),
        world=dist.world(),
    )
    for made, batch in parts:
        deque(usable(made), maxlen=0)  # reports those that are not
        if batch is not None:
            yield batch


def _shown(sample: Sample, *, view: View) -> Sample:
    require(sample, *view.reads)
    return view(sample)
