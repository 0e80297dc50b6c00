"""Trains methods of mmssl and the same ones built of lightly's parts on CIFAR-10, and compares their kNN accuracy.

    python tools/bench/lightly_cifar10.py [--methods simclr moco byol dino] [--seeds 0 1 2] [--samples 100000]
        [--batch 256] [--k 5] [--known 20000] [--asked 10000] [--threads 2] [--device cpu]
        [OVERRIDES, as `mmssl train` takes them]

Both see the same batches of the same views, in the same order, and start from the same weights. Settings are those of
our recipe: heads' sizes, temperatures, momentum, optimizer, learning rate and budget. lightly's side has its heads and
losses and a plain loop, as in its examples. A quick look:
--seeds 0 --samples 512 --batch 64 --known 500 --asked 200 "encoders.image.widths=[16,32]"
"encoders.image.depths=[1,1]".
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch
from lightly import loss as losses
from lightly.models.modules import heads
from lightly.models.utils import deactivate_requires_grad, update_momentum
from lightly.utils.scheduler import cosine_schedule
from torch import Tensor, nn

from mmssl import names
from mmssl.assembly import assemble
from mmssl.evals.knn import vote
from mmssl.evals.parts.source import open_source
from mmssl.optim.groups import param_groups
from mmssl.optim.schedule import ramp, warmup_cosine
from mmssl.recipe import Recipe, load, split
from mmssl.trainer import Trainer
from mmssl.types import Encoder, evaluating

RECIPES = {"simclr": "simclr_cifar10", "moco": "moco_v2_cifar10", "byol": "byol_cifar10", "dino": "dino_cifar10"}


class Peer(nn.Module):
    """An encoder and a head of lightly's, and for methods with a teacher copies that follow.

    ours: the objective whose settings it takes over.
    """

    def __init__(self, encoder: Encoder, head: nn.Module, ours: Any) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head
        self.slow = nn.ModuleList()
        self.momentum = getattr(ours, "momentum", 1.0)

    def with_teacher(self, head: nn.Module | None = None) -> None:
        """Makes the copies; head: another of the same build, where the first cannot be copied."""
        if head is not None:
            head.load_state_dict(self.head.state_dict())
        self.slow = nn.ModuleList([copy.deepcopy(self.encoder), head or copy.deepcopy(self.head)])
        deactivate_requires_grad(self.slow)

    def start_as(self, ours: nn.Module) -> None:
        """Takes over the matrices that our objective learns, in their order, so that both sides start alike."""
        left = [p for p in ours.parameters() if p.requires_grad and p.ndim > 1]
        with torch.no_grad():
            for name, mine in self.named_parameters():
                if name.startswith(("encoder.", "slow.")) or mine.ndim < 2:
                    continue
                same = next((place for place, other in enumerate(left) if other.shape == mine.shape), None)
                if same is not None:
                    mine.copy_(left.pop(same))
        for slow, fast in zip(self.slow, (self.encoder, self.head), strict=False):
            slow.load_state_dict(fast.state_dict())

    def student(self, x: Tensor) -> Tensor:
        """Returns the head's output for one view."""
        return self.head(self.encoder(x).pooled)

    @property
    def judged(self) -> Encoder:
        """The encoder whose features are compared."""
        return self.encoder

    @torch.no_grad()
    def teacher(self, x: Tensor) -> Tensor:
        """Returns the slow head's output for one view."""
        return self.slow[1](self.slow[0](x).pooled)

    def forward(self, views: list[Tensor], done: float) -> Tensor:
        """Returns the loss when the share `done` of training is over."""
        raise NotImplementedError

    def before_step(self, done: float) -> None:
        """Changes gradients."""

    def after_step(self, step: int, steps: int) -> None:
        """Lets the copies follow, more slowly from step to step."""
        momentum = cosine_schedule(step, steps, self.momentum, 1.0)
        for slow, fast in zip(self.slow, (self.encoder, self.head), strict=False):
            update_momentum(fast, slow, m=momentum)


class SimCLR(Peer):
    """NTXentLoss of two views."""

    def __init__(self, encoder: Encoder, ours: Any) -> None:
        config = ours.head.config()
        super().__init__(encoder, heads.SimCLRProjectionHead(encoder.dim, config["hidden"][0], config["out"]), ours)
        self.criterion = losses.NTXentLoss(ours.temperature)

    def forward(self, views: list[Tensor], done: float) -> Tensor:
        return self.criterion(*(self.student(x) for x in views))


class MoCo(Peer):
    """NTXentLoss against a memory bank; the teacher's momentum is constant."""

    def __init__(self, encoder: Encoder, ours: Any) -> None:
        config = ours.head.config()
        super().__init__(encoder, heads.MoCoProjectionHead(encoder.dim, config["hidden"][0], config["out"]), ours)
        self.with_teacher()
        size = (len(ours.queue.rows), config["out"])
        self.criterion = losses.NTXentLoss(ours.temperature, memory_bank_size=size)

    def forward(self, views: list[Tensor], done: float) -> Tensor:
        return self.criterion(self.student(views[0]), self.teacher(views[1]))

    def after_step(self, step: int, steps: int) -> None:
        super().after_step(0, steps)


class BYOL(Peer):
    """NegativeCosineSimilarity of predictions, both ways."""

    def __init__(self, encoder: Encoder, ours: Any) -> None:
        config = ours.head.config()
        out, hidden = config["out"], config["hidden"][0]
        super().__init__(encoder, heads.BYOLProjectionHead(encoder.dim, hidden, out), ours)
        self.predictor = heads.BYOLPredictionHead(out, hidden, out)
        self.with_teacher()
        self.criterion = losses.NegativeCosineSimilarity()

    def forward(self, views: list[Tensor], done: float) -> Tensor:
        one, other = (self.predictor(self.student(x)) for x in views)
        return 0.5 * (self.criterion(one, self.teacher(views[1])) + self.criterion(other, self.teacher(views[0])))


class DINO(Peer):
    """DINOLoss of all views against the teacher's of the first two."""

    def __init__(self, encoder: Encoder, ours: Any) -> None:
        config, count = ours.head.config(), len(ours.centre)
        sizes = (encoder.dim, config["hidden"][0], config["out"], count)
        rest = {"batch_norm": config["norm"], "norm_last_layer": ours.prototypes.lengths is None}
        one, other = (heads.DINOProjectionHead(*sizes, freeze_last_layer=1, **rest) for _ in range(2))
        super().__init__(encoder, one, ours)
        self.with_teacher(other)
        self.criterion = losses.DINOLoss(
            count, student_temp=ours.student_temperature, center_momentum=ours.memory, warmup_teacher_temp_epochs=1
        )
        self.temperature, self.warmup, self.frozen = ours.teacher_temperature, ours.warmup, ours.frozen

    @property
    def judged(self) -> Encoder:
        return cast("Encoder", self.slow[0])

    def forward(self, views: list[Tensor], done: float) -> Tensor:
        start, end = self.temperature
        taught = [self.teacher(x) for x in views[:2]]
        temperature = ramp(done, start=start, end=end, over=self.warmup)
        return self.criterion(taught, [self.student(x) for x in views], teacher_temp=temperature)

    def before_step(self, done: float) -> None:
        self.head.cancel_last_layer_gradients(current_epoch=int(done >= self.frozen))


PEERS: dict[str, type[Peer]] = {"simclr": SimCLR, "moco": MoCo, "byol": BYOL, "dino": DINO}


def ours(recipe: Recipe, device: torch.device, folder: Path) -> Encoder:
    """Trains the recipe, as `mmssl train` does."""
    trainer = Trainer(recipe, folder, device=device, state=None)
    while trainer.step < trainer.steps:
        trainer.train_step()
    for stream in trainer.streams.values():
        stream.batches.close()  # its workers end here, and not within the next run's
    return trainer.model.exported[recipe.evals["knn"].get("encoder", "image")]


def theirs(name: str, recipe: Recipe, device: torch.device, folder: Path) -> Encoder:
    """Trains lightly's parts on the recipe's batches by a plain loop."""
    model, streams = assemble(recipe, folder, device=device, resume=None)
    (stream,), (objective,) = streams.values(), model.named_objectives.values()
    encoder = model.named_encoders["image"]
    encoder.spaces.clear()
    peer = PEERS[name](encoder, objective).to(device).train()
    peer.start_as(objective)
    kind, options = split(recipe.optim)
    optimizer = names.build("optim", kind, param_groups(peer), where="optim", **options)
    steps = max(1, recipe.train.samples // recipe.per_step)
    for step in range(steps):
        factor = warmup_cosine(step, steps=steps, warmup=recipe.train.warmup, final=recipe.train.final_lr)
        for group in optimizer.param_groups:
            group["lr"] = options["lr"] * factor
        loss = peer(stream.next(device, progress=step / steps).views["image"], step / steps)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        peer.before_step(step / steps)
        optimizer.step()
        peer.after_step(step, steps)
    stream.batches.close()
    return peer.judged


class Probe:
    """Labelled images that vote, and others that are asked about."""

    def __init__(self, node: dict[str, Any], encoder: Encoder, options: argparse.Namespace) -> None:
        self.known = self._read(node["train"], options.known, encoder)
        self.asked = self._read(node["data"], options.asked, encoder)
        self.k = options.k

    def _read(self, data: dict[str, Any], count: int, encoder: Encoder) -> tuple[Tensor, Tensor]:
        samples = list(islice(open_source(data).samples({"image", "label"}), count))
        classes = {label: place for place, label in enumerate(sorted({sample["label"] for sample in samples}))}
        x = encoder.preprocess.collate([encoder.preprocess(sample["image"]) for sample in samples])
        return x, torch.tensor([classes[sample["label"]] for sample in samples])

    def accuracy(self, encoder: Encoder) -> float:
        """Returns the share of right answers of the k nearest, in percent."""
        (known, labels), (asked, truth) = self.known, self.asked
        with torch.inference_mode(), evaluating(encoder):
            rows = [torch.cat(list(self._embed(encoder, x))) for x in (known, asked)]
        right = vote(rows[0], labels, rows[1], k=self.k, temperature=0.07) == truth
        return 100 * right.float().mean().item()

    def _embed(self, encoder: Encoder, x: Tensor) -> Iterator[Tensor]:
        return (encoder(part.to(encoder.device)).pooled.float().cpu() for part in x.split(500))


def told(values: list[float]) -> str:
    """Writes a mean and the standard deviation over seeds."""
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


def main() -> None:
    """Prints every seed's figures as they come, then a line for each method."""
    command = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    command.add_argument("overrides", nargs="*")
    command.add_argument("--methods", nargs="+", choices=sorted(PEERS), default=list(PEERS))
    command.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    command.add_argument("--samples", type=int, default=100_000)
    command.add_argument("--batch", type=int, help="the recipe's by default")
    command.add_argument("--k", type=int, default=5)
    command.add_argument("--known", type=int, default=20_000)
    command.add_argument("--asked", type=int, default=10_000)
    command.add_argument("--threads", type=int, default=2)
    command.add_argument("--device", default="cpu")
    options = command.parse_intermixed_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", ".*weight_norm", FutureWarning)  # lightly's DINO head
    device, lines = torch.device(options.device), []
    for name in options.methods:
        figures: dict[str, list[float]] = {"mmssl": [], "lightly": []}
        probe = None
        for seed in options.seeds:
            changes = [f"train.samples={options.samples}", f"train.seed={seed}", "train.precision=fp32"]
            changes += [f"tasks.{name}.batch={options.batch}"] if options.batch else []
            recipe = load(f"image/{RECIPES[name]}", [*changes, *options.overrides])
            probe_node = recipe.evals["knn"]
            for side, found in figures.items():
                with tempfile.TemporaryDirectory() as place:
                    folder = Path(place)
                    own = side == "mmssl"
                    encoder = ours(recipe, device, folder) if own else theirs(name, recipe, device, folder)
                probe = probe or Probe(probe_node, encoder, options)
                found.append(probe.accuracy(encoder))
                print(f"{name}, seed {seed}, {side}: {found[-1]:.2f}%", flush=True)
        difference = statistics.mean(figures["mmssl"]) - statistics.mean(figures["lightly"])
        lines.append(f"| {name} | {told(figures['mmssl'])} | {told(figures['lightly'])} | {difference:+.2f} |")
    print(f"\n{options.k}-NN accuracy in percent, {options.samples} samples, {len(options.seeds)} seeds")
    print("| method | mmssl | lightly | difference |", "|---|---|---|---|", *lines, sep="\n")


if __name__ == "__main__":
    main()
