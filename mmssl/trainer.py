"""A run: what it is made of, one step of it, and how it is saved and taken up again."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from mmssl import checkpoint, dist, names, parallel
from mmssl.assembly import assemble, pretexts
from mmssl.data.report import Report, added
from mmssl.errors import UserError
from mmssl.judge import Judge
from mmssl.multitask import MultiTask, compile_encoders
from mmssl.nn.ema import ema_update
from mmssl.numerics.monitors import Alarm, monitors
from mmssl.objectives.empty_batches import EmptyBatches, measured
from mmssl.optim.groups import param_groups
from mmssl.optim.schedule import Rate
from mmssl.recipe import Recipe, split
from mmssl.run_folder import by_first, export, keep_recipe, save
from mmssl.types import Batch, Loss, Trained
from mmssl.weights import Frozen, group_options


class Trainer:
    """A run between its steps: the model, the optimizer and the streams; `mmssl.loop` takes it through all of them."""

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        *,
        device: torch.device,
        state: dict[str, Any] | None,
        progress: bool = False,
    ) -> None:
        self.recipe, self.folder, self.device = recipe, folder, device
        options = recipe.train
        resume = _streams(state["streams"]) if state else None
        self.model, self.streams = assemble(recipe, folder, device=device, resume=resume)
        self.per_step = recipe.per_step
        self.steps = max(1, options.samples // self.per_step)
        self.step = state["step"] if state else 0  # before the first batch, which may depend on it
        self.judge = Judge(recipe.evals, progress=progress)
        self.bf16 = options.precision == "bf16" or (options.precision == "auto" and dist.computes_bf16(device))
        self.reported: set[tuple[str, str]] = set()
        self.wholeness = EmptyBatches()
        self.alarm = Alarm(min(max(10, self.steps // recipe.log_steps // 4), 100))
        self._start(state)

    def write_start(self) -> None:
        """Writes what the run rests on before its first step: the resolved recipe and the learnt preprocessing."""
        keep_recipe(self.folder, self.recipe.dump(), code=self.recipe.code, step=self.step)
        for key, encoder in self.model.named_encoders.items():
            (self.folder / "encoders" / key).mkdir(parents=True, exist_ok=True)
            encoder.save_files(self.folder / "encoders" / key)
        if self.step >= self.steps:  # its process may have ended between its last checkpoint and the rest
            export(self.folder, self.evaluated.exported, self.evaluated.named_objectives)

    def _start(self, state: dict[str, Any] | None) -> None:
        """Finds idle parameters, then makes the averaged model, the optimizer and the wrapped module."""
        options = self.recipe.train
        self.model = parallel.sync_batch_norm(self.model, self.device)
        self._begin_epochs()  # may take batches before the first step's
        self.waiting = self._draw()
        self._try_step()
        name, node = split(self.recipe.optim, default="adamw")
        own = [group for objective in self.model.named_objectives.values() for group in objective.parameter_groups()]
        groups = param_groups(self.model, own=own, named=group_options(self.model, self.recipe.groups))
        self.optimizer: torch.optim.Optimizer = names.build("optim", name, groups, where="optim", **node)
        self.weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        self.rates = [
            Rate.of(group, warmup=options.warmup, final=options.final_lr) for group in self.optimizer.param_groups
        ]
        self.frozen = Frozen(self.model, options.frozen)
        self.frozen.release(self.step / self.steps)
        self.averaged = copy.deepcopy(self.model).requires_grad_(False) if options.ema else None
        self.bad_steps = torch.zeros((), device=self.device)
        torch.manual_seed(options.seed + 1 + dist.rank())
        if state is not None:
            self._restore(state)
        if options.compile:
            compile_encoders(self.model)
        self.wrapped = parallel.wrap(self.model)

    def _try_step(self) -> None:
        """Freezes what no loss reaches; UserError for a batch whose share of one process is too small for BatchNorm."""
        try:
            parallel.freeze_idle(self.model, self.waiting[0])
        except RuntimeError as error:
            if "does not have a deterministic implementation" not in str(error):
                raise
            raise UserError(f"{str(error).partition(',')[0]}; train with train.deterministic=false") from error
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            parts = dist.world() * self.recipe.train.accumulate
            small = {key: task.batch for key, task in self.recipe.tasks.items() if task.batch // parts == 1}
            sizes = ", ".join(f"tasks.{key}.batch is {size}" for key, size in small.items())
            raise UserError(
                f"a batch of one sample has no variance for BatchNorm: {sizes}, shared by {dist.world()} process(es) x "
                f"accumulate {self.recipe.train.accumulate}; expected at least {2 * parts}"
            ) from error

    def _draw(self) -> list[dict[str, Batch]]:
        """Draws the parts of one step's batch for every task."""
        parts = range(self.recipe.train.accumulate)
        done = self.step / self.steps
        return [{key: s.next(self.device, progress=done) for key, s in self.streams.items()} for _ in parts]

    def train_step(self) -> tuple[dict[str, Loss], float]:
        """Makes one optimizer step; returns the last part's losses and the seconds spent waiting for data."""
        options = self.recipe.train
        began = time.perf_counter()
        parts = self.waiting or self._draw()
        self.waiting = []
        self._begin_epochs()
        waited = time.perf_counter() - began
        self._set_rates()
        self._release()
        for number, batches in enumerate(parts):
            with parallel.accumulating(self.wrapped, last=number == len(parts) - 1):
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                    total, losses = self.wrapped(batches)
                (total / len(parts)).backward()
            for task, loss in losses.items():
                self.wholeness.note(task, loss, batches[task])
        self.present = {task: {key: batch.present(key) for key in batch.views} for task, batch in batches.items()}
        self._apply_gradients()
        self.step += 1
        for objective in self.model.named_objectives.values():
            objective.after_step(self.model.named_encoders, self.step / self.steps)
        if self.averaged is not None:
            ema_update(self.averaged, self.model, decay=options.ema)
        return losses, waited

    def _set_rates(self) -> None:
        """Gives each group of weights its learning rate at this step."""
        self.learning: dict[str, float] = {}
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            now = rate.at(self.step, steps=self.steps)
            group["lr"] = now * rate.scale
            self.learning.setdefault(f"lr/{group['part']}" if "part" in group else "lr", now)

    def _release(self) -> None:
        """Lets frozen parts train whose time has come; the model is wrapped anew, for that counts its gradients."""
        released = self.frozen.release(self.step / self.steps)
        if released:
            del self.wrapped
            self.wrapped = parallel.wrap(self.model)
            if dist.rank() == 0:
                tqdm.write(f"step {self.step}: trains from here on: {', '.join(released)}")

    def _begin_epochs(self) -> None:
        """Lets the tasks whose data begins a new pass look at it."""
        for key, stream in self.streams.items():
            if stream.begins:
                stream.begins = False
                self.model.named_objectives[key].before_epoch(self.model.named_encoders, stream.epoch(self.device))

    def _apply_gradients(self) -> None:
        """Clips and steps; a gradient that is not finite leaves the weights as they are, without waiting for it."""
        norm = nn.utils.clip_grad_norm_(self.weights, self.recipe.train.clip_grad or torch.inf)
        bad = (~norm.isfinite()).float()
        self.bad_steps += bad
        self.optimizer.found_inf = bad  # type: ignore[attr-defined]  # torch's fused optimizers skip on it
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.norm = norm

    @property
    def samples(self) -> int:
        """How many samples the run has seen, over all tasks."""
        return self.step * self.per_step

    @property
    def evaluated(self) -> MultiTask:
        """The model that is evaluated and saved for use: the averaged one where there is one."""
        return self.averaged or self.model

    def trained(self) -> Trained:
        """Returns what evaluations judge."""
        return Trained(self.evaluated.exported, pretexts(self.recipe, self.evaluated.named_objectives))

    def figures(self, losses: dict[str, Loss], waited: float, seconds: float, steps: int) -> dict[str, float]:
        """Reads off what a log line holds; of a task that had no whole sample, nothing."""
        several = len(losses) > 1
        losses = {task: loss for task, loss in losses.items() if loss.rows is None or loss.rows > 0}
        weighted = [self.model.weights[task] * loss.total.detach() for task, loss in losses.items()]
        values: dict[str, Tensor | float] = {
            "samples": self.samples,
            **({"total": torch.stack(weighted).sum()} if weighted else {}),
            **self.learning,
            "grad_norm": self.norm,
            "samples_per_second": steps * self.per_step / seconds,
            "data_wait": waited / seconds,
        }
        for task, loss in losses.items():
            prefix = f"{task}/" if several else ""
            signs = monitors(loss.embeddings, self.present[task])
            logs: dict[str, Tensor | float] = {"loss": loss.total.detach(), **measured(loss.logs), **signs}
            values |= {prefix + key: value for key, value in logs.items()}
        bad = int(self.bad_steps)
        values |= {"skipped_steps": bad} if bad else {}
        return {key: float(value) for key, value in values.items()}

    def counts(self, *, shards: bool = True) -> dict[str, Report]:
        """Returns what the loaders of all processes have counted of each task, on request by shard.

        Every process calls it.
        """
        mine = {key: Report.from_plain(stream.loader.report()) for key, stream in self.streams.items()}
        told = dist.gather_objects({key: (one if shards else one.brief()).plain() for key, one in mine.items()})
        return {key: Report.from_plain(added(each[key] for each in told)) for key in mine}

    def check_bad_steps(self) -> None:
        """Raises UserError, on every process, when too many steps had gradients that are not finite; waits for them."""
        bad = int(self.bad_steps)
        if bad > self.recipe.train.max_bad_steps:
            raise UserError(
                f"{bad} steps had gradients that are not finite (train.max_bad_steps is "
                f"{self.recipe.train.max_bad_steps}); lower optim.lr, set train.clip_grad or use train.precision=fp32"
            )

    def warn(self, losses: dict[str, Loss], values: Mapping[str, float]) -> None:
        """Says once when the figures of a log line, and of those before, mean that nothing is learnt."""
        for task, loss in losses.items():
            prefix = f"{task}/" if len(losses) > 1 else ""
            mine = {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)}
            sizes = {name: x.shape[1] for name, x in loss.embeddings.items()}
            collapsed = self.alarm.look(task, mine, sizes) if "loss" in mine else None
            for said in filter(None, (self.wholeness.look(task, loss.logs), collapsed)):
                tqdm.write(said)

    def tell_notes(self, counts: Mapping[str, Report]) -> None:
        """Says once of each kind what the loaders have to tell, such as truncated texts and silent sounds."""
        for key, report in counts.items():
            for reason, number in report.reasons().items():
                if (key, reason) not in self.reported:
                    self.reported.add((key, reason))
                    tqdm.write(f"{key}: {reason}: {number} so far; the total stands in data_report.json")

    def save(self) -> None:
        """Writes a checkpoint and each encoder's folder."""
        state = {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "averaged": self.averaged.state_dict() if self.averaged else None,
            "bad_steps": self.bad_steps,
            "streams": dist.gather_objects({key: stream.loader.state() for key, stream in self.streams.items()}),
            "random": dist.gather_objects(checkpoint.random_state()),
        }
        encoders, objectives, keep = self.evaluated.exported, self.evaluated.named_objectives, self.recipe.train.keep
        by_first(lambda: save(self.folder, encoders, objectives, state, keep=keep))

    def close(self) -> None:
        """Stops the data workers."""
        for stream in self.streams.values():
            stream.close()

    def _restore(self, state: dict[str, Any]) -> None:
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.averaged is not None:
                self.averaged.load_state_dict(state["averaged"] or state["model"])  # it may be asked for only now
        except (RuntimeError, ValueError) as error:
            detail = " ".join(str(error).split())[:300]
            raise UserError(f"{self.folder} was trained by another recipe, its weights do not fit: {detail}") from error
        self.bad_steps = state["bad_steps"].to(self.device)
        checkpoint.set_random_state(_mine(state["random"]))


def _streams(told: list[dict[str, Any]]) -> dict[str, Any]:
    """Picks this process's loader states; among another number of processes the first goes on with all counts."""
    mine: dict[str, Any] = _mine(told)
    if len(told) == dist.world():
        return mine
    reports = {key: [states[key]["report"] for states in told] if dist.rank() == 0 else [] for key in mine}
    return {key: {**state, "report": added(reports[key])} for key, state in mine.items()}


def _mine(values: list[Any]) -> Any:
    """Picks this process's part of a gathered list; a process that the saved run lacked takes one by its number."""
    return values[dist.rank() % len(values)]
