"""The only training loop: a recipe's run from its folder to its report."""

from __future__ import annotations

import copy
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NoReturn

import torch
from tqdm import tqdm

from mmssl import dist
from mmssl.data.report import Report, figures
from mmssl.data.workers import refuse_import
from mmssl.files import write_atomically
from mmssl.judge import judged_at, read_scores, write_results
from mmssl.log import RunLog
from mmssl.recipe import Recipe, check, load, override
from mmssl.run_folder import by_first, locked, open_folder
from mmssl.stopping import Stopping
from mmssl.trainer import Trainer
from mmssl.types import Score


def train(
    recipe: str | Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    out: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Path:
    """Trains a recipe, a YAML file or plain values, and returns its run folder.

    overrides: `optim.lr=3e-4` and the like. out: the run folder, `runs/NAME` by default.
    """
    if isinstance(recipe, str | Path):
        made = load(recipe, overrides)
    else:
        tree = copy.deepcopy(dict(recipe))
        for change in overrides:
            override(tree, change)
        made = check(tree)
    return fit(made, out=out, resume=resume, progress=progress)


def fit(recipe: Recipe, *, out: str | Path | None = None, resume: bool = False, progress: bool = True) -> Path:
    """Trains a checked recipe and returns its run folder, `runs/NAME` unless `out` says another.

    resume: continue from the newest checkpoint that loads, or start when there is none yet.
    Raises UserError when the folder holds a run and `resume` is off, NotJudged at the end of a run of which an
    evaluation failed, and SystemExit(0) after SIGTERM or SIGUSR1, once the run is saved. A script calls this and
    `train` under `if __name__ == "__main__":`, since workers that are not forked import it.
    """
    refuse_import()
    if recipe.train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read as CUDA starts
    if recipe.train.threads:
        torch.set_num_threads(recipe.train.threads)
    folder = Path(out) if out is not None else Path("runs") / recipe.name
    before = torch.are_deterministic_algorithms_enabled()
    if recipe.train.deterministic:  # else not called, since that imports torch's compiler
        torch.use_deterministic_algorithms(True)
    try:
        with (
            Stopping() as stop,
            dist.group(recipe.train.device, timeout=recipe.train.timeout) as device,
            locked(folder),
        ):
            state = open_folder(folder, resume=resume)
            trainer = Trainer(recipe, folder, device=device, state=state, progress=progress)
            with closing(trainer):
                trainer.judge.check(trainer.trained())
                by_first(trainer.write_start)
                _loop(trainer, stop, progress=progress)
        file = folder / "results.json"
        trainer.judge.finish(file, read_scores(folder) if dist.rank() == 0 else {})
    finally:
        if recipe.train.deterministic:
            torch.use_deterministic_algorithms(before)
    return folder


def _loop(trainer: Trainer, stop: Stopping, *, progress: bool) -> None:
    recipe, chief = trainer.recipe, dist.rank() == 0
    bar = tqdm(
        total=trainer.steps * trainer.per_step,
        initial=trainer.samples,
        desc=recipe.name,
        unit="sample",
        unit_scale=True,
        disable=not (progress and chief),
    )
    with ExitStack() as open_things:
        open_things.enter_context(bar)
        log = None
        if chief:
            opened = RunLog(
                trainer.folder, name=recipe.name, recipe=recipe.plain, step=trainer.step, wandb=recipe.train.wandb
            )
            log = open_things.enter_context(opened)
        _steps(trainer, bar, log, stop)
    counts = trainer.counts()
    if chief:
        _report(trainer, counts)


def _steps(trainer: Trainer, bar: tqdm[Any], log: RunLog | None, stop: Stopping) -> None:
    recipe, options = trainer.recipe, trainer.recipe.train
    save_every = max(1, (options.save_every or options.samples // 10) // trainer.per_step)
    if trainer.step and dist.gather_objects(judged_at(trainer.folder))[0] != trainer.samples:
        _judge(trainer, log, stop)  # what was due when the run stopped
        if stop.agreed:
            _end(trainer, stop)
    began, waited, counted = time.perf_counter(), 0.0, 0
    while trainer.step < trainer.steps:
        losses, wait = trainer.train_step()
        waited, counted = waited + wait, counted + 1
        bar.update(trainer.per_step)
        done = trainer.step == trainer.steps
        reporting = trainer.step % recipe.log_steps == 0 or done
        if reporting:
            trainer.check_bad_steps()
            counts = trainer.counts(shards=False)
        if log and reporting:
            values = trainer.figures(losses, waited, time.perf_counter() - began, counted) | figures(counts)
            log.write(trainer.step, values)
            trainer.tell_notes(counts)
            trainer.warn(losses, values)
            bar.set_postfix(loss=f"{values.get('total', math.nan):.3f}", data_wait=f"{values['data_wait']:.0%}")
            began, waited, counted = time.perf_counter(), 0.0, 0
        stops = stop.after_step(last=done)
        saved = trainer.step % save_every == 0 or done or stops
        if saved:
            trainer.save()
        if not stops:
            _judge(trainer, log, stop)
        if stop.agreed:
            if not saved:
                trainer.save()
            _end(trainer, stop)


def _judge(trainer: Trainer, log: RunLog | None, stop: Stopping) -> None:
    """Runs the evaluations that are due; of those that a signal ends early, a resumed run makes all again."""
    last = trainer.step == trainer.steps
    scores = trainer.judge.due(trainer.trained, trainer.samples, trainer.per_step, last=last, stop=stop.now)
    if log and scores and not stop.agreed:
        details = {f"{key}/{name}": value for key, score in scores.items() for name, value in _details(score).items()}
        log.write(trainer.step, {key: score.value for key, score in scores.items()}, details)
        remarks = trainer.judge.remarks()
        write_results(trainer.folder, trainer.recipe, scores, samples=trainer.samples, remarks=remarks)


def _details(score: Score) -> dict[str, float]:
    """Returns what there is of a score beside its value, by name."""
    beside = {"low": score.low, "high": score.high, "chance": score.chance, "trivial": score.trivial}
    parts = {f"parts/{name}": value for name, value in (score.parts or {}).items()}
    return {name: value for name, value in {**beside, **parts}.items() if value is not None}


def _end(trainer: Trainer, stop: Stopping) -> NoReturn:
    """Ends the process of a run that a signal stopped and that is saved."""
    if dist.rank() == 0:
        tqdm.write(f"{stop.name}: saved after step {trainer.step} in {trainer.folder}; go on with --resume")
    raise SystemExit(0)


def _report(trainer: Trainer, counts: Mapping[str, Report]) -> None:
    """Says what the loaders skipped or changed, and which tasks found little to learn from."""
    plain = {key: report.plain() for key, report in counts.items()}
    write_atomically(trainer.folder / "data_report.json", json.dumps(plain, indent=2).encode())
    for key, report in counts.items():
        for reason, count in report.reasons().items():
            tqdm.write(f"{key}: {reason}: {count} of {report.drawn} samples")
        for source, count in report.sources.items():
            tqdm.write(f"{key}: {count} of {report.drawn} samples are of {source}")
        if said := trainer.wholeness.end(key):
            tqdm.write(said)
