"""What was trained as it was before it learnt: the baseline of random weights."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

import torch
from torch import nn

from mmssl.encoders import create_encoder
from mmssl.evals.parts.needs import Declared
from mmssl.types import Encoder, Score, Trained

Module = TypeVar("Module", bound=nn.Module)
WARM = 8  # batches that set the statistics of random weights


def untrained(encoder: Encoder, *, spaces: Iterable[str | None] = (), seed: int = 0) -> Encoder:
    """Builds an encoder again, and of the spaces those heads that it has, with random weights."""
    config = encoder.config()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = create_encoder(config["name"], **config["options"])
        for space in spaces:
            if space in encoder.spaces:
                fresh.spaces[space] = type(encoder.spaces[space])(**encoder.spaces[space].config())
    fresh.preprocess = encoder.preprocess  # a tokenizer is learnt before training begins
    fresh.take_fixed(encoder)
    return fresh.to(encoder.device).eval()


def untrained_run(trained: Trained, *, seed: int = 0) -> Trained:
    """Returns encoders with all their heads, and tasks, with random weights."""
    encoders = {key: untrained(encoder, spaces=encoder.spaces, seed=seed) for key, encoder in trained.encoders.items()}
    tasks = {key: replace(task, objective=shuffled(task.objective, seed=seed)) for key, task in trained.tasks.items()}
    return Trained(encoders, tasks)


def shuffled(module: Module, *, seed: int = 0) -> Module:
    """Returns a copy of a module with random weights: drawn anew where a layer can, elsewhere the old ones shuffled."""
    fresh = copy.deepcopy(module)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for part in fresh.modules():
            if callable(reset := getattr(part, "reset_parameters", None)):
                reset()
            else:
                for values in part.parameters(recurse=False):
                    values.copy_(values.flatten()[torch.randperm(values.numel()).to(values.device)].view_as(values))
    return fresh


@contextmanager
def warming(*modules: nn.Module) -> Iterator[None]:
    """Lets BatchNorm, of modules and of encoders' heads, take the plain mean over what they see meanwhile."""
    for module in modules:
        module.train()
        heads = module.spaces.values() if isinstance(module, Encoder) else ()
        for part in (*module.modules(), *(part for head in heads for part in head.modules())):
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.momentum = None
    yield
    for module in modules:
        module.eval()


class WithUntrained(Declared):
    """An evaluation that shows, where `baselines` are asked for, what random weights reach: random_init/<figure>."""

    baselines = False

    def run(self, trained: Trained) -> Iterator[tuple[str, Score]]:
        """Yields what `judge` does, and with baselines before it random_init/."""
        if self.baselines:
            yield from ((f"random_init/{name}", score) for name, score in self.judge(self._untrained(trained)))
        yield from self.judge(trained)

    def judge(self, trained: Trained) -> Iterator[tuple[str, Score]]:
        """Yields the figures of what was trained."""
        raise NotImplementedError

    def warm(self, fresh: Trained) -> None:
        """Shows some of the data to random weights, for the statistics of their BatchNorm."""

    def _untrained(self, trained: Trained) -> Trained:
        fresh = untrained_run(trained)
        with warming(*fresh.encoders.values(), *(task.objective for task in fresh.tasks.values())), torch.no_grad():
            self.warm(fresh)
        return fresh
